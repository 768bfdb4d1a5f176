"""Write what each method is worth into docs/objectives.md: every small configuration on sample archives and on real scenes.

``python -m bench.study_objectives [--archives N] [--seeds N] [--steps N] [--out FOLDER]``; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy import stats

from bench.crop_labels import write_labelled_card

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("EO_SSL_DATA", ROOT.parent / "shared" / "data"))
PAGE = ROOT / "docs" / "objectives.md"
HEADING = "## What they are worth here"
FIRST_ARCHIVE = 301  # no setting of a configuration was chosen on the archives from here on
BASELINES = ("imagestats", "rcf", "rcf_zca", "random_init")
PROTOCOLS = ("knn5", "linear")
ELSEWHERE = (
    "sar_jepa",
    "sar_ijepa",
    "croma",
    "multi_mae",
    "distill",
)  # of radar or pairs, and one that needs a teacher
Options = dict[str, Any]
LEVELS: tuple[Options, ...] = (
    {"corpus": "s2_toa", "streams": ["s2_toa_13b_10m_32px"], "bands": ["B02", "B03", "B04", "B08", "B11", "B12"]},
    {"corpus": "s2_boa", "streams": ["s2_boa_12b_10m_32px"], "bands": ["B05", "B06", "B07", "B8A", "B11", "B12"]},
)
"""What encoders of real scenes are trained on: one set of bands for each quantity, that of the scenes with labels."""
JUDGED: dict[str, tuple[str, Options]] = {
    "csmask": (
        "s2_toa",
        {
            "data": "{out}/csmask",
            "streams": ["s2_toa_6b-bc81_30m_16px", "l5_toa_6b-34fd_30m_16px", "l7_toa_6b-34fd_30m_16px"],
            "sensor": "sentinel2_l1c",
        },
    ),
    "terramesh": ("s2_toa", {"data": "{out}/s2_toa", "streams": ["s2_toa_13b_10m_32px"]}),
    "worldcereal": ("s2_boa", {"data": "{out}/crops"}),
}
"""Pretraining corpus and options of `evaluate` of each task of real scenes."""
TITLES = {"csmask": "clouds (csmask)", "terramesh": "land cover (TerraMesh)", "worldcereal": "crops (WorldCereal)"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--archives", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-objectives")
    chosen = parser.parse_args()
    recipes = read_recipes(steps=chosen.steps)
    archives = [chosen.out / f"archive_{FIRST_ARCHIVE + number}" for number in range(chosen.archives)]
    for number, folder in enumerate(archives):
        run(list_archive_stages(recipes, seed=number), folder, "--sample_seed", str(FIRST_ARCHIVE + number))
    crops = write_labelled_card(ROOT / "datasets" / "worldcereal_s2_20m.yaml", DATA, chosen.out)
    run(list_real_stages(recipes, seeds=chosen.seeds, crops=crops), chosen.out / "real")
    command = (
        f"make study-objectives STUDY='--archives {chosen.archives} --seeds {chosen.seeds} --steps {chosen.steps}'"
    )
    write_section(list(recipes), archives, chosen.out / "real", command=command)


def read_recipes(*, steps: int) -> dict[str, Options]:
    """Options of `pretrain` by name of the method, those of its small configuration at one length and one batch size."""
    recipes = {}
    for path in sorted((ROOT / "configs" / "pretrain").glob("*_small.yaml")):
        name = path.stem.removesuffix("_small")
        if name not in ELSEWHERE:
            options = yaml.safe_load(path.read_text())
            options = {key: value for key, value in options.items() if key not in ("corpus", "out", "streams")}
            optimizer = {**options.get("optimizer", {}), "warmup_steps": steps // 10}
            model = {kind: {**sizes, "depth": 4} for kind, sizes in options["model"].items()}
            recipes[name] = {**options, "model": model, "optimizer": optimizer, "steps": steps, "batch_size": 32}
    return recipes


def list_archive_stages(recipes: Mapping[str, Options], *, seed: int) -> list[Options]:
    """Stages on one sample archive: its optical tiles, an encoder of each method, all of them beside the baselines."""
    stream = "s2_boa_12b_10m_64px"
    ingest = {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus", "min_valid": 0.9, "max_cloud": 0.5}
    trained = [
        {"pretrain": {**options, "corpus": "{out}/corpus", "streams": [stream], "seed": seed, "out": f"{{out}}/{name}"}}
        for name, options in recipes.items()
    ]
    evaluate = {
        "encoders": [*(f"{{out}}/{name}" for name in recipes), *BASELINES],
        "task": "corpus",
        "data": "{out}/corpus",
        "streams": [stream],
        "name": "archive",
        "protocols": list(PROTOCOLS),
        "out": "{out}/results",
    }
    return [{"ingest": ingest}, *trained, {"evaluate": evaluate}]


def list_real_stages(recipes: Mapping[str, Options], *, seeds: int, crops: Path) -> list[Options]:
    """Stages on real scenes: each method with several seeds on a few hundred tiles of each level, judged on labels of the same quantity.

    Args:
        recipes: options of `pretrain` by method.
        seeds: pretraining runs of each.
        crops: the card of WorldCereal's images with their land cover.
    """
    scenes = {
        "s2_toa": {"card": ["terramesh_s2l1c", "eolearn_l1c", "ssl4eo_patch_l1c", "s2_19udp_l1c"], "size_px": 32},
        "s2_boa": {"card": "terramesh_s2l2a", "size_px": 32},
        "csmask": {"card": ["csmask_sentinel2", "csmask_landsat5", "csmask_landsat7"], "size_px": 16},
        "crops": {"card": str(crops), "size_px": 8, "min_valid": 0.99, "max_cloud": 0.05},
    }
    stages: list[Options] = [
        {"ingest": {**options, "data": "{data}", "out": f"{{out}}/{name}"}} for name, options in scenes.items()
    ]
    for name, options in recipes.items():
        for level in LEVELS:
            common = choose_bands({**options, **level, "corpus": f"{{out}}/{level['corpus']}"}, name)
            out = f"{{out}}/{level['corpus']}_{name}"
            stages += [{"pretrain": {**common, "seed": seed, "out": f"{out}_{seed}"}} for seed in range(seeds)]
    judge = {"task": "corpus", "held_out": "all", "protocols": list(PROTOCOLS)}
    for name, (corpus, task) in JUDGED.items():
        encoders = [
            f"{method}=" + ",".join(f"{{out}}/{corpus}_{method}_{seed}" for seed in range(seeds)) for method in recipes
        ]
        ours = {"encoders": [*encoders, *BASELINES], "name": name, "out": f"{{out}}/results_{name}"}
        stages.append({"evaluate": {**judge, **task, **ours}})
    return stages


def choose_bands(options: Options, method: str) -> Options:
    """The options with a model for small tiles of the bands they name."""
    ((kind, sizes),) = options["model"].items()
    sizes = {**sizes, "patch_size": 8 if method == "mask_feat" else 4}  # its cells are 8 px
    if kind == "SpectralVit":
        sizes["groups"] = [options["bands"][:-2], options["bands"][-2:]]  # short-wave infrared is the last group
    return {**options, "model": {kind: sizes}}


def run(stages: Sequence[Options], out: Path, *options: str, matrix: Options | None = None) -> None:
    """Run the stages that are not done yet."""
    out.mkdir(parents=True, exist_ok=True)
    config = out / "study.yaml"
    asked = {"out": str(out), "matrix": matrix, "stages": list(stages)}
    config.write_text(yaml.safe_dump(asked, sort_keys=False))
    code = "from eo_ssl.cli import entry; entry()"
    environment = {**os.environ, "EO_SSL_DATA": str(DATA)}
    command = [sys.executable, "-c", code, "run", "--config", str(config), *options]
    # A study's own answer alone goes to stdout; what went wrong has been said.
    status = subprocess.run(command, check=False, env=environment, stdout=sys.stderr).returncode
    if status:
        sys.exit(status)


def read_rows(folder: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Rows of a leaderboard by encoder and protocol."""
    with (folder / "leaderboard.csv").open(newline="") as file:
        return {(row["encoder"], row["protocol"]): row for row in csv.DictReader(file)}


