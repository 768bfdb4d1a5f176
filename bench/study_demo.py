"""The demo's encoder beside encoders without training, on sample archives on which no setting of it was chosen.

``python -m bench.study_demo [--archives N] [--out FOLDER]`` runs the demo once on each and prints a table; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from bench.study_objectives import BASELINES, FIRST_ARCHIVE, PROTOCOLS, ROOT, format_interval, read_rows, run

OURS = "encoder"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=int, default=12)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-demo")
    chosen = parser.parse_args()
    demo = yaml.safe_load((ROOT / "configs" / "run" / "demo.yaml").read_text())
    stages = [stage for stage in demo["stages"] if "report" not in stage]
    stages[-1]["evaluate"]["encoders"] = [f"{{out}}/{OURS}", *BASELINES]
    folders = [chosen.out / f"archive_{FIRST_ARCHIVE + number}" for number in range(chosen.archives)]
    for number, folder in enumerate(folders):
        run(stages, folder, "--sample_seed", str(FIRST_ARCHIVE + number))
    print(f"`python -m bench.study_demo --archives {chosen.archives}`\n")
    print("\n".join(describe(folders)))


def describe(folders: Sequence[Path]) -> Iterator[str]:
    """The table: means and ranges over archives, and what the encoder scores more than each other, paired."""
    made = [read_rows(folder / "results") for folder in folders]
    scores = {
        (name, protocol): [100 * float(rows[name, protocol]["value"]) for rows in made]
        for name in (OURS, *BASELINES)
        for protocol in PROTOCOLS
    }
    yield "| | kNN | encoder less it | ahead in | linear | encoder less it | ahead in |"
    yield "|---|---|---|---|---|---|---|"
    for name in (OURS, *BASELINES):
        cells = [f"`{name}`"]
        for protocol in PROTOCOLS:
            values = scores[name, protocol]
            cells.append(f"{statistics.mean(values):.1f} ({min(values):.1f} to {max(values):.1f})")
            gains = [ours - other for ours, other in zip(scores[OURS, protocol], values, strict=True)]
            cells += [format_interval(gains), f"{sum(gain > 0 for gain in gains)}"] if name != OURS else ["", ""]
        yield f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
