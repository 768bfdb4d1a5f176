"""What an ingest leaves beside the snapshots: the mark of an unfinished run, and the corpus's manifest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from eo_ssl.commits import explain_read_error
from eo_ssl.corpus.snapshots import Snapshot
from eo_ssl.corpus.store import Store
from eo_ssl.documents import explain_content, parse_json, sign_json
from eo_ssl.errors import expect
from eo_ssl.manifest import MANIFEST, UNFINISHED, Clock, describe

STAGE = "ingest"
Settings = Mapping[str, Mapping[str, Any]]
"""Card -> its fingerprint (``card``) and the ingest configuration (``ingest``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestState:
    """What earlier runs left in the place of a corpus."""

    cards: Settings = field(default_factory=dict)
    "of the finished manifest"
    inputs: Mapping[str, str] = field(default_factory=dict)
    finished: bool = False
    begun: Settings | None = None
    "of a run that has not finished"

    def check_settings(self, store: Store, settings: Settings, *, overwrite: bool) -> None:
        """Refuse another configuration for a card that the corpus holds or that an interrupted run has begun."""
        for known in (self.cards, self.begun or {}):
            for name in () if overwrite else sorted({*settings} & {*known}):
                old, new = known[name], settings[name]
                changed = [key for key in new["ingest"] if old["ingest"].get(key) != new["ingest"][key]]
                changed += ["the card"] if old["card"] != new["card"] else []
                expect(
                    old == new,
                    expected=f"card {name} to be ingested into {store} as before",
                    got=f"a difference in {', '.join(changed) or 'the schema'}",
                    remedy="give another output folder, or --overwrite to replace its tiles in a new snapshot",
                )

    def holds(self, settings: Settings, inputs: Mapping[str, str]) -> bool:
        """Return whether a finished run made the corpus with these settings out of these inputs."""
        same = all((self.cards.get(name), self.inputs.get(name)) == (settings[name], inputs[name]) for name in settings)
        return self.finished and same and self.begun is None


def read_state(store: Store) -> IngestState:
    """Return what earlier runs left.

    Raises:
        UserError: the folder holds something else.
    """
    names, left = store.names(""), dict[str, _Left]()
    for name in (MANIFEST, UNFINISHED):
        if name not in names:
            continue
        at, remedy = f"{store}/{name}", f"remove {store}/{name} and run the same ingest again"
        try:
            value = parse_json(store.read(name), at=at, remedy=remedy)
        except FileNotFoundError:
            continue  # the other run, whose mark it was, is done
        except OSError as error:
            raise explain_read_error(error, at, remedy=remedy) from error
        expect(
            value.get("stage") == STAGE,
            expected=f"{store} to be a corpus or a new folder",
            got=f"a product of stage {value.get('stage')!r}",
            remedy="give another output folder",
        )
        with explain_content("the cards of an ingest", at=at, remedy=remedy):
            left[name] = _Left(
                {
                    card: {"card": known["card"], "ingest": dict(known["ingest"])}
                    for card, known in _cards(value).items()
                },
                {str(card): str(print) for card, print in value["inputs"].items()},
            )
    foreign = any(name != UNFINISHED and not name.startswith((".", "probe-")) for name in names)
    expect(
        MANIFEST in left or "fragments" in names or not foreign,
        expected=f"{store} to be a corpus or an empty folder",
        got="a folder with other files",
        remedy="give another output folder",
    )
    made, begun = left.get(MANIFEST), left.get(UNFINISHED)
    return IngestState(
        cards=made.cards if made else {},
        inputs=made.inputs if made else {},
        finished=made is not None,
        begun=begun.cards if begun else None,
    )


class _Left(NamedTuple):
    """What a manifest, or the mark of an unfinished run, says."""

    cards: Settings
    inputs: Mapping[str, str]


def _cards(value: Mapping[str, Any]) -> dict[str, Any]:
    return dict(value["config"]["cards"])


def mark_unfinished(store: Store, before: IngestState, settings: Settings, inputs: Mapping[str, str]) -> None:
    """Say that a run has begun, so that another configuration is refused until it is finished."""
    begun = {
        "stage": STAGE,
        "config": {"cards": {**before.cards, **settings}},
        "inputs": {**before.inputs, **inputs},
    }
    store.replace(UNFINISHED, sign_json(begun))


def write_manifest(store: Store, snapshot: Snapshot, *, clock: Clock, seed: int, summary: Mapping[str, Any]) -> None:
    """Write the manifest of ``snapshot``, replacing an older one in one step, and take the mark of the run away."""
    described = describe(
        stage=STAGE,
        config={"cards": snapshot.cards},
        inputs=snapshot.inputs,
        product=snapshot.fingerprint,
        started=clock,
        seed=seed,
        summary=summary,
    )
    data = described.to_bytes()
    if not store.create(MANIFEST, data):
        store.replace(MANIFEST, data)
    store.remove(UNFINISHED)
