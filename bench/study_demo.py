"""The demo's encoder beside encoders without training, on sample archives on which no setting of it was chosen.

``python -m bench.study_demo [--archives N] [--out FOLDER]`` runs the demo once on each and prints a table; what is there already is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import yaml

from bench.study_objectives import BASELINES, FIRST_ARCHIVE, ROOT, describe_archives, read_rows, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=int, default=5)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-demo")
    chosen = parser.parse_args()
    demo = yaml.safe_load((ROOT / "configs" / "run" / "demo.yaml").read_text())
    stages = [stage for stage in demo["stages"] if "report" not in stage]
    stages[-1]["evaluate"]["encoders"] = ["{out}/encoder", *BASELINES]
    made = []
    for seed in range(FIRST_ARCHIVE, FIRST_ARCHIVE + chosen.archives):
        folder = chosen.out / f"archive_{seed}"
        run(stages, folder, "--sample_seed", str(seed))
        made.append(read_rows(folder / "results"))
    print(f"`python -m bench.study_demo --archives {chosen.archives}`\n")
    print("\n".join(describe_archives(["encoder"], made)))


if __name__ == "__main__":
    main()