@dataclass(frozen=True)
class Difference:
    """Score of one encoder less that of another, with its paired 95 % interval, and which of them is told apart as better."""

    low: float
    middle: float
    high: float
    verdict: str

    def __str__(self) -> str:
        return f"{100 * self.middle:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f})"


def read_difference(folder: Path, protocol: str, name: str, *, less: str) -> Difference:
    """What encoder ``name`` scores more than encoder ``less``, whichever of them the results name first."""
    rows = json.loads((folder / "comparisons.json").read_text())
    (row,) = [row for row in rows if {row["a"], row["b"]} == {name, less} and row["protocol"] == protocol]
    bounds = row["low"], row["difference"], row["high"]
    low, middle, high = bounds if row["a"] == name else (0.0 - bound for bound in reversed(bounds))
    return Difference(low, middle, high, row.get(row["verdict"], row["verdict"]))


def write_section(methods: Sequence[str], archives: Sequence[Path], real: Path, *, command: str) -> None:
    """Put the tables in the place of the page's last section."""
    kept = PAGE.read_text().split(HEADING)[0].rstrip()
    lines = [*describe_archives(methods, archives), "", *describe_real(methods, real)]
    head = f"{HEADING}\n\n`{command}`; done runs are not repeated. ViTs of four blocks, batches of 32, one length for all, numbers in %."
    PAGE.write_text("\n".join([kept, "", head, "", *lines]) + "\n")


