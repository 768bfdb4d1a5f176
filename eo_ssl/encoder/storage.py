"""The file of an encoder: one safetensors file with contract, architecture and provenance inside."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from eo_ssl.commits import commit
from eo_ssl.documents import check_not_newer
from eo_ssl.encoder.foreign_weights import check_finite
from eo_ssl.encoder.protocol import hash_tensors
from eo_ssl.encoder.trained import TrainedEncoder, check_fit, describe_identity
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json, fingerprint
from eo_ssl.manifest import Manifest
from eo_ssl.models import FAMILIES, Backbone, BackboneConfig
from eo_ssl.preprocessing import Preprocessing

ENCODER_FILE = "encoder.safetensors"
FORMAT = 1  # of the metadata inside the weights file
_SEAL = "seal"
"""Key of the sha256 over the other metadata: provenance, licences included, is no part of an encoder's fingerprint."""
_KEYS = ("format", "architecture", "preprocessing", "provenance", "fingerprint", _SEAL)
_ARCHITECTURE_KEYS = ("family", "pooling", "config")
_REMEDY = "train it again with `eo-ssl pretrain`, or give the file that `save_encoder` wrote"


def save_encoder(
    folder: Path, backbone: Backbone, *, preprocessing: Preprocessing, provenance: Mapping[str, Any]
) -> str:
    """Write ``folder/encoder.safetensors``, contract and provenance inside, and return the encoder's fingerprint.

    The state dict is that of the network, plain timm's where timm names it; equal content gives equal bytes. The
    caller's manifest makes the folder a finished product.

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
    saved = hash_tensors(tensors, describe_identity(config, preprocessing))
    architecture = {"family": config.model.family, "pooling": config.model.pooling, "config": config.to_json()}
    metadata = {
        "format": str(FORMAT),
        "architecture": dump_canonical_json(architecture),
        "preprocessing": dump_canonical_json(preprocessing.to_json()),
        "provenance": dump_canonical_json(provenance),
        "fingerprint": saved,
    }
    metadata[_SEAL] = fingerprint(metadata)
    path = Path(folder) / ENCODER_FILE
    committed = commit(path, sort_header(safetensors.torch.save(tensors, metadata)))
    expect(
        committed or read_encoder(path).fingerprint == saved,
        expected=f"no other encoder at {path}",
        got="one with other weights or another contract",
        remedy="give another output folder",
    )
    return saved


@dataclass(frozen=True, slots=True)
class EncoderParts:
    """What the file of an encoder holds."""

    tensors: dict[str, Tensor]
    config: BackboneConfig
    preprocessing: Preprocessing
    provenance: Mapping[str, Any]
    fingerprint: str
    "of the encoder that they make"


def read_encoder(path: Path, *, expected: str | None = None) -> TrainedEncoder:
    """Return the encoder in the file ``path``, named after its folder.

    Args:
        path: of the file.
        expected: fingerprint that it must have; None for any.

    Raises:
        UserError: as `read_parts`, or weights that do not fit what it says of itself.
    """
    parts = read_parts(path, expected=expected)
    name = path.parent.name if path.name == ENCODER_FILE else path.stem
    with _expect_encoder(path):
        backbone = parts.config.build()
        try:
            backbone.network.load_state_dict(parts.tensors)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()[:120]
            model = parts.config.model.name
            raise UserError(f"expected weights of {model} in {path}, got others ({reason}); {_REMEDY}") from error
        return TrainedEncoder(backbone, parts.preprocessing, name=name, provenance=parts.provenance)


def read_parts(path: Path, *, expected: str | None = None) -> EncoderParts:
    """Return what the file ``path`` holds, compared with the fingerprint that it was saved with.

    Args:
        path: of the file.
        expected: fingerprint that a manifest names; None for none.

    Raises:
        UserError: a damaged file, another format, another fingerprint, or weights that are not finite.
    """
    with _expect_encoder(path):
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        check_not_newer(metadata.get("format"), FORMAT, what="encoder format", at=str(path))
        architecture = json.loads(metadata["architecture"])
        values, provenance = (json.loads(metadata[key]) for key in ("preprocessing", "provenance"))
        family, format_ = architecture["family"], metadata.get("format")
        expect(
            format_ == str(FORMAT) and family in FAMILIES,
            expected=f"encoder format {FORMAT} of family {' or '.join(FAMILIES)} in {path}",
            got=f"{str(format_)[:20]} and {str(family)[:20]}",
            remedy=_REMEDY,
        )
        for keys, known in ((metadata, _KEYS), (architecture, _ARCHITECTURE_KEYS)):
            unknown = sorted(set(keys) - set(known))
            expect(
                not unknown,
                expected=f"the keys {', '.join(known)} in the header of {path}",
                got=", ".join(unknown)[:60],
                remedy=f"update eo_ssl if a newer one wrote it, or {_REMEDY}",
            )
        seal = metadata.pop(_SEAL, None)  # earlier versions wrote none, and the fingerprint into the manifest alone
        expect(
            seal in (None, fingerprint(metadata)),
            expected=f"the contract and provenance that {path} was saved with",
            got="others",
            remedy=f"copy it again, or {_REMEDY}",
        )
        model = FAMILIES[family].from_json(architecture["config"], pooling=architecture["pooling"])
        contract = Preprocessing.from_json(values)
        config = BackboneConfig(model, contract.bands, architecture["config"]["img_size"], contract.sensor)
        check_fit(config, contract)
        found = hash_tensors(tensors, describe_identity(config, contract))
    for named in (expected, metadata.get("fingerprint")):
        expect(
            named in (None, found),
            expected=f"the encoder of fingerprint {str(named)[:12]} in {path}",
            got=f"other weights or another contract ({found[:12]})",
            remedy=f"copy it again, or {_REMEDY}",
        )
    check_finite(tensors, where=str(path), remedy=_REMEDY)
    parts = {key: provenance.get(key, {}) for key in ("config", "inputs")} if isinstance(provenance, dict) else {}
    expect(
        parts and all(isinstance(part, dict) for part in parts.values()),
        expected=f"a provenance with configuration and inputs in {path}",
        got=f"{str(provenance)[:60]!r}",
        remedy=_REMEDY,
    )
    return EncoderParts(tensors, config, contract, provenance, found)


def check_encoder(folder: Path, manifest: Manifest) -> None:
    """Compare the weights of a finished pretraining, where it has one encoder, with the fingerprint in its manifest.

    Raises:
        UserError: a damaged file, or another encoder than the manifest names.
    """
    if (folder / ENCODER_FILE).is_file():
        read_parts(folder / ENCODER_FILE, expected=manifest.fingerprint)


@contextmanager
def _expect_encoder(path: Path) -> Iterator[None]:
    """Say in a sentence that ``path`` is no file of an encoder, whatever its content leads the libraries to."""
    try:
        yield
    except UserError as error:
        if str(path) in str(error):
            raise
        raise UserError(f"{error} (in {path})") from error
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0][:120]
        raise UserError(
            f"expected an encoder of this library in {path}, got {type(error).__name__}: {reason}; {_REMEDY}"
        ) from error


def sort_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted; safetensors writes metadata in an arbitrary order.

    Layout: 8 bytes little-endian header length, JSON header padded with spaces to a multiple of 8, tensor bytes.
    """
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
