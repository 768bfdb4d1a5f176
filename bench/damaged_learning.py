"""Products of the learning half, and all that their readers give: encoders, unfinished runs, snapshots, bundles and reports."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench import damaged_writing
from bench.damage_trials import Kind, detach, digest_table
from bench.damaged_products import OPTICAL
from bench.damages import BYTES, Act, Rng
from eo_ssl.corpus import Corpus
from eo_ssl.curation import DynamicConfig, Hierarchical, Readiness
from eo_ssl.encoder import ENCODER_FILE, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.export import Options, export, list_uploads, verify
from eo_ssl.fingerprints import compute_sha256
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.pretraining import FitConfig
from eo_ssl.reporting import collect_report
from eo_ssl.workflows import pretrain, report
from tests.exported import RESNET_18, encoder, optical, seal

LOADED = "loaded"  # file that the code of a sound bundle leaves when it runs
STEPS, STARTS = 8, 5  # of the run, and after which it is unfinished
RUN: dict[str, Any] = {
    "streams": [OPTICAL],
    "steps": STEPS,
    "batch_size": 8,
    "model": Vit(patch_size=8, depth=1),
    "training": FitConfig(log_every=1, monitor_every=4, monitor_tiles=16),
    "prune": DynamicConfig(
        warmup=16,
        interval=16,
        keep=0.6,
        method=Hierarchical(levels=(4,), n_resample=1),
        readiness=Readiness(full=0.0),
    ),
}


def make_learning(made: Path, kinds: Mapping[str, Kind]) -> None:
    """Make one product of each kind asked for beside those that `make_products` made."""
    with (
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore")
        for kind in kinds.values():
            if kind.make is not None:
                kind.make(made)


# Encoders


def _make_encoder(made: Path) -> None:
    pretrain.main(made / "corpus", made / "encoder", **RUN)


def _read_encoder(folder: Path) -> Iterator[Any]:
    yield from _read_weights(folder)
    yield require(folder, "pretrain").to_bytes()
    page = collect_report([folder])
    yield [[one.facts, one.config, one.note, len(one.figures)] for one in page.trainings]
    yield [[one.sentence, one.events] for one in page.prunings]


def _read_weights(place: Path) -> Iterator[Any]:
    found = load_encoder(place)
    contract = found.preprocessing
    shape = (2, len(contract.bands), contract.size_px, contract.size_px)
    with torch.no_grad():
        yield found.features(torch.linspace(-1, 1, int(np.prod(shape))).reshape(shape)).numpy().tobytes()
    yield [found.fingerprint, contract.to_json(), json.dumps(found.provenance, sort_keys=True)]  # type: ignore[attr-defined]


def _make_lone(made: Path) -> None:
    (made / "lone encoder").mkdir()
    shutil.copyfile(made / "encoder" / ENCODER_FILE, made / "lone encoder" / "mine.safetensors")


def _read_lone(folder: Path) -> Iterator[Any]:
    return _read_weights(folder / "mine.safetensors")


def lost_seal(before: bytes, after: bytes) -> bool:
    """Whether the metadata of an encoder no longer say what guards them, as those of version 0.1 did not."""
    return b'"seal"' in before and b'"seal"' not in after


# Runs that were stopped


def _make_run(made: Path) -> None:
    for _ in range(STARTS):
        with contextlib.suppress(UserError):  # out of time after each step
            pretrain.main(made / "corpus", made / "run", max_time="00:00:00:00", **RUN)


def _read_run(folder: Path) -> Iterator[Any]:
    """Finish the run, which one whole checkpoint must allow, and compare it with the one that was never stopped."""
    warnings.simplefilter("ignore")  # of Lightning and torch
    found = sorted((folder / "checkpoints").glob("step_*"))
    whole = [path for path in found if compute_sha256(path).startswith(path.name.split(".")[1])]
    err = io.StringIO()
    try:
        with contextlib.redirect_stderr(err):
            pretrain.main(Path("corpus"), folder, **RUN)
    except UserError as error:
        if len(whole) == 1 and "checkpoint" in str(error):
            raise AssertionError(f"a whole checkpoint was there: {error}") from error
        raise
    undisturbed = require(Path("encoder"), "pretrain")
    summary = require(folder, "pretrain").summary
    losses = [(part["loss_first"], part["loss_last"]) for part in (summary, undisturbed.summary)]
    if load_encoder(folder).fingerprint != undisturbed.fingerprint or losses[0] != losses[1]:
        raise AssertionError("other weights or losses than those of the run that was never stopped")
    aside = [line for line in err.getvalue().splitlines() if "the run goes on" in line]
    lines, wanted = _read_log(folder), _read_log(Path("encoder"))
    if lines != wanted[len(wanted) - len(lines) :] or (len(lines) < len(wanted) and not aside):
        raise AssertionError("other lines in the log than those of the run that was never stopped")
    if aside:
        raise UserError(aside[0])
    yield [[path.name, hash_untimed(path.read_bytes())] for path in sorted((folder / "pruning").iterdir())]


def _read_log(folder: Path) -> list[dict[str, Any]]:
    """What a log says, but for the speed of a machine."""
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_s"} for line in lines]


def hash_untimed(data: bytes) -> Any:
    """What a file of pruning says, but for how long it took."""
    if not data.startswith(b"["):
        return data.hex()
    return [{key: value for key, value in event.items() if key != "cost"} for event in json.loads(data)]


def _each_checkpoint(act: Act, *, earlier: bool = False, newest: bool = False) -> Act:
    """Damage the checkpoints; named as version 0.1 named them, without a sum."""

    def damage(rng: Rng, folder: Path) -> str:
        found = sorted((folder / "checkpoints").glob("step_*"))
        for path in found if earlier else ():
            path.rename(path.with_name(f"{path.name.partition('.')[0]}.ckpt"))
        found = sorted((folder / "checkpoints").glob("step_*"))
        for path in found[-1:] if newest else found:
            detach(path)
            act(rng, path)
        return f"{len(found)} checkpoints"

    return damage


# Snapshots


def _read_snapshots(folder: Path) -> Iterator[Any]:
    for number in (2, 1):
        corpus = Corpus.open(folder, snapshot=number if number == 1 else None)
        yield [corpus.snapshot, corpus.fingerprint, corpus.manifest().to_bytes().decode()]
        for name in corpus.streams:
            yield digest_table(corpus.index(name))
            yield corpus.statistics(name).to_json()
        for wrong in corpus.verify():
            raise UserError(wrong)


# Bundles


def _make_bundle(made: Path) -> None:
    """Its own code leaves a mark, so that a reader can tell whether it ran."""
    folder = export(encoder(RESNET_18, optical(32)), made / "bundle", options=Options()).folder
    with (folder / "weights.py").open("a") as file:
        file.write(f"\nfrom pathlib import Path\nPath({LOADED!r}).touch()\n")
    seal(folder)


def _read_bundle(folder: Path) -> Iterator[Any]:
    warnings.simplefilter("ignore")  # of timm, TorchGeo and onnxruntime
    checks = verify(folder)
    wrong = [check for check in checks if not check.passed]
    if "checksums" in checks[0].route and wrong[:1] == checks[:1] and Path(LOADED).exists():
        raise AssertionError("code of the bundle ran before its checksums held")
    yield [check.route for check in checks]
    yield [(item.target, item.nbytes) for item in list_uploads(folder)]
    (view,) = collect_report([folder]).bundles
    yield [view.sentence, view.facts, view.change, view.routes, view.contracts, view.files, view.owners]
    yield require(folder, "export").to_bytes()
    if wrong:
        raise UserError(f"expected {wrong[0].route} of the bundle to hold, got {wrong[0].reason}")


def _sealed(name: str) -> Act:
    """Damage a file and write its checksum into the manifest, as whoever makes the bundle can."""

    def act(rng: Rng, folder: Path) -> str:
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        path = files[rng.integers(len(files))]
        detach(path)
        done = BYTES[name](rng, path)
        seal(folder)
        return f"{done} of {path.name}"

    return act


# Reports


def _make_report(made: Path) -> None:
    report.main([made / "encoder", made / "subset"], made / "report")


def _read_report(folder: Path) -> Iterator[Any]:
    yield require(folder, "report").to_bytes()
    yield (folder / "index.html").read_bytes()


KINDS = {
    "encoder": Kind(_read_encoder, _make_encoder, files=("*.*", "pruning/*")),
    "lone encoder": Kind(_read_lone, _make_lone, lost_guard=lost_seal),
    "run": Kind(
        _read_run,
        _make_run,
        beside=("corpus", "encoder"),
        whole={
            **{f"newest: {name}": _each_checkpoint(act, newest=True) for name, act in BYTES.items() if name != "other"},
            **{f"all: {name}": _each_checkpoint(act) for name, act in BYTES.items() if name != "other"},
            **{f"forged name, {name}": _each_checkpoint(act, earlier=True, newest=True) for name, act in BYTES.items()},
        },
    ),
    "corpus": Kind(
        _read_snapshots,
        files=("snapshots/*", "manifest.json", "fragments/*/*.json", "fragments/*/*.parquet", "fragments/*/*.bin"),
    ),
    "bundle": Kind(
        _read_bundle, _make_bundle, whole={f"forged {name}": _sealed(name) for name in BYTES if name != "gone"}
    ),
    "report": Kind(_read_report, _make_report),
    **damaged_writing.KINDS,
}
