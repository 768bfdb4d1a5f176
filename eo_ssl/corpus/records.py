"""What the runs of an ingest leave beside the snapshots: the mark of one that is not finished, and the corpus's manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from eo_ssl.corpus.snapshots import Snapshot
from eo_ssl.corpus.store import Store
from eo_ssl.errors import UserError
from eo_ssl.manifest import MANIFEST, SCHEMA_VERSION, UNFINISHED, Clock, canonical_json, describe

STAGE = "ingest"


def read_state(store: Store) -> dict[str, Any]:
    """Return cards and inputs of the finished manifest, and those of an unfinished run under ``unfinished``.

    Raises:
        UserError: the folder holds something else.
    """
    found: dict[str, Any] = {"cards": {}, "inputs": {}, "finished": False}
    names = store.names("")
    for name in (MANIFEST, UNFINISHED):
        if name not in names:
            continue
        try:
            value = json.loads(store.read(name))
        except FileNotFoundError:
            continue  # the other run, whose mark it was, is done
        if value.get("stage") != STAGE:
            raise UserError(
                f"expected {store} to be a corpus or a new folder, got a product of stage {value.get('stage')!r}; give another output folder"
            )
        part = {"cards": value["config"]["cards"], "inputs": value["inputs"]}
        found |= {**part, "finished": True} if name == MANIFEST else {"unfinished": part}
    foreign = any(name != UNFINISHED and not name.startswith((".", "probe-")) for name in names)
    if foreign and not found["finished"] and "fragments" not in names:
        raise UserError(
            f"expected {store} to be a corpus or an empty folder, got a folder with other files; give another output folder"
        )
    return found


def check_settings(store: Store, before: Mapping[str, Any], settings: Mapping[str, Any], *, overwrite: bool) -> None:
    """Refuse another configuration for a card that the corpus already holds or that an interrupted run has begun."""
    for known in (before["cards"], before.get("unfinished", {}).get("cards", {})):
        for name, wanted in settings.items():
            if overwrite or name not in known or known[name] == wanted:
                continue
            old, new = known[name], wanted
            changed = [key for key in new["ingest"] if old["ingest"].get(key) != new["ingest"][key]] + (
                ["the card"] if old["card"] != new["card"] else []
            )
            raise UserError(
                f"expected card {name} to be ingested into {store} as before, got a difference in {', '.join(changed) or 'the schema'}; "
                "give another output folder, or --overwrite to replace its tiles in a new snapshot"
            )


def is_done(before: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]) -> bool:
    """Return whether a finished run made the corpus with these settings out of these inputs."""
    same = all(
        before["cards"].get(name) == settings[name] and before["inputs"].get(name) == inputs[name] for name in settings
    )
    return bool(before["finished"]) and same and "unfinished" not in before


def mark_unfinished(
    store: Store, before: Mapping[str, Any], settings: Mapping[str, Any], inputs: Mapping[str, str]
) -> None:
    """Say that a run has begun, so that another configuration is refused until it is finished."""
    begun = {
        "stage": STAGE,
        "config": {"cards": {**before["cards"], **settings}},
        "inputs": {**before["inputs"], **inputs},
        "schema_version": SCHEMA_VERSION,
    }
    store.replace(UNFINISHED, canonical_json(begun).encode())


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
