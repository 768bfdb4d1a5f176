"""Make docs/grids.md: run the grids of ``configs/run/grids.yaml`` on the products of the real-sample run and collect their leaderboards."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from eo_ssl.synthetic import make_eurosat

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "runs" / "real-sample"
GRIDS = ("csmask", "eurosat", "mstar")
HEAD = """# The price of a wrong size or normalisation

What eight encoders per task lose when images reach them otherwise than their contract says: `make grids`, after
`eo-ssl run --config real-sample`. Trained here are the first ones of csmask (MAE on a few hundred real Sentinel-2 tiles) and MSTAR (MAE on
its chips), one run each; all others have no weights or random ones (seed 0), so this shows the measurement at work rather than encoders
worth using. csmask and MSTAR are real; the chips in EuroSAT's layout are generated (seed 0, 40 per class). Points are per cent; positive
numbers are losses. Departures are compared with the same encoder under its contract on the same test items.
"""


def main() -> None:
    make_eurosat(RUN / "eurosat", seed=0, per_class=40)
    subprocess.run(
        [sys.executable, "-c", "from eo_ssl.cli import entry; entry()", "run", "--config", "grids"],
        check=True,
        cwd=ROOT,
    )
    parts = [(RUN / f"grid_{name}" / "leaderboard.md").read_text() for name in GRIDS]
    (ROOT / "docs" / "grids.md").write_text(
        "\n".join([HEAD, *(f"## {n}\n\n{p}" for n, p in zip(GRIDS, parts, strict=True))])
    )


if __name__ == "__main__":
    main()
