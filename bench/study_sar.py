"""What a radar encoder should predict: gradients, pixels or HOG behind the same masks, judged with few shots on MSTAR.

``python -m bench.study_sar [--seeds N] [--steps N] [--draws N] [--finetune SHOTS ...] [--out FOLDER]`` prints its tables; what is there already is
not run again. Pretraining sees the pool, which holds no chip of the test targets (cards/mstar_pool.yaml).
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.study_objectives import ROOT, run

TARGETS = ("gradients", "pixels", "hog")
CONTROLS = ("random_init", "imagestats", "rcf")
SHOTS = (10, 20, 40)
CLASSES, EPOCHS, BATCH = 10, 40, 50
RECIPE = {"batch_size": BATCH, "rates": [1e-3], "weight_decay": 5e-4, "layer_decay": 1.0, "augment": "none"}
"""of the authors' fine-tuning (few_shot_classification/finetune of Li et al. 2024's code), as far as `finetune` has it"""
Options = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--finetune", type=int, nargs="+", choices=SHOTS, default=[], help="also train all weights")
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-sar")
    chosen = parser.parse_args()
    stages = list_stages(steps=chosen.steps, draws=chosen.draws, finetune=chosen.finetune)
    run(stages, chosen.out, matrix={"target": list(TARGETS), "seed": list(range(chosen.seeds))})
    options = f"--seeds {chosen.seeds} --steps {chosen.steps} --draws {chosen.draws}"
    tuned = " ".join(["", "--finetune", *map(str, chosen.finetune)]) if chosen.finetune else ""
    print(f"`python -m bench.study_sar {options}{tuned}`\n")
    for number, protocol in enumerate(("knn5", "linear")):
        print("\n" * bool(number) + "\n".join(format_table(chosen.out / "results", protocol, SHOTS)))
    for shots in chosen.finetune:
        print("\n" + "\n".join(format_table(chosen.out / f"finetuned_{shots}", "finetune", (shots,))))


def list_stages(*, steps: int, draws: int, finetune: Sequence[int]) -> list[Options]:
    """One encoder of each target and seed on the pool, all of them beside encoders without training."""
    stages: list[Options] = [
        {"ingest": {"card": card, "data": "{data}", "out": f"{{out}}/{card}"}} for card in ("mstar_pool", "mstar_soc")
    ]
    stages.append({"ingest": {"card": "mstar_soc_128", "data": "{data}", "out": "{out}/mstar_soc_128", "size_px": 128}})
    small = yaml.safe_load((ROOT / "configs" / "pretrain" / "sar_jepa_small.yaml").read_text())
    common: Options = {**small, "corpus": "{out}/mstar_pool", "split": "all", "steps": steps}
    common |= {"objective": {"SarJepa": {"target": "{target}"}}, "seed": "{seed}", "out": "{out}/{target}_{seed}"}
    stages.append({"pretrain": common})
    judge: Options = {"task": "mstar_soc", "data": "{out}/mstar_soc", "clutter": "{out}/mstar_soc_128", "draws": draws}
    probed: Options = {"protocols": ["knn5", "linear"], "shots": list(SHOTS), "out": "{out}/results"}
    stages.append({"evaluate": {**judge, **probed, "encoders": ["{matrix}", *CONTROLS]}})
    for shots in finetune:
        taken = EPOCHS * shots * CLASSES // BATCH  # epochs alone would not go below the least number of steps
        tuned: Options = {"protocols": ["finetune"], "shots": [shots], "tuning": {**RECIPE, "steps": taken}}
        tuned |= {"encoders": ["{matrix}", "random_init"], "out": f"{{out}}/finetuned_{shots}"}
        stages.append({"evaluate": {**judge, **tuned}})
    return stages


def format_table(folder: Path, protocol: str, shots: tuple[int, ...]) -> Iterator[str]:
    """Accuracy in per cent by encoder and number of shots, with the leaderboard's intervals."""
    with (folder / "leaderboard.csv").open(newline="") as file:
        rows = {(row["encoder"], row["amount"]): row for row in csv.DictReader(file) if row["protocol"] == protocol}
    amounts = list(dict.fromkeys(amount for _, amount in rows))
    if len(amounts) != len(shots):
        raise ValueError(f"expected rows of {shots} shots in {folder}, got {amounts}")
    yield f"| {protocol} | {' | '.join(amounts)} |"
    yield f"|{'---|' * (len(amounts) + 1)}"
    for name in dict.fromkeys(encoder for encoder, _ in rows):
        shown = [rows[name, amount] for amount in amounts]
        cells = [
            f"{100 * float(r['value']):.1f} ({100 * float(r['low']):.1f} to {100 * float(r['high']):.1f})"
            for r in shown
        ]
        yield f"| `{name}` | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