def describe_archives(methods: Sequence[str], archives: Sequence[Path]) -> Iterator[str]:
    """The table of sample archives: means, paired differences to the best baseline of each archive, and what training cost."""
    yield f"On {len(archives)} sample archive{'s' * (len(archives) > 1)} (seeds from {FIRST_ARCHIVE}; Student's 95 % intervals over archives, each encoder trained once on each):"
    yield ""
    yield "| method | CPU minutes | kNN | kNN less best weight-free | linear | linear less best weight-free |"
    yield "|---|---|---|---|---|---|"
    made = [read_rows(folder / "results") for folder in archives]
    for name in [*methods, *BASELINES]:
        minutes = [read_minutes(folder / name) for folder in archives if name in methods]
        cells = [f"`{name}`", f"{statistics.mean(minutes):.1f}" if minutes else "0"]
        for protocol in PROTOCOLS:
            values = [float(rows[name, protocol]["value"]) for rows in made]
            best = [max(float(rows[other, protocol]["value"]) for other in BASELINES) for rows in made]
            gains = [100 * (value - other) for value, other in zip(values, best, strict=True)]
            cells += [f"{100 * statistics.mean(values):.1f}", format_interval(gains)]
        yield f"| {' | '.join(cells)} |"


def read_minutes(encoder: Path) -> float:
    """Minutes of CPU that training took."""
    seconds: float = json.loads((encoder / "manifest.json").read_text())["cpu_s"]
    return seconds / 60


def describe_real(methods: Sequence[str], real: Path) -> Iterator[str]:
    """The table of real scenes, with the intervals of the leaderboards."""
    yield "On real scenes, pretrained on a few hundred Sentinel-2 tiles (intervals over pretraining seeds and sites):"
    yield ""
    yield "| method | " + " | ".join(f"{TITLES[task]}, {way}" for task in JUDGED for way in ("kNN", "linear")) + " |"
    yield "|---" * (1 + len(JUDGED) * len(PROTOCOLS)) + "|"
    found = [read_rows(real / f"results_{task}") for task in JUDGED]
    for name in [*methods, *BASELINES]:
        shown = [rows[name, protocol] for rows in found for protocol in PROTOCOLS]
        cells = [f"{float(row['value']):.1%} ({float(row['low']):.0%} to {float(row['high']):.0%})" for row in shown]
        yield f"| `{name}` | {' | '.join(cells).replace('%', '')} |"


def format_interval(values: Sequence[float]) -> str:
    """Mean of the values and its 95 % interval."""
    mean = statistics.mean(values)
    if len(values) < 2:
        return f"{mean:+.1f}"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{mean:+.1f} ({mean - half:+.1f} to {mean + half:+.1f})"


if __name__ == "__main__":
    main()
