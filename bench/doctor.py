"""Mistakes planted in real patches: the table of ``docs/doctor.md``.

``EO_SSL_DATA=/path/to/samples python -m bench.doctor`` prints it; some minutes. 200 plantings and 200 controls for each
of three seeds.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from bench import power_study

CARDS = (
    "terramesh_s2l1c",
    "terramesh_s2l2a",
    "s2_100k",
    "s2_29rkh_l2a",
    "ssl4eo_patch_l1c",
    "eolearn_l1c",
    "csmask_sentinel2",
    "s2_19udp_l1c",
    "terramesh_s1rtc",
    "opera_rtc_s1",
)
SEEDS, PLANTINGS, MOST = (1, 2, 3), 200, 22


def main() -> None:
    root = Path(os.environ.get("EO_SSL_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    samples = power_study.gather_samples(CARDS, root, most=MOST)
    done = [item for seed in SEEDS for item in power_study.run_study(samples, plantings=PLANTINGS, seed=seed)]
    print(
        f"{len(samples)} samples, seeds {', '.join(map(str, SEEDS))}, {PLANTINGS} plantings and {PLANTINGS} controls "
        "each\n"
    )
    print(power_study.tabulate(done))
    for item in done:
        if item.result in ("missed", "wrong kind", "false alarm", "suspicion"):
            print(f"{item.result}: {item.product_id} {item.planting}", file=sys.stderr)


if __name__ == "__main__":
    main()
