"""The file of an encoder: one safetensors file with contract, architecture and provenance inside."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from eo_ssl.commits import commit
from eo_ssl.encoder.protocol import hash_tensors
from eo_ssl.encoder.trained import TrainedEncoder, check_fit, describe_identity
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.models import FAMILIES, Backbone, BackboneConfig
from eo_ssl.preprocessing import Preprocessing

ENCODER_FILE = "encoder.safetensors"
FORMAT = 1  # of the metadata inside the weights file


def save_encoder(
    folder: Path, backbone: Backbone, *, preprocessing: Preprocessing, provenance: Mapping[str, Any]
) -> str:
    """Write ``folder/encoder.safetensors``, contract and provenance inside, and return the encoder's fingerprint.

    The state dict is plain timm; equal content gives equal bytes. The caller's manifest makes the folder a finished
    product.

    Args:
        folder: of the encoder.
        backbone: the network.
        preprocessing: the contract; of the network's bands and size.
        provenance: plain values that say where the weights come from (corpus, objective, config, seed, steps).

    Raises:
        UserError: network and contract do not fit, or another encoder is there already.
    """
    config = backbone.config
    check_fit(config, preprocessing)
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.network.state_dict().items()}
    architecture = {"family": config.model.family, "pooling": config.model.pooling, "config": config.to_json()}
    metadata = {
        "format": str(FORMAT),
        "architecture": dump_canonical_json(architecture),
        "preprocessing": dump_canonical_json(preprocessing.to_json()),
        "provenance": dump_canonical_json(provenance),
    }
    path = Path(folder) / ENCODER_FILE
    saved = hash_tensors(tensors, describe_identity(config, preprocessing))
    committed = commit(path, _sort_header(safetensors.torch.save(tensors, metadata)))
    expect(
        committed or read_encoder(path).fingerprint == saved,
        expected=f"no other encoder at {path}",
        got="one with other weights or another contract",
        remedy="give another output folder",
    )
    return saved


def read_encoder(path: Path) -> TrainedEncoder:
    """Return the encoder in the file ``path``, named after its folder.

    Raises:
        UserError: a damaged file, another format, or weights that do not fit what it says of itself.
    """
    remedy = "train it again with `eo-ssl pretrain`, or give the file that `save_encoder` wrote"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        architecture = json.loads(metadata["architecture"])
        values, provenance = (json.loads(metadata[key]) for key in ("preprocessing", "provenance"))
        family, format_ = architecture["family"], metadata.get("format")
        expect(
            format_ == str(FORMAT) and family in FAMILIES,
            expected=f"encoder format {FORMAT} of family {' or '.join(FAMILIES)} in {path}",
            got=f"{format_} and {family}",
            remedy=remedy,
        )
        model = FAMILIES[family].from_json(architecture["config"], pooling=architecture["pooling"])
        contract = Preprocessing.from_json(values)
        config = BackboneConfig(model, contract.bands, architecture["config"]["img_size"])
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"expected an encoder of this library in {path}, got {type(error).__name__}: {str(error)[:120]}; {remedy}"
        ) from error
    backbone = config.build()
    try:
        backbone.network.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()[:120]
        raise UserError(f"expected weights of {model.name} in {path}, got others ({reason}); {remedy}") from error
    name = path.parent.name if path.name == ENCODER_FILE else path.stem
    return TrainedEncoder(backbone, contract, name=name, provenance=provenance)


def _sort_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted; safetensors writes metadata in an arbitrary order.

    Layout: 8 bytes little-endian header length, JSON header padded with spaces to a multiple of 8, tensor bytes.
    """
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
