"""A folder of results of one task and seed, added to by further commands, its tables made anew of all rows."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eo_ssl.commits import replace
from eo_ssl.documents import read_json
from eo_ssl.errors import UserError
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.protocols import PROTOCOLS
from eo_ssl.evaluation.result_rows import FORMAT, Row
from eo_ssl.evaluation.seed_contrasts import CONTRASTS, ContrastPlan, SeedContrasts, compare_seeds
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import dump_canonical_json, fingerprint
from eo_ssl.manifest import MANIFEST, UNFINISHED, Clock, OpenProduct, plan, require

Render = Callable[[Sequence[Row], Sequence[Row], SeedContrasts | None], dict[str, bytes]]
"""Makes files to read, such as leaderboards and figures, out of rows, comparisons and contrasts: content by name."""


@dataclass(frozen=True, slots=True)
class ResultsFolder:
    """Results of one task and seed."""

    product: OpenProduct
    """its configuration is what all rows have in common, None where no row depends on it yet; its inputs are task
    and weights by name"""

    @property
    def path(self) -> Path:
        """Of the folder."""
        return self.product.folder

    @classmethod
    def open(
        cls, path: Path, task: Task, settings: Settings, *, inputs: Mapping[str, str], overwrite: bool, started: Clock
    ) -> ResultsFolder:
        """Return the folder at ``path``, new or with the results it has.

        Raises:
            UserError: it holds results of another task, split, seed, number of draws or recipe of training (removed
                with ``overwrite``), or something else.
        """
        trains = any(PROTOCOLS[name].trains for name in settings.protocols)
        wanted: dict[str, Any] = {
            "task": task.name,
            "seed": settings.seed,
            "draws": None if all(amount.whole for amount in settings.amounts) else settings.draws,
            "tuning": asdict(settings.tuning) if trains else None,
            "format": FORMAT,
        }
        wanted = json.loads(dump_canonical_json(wanted))
        record = _read_record(path)
        there, before = record.get("config", {}), record.get("inputs", {})
        # What only one of the two depends on binds neither.
        free = {key: there[key] for key in wanted if key in there and None in (wanted[key], there[key])}
        if overwrite and (wanted | free != there or before.get("task") != task.fingerprint):
            free, before = {}, {}
        known = {**before, "task": task.fingerprint}
        begun: dict[str, Any] = {"stage": "evaluate", "config": wanted | free, "inputs": known}
        state = plan(path, **begun, overwrite=overwrite, compare=False)  # damaged tables are made anew of the rows
        kept = {key: value for key, value in free.items() if wanted[key] is None}
        return cls(OpenProduct(path, "evaluate", wanted | kept, {**known, **inputs}, state, started))

    def contrast(self, rows: Sequence[Row], plan: ContrastPlan | None) -> SeedContrasts | None:
        """Compare the rows seed by seed, as was asked for now, or else when the folder was added to before."""
        before = SeedContrasts.read(self.path)
        plan = plan or (None if before is None else before.plan)
        return None if plan is None else compare_seeds(rows, plan)

    def finish(
        self,
        task: Task,
        rows: Sequence[Row],
        comparisons: Sequence[Row],
        contrasts: SeedContrasts | None = None,
        *,
        render: Render,
    ) -> bool:
        """Write comparisons, contrasts, what ``render`` makes of all, and the manifest; False where they are there."""
        told = [dump_canonical_json(row) for row in rows]
        told += [] if contrasts is None else [dump_canonical_json(asdict(contrasts.plan))]
        content = fingerprint(sorted(told))
        if (self.path / MANIFEST).is_file() and _is_finished(self.path, content):
            with suppress(OSError):  # of a run that was killed after its manifest
                (self.path / UNFINISHED).unlink()
            return False
        written = render(rows, comparisons, contrasts)
        written["comparisons.json"] = json.dumps(comparisons, indent=1, sort_keys=True).encode()
        if contrasts is not None:
            written[CONTRASTS] = json.dumps(contrasts.to_json(), indent=1, sort_keys=True).encode()
        for name, data in written.items():
            replace(self.path / name, data)
        for figure in self.path.glob("*.svg"):  # of fewer rows, under another name
            if figure.name not in written:
                figure.unlink()
        distinct = {key: list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("protocol", "amount")}
        summary = {
            "task": task.name,
            "rows": len(rows),
            "encoders": list(dict.fromkeys(row["reference"] or row["root"] for row in rows)),
            "protocols": distinct["protocol"],
            "amounts": distinct["amount"],
            "test_items": len(task.tested),
            "classes": len(task.class_names),
            "split": task.split,
        }
        kept = [*self.path.glob("rows/*.json"), *self.path.glob("answers/*.npz")]
        files = sorted([*written, *(path.relative_to(self.path).as_posix() for path in kept)])
        self.product.sign(content, seed=self.product.config["seed"], summary=summary, files=files)
        return True


def _is_finished(path: Path, content: str) -> bool:
    """Whether the tables at ``path`` are those of the rows with the fingerprint ``content``, and whole."""
    try:
        return require(path, "evaluate").fingerprint == content
    except UserError:
        return False  # they are made anew, of the rows


def _read_record(path: Path) -> dict[str, Any]:
    """The manifest that an evaluation left at ``path``; nothing where something else did, which `plan` refuses."""
    for name in (MANIFEST, UNFINISHED):
        if (path / name).is_file():
            try:
                record = read_json(path / name, remedy="")
            except (OSError, UserError):
                return {}
            parts = (record.get("config"), record.get("inputs"))
            ours = record.get("stage") == "evaluate" and all(isinstance(part, dict) for part in parts)
            return record if ours else {}
    return {}
