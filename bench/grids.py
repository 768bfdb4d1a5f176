"""Make docs/grids.md: run the grids of ``configs/run/grids.yaml`` on the products of the real-sample run and collect their leaderboards."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import yaml

from eo_ssl.manifest import require
from worlds.benchmarks import make_eurosat

ROOT = Path(__file__).resolve().parents[1]
RUN = ROOT / "runs" / "real-sample"
GRIDS = ("csmask", "terramesh", "eurosat", "mstar")
HEAD = """# The price of a wrong size or normalisation

What eight encoders per task lose when images reach them otherwise than their contract says: `make grids`, after `eo-ssl run --config real-sample`.
Trained here are the first ones of each task (`encoder_optical` on a few hundred real Sentinel-2 tiles, `encoder_sar` on MSTAR's chips), one run each
as said below; all others have no weights or random ones (seed 0), so this shows the measurement at work rather than encoders worth using. csmask,
TerraMesh and MSTAR are real; the chips in EuroSAT's layout are generated (seed 0, 40 per class). TerraMesh's labels follow its few sites, which are
left out one after another, so that everything stays near chance there. `encoder_optical` saw TerraMesh's tiles in pretraining, without labels. Points
are per cent; positive numbers are losses. Departures are compared with the same encoder under its contract on the same test items.
"""


def main() -> None:
    make_eurosat(RUN / "eurosat", seed=0, per_class=40)
    subprocess.run(
        [sys.executable, "-c", "from eo_ssl.cli import entry; entry()", "run", "--config", "grids"],
        check=True,
        cwd=ROOT,
    )
    write()


def trained(name: str) -> str:
    """Say how an encoder of the run was trained, from its manifest, and what the shipped configuration asks for where that differs."""
    config = require(RUN / name, "pretrain").config
    stages = yaml.safe_load((ROOT / "configs" / "run" / "real-sample.yaml").read_text())["stages"]
    asked = next(o["steps"] for s in stages for c, o in s.items() if c == "pretrain" and o["out"].endswith(name))
    older = "" if asked == config["steps"] else f"; an older run, the shipped configuration takes {asked:,} steps"
    return f"`{name}`: {config['objective']}, {config['steps']:,} steps of {config['batch_size']} tiles, seed {config['seed']}{older}"


def write() -> None:
    """Write the page from the leaderboards."""
    encoders = "\n".join(f"- {trained(name)}" for name in ("encoder_optical", "encoder_sar"))
    parts = []
    for name in GRIDS:
        folder = RUN / f"grid_{name}"
        pictures = [shutil.copy(path, ROOT / "docs" / f"grid-{name}.svg") for path in folder.glob("grid*.svg")]
        shown = "".join(
            f"![{name}: metric against input size and normalisation]({Path(one).name})\n\n" for one in pictures
        )
        parts.append(f"## {name}\n\n{shown}{(folder / 'leaderboard.md').read_text()}")
    (ROOT / "docs" / "grids.md").write_text("\n".join([HEAD, encoders + "\n", *parts]))


if __name__ == "__main__":
    main()
