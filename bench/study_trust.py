"""When are features good enough to curate by? What two looks say along a run, beside what its features would choose.

``python -m bench.study_trust [--first_seed N] [--seeds N] [--out FOLDER]`` trains on archives of textures without choosing
anything, stops at marks, and prints for each how well rows are found again, how pure neighbours are in their kind, and
how even the kinds would become by the features of that moment.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.study_curation import BALANCED, BATCH, COMMON, OBJECTIVES, SPARSE, STEPS, WORLDS, ingest_set
from bench.study_objectives import ROOT, run
from eo_ssl.corpus import Corpus
from eo_ssl.curation import Context, Density, Hierarchical, curate
from eo_ssl.curation.embeddings import rescale
from eo_ssl.curation.neighbours import find_nearest_others
from eo_ssl.encoder import load_encoder
from eo_ssl.evaluation import extract_features, open_corpus_source

EVERY, LAST = 16, 240
"""steps between marks, and the last of them"""
SHOWN = (16, 32, 48, 64, 80, 112, 160, 240)
NEIGHBOURS = 5
Options = dict[str, Any]
Floats = npt.NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first_seed", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-trust")
    chosen = parser.parse_args()
    seeds = list(range(chosen.first_seed, chosen.first_seed + chosen.seeds))
    make, _ = WORLDS["textures"]
    for seed in seeds:
        if not (chosen.out / f"chips_{seed}").exists():
            make(chosen.out / f"chips_{seed}", seed)
    run(list_stages(), chosen.out, matrix={"seed": seeds})
    print(f"`python -m bench.study_trust --first_seed {seeds[0]} --seeds {len(seeds)}`\n")
    print("| step | found again | purity | label entropy: all | `Density`, keep 0.15 | `Hierarchical`, keep 0.2 |")
    print("|---|---|---|---|---|---|")
    measured = np.mean([list(measure_run(chosen.out, seed)) for seed in seeds], axis=0)
    for step, values in zip(SHOWN, measured, strict=True):
        print(f"| {step} | {' | '.join(f'{value:.2f}' for value in values)} |")


def list_stages() -> list[Options]:
    """One run of each seed, whose events look twice at some rows and trust nothing, so that all rows stay."""
    options, _ = OBJECTIVES["simclr"]
    prune = {**SPARSE, "warmup": EVERY * BATCH, "interval": EVERY * BATCH, "readiness": {"none": 0.98, "full": 0.99}}
    own = {"corpus": "{out}/corpus_{seed}", "seed": "{seed}", "out": "{out}/run_{seed}", "steps": STEPS}
    own |= {"prune": {**prune, "last": 1 - (LAST + 1) / STEPS}, "training": {"encoders_at": list(SHOWN)}}
    return [ingest_set("chips_{seed}", "corpus_{seed}"), {"pretrain": {**COMMON, **options, **own}}]


def measure_run(folder: Path, seed: int) -> Iterator[tuple[float, ...]]:
    """Yield the row of the table for each step shown."""
    events = json.loads((folder / f"run_{seed}" / "pruning" / "events.json").read_text())
    agreement = {event["presentations"] // BATCH: event["gate"]["agreement"] for event in events}
    corpus = Corpus.open(folder / f"corpus_{seed}")
    (stream,) = corpus.streams
    labels = corpus.index(stream, columns=["label"])["label"].to_numpy()
    source = open_corpus_source(corpus, stream, rows=np.arange(len(labels)))
    for step in SHOWN:
        features = extract_features(load_encoder(folder / f"run_{seed}" / f"at_{step:06d}"), source).x
        purity = measure_purity(rescale(features, "l2"), labels)
        reports = [
            curate(features, keep, np.random.default_rng(seed), method=method, context=Context(labels=labels)).report
            for keep, method in (
                (SPARSE["keep"], Density()),
                (BALANCED["keep"], Hierarchical(**BALANCED["method"]["Hierarchical"])),
            )
        ]
        entropies = [reports[0].before, *(report.after for report in reports)]
        yield (agreement[step], purity, *(float(one.label_entropy or 0) for one in entropies))


def measure_purity(points: Floats, labels: npt.NDArray[np.integer]) -> float:
    """Share of the nearest rows that are of a row's own kind, all kinds alike."""
    _, found = find_nearest_others(points, NEIGHBOURS, reference=np.arange(len(points)))
    same = (labels[found] == labels[:, None]).mean(axis=1)
    return float(np.mean([same[labels == kind].mean() for kind in np.unique(labels)]))


if __name__ == "__main__":
    main()
