"""What curation is worth at equal compute: arms of selectors, static and dynamic, on archives whose long tail is known.

``python -m bench.study_curation [--first_seed N] [--seeds N] [--arms NAME ...] [--out FOLDER]`` prints its tables; what is
there already is not run again. docs/curation-study.md says beforehand which comparison counts.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

from bench.study_objectives import PROTOCOLS, ROOT, read_rows, run
from bench.textures import make_textures

Options = dict[str, Any]
ROWS, EACH, TESTED = 6000, 60, 100
"""chips of the long-tailed set, and of each kind in the balanced one: to learn the probes from, and to test on"""
STEPS, BATCH = 400, 64
WARMUP = 0.2
"""share of the run before the first event"""
VIEWS = 2
FORWARDS = 3 * VIEWS
"""forward passes that a presentation costs: each view one forward, and backward as two"""
SMALL: Options = {
    "objective": {"SimClr": {"temperature": 0.2}},
    "views": {"tile": {"crop": [0.4, 1.0], "gain": 0.2, "noise": 0.0}},
    "batch_size": BATCH,
    "lr": 1e-3,
    "model": {"Vit": {"name": "vit_tiny_patch16_224", "patch_size": 6, "depth": 3}},
    "optimizer": {"warmup_steps": 20},
    "split": "all",
}
BALANCED: Options = {"Hierarchical": {"levels": [200, 20], "n_resample": 3}}
SPARSE: Options = {"Density": {}}
ARMS: dict[str, tuple[Options | None, int]] = {
    "full": (None, 0),
    "random": ({"keep": 0.2, "method": {"Random": {}}}, 4),
    "hard_once": ({"keep": 0.2, "method": BALANCED}, 1),
    "hard_dynamic": ({"keep": 0.2, "method": BALANCED}, 4),
    "soft_once": ({"keep": 0.15, "method": SPARSE}, 1),
    "soft_dynamic": ({"keep": 0.15, "method": SPARSE}, 4),
    "oracle": ({"keep": 0.15, "method": {"Stratified": {"by": ["label_name"], "form": "weights"}}}, 0),
}
"""what is pruned by, and how often: events are spread evenly over what follows the warm-up. No event with a method is a
subset made before training, by labels that no other arm sees"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first_seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-curation")
    chosen = parser.parse_args()
    folders = [chosen.out / f"seed_{chosen.first_seed + number}" for number in range(chosen.seeds)]
    for number, folder in enumerate(folders):
        seed = chosen.first_seed + number
        if not (folder / "textures_judged").exists():
            make_textures(folder, seed=seed, rows=ROWS, each=EACH, tested=TESTED)
        run(list_stages(folder, chosen.arms, seed=seed), folder)
    print("\n".join(describe(folders, chosen.arms)))


def list_stages(folder: Path, arms: Sequence[str], *, seed: int) -> list[Options]:
    """Both sets as corpora, an encoder of each arm, all judged on the balanced set."""
    stages: list[Options] = []
    for name in ("textures", "textures_judged"):
        card = {"card": str(folder / name / f"{name}.yaml"), "data": str(folder / name)}
        stages.append({"ingest": {**card, "size_px": 24, "out": f"{{out}}/{name}_corpus"}})
    for arm in arms:
        stages += train_arm(arm, seed=seed)
    evaluate = {
        "encoders": [*(f"{{out}}/{arm}" for arm in arms), "rcf", "imagestats", "random_init"],
        "task": "corpus",
        "data": "{out}/textures_judged_corpus",
        "name": "textures",
        "protocols": list(PROTOCOLS),
        "out": "{out}/results",
    }
    return [*stages, {"evaluate": evaluate}]


def train_arm(arm: str, *, seed: int) -> list[Options]:
    """The stages of one arm: as many steps as its budget leaves after the rows it embeds."""
    selection, events = ARMS[arm]
    corpus = {"corpus": "{out}/textures_corpus"}
    options = {**SMALL, **corpus, "seed": seed, "out": f"{{out}}/{arm}"}
    options["steps"] = STEPS - math.ceil(events * ROWS / FORWARDS / BATCH)
    if selection is None:
        return [{"pretrain": options}]
    if not events:
        subset = {**corpus, **selection, "split": "all", "seed": seed, "out": f"{{out}}/{arm}_subset"}
        return [{"curate": subset}, {"pretrain": {**options, "subset": f"{{out}}/{arm}_subset"}}]
    warmup = round(WARMUP * STEPS) * BATCH
    interval = math.ceil((options["steps"] * BATCH - warmup) / events)
    prune = {**selection, "warmup": warmup, "interval": interval, "readiness": {"full": 0.0}, "seed": seed}
    return [{"pretrain": {**options, "prune": prune}}]


def describe(folders: Sequence[Path], arms: Sequence[str]) -> Iterator[str]:
    """Scores by arm, and what each is above the first, paired by seed, in points with Student's 95 % intervals."""
    found = [read_rows(folder / "results") for folder in folders]
    yield f"| arm | {' | '.join(f'{p} | less {arms[0]}' for p in PROTOCOLS)} |"
    yield "|---" * (1 + 2 * len(PROTOCOLS)) + "|"
    for arm in [*arms, "rcf", "imagestats", "random_init"]:
        cells = [f"`{arm}`"]
        for protocol in PROTOCOLS:
            values = [100 * float(rows[arm, protocol]["value"]) for rows in found]
            first = [100 * float(rows[arms[0], protocol]["value"]) for rows in found]
            cells += [
                f"{statistics.mean(values):.1f}",
                format_paired([a - b for a, b in zip(values, first, strict=True)]),
            ]
        yield f"| {' | '.join(cells)} |"


def format_paired(differences: Sequence[float]) -> str:
    """Mean of the differences and its 95 % interval."""
    mean = statistics.mean(differences)
    if len(differences) < 2:
        return f"{mean:+.1f}"
    half = float(stats.t.ppf(0.975, len(differences) - 1)) * statistics.stdev(differences) / math.sqrt(len(differences))
    return f"{mean:+.1f} [{mean - half:.1f}, {mean + half:.1f}]"


if __name__ == "__main__":
    main()
