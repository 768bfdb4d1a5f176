"""A folder of results: of one task and seed, begun by one command and added to by others, its tables made anew of all its rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from eo_ssl.evaluation.leaderboard import files
from eo_ssl.evaluation.methods import trains
from eo_ssl.evaluation.result_rows import FORMAT, Row
from eo_ssl.evaluation.settings import Settings
from eo_ssl.evaluation.tasks import Task
from eo_ssl.manifest import MANIFEST, UNFINISHED, Clock, canonical_json, fingerprint, finish, plan, replace


@dataclass(frozen=True, slots=True)
class Folder:
    """Results of one task and seed."""

    path: Path
    config: dict[str, Any]
    "what all rows have in common; None where no row depends on it yet"
    inputs: dict[str, str]
    "fingerprints of the task and of all weights by name"

    @classmethod
    def begin(
        cls, path: Path, task: Task, settings: Settings, *, inputs: Mapping[str, str], overwrite: bool = False
    ) -> Folder:
        """Return the folder at ``path``, new or with the results it has.

        Raises:
            UserError: it holds results of another task, split, seed, number of draws or recipe of training (removed with ``overwrite``),
                or something else.
        """
        config: dict[str, Any] = {
            "task": task.name,
            "seed": settings.seed,
            "draws": None if all(amount.whole for amount in settings.amounts) else settings.draws,
            "tuning": asdict(settings.tuning) if any(map(trains, settings.protocols)) else None,
            "format": FORMAT,
        }
        config = json.loads(canonical_json(config))
        found = _found(path)
        there, before = found.get("config", {}), found.get("inputs", {})
        free = {key: there[key] for key in config if key in there and None in (config[key], there[key])}
        if overwrite and (config | free != there or before.get("task") != task.fingerprint):
            free, before = {}, {}
        plan(
            path,
            stage="evaluate",
            config=config | free,
            inputs={**before, "task": task.fingerprint},
            overwrite=overwrite,
        )
        kept = {key: value for key, value in free.items() if config[key] is None}
        return cls(path, config | kept, {**before, "task": task.fingerprint, **inputs})

    def finish(self, task: Task, rows: Sequence[Row], comparisons: Sequence[Row], *, started: Clock) -> bool:
        """Write comparisons, leaderboards, figures and manifest of all ``rows``; return False where they are there already."""
        product = fingerprint(sorted(canonical_json(row) for row in rows))
        if (self.path / MANIFEST).is_file() and _found(self.path).get("fingerprint") == product:
            return False
        written = files(rows, comparisons)
        written["comparisons.json"] = json.dumps(comparisons, indent=1, sort_keys=True).encode()
        for name, data in written.items():
            replace(self.path / name, data)
        for figure in self.path.glob("*.svg"):  # of fewer rows, under another name
            if figure.name not in written:
                figure.unlink()
        asked = {key: list(dict.fromkeys(str(row[key]) for row in rows)) for key in ("root", "protocol", "amount")}
        summary = {
            "task": task.name,
            "rows": len(rows),
            "encoders": asked["root"],
            "protocols": asked["protocol"],
            "amounts": asked["amount"],
            "test_items": len(task.tested),
            "classes": len(task.class_names),
            "split": task.split,
        }
        finish(
            self.path,
            stage="evaluate",
            config=self.config,
            inputs=self.inputs,
            product=product,
            started=started,
            seed=self.config["seed"],
            summary=summary,
        )
        return True


def _found(path: Path) -> dict[str, Any]:
    """What an evaluation left at ``path``; nothing where something else did, which `plan` refuses."""
    for name in (MANIFEST, UNFINISHED):
        if (path / name).is_file():
            try:
                found = json.loads((path / name).read_bytes())
            except (OSError, ValueError):
                return {}
            return found if isinstance(found, dict) and found.get("stage") == "evaluate" else {}
    return {}
