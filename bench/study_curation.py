"""What curation is worth at equal compute: arms of selectors, static and dynamic, on archives whose long tail is known.

``python -m bench.study_curation [--world NAME] [--objective NAME] [--first_seed N] [--seeds N] [--arms NAME ...] [--scores FILE]``
trains what is not there yet, adds the scores to a file, and prints the tables of all that the file holds.
docs/curation-study.md says beforehand which comparisons count.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.clutter import make_clutter, make_judged_clutter
from bench.seed_scores import describe_family, describe_scores, read_scores, update_scores
from bench.study_objectives import DATA, PROTOCOLS, ROOT, run
from bench.textures import SHARES, make_judged_textures, make_textures
from eo_ssl.curation import Readiness
from eo_ssl.pretraining.run_cost import PASSES_PER_VIEW

Options = dict[str, Any]
ROWS, EACH, TESTED = 6000, 60, 100
"""chips of the long-tailed set, and of each kind in the balanced one: to learn the probes from, and to test on"""
STEPS, BATCH, WARMUP = 400, 64, 0.2
"""steps without curation, items of each, and the part of them before the first event"""
CURVE = (0.5, 0.75)
"""parts of a run after which an encoder is kept"""
SIZES: Options = {"name": "test_vit", "patch_size": 6, "depth": 4}
COMMON: Options = {
    "model": {"Vit": SIZES},
    "views": {"tile": {"crop": [0.4, 1.0], "gain": 0.2, "noise": 0.0}},
    "batch_size": BATCH,
    "optimizer": {"warmup_steps": 20},
    "split": "all",
}
OBJECTIVES: dict[str, tuple[Options, int]] = {
    "simclr": ({"objective": {"SimClr": {"temperature": 0.2}}, "lr": 3e-3}, 2),
    "mae": ({"objective": {"Mae": {"norm": "patch"}}, "lr": 3e-3}, 1),
}
"""options of each objective, and the views that it makes of an item"""
BALANCED: Options = {"keep": 0.2, "method": {"Hierarchical": {"levels": [200, 20], "n_resample": 3}}}
SPARSE: Options = {"keep": 0.15, "method": {"Density": {}}}
ARMS: dict[str, tuple[Options, int]] = {
    "full": ({}, 0),
    "random": ({"keep": 0.15, "method": {"Random": {}}}, 0),
    "hard_once": (BALANCED, 1),
    "hard_redrawn": ({**BALANCED, "features": "first"}, 4),
    "hard_dynamic": (BALANCED, 4),
    "soft_once": (SPARSE, 1),
    "soft_dynamic": (SPARSE, 2),
    "soft_weightless": ({**SPARSE, "encoder": "rcf"}, 0),
    "isogclr": ({"objective": {"ISogClr": {}}}, 0),
    "temperature": ({"objective": {"SimClr": {"temperature_range": [0.1, 1.0], "temperature_period": 80}}}, 0),
    "oracle": ({"keep": 0.15, "method": {"Stratified": {"by": ["label_name"], "form": "weights"}}}, 0),
}
"""what is pruned by, and how often: events are spread evenly over what follows the warm-up. Without an event it is a
subset made before training (the oracle's by labels that no other arm sees), or another objective"""
WORLDS: dict[str, tuple[Callable[[Path, int], Path], Callable[[Path, int], Path]]] = {
    "textures": (
        lambda folder, seed: make_textures(folder, seed=seed, rows=ROWS),
        lambda folder, seed: make_judged_textures(folder, seed=[seed, 1], each=EACH, tested=TESTED),
    ),
    "even": (
        lambda folder, seed: make_textures(folder, seed=seed, rows=ROWS, shares=[1 / len(SHARES)] * len(SHARES)),
        lambda folder, seed: make_judged_textures(folder, seed=[seed, 1], each=EACH, tested=TESTED),
    ),
    "clutter": (
        lambda folder, seed: make_clutter(folder, DATA, seed=seed, rows=ROWS, reserved=EACH),
        lambda folder, seed: make_judged_clutter(folder, DATA, each=EACH, tested=TESTED),
    ),
}
"""makers of the set that a seed trains on, and of the one that all are judged on: of long-tailed textures, of textures
in equal shares, where nothing can be won, and of real radar clutter with few vehicles"""

PRIMARY = "soft_once"
FAMILY = {
    f"{world}_simclr_{STEPS}_{round(100 * WARMUP)}": [(PRIMARY, other) for other in ("full", "random", "hard_once")]
    for world in ("textures", "clutter")
}
"""the differences that docs/curation-study.md names beforehand"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--world", choices=list(WORLDS), default="textures")
    parser.add_argument("--objective", choices=list(OBJECTIVES), default="simclr")
    parser.add_argument("--first_seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--warmup", type=float, default=WARMUP)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-curation")
    parser.add_argument("--scores", type=Path, help="file of all scores; OUT/scores.csv when left out")
    chosen = parser.parse_args()
    seeds = list(range(chosen.first_seed, chosen.first_seed + chosen.seeds))
    name = f"{chosen.world}_{chosen.objective}_{chosen.steps}_{round(100 * chosen.warmup)}"
    out, path = chosen.out / f"{name}_{chosen.first_seed}", chosen.scores or chosen.out / "scores.csv"
    study = Study(chosen.world, chosen.objective, steps=chosen.steps, warmup=chosen.warmup)
    study.run(out, seeds, chosen.arms)
    update_scores(path, name, out / "results")
    scores = read_scores(path)
    print(
        "\n".join(
            [*describe_scores(scores, protocols=PROTOCOLS), *describe_family(scores, FAMILY, protocols=PROTOCOLS)]
        )
    )


@dataclass(frozen=True)
class Study:
    """One world, objective and length of run."""

    world: str
    objective: str
    steps: int
    warmup: float
    "part of the steps before the first event"

    def run(self, out: Path, seeds: Sequence[int], arms: Sequence[str]) -> None:
        """Train and judge what is not there yet, all on the same balanced set."""
        train, judge = WORLDS[self.world]
        for name, make, seed in [
            *((f"chips_{seed}", train, seed) for seed in seeds),
            ("judged", judge, seeds[0]),
        ]:
            if not (out / name).exists():
                make(out / name, seed)
        matrix = {"seed": list(seeds), "arm": {arm: self.choose_options(arm) for arm in arms}}
        run(self.list_stages(arms), out, matrix=matrix)

    def list_stages(self, arms: Sequence[str]) -> list[Options]:
        """Archives, subsets made before training, encoders, and results that all of them share."""
        options, _ = OBJECTIVES[self.objective]
        corpus = {"corpus": "{out}/corpus_{seed}", "seed": "{seed}"}
        stages: list[Options] = [ingest_set("judged", "judged_corpus"), ingest_set("chips_{seed}", "corpus_{seed}")]
        for arm in arms:
            selection, events = ARMS[arm]
            if "keep" in selection and not events:
                stages.append(
                    {"curate": {**corpus, **selection, "split": "all", "out": f"{{out}}/{arm}_{{seed}}_rows"}}
                )
        stages.append({"pretrain": {"with": "arm", **COMMON, **options, **corpus, "out": "{out}/{arm}_{seed}"}})
        evaluate: Options = {"task": "corpus", "data": "{out}/judged_corpus", "name": self.world}
        evaluate |= {"encoders": ["{matrix}", "rcf", "imagestats", "random_init"], "study": "training"}
        stages.append({"evaluate": {**evaluate, "protocols": list(PROTOCOLS), "out": "{out}/results"}})
        return stages

    def choose_options(self, arm: str) -> Options:
        """The options of an arm, as many steps as its budget leaves after the rows it embeds."""
        selection, events = ARMS[arm]
        _, views = OBJECTIVES[self.objective]
        embedding = min(events, 1) if selection.get("features") == "first" else events
        embedded = embedding * (ROWS + 2 * Readiness().rows)
        steps = self.steps - math.ceil(embedded / (PASSES_PER_VIEW * views) / BATCH)
        options: Options = {"steps": steps, "training": {"encoders_at": [round(part * steps) for part in CURVE]}}
        if not selection:
            return options
        if "keep" not in selection:
            return {**options, **selection}
        if not events:
            return {**options, "subset": f"{{out}}/{arm}_{{seed}}_rows"}
        warmup = round(self.warmup * self.steps) * BATCH
        interval = math.ceil((steps * BATCH - warmup) / events)
        return {**options, "prune": {**selection, "warmup": warmup, "interval": interval, "seed": "{seed}"}}


def ingest_set(name: str, corpus: str) -> Options:
    """The stage that reads a set as it was made."""
    folder = f"{{out}}/{name}"
    return {"ingest": {"card": f"{folder}/{name}.yaml", "data": folder, "size_px": 24, "out": f"{{out}}/{corpus}"}}


if __name__ == "__main__":
    main()
