"""Damaged and hostile archives, and ingests that are killed: what becomes of 500 mutated products and of 100 kills.

``python -m bench robustness`` prints a line per result. EO_SSL_SEED (0), EO_SSL_MUTATIONS (500) and EO_SSL_KILLS (100) change the run;
EO_SSL_ROWS=1 prints each mutation as well.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import trials
from bench.subjects import make_subjects

INGEST_EVERY = 5


def run() -> Iterator[dict[str, Any]]:
    seed, count = int(os.environ.get("EO_SSL_SEED", "0")), int(os.environ.get("EO_SSL_MUTATIONS", "500"))
    with tempfile.TemporaryDirectory(prefix="eo-ssl-robustness-") as folder:
        yield from mutated(Path(folder), seed=seed, count=count)


def mutated(folder: Path, *, seed: int, count: int) -> Iterator[dict[str, Any]]:
    planned = trials.plan(make_subjects(folder / "sound", seed=seed), count=count, ingest_every=INGEST_EVERY)
    outcomes = []
    for outcome in trials.run(planned, folder / "trials", seed=seed):
        outcomes.append(outcome)
        if outcome.violation or os.environ.get("EO_SSL_ROWS"):
            yield {"mutation": outcome.number, "violation": outcome.violation, **asdict(outcome)}
    for subject in dict.fromkeys(outcome.subject for outcome in outcomes):
        mine = [outcome for outcome in outcomes if outcome.subject == subject]
        yield {"name": f"mutations/{subject}", "seed": seed, "count": len(mine), **Counter(outcome.verdict for outcome in mine)}
