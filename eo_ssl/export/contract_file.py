"""``preprocess.json``: the contract of each exported configuration, for machines and in words.

Every exported transform is read from it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_ssl.documents import check_not_newer
from eo_ssl.encoder import FusedEncoder, TrainedEncoder
from eo_ssl.errors import UserError, expect
from eo_ssl.export.encoder_module import list_inputs
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import sensor

PREPROCESS_FILE = "preprocess.json"
FORMAT = 1
_MARKED = "An invalid pixel stays NaN, which is how the networks are told of it."
_KEYS = ("format", "name", "encoder", "pooling", "dim", "configurations", "torchgeo_left_out")
POOLINGS = ("cls", "mean", "avg", "joint")
TRAINED = (("native",), ("radar", "optical"))
"""Configurations of an encoder as it was trained: one, or that of each sensor."""
_REMEDY = "export the encoder again with this version"


def describe_configurations(encoder: TrainedEncoder, other: TrainedEncoder | None, *, reason: str) -> dict[str, Any]:
    """Return the content of ``preprocess.json``.

    Args:
        encoder: as it was trained.
        other: as TorchGeo can name it, or None.
        reason: why TorchGeo cannot.
    """
    configurations = {"native": _configuration(encoder)}
    if other is not None:
        configurations["torchgeo"] = _configuration(other)
    return {
        "format": FORMAT,
        "name": encoder.name,
        "encoder": encoder.fingerprint,
        "pooling": encoder.pooling,
        "dim": encoder.dim,
        "configurations": configurations,
        "torchgeo_left_out": reason,
    }


def describe_sensors(encoder: FusedEncoder) -> dict[str, Any]:
    """Return the content of ``preprocess.json`` for an encoder of two sensors: a configuration of each."""
    return {
        "format": FORMAT,
        "name": encoder.name,
        "encoder": encoder.fingerprint,
        "pooling": "joint",
        "dim": encoder.dim,
        "configurations": {
            name: _configuration(part) | {"words": [*describe_contract(part.preprocessing)[:-1], _MARKED]}
            for name, part in list_inputs(encoder).items()
        },
        "torchgeo_left_out": "TorchGeo builds models by their timm name alone, and timm names none of two sensors",
    }


def _configuration(encoder: TrainedEncoder) -> dict[str, Any]:
    contract = encoder.preprocessing
    return {
        "model": encoder.architecture.model.name,
        "architecture": encoder.architecture.to_json(),
        "input": [len(contract.bands), encoder.architecture.size_px, encoder.architecture.size_px],
        "unit": contract.quantity.unit,
        "final_quantity": contract.final_quantity.value,
        "final_unit": contract.final_quantity.unit,
        "preprocessing": contract.to_json(),
        "words": describe_contract(contract, reads_valid=encoder.backbone.reads_valid),
    }


def describe_contract(contract: Preprocessing, *, reads_valid: bool = False) -> list[str]:
    """Return the contract as sentences, in the order in which they are carried out.

    Args:
        contract: of an encoder.
        reads_valid: whether its network leaves out what is invalid.
    """
    known = sensor(contract.sensor)
    sentences = [
        f"Bands of {known.title} by name, in this order: {', '.join(contract.bands)}.",
        f"Values are {contract.quantity.value.replace('_', ' ')} (unit {contract.quantity.unit}), offset and scale of"
        " the product applied once; "
        f"between {contract.range[0]:g} and {contract.range[1]:g}.",
        "A pixel that is not finite is invalid.",
    ]
    sentences += [f"Convert {name.replace('->', ' to ')}." for name in contract.convert]
    if contract.missing == "any_subset":
        many = "one" if contract.fewest_bands == 1 else str(contract.fewest_bands)
        sentences.append(f"Any bands may be missing as long as {many} of them remain: the network leaves them out.")
    if contract.clip is not None:
        sentences.append(f"Clip to {json.dumps(contract.clip)}.")
    if contract.resize == "native":
        sentences.append("Images are not resized.")
    elif contract.resize == "crop":
        sentences.append(f"Take the central {contract.size_px} x {contract.size_px} pixels.")
    else:
        smooth = "with" if contract.antialias else "without"
        sentences.append(
            f"Interpolate square images to {contract.size_px} x {contract.size_px} pixels"
            f" ({contract.interpolation}, {smooth} antialias), valid pixels only: "
            "values times mask and mask pass through the same kernel and are divided; below half the weight a pixel is"
            " invalid."
        )
    sentences.append("Subtract the mean and divide by the standard deviation of each band.")
    sentences.append(
        "An invalid pixel stays NaN, by which the network knows what to leave out."
        if reads_valid
        else "An invalid pixel becomes 0, its band's mean."
    )
    return sentences


def to_bytes(content: Mapping[str, Any]) -> bytes:
    """Return the bytes of ``preprocess.json``."""
    return json.dumps(content, indent=1, sort_keys=True).encode()


def read_configurations(folder: Path) -> dict[str, Any]:
    """Return the content of a bundle's ``preprocess.json``.

    Raises:
        UserError: no such file, no JSON, or another format.
    """
    path = folder / PREPROCESS_FILE
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        format_ = content["format"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"expected an exported contract in {path}, got {type(error).__name__}; {_REMEDY}") from error
    check_not_newer(format_, FORMAT, what="exported contract of format", at=str(path))
    try:
        trained = list_trained(content)
        for configuration in (content["configurations"][name] for name in (*trained, *content["configurations"])):
            _ = [configuration[key] for key in ("model", "input", "preprocessing", "words")]
        pooling = content["pooling"]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"expected an exported contract in {path}, got {type(error).__name__}; {_REMEDY}") from error
    unknown = sorted(set(content) - set(_KEYS))
    expect(
        not unknown,
        expected=f"the keys {', '.join(_KEYS)} in {path}",
        got=", ".join(unknown)[:60],
        remedy=f"update eo_ssl if a newer one wrote it, or {_REMEDY}",
    )
    if format_ != FORMAT or pooling not in POOLINGS:
        raise UserError(
            f"expected format {FORMAT} and pooling out of {', '.join(POOLINGS)} in {path}, got {format_} and {pooling};"
            f" {_REMEDY}"
        )
    return content


def list_trained(content: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the configurations of an encoder as it was trained, in the order of the images that it takes."""
    return next((names for names in TRAINED if names[0] in content["configurations"]), TRAINED[0])


def get_contract(content: Mapping[str, Any], configuration: str) -> Preprocessing:
    """Return the contract of an exported configuration (native, torchgeo; radar, optical)."""
    return Preprocessing.from_json(content["configurations"][configuration]["preprocessing"])
