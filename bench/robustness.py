"""Damaged and hostile archives, damaged products of the library, ingests that are killed, and all commands killed or stopped.

``python -m bench robustness > rows.jsonl`` runs all (twenty minutes on an idle machine) and ``python -m bench.robustness < rows.jsonl``
prints the tables of docs/robustness.md. EO_SSL_SEED (0), EO_SSL_MUTATIONS (500), EO_SSL_PRODUCTS (500), EO_SSL_LEARNING (500),
EO_SSL_KILLS (100, of the ingest), EO_SSL_COMMAND_KILLS (100) and EO_SSL_STOPS (40, by signal) change the run; 0 leaves a part out.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import damage_trials, damaged_learning, damaged_products, kills, stopped_commands, trials
from bench.subjects import make_subjects

INGEST_EVERY = 5
USUAL = {
    "SEED": "0",
    "MUTATIONS": "500",
    "PRODUCTS": "500",
    "LEARNING": "500",
    "KILLS": "100",
    "COMMAND_KILLS": "100",
    "STOPS": "40",
}
VERDICTS = (
    "listing",
    "dropped",
    "checksum",
    "reading",
    "equal",
    "pixels",
    "metadata",
    "gone",
    "unworded",
    "crash",
    "hang",
    "executed",
)


def run() -> Iterator[dict[str, Any]]:
    wanted = {name: int(os.environ.get(f"EO_SSL_{name}", usual)) for name, usual in USUAL.items()}
    with tempfile.TemporaryDirectory(prefix="eo-ssl-robustness-") as folder:
        if wanted["MUTATIONS"]:
            yield from mutated(Path(folder), seed=wanted["SEED"], count=wanted["MUTATIONS"])
        if wanted["PRODUCTS"] or wanted["LEARNING"]:
            made = damaged_products.make_products(Path(folder) / "products")
        if wanted["PRODUCTS"]:
            yield from damaged("product", damaged_products.KINDS, made, seed=wanted["SEED"], count=wanted["PRODUCTS"])
        if wanted["LEARNING"]:
            damaged_learning.make_learning(made, damaged_learning.KINDS)
            yield from damaged("learning", damaged_learning.KINDS, made, seed=wanted["SEED"], count=wanted["LEARNING"])
        if wanted["KILLS"]:
            yield from kills.run(Path(folder), kills=wanted["KILLS"], seed=wanted["SEED"])
        if wanted["COMMAND_KILLS"] or wanted["STOPS"]:
            yield from stopped_commands.run(
                Path(folder), kills=wanted["COMMAND_KILLS"], stops=wanted["STOPS"], seed=wanted["SEED"]
            )


def mutated(folder: Path, *, seed: int, count: int) -> Iterator[dict[str, Any]]:
    planned = trials.plan(make_subjects(folder / "sound", seed=seed), count=count, ingest_every=INGEST_EVERY)
    for trial, outcome in zip(planned, trials.run(planned, folder / "trials", seed=seed), strict=True):
        name = f"mutation/{outcome.number:03d}"
        yield {
            "name": name,
            "seed": seed,
            "ingested": trial.through_ingest,
            "violation": outcome.violation,
            **asdict(outcome),
        }


def damaged(
    group: str, kinds: Mapping[str, damage_trials.Kind], made: Path, *, seed: int, count: int
) -> Iterator[dict[str, Any]]:
    for one in damage_trials.damage(kinds, made, made.parent / f"damaged-{group}", count=count, seed=seed):
        if one.number % 25 == 0 or one.violation:
            print(f"{group} {one.number} of {count} {one.violation}", file=sys.stderr, flush=True)
        yield {"name": f"{group}/{one.number:03d}", "seed": seed, "violation": one.violation, **asdict(one)}


def tables(rows: list[dict[str, Any]]) -> str:
    """Return the results as Markdown: mutations by what a checksum can know, by subject and by kind, then kills and stops."""
    damaged = [row for row in rows if row["name"].startswith("mutation/")]
    parts: list[str] = []
    if damaged:
        violations = [row for row in damaged if row["violation"]]
        ingested = sum(row["ingested"] for row in damaged)
        parts = [
            _table(damaged, "change", lambda row: _case(row)),
            _table(damaged, "archive", lambda row: row["subject"]),
            _table(damaged, "mutation", lambda row: f"{row['kind']}: {row['mutation']}"),
            f"Through the real ingest: {ingested}. Violations: {len(violations)}.",
        ]
        parts += [
            f"- {row['name']} {row['subject']} {row['mutation']}: {row['violation']}; {row['detail']}"
            for row in violations
        ]
    for group in ("product", "learning"):
        products = [row for row in rows if row["name"].startswith(f"{group}/")]
        if products:
            parts += [
                _table(products, "product", lambda row: row["kind"], damage_trials.VERDICTS),
                _table(products, "change", lambda row: row["mutation"], damage_trials.VERDICTS),
                f"Violations: {sum(bool(row['violation']) for row in products)}.",
            ]
            parts += [
                f"- {row['name']} {row['kind']} {row['file']} {row['mutation']}: {row['violation']}; {row['detail']}"
                for row in products
                if row["violation"]
            ]
    killed = [row for row in rows if row["name"].startswith("kills/")]
    if killed:
        columns = [key for key in killed[0] if key != "points"]
        lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
        lines += ["| " + " | ".join(str(row[key]) for key in columns) + " |" for row in killed]
        points: Counter[str] = Counter()
        for row in killed:
            points.update(row["points"])
        parts += [
            "\n".join(lines),
            "Kills at named points: " + ", ".join(f"{name} {count}" for name, count in sorted(points.items())),
        ]
    commands = [row for row in rows if row["name"].startswith(("killed/", "stopped/"))]
    if commands:
        parts.append(stopped_commands.tabulate(commands))
    return "\n\n".join(parts)


def _case(row: dict[str, Any]) -> str:
    if row["guarded"]:
        return "a stated checksum does not fit"
    return (
        "checksums fit: forged or packed anew"
        if row["mutation"].startswith("sealed") or row["kind"] == "zip"
        else "no checksum is stated"
    )


def _table(
    rows: list[dict[str, Any]], title: str, key: Callable[[dict[str, Any]], str], verdicts: Sequence[str] = VERDICTS
) -> str:
    groups: dict[str, Counter[str]] = {}
    for row in sorted(rows, key=key):
        groups.setdefault(key(row), Counter())[row["verdict"]] += 1
    groups["all"] = Counter(row["verdict"] for row in rows)
    lines = [f"| {title} | n | {' | '.join(verdicts)} |", "|---" * (len(verdicts) + 2) + "|"]
    lines += [
        f"| {name} | {sum(found.values())} | {' | '.join(str(found[verdict]) for verdict in verdicts)} |"
        for name, found in groups.items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    print(tables([json.loads(line) for line in sys.stdin]))
