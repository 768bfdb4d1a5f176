"""`train/data2vec2-vs-data2vec`: in what part of data2vec's training time data2vec 2.0 has an encoder that scores as well.

Each regresses the features of a teacher of its own, so neither loss says anything of the other. What is compared is what the paper claims
(Baevski et al. 2023, arXiv 2212.07525, abstract: accuracy by pretraining time, there against MAE): balanced accuracy of kNN and of a linear probe on
places of a sample archive that were held out, random weights beside them.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench import study_objectives as study
from bench.study_bands import list_speeds

STEPS, SEEDS, TRIAL = 200, 2, 20
"""Steps of data2vec, seeds of each, and steps of data2vec 2.0 by which its pace is known."""
SHARES = {"sixth": 1 / 6, "third": 1 / 3}
"""Parts of data2vec's time that data2vec 2.0 is given, each with a whole schedule of its own."""
OLD, NEW, RANDOM = "data2vec", "data2vec2", "random_init"


def run() -> Iterator[dict[str, Any]]:
    """The one row; about ten minutes of CPU."""
    with tempfile.TemporaryDirectory(prefix="eo_ssl-bench-") as home:
        yield measure(Path(home), steps=STEPS, seeds=SEEDS)


def measure(out: Path, *, steps: int, seeds: int) -> dict[str, Any]:
    """Train data2vec, then data2vec 2.0 for parts of its time, and judge all of them."""
    recipes = study.read_recipes(steps=steps)
    ingest, *_, judge = study.list_archive_stages({}, seed=0)
    stages = [ingest, {"pretrain": {"with": "length", "seed": "{seed}", "out": "{out}/{length}_{seed}"}}]
    matrix: dict[str, Any] = {"length": {OLD: train(recipes[OLD], steps=steps)}, "seed": list(range(seeds))}
    sample = ("--sample_seed", str(study.FIRST_ARCHIVE))
    trial = {"pretrain": {**train(recipes[NEW], steps=TRIAL), "seed": 0, "out": "{out}/trial_0"}}
    study.run([*stages, trial], out, *sample, matrix=matrix)
    whole = steps * read_pace(out, OLD, seeds)
    lengths = {name: max(2, round(share * whole / read_pace(out, "trial", 1))) for name, share in SHARES.items()}
    matrix["length"] |= {name: train(recipes[NEW], steps=length) for name, length in lengths.items()}
    judged = {"evaluate": {**judge["evaluate"], "encoders": ["{matrix}", RANDOM]}}
    study.run([*stages, judged], out, *sample, matrix=matrix)
    shares = {name: length * read_pace(out, name, seeds) / whole for name, length in lengths.items()}
    return describe(out / "results", shares, seconds=whole, steps=steps, seeds=seeds)


def train(recipe: study.Options, *, steps: int) -> study.Options:
    """Options that train a method's small configuration for so many steps."""
    optimizer = {**recipe["optimizer"], "warmup_steps": steps // 10}
    ours = {"corpus": "{out}/corpus", "streams": ["s2_boa_12b_10m_64px"]}
    return {**recipe, **ours, "steps": steps, "optimizer": optimizer}


def read_pace(out: Path, name: str, seeds: int) -> float:
    """Median seconds of a step of 32 tiles, of the logs of a method's runs; looks at the features are no part of it."""
    return 32 / statistics.median(list_speeds(out, name, seeds))


def describe(folder: Path, shares: Mapping[str, float], *, seconds: float, steps: int, seeds: int) -> dict[str, Any]:
    """The row; its ratio is the smallest part of the time in which no score is below data2vec's, None where there is none."""
    gains = {
        name: [study.read_difference(folder, protocol, name, less=OLD) for protocol in study.PROTOCOLS]
        for name in (*shares, RANDOM)
    }
    ratio = min(
        (share for name, share in shares.items() if all(gain.middle >= 0 for gain in gains[name])), default=None
    )
    rows = study.read_rows(folder)
    scores = ", ".join(f"{protocol} {float(rows[OLD, protocol]['value']):.1%}" for protocol in study.PROTOCOLS)
    parts = {**{f"data2vec 2.0 in {share:.2f} of the time": name for name, share in shares.items()}, RANDOM: RANDOM}
    said = "; ".join(f"{title}: {', '.join(str(gain) for gain in gains[name])}" for title, name in parts.items())
    return {
        "name": "train/data2vec2-vs-data2vec",
        "value": None if ratio is None else ratio * seconds,
        "unit": "s of training to data2vec's scores",
        "reference": "data2vec",
        "reference_value": seconds,
        "ratio": ratio,
        "pairs": seeds,
        "note": f"small configurations, ViT-Ti/8 of four blocks, batch 32, {steps} steps of data2vec, sample archive {study.FIRST_ARCHIVE}; data2vec: {scores};"
        f" points more than it ({', '.join(study.PROTOCOLS)}; paired 95 % intervals): {said}",
    }
