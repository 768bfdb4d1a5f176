"""One encoder for any bands beside one with its missing bands filled: all bands, some of them, and Landsat; on a sample archive and on real scenes.

``python -m bench.study_bands [--seeds N] [--steps N] [--out FOLDER]`` prints its tables; what is there already is not run again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from bench.study_objectives import FIRST_ARCHIVE, ROOT, read_difference, read_rows, run

MODELS = {"channel": "ChannelVit", "plain": "Vit"}
SUBSETS = ("B04,B03,B02", "B02,B03,B04,B08", "all-B8A")
PROTOCOLS = ("knn5", "linear")
Options = dict[str, Any]
EACH: Options = {"with": "model", "seed": "{seed}", "out": "{out}/{model}_{seed}"}
"""What is of each cell."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "study-bands")
    chosen = parser.parse_args()
    archive = chosen.out / "archive"
    stages, sizes = list_archive_stages(steps=chosen.steps)
    run(stages, archive, "--sample_seed", str(FIRST_ARCHIVE), matrix=make_matrix(sizes, seeds=chosen.seeds))
    sizes = {"patch_size": 4, "depth": 4}
    run(list_real_stages(steps=chosen.steps), chosen.out, matrix=make_matrix(sizes, seeds=chosen.seeds))
    print(f"`python -m bench.study_bands --seeds {chosen.seeds} --steps {chosen.steps}`, archive {FIRST_ARCHIVE}\n")
    for task, folder in (("archive", archive), ("terramesh", chosen.out)):
        print_table(task, folder)
        print_changes(task, folder)
    for sensor in ("landsat5_tm", "landsat7_etm"):
        print_table(f"{sensor}_by_name", chosen.out)
        print_table(f"{sensor}_by_wavelength", chosen.out)


def make_matrix(sizes: Options, *, seeds: int) -> Options:
    """Both models, of equal sizes, with several seeds."""
    arms = {name: {"model": {model: sizes}} for name, model in MODELS.items()}
    return {"model": arms, "seed": list(range(seeds))}


def list_archive_stages(*, steps: int) -> tuple[list[Options], Options]:
    """Both models on two dates of each place, as the demo trains, judged on some of the bands; and their sizes."""
    demo = yaml.safe_load((ROOT / "configs" / "run" / "demo.yaml").read_text())
    options = {kind: options for stage in demo["stages"] for kind, options in stage.items()}
    (sizes,) = options["pretrain"]["model"].values()
    kept = {key: value for key, value in options["pretrain"].items() if key not in ("prune", "model")}
    judged = {**options["evaluate"], "encoders": ["{matrix}", "imagestats"], "name": "archive", "study": "bands"}
    judged |= {"subsets": list(SUBSETS), "out": "{out}/results_archive"}
    return [demo["stages"][0], {"pretrain": {**kept, "steps": steps, **EACH}}, {"evaluate": judged}], sizes


def list_real_stages(*, steps: int) -> list[Options]:
    """Both models on Sentinel-2, judged on its bands and, by wavelength and by name, on Landsat's."""
    toa = {"card": ["terramesh_s2l1c", "eolearn_l1c", "ssl4eo_patch_l1c", "s2_19udp_l1c"], "size_px": 32}
    csmask = {"card": ["csmask_landsat5", "csmask_landsat7"], "size_px": 32}
    common: Options = {"corpus": "{out}/s2_toa", "streams": ["s2_toa_13b_10m_32px"], "steps": steps, "batch_size": 32}
    common |= {"objective": {"Mae": {"norm": "patch"}}, "lr": 1e-3, "optimizer": {"warmup_steps": steps // 10}}
    judge = {"task": "corpus", "held_out": "all", "protocols": list(PROTOCOLS)}
    cover: Options = {"data": "{out}/s2_toa", "streams": ["s2_toa_13b_10m_32px"], "name": "terramesh", "study": "bands"}
    cover |= {"encoders": ["{matrix}", "imagestats"], "subsets": list(SUBSETS), "out": "{out}/results_terramesh"}
    stages: list[Options] = [
        {"ingest": {**toa, "data": "{data}", "out": "{out}/s2_toa"}},
        {"ingest": {**csmask, "data": "{data}", "out": "{out}/csmask"}},
        {"pretrain": {**common, **EACH}},
        {"evaluate": {**judge, **cover}},
    ]
    for sensor, stream in (("landsat5_tm", "l5_toa_6b-34fd_30m_32px"), ("landsat7_etm", "l7_toa_6b-34fd_30m_32px")):
        clouds = {**judge, "data": "{out}/csmask", "streams": [stream]}
        filled = ["{matrix.channel}", "{matrix.plain}?missing=fill_mean", "imagestats"]
        by_name = {"name": f"{sensor}_by_name", "encoders": filled, "sensor": "sentinel2_l1c"}
        known = [f"{{matrix.channel}}?sensor={sensor}", "imagestats"]
        by_wavelength = {"name": f"{sensor}_by_wavelength", "encoders": known}
        for way in (by_name, by_wavelength):
            stages.append({"evaluate": {**clouds, **way, "out": f"{{out}}/results_{way['name']}"}})
    return stages


def list_speeds(out: Path, name: str, seeds: int) -> list[float]:
    """Images per second of each line of the logs of the runs of a name."""
    logs = (out / f"{name}_{seed}" / "log.jsonl" for seed in range(seeds))
    return [json.loads(line)["images_per_s"] for log in logs for line in log.read_text().splitlines()]


def print_table(task: str, out: Path, protocols: Sequence[str] = PROTOCOLS) -> None:
    """The leaderboard of a task, in per cent, with the intervals over pretraining seeds and blocks of scenes."""
    rows = read_rows(out / f"results_{task}")
    print(f"\n| {task} | {' | '.join(protocols)} |\n|{'---|' * (len(protocols) + 1)}")
    for name in dict.fromkeys(encoder for encoder, _ in rows):
        shown = [rows[name, protocol] for protocol in protocols]
        cells = [f"{float(r['value']):.1%} ({float(r['low']):.0%} to {float(r['high']):.0%})" for r in shown]
        print(f"| `{name.replace(' | ', ', ')}` | {' | '.join(cells).replace('%', '')} |")


def print_changes(task: str, out: Path, protocols: Sequence[str] = PROTOCOLS) -> None:
    """What each encoder scores with some of the bands less what it does with all, in points, with paired intervals."""
    print(f"\n| {task}, less all bands | {' | '.join(protocols)} |\n|{'---|' * (len(protocols) + 1)}")
    folder = out / f"results_{task}"
    for name in dict.fromkeys(encoder for encoder, _ in read_rows(folder)):
        whole, _, subset = name.partition(" | ")
        if subset:
            changes = [str(read_difference(folder, protocol, name, less=whole)) for protocol in protocols]
            print(f"| `{name.replace(' | ', ', ')}` | {' | '.join(changes)} |")


if __name__ == "__main__":
    main()
