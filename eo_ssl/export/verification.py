"""The check of a bundle: each route loads it as its users do, and its features are compared with the parity file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from eo_ssl.errors import UserError
from eo_ssl.export import contract_file, parity
from eo_ssl.export.checksums import check_files, read_recorded
from eo_ssl.export.encoder_module import MODULE_FILE, run_module
from eo_ssl.export.onnx_graph import ENCODER_GRAPH, PHYSICAL_GRAPH, run_graph
from eo_ssl.export.parity import TOLERANCE, Parity
from eo_ssl.export.stac_item import check_item
from eo_ssl.export.timm_folder import run_timm
from eo_ssl.export.torchgeo_checkpoints import (
    SEGMENTATION_FILES,
    run_classification_task,
    run_segmentation_task,
)
from eo_ssl.export.weights_enum import load_weights_module, run_enum
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import Manifest, require


@dataclass(frozen=True, slots=True)
class Check:
    """One route of a bundle, tried."""

    route: str
    "how it was loaded"
    passed: bool
    difference: float | None
    "largest absolute difference from the parity file; None where nothing could be compared"
    tolerance: str
    reason: str = ""
    "what went wrong, or was left out"


def verify(folder: Path) -> list[Check]:
    """Load a bundle through every route it holds and compare features with its parity file.

    Checksums come first: of a bundle whose files are not those of its manifest nothing is loaded. ``weights.py`` of the
    bundle is imported and a program of torch.export opened, as its users do, and both can run code: verify what you
    made or trust.

    Raises:
        UserError: the folder is no finished bundle, or its contract or parity file cannot be read.
    """
    folder = Path(folder).resolve()
    manifest = require(folder, "export")
    recorded = read_recorded(folder, manifest)
    checksums = _check_sums(folder, manifest, recorded)
    if not checksums.passed:
        return [checksums]
    content = contract_file.read_configurations(folder)
    measured = parity.read(folder, tuple(content["configurations"]))
    checks = [checksums, _contract(content, measured)]
    trained = contract_file.list_trained(content)
    answered = "joint" if len(trained) > 1 else trained[0]
    inputs = [measured.input(configuration) for configuration in trained]
    own = MODULE_FILE in recorded
    name, route = ("torch.export", run_module) if own else ("timm local-dir", run_timm)
    checks += _compared(name, lambda: {"": route(folder, *inputs)}, measured, answered)
    if "torchgeo" in content["configurations"]:
        checks += _torchgeo(folder, content, measured, recorded)
    images = [measured.images(configuration) for configuration in trained]
    for graph, given in ((ENCODER_GRAPH, inputs), (PHYSICAL_GRAPH, images)):
        if (folder / graph).exists():
            run = partial(run_graph, folder / graph, *given)
            checks += _compared(f"onnxruntime {graph}", partial(_wrap_features, run), measured, answered)
    return [*checks, _item(folder)]


def _torchgeo(folder: Path, content: Mapping[str, Any], measured: Parity, recorded: Mapping[str, str]) -> list[Check]:
    configuration = "torchgeo"
    options = {"model": content["configurations"][configuration]["model"], "pooling": content["pooling"]}
    x = measured.input(configuration)
    routes: dict[str, Callable[[], dict[str, Tensor]]] = {
        "torchgeo ClassificationTask": lambda: {"": run_classification_task(folder, x, **options)},
    }
    for decoder in (name for name, file in SEGMENTATION_FILES.items() if file in recorded):
        run = partial(run_segmentation_task, folder, x, decoder=decoder, **options)
        routes[f"torchgeo SemanticSegmentationTask ({decoder})"] = partial(_wrap_features, run)
    routes["torchgeo WeightsEnum"] = lambda: run_enum(folder, x, **options)
    checks = [check for name, route in routes.items() for check in _compared(name, route, measured, configuration)]

    def transformed() -> dict[str, Tensor]:
        return {"": load_weights_module(folder).WEIGHTS.transforms(measured.tensors["images"])}

    return checks + _judged("WeightsEnum transforms", transformed, x)


def _wrap_features(run: Callable[[], Tensor]) -> dict[str, Tensor]:
    return {"": run()}


def _compared(
    name: str, route: Callable[[], Mapping[str, Tensor]], measured: Parity, configuration: str
) -> list[Check]:
    return _judged(name, route, measured.features(configuration))


def _judged(name: str, route: Callable[[], Mapping[str, Tensor]], wanted: Tensor) -> list[Check]:
    """One check for each tensor of a route; what its loader raises fails the route and not the others."""
    try:
        features = route()
    except Exception as error:  # whatever a file leads a foreign loader to
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        return [Check(name, False, None, f"{TOLERANCE:g}", f"{type(error).__name__}: {reason}")]
    return [_close(f"{name} {detail}".strip(), got, wanted) for detail, got in features.items()]


def _close(name: str, got: Tensor, wanted: Tensor) -> Check:
    if got.shape != wanted.shape:
        return Check(name, False, None, f"{TOLERANCE:g}", f"expected {tuple(wanted.shape)}, got {tuple(got.shape)}")
    passed = torch.allclose(got, wanted, atol=TOLERANCE, rtol=0)
    reason = "" if passed else "loaded, but other weights or another order of channels"
    return Check(name, passed, float((got - wanted).abs().max()), f"{TOLERANCE:g}", reason)


def _check_sums(folder: Path, manifest: Manifest, recorded: Mapping[str, str]) -> Check:
    """Checksums of the files as the manifest records them, and of that record itself."""
    if not recorded:
        return Check("checksums", False, None, "equal", "the manifest names no files")
    name = f"checksums of {len(recorded)} files"
    try:
        check_files(folder, manifest)
    except UserError as error:
        return Check(name, False, None, "equal", f"{error}; nothing of it was loaded")
    if fingerprint(dict(recorded)) != manifest.fingerprint:
        return Check(name, False, None, "equal", "the manifest names other files than it was signed with")
    return Check(name, True, None, "equal")


def _contract(content: Mapping[str, Any], measured: Parity) -> Check:
    """Whether the contract still gives the inputs of the parity file, for every configuration."""
    name = "preprocess.json"

    def largest() -> Iterable[float]:
        for configuration in content["configurations"]:
            contract = contract_file.get_contract(content, configuration)
            x, valid = contract(
                measured.images(configuration), bands=contract.bands, quantity=contract.quantity, sensor=contract.sensor
            )
            wanted = measured.input(configuration)
            left_out = wanted.isnan()  # by networks that are told so
            if bool((left_out & valid).any()):
                yield float("inf")
            yield float((x - wanted).masked_fill(left_out, 0).abs().max())

    try:
        difference = max(largest())
    except Exception as error:
        return Check(name, False, None, f"{TOLERANCE:g}", str(error)[:200])
    return Check(name, difference <= TOLERANCE, difference, f"{TOLERANCE:g}")


def _item(folder: Path) -> Check:
    try:
        reason = check_item(folder)
    except Exception as error:
        return Check("STAC item (MLM)", False, None, "valid", f"{type(error).__name__}: {str(error)[:200]}")
    return Check("STAC item (MLM)", True, None, "valid", reason)
