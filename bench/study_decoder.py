"""A masked autoencoder whose decoder looks at visible patches alone, beside one with the whole decoder: what both are worth.

``python -m bench.study_decoder [--seeds N] [--steps N] [--out FOLDER]`` prints its tables; what is there already is not run again. Network, sizes and
mask are those of ``train/mae-vs-lightly`` and ``train/mae-cross-vs-lightly``, so that score and time are of one thing. On two cores otherwise idle the
default takes about 15 minutes, 30 of CPU.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

from bench.study_bands import PROTOCOLS, list_speeds, print_table
from bench.study_objectives import FIRST_ARCHIVE, ROOT, read_difference, run

STREAM = "s2_boa_12b_10m_64px"
WHOLE = {"norm": "patch", "decoder_dim": 256, "decoder_depth": 4, "decoder_heads": 8}
DECODERS: dict[str, dict[str, Any]] = {"full": WHOLE, "cross": {**WHOLE, "decoder": "cross", "predicted": 1 / 3}}
TASK = "archive"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-decoder")
    chosen = parser.parse_args()
    sample = ("--sample_seed", str(FIRST_ARCHIVE))
    run(list_stages(steps=chosen.steps), chosen.out, *sample, matrix=make_matrix(seeds=chosen.seeds))
    print(f"`python -m bench.study_decoder --seeds {chosen.seeds} --steps {chosen.steps}`, archive {FIRST_ARCHIVE}")
    print_table(TASK, chosen.out)
    print("\n| cross less full, points | difference and paired 95 % interval | verdict |\n|---|---|---|")
    for protocol in PROTOCOLS:
        found = read_difference(chosen.out / f"results_{TASK}", protocol, "cross", less="full")
        print(f"| {protocol} | {found} | {found.verdict} |")
    speeds = {name: statistics.median(list_speeds(chosen.out, name, chosen.seeds)) for name in DECODERS}
    print("\n" + ", ".join(f"{name}: {speed:.0f} images/s" for name, speed in speeds.items()))


def make_matrix(*, seeds: int) -> dict[str, Any]:
    """Both decoders with several seeds."""
    arms = {name: {"objective": {"Mae": sizes}} for name, sizes in DECODERS.items()}
    return {"decoder": arms, "seed": list(range(seeds))}


def list_stages(*, steps: int) -> list[dict[str, Any]]:
    """One sample archive, both decoders with several seeds on its optical tiles, judged on held-out places."""
    ingest = {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus", "min_valid": 0.9, "max_cloud": 0.5}
    tiles: dict[str, Any] = {"streams": [STREAM]}
    common: dict[str, Any] = {**tiles, "corpus": "{out}/corpus", "model": {"Vit": {"patch_size": 8}}}
    common |= {"steps": steps, "batch_size": 32, "lr": 1e-3, "optimizer": {"warmup_steps": steps // 10}}
    common |= {"with": "decoder", "seed": "{seed}", "out": "{out}/{decoder}_{seed}"}
    judge = {"task": "corpus", "data": "{out}/corpus", "name": TASK, "protocols": list(PROTOCOLS)}
    judge |= {**tiles, "encoders": ["{matrix}", "random_init"], "out": f"{{out}}/results_{TASK}"}
    return [{"ingest": ingest}, {"pretrain": common}, {"evaluate": judge}]


if __name__ == "__main__":
    main()
