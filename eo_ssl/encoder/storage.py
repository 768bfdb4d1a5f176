"""How an encoder is saved, one safetensors file with its contract and provenance inside, and how any encoder is made from a name."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from eo_ssl.encoder.elsewhere import foreign_encoder
from eo_ssl.encoder.empirical import FITTED, EmpiricalFeatures
from eo_ssl.encoder.protocol import Encoder, content
from eo_ssl.encoder.specs import is_spec
from eo_ssl.encoder.vit import Pooling, VitEncoder, check_fit, identity
from eo_ssl.encoder.weight_free import ImageStats, RandomFeatures, RandomResNet
from eo_ssl.errors import UserError, nearest
from eo_ssl.manifest import canonical_json, commit, require
from eo_ssl.models.vit import VitConfig, make_vit
from eo_ssl.preprocessing import Preprocessing

ENCODER_FILE = "encoder.safetensors"
FORMAT = 1  # of the metadata inside the weights file
WEIGHT_FREE = ("imagestats", "rcf", "random_init", "random_resnet50")


def save_encoder(
    folder: Path,
    model: VisionTransformer,
    *,
    architecture: VitConfig,
    preprocessing: Preprocessing,
    pooling: Pooling,
    provenance: Mapping[str, Any],
) -> str:
    """Write ``folder/encoder.safetensors``, weights with contract, architecture and provenance inside, and return its fingerprint.

    The state dict is plain timm; equal content gives equal bytes. The caller's manifest makes the folder a finished product.

    Args:
        folder: of the encoder.
        model: of `make_vit(architecture)`.
        architecture: what rebuilds the model.
        preprocessing: the contract; as many bands as the architecture has input channels.
        pooling: `cls` or `mean`, how a feature vector is made of the tokens.
        provenance: plain values that say where the weights come from (corpus, objective, config, seed, steps).

    Raises:
        UserError: architecture and contract do not fit, or another encoder is there already.
    """
    check_fit(architecture, preprocessing, pooling)
    tensors = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    metadata = {
        "format": str(FORMAT),
        "architecture": canonical_json({"family": "vit", "pooling": pooling, "config": architecture.to_json()}),
        "preprocessing": canonical_json(preprocessing.to_json()),
        "provenance": canonical_json(provenance),
    }
    path = Path(folder) / ENCODER_FILE
    written = content(tensors, identity(architecture, pooling, preprocessing))
    if (
        not commit(path, _sorted_header(safetensors.torch.save(tensors, metadata)))
        and load_encoder(path).fingerprint != written
    ):
        raise UserError(
            f"expected no other encoder at {path}, got one with other weights or another contract; give another output folder"
        )
    return written


def load_encoder(
    source: str | Path,
    *,
    preprocessing: Preprocessing | None = None,
    architecture: VitConfig | None = None,
    seed: int = 0,
    images: Tensor | None = None,
) -> Encoder:
    """Return a trained encoder from its folder or weights file, one made elsewhere by its spec, or a weight-free one by its name.

    Args:
        source: folder of a finished pretraining, an ``encoder.safetensors``, one of `WEIGHT_FREE` or `FITTED`, or a spec such as
            ``torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO``, ``timm:resnet50.a1_in1k?contract=imagenet`` or ``remoteclip:FILE``
            (`elsewhere.foreign_encoder`).
        preprocessing: contract of a weight-free encoder, or instead of the published one of a foreign encoder; a trained one of ours
            brings its own.
        architecture: of ``random_init``; None for a ViT-Ti with patches of at most 8 px.
        seed: of random weights, or of the patches of a fitted encoder.
        images: [n, C, H, W] float32, training images prepared by the contract, which a fitted encoder takes its filters from.

    Raises:
        UserError: no such encoder, an unfinished folder, a damaged file, or a contract given where it does not belong.
    """
    name = str(source)
    if is_spec(name):
        if architecture is not None:
            raise UserError(f"expected no architecture for {name}, got one; its name says it")
        return foreign_encoder(name, preprocessing=preprocessing, seed=seed)
    if name in (*WEIGHT_FREE, *FITTED):
        if preprocessing is None:
            raise UserError(
                f"expected a preprocessing contract for the weight-free encoder {name}, got none; make one from training statistics (`eo-ssl evaluate` does)"
            )
        if name in FITTED:
            return _fitted(name, preprocessing, images, seed)
        return _weight_free(name, preprocessing, architecture, seed)
    path = Path(source)
    if not path.exists():
        raise UserError(
            f"expected an encoder folder or one of {', '.join((*WEIGHT_FREE, *FITTED))}, got {name!r}{nearest(name, (*WEIGHT_FREE, *FITTED))}; "
            "give the folder that `eo-ssl pretrain` wrote"
        )
    if preprocessing is not None or architecture is not None:
        raise UserError(
            f"expected no contract and no architecture for the trained encoder {path}, got one; it carries its own"
        )
    if path.is_dir():
        require(path, "pretrain")
        path = path / ENCODER_FILE
    return _read(path)


def _fitted(name: str, preprocessing: Preprocessing, images: Tensor | None, seed: int) -> Encoder:
    if images is None:
        raise UserError(
            f"expected training images for {name}, got none; give some that its contract prepared (images=), its filters are cut out of them"
        )
    return EmpiricalFeatures.fit(preprocessing, images, seed=seed)


def _weight_free(name: str, preprocessing: Preprocessing, architecture: VitConfig | None, seed: int) -> Encoder:
    if name == "imagestats":
        return ImageStats(preprocessing)
    if name == "rcf":
        return RandomFeatures(preprocessing, seed=seed)
    if name == "random_resnet50":
        return RandomResNet(preprocessing, seed=seed)
    if architecture is None:
        size = preprocessing.size_px
        patch = next(side for side in range(min(8, size), 0, -1) if size % side == 0)
        architecture = VitConfig(img_size=size, in_chans=len(preprocessing.bands), patch_size=patch)
    model = make_vit(architecture, seed=seed)
    origin = {"weights": "random", "seed": seed}
    return VitEncoder(
        model, preprocessing, architecture=architecture, pooling="mean", name="random_init", provenance=origin
    )


def _read(path: Path) -> VitEncoder:
    remedy = "train it again with `eo-ssl pretrain`, or give the file that `save_encoder` wrote"
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata: dict[str, str] = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (not a mapping)
        architecture, pooling = json.loads(metadata["architecture"]), ""
        contract, provenance = (json.loads(metadata[key]) for key in ("preprocessing", "provenance"))
        family, pooling = architecture["family"], architecture["pooling"]
        config = VitConfig.from_json(architecture["config"])
    except (OSError, SafetensorError, KeyError, TypeError, json.JSONDecodeError) as error:
        raise UserError(
            f"expected an encoder of this library in {path}, got {type(error).__name__}: {str(error)[:120]}; {remedy}"
        ) from error
    if metadata.get("format") != str(FORMAT) or family != "vit":
        raise UserError(
            f"expected encoder format {FORMAT} of family vit in {path}, got {metadata.get('format')} and {family}; {remedy}"
        )
    model = make_vit(config)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise UserError(
            f"expected weights of {config.timm_name} in {path}, got others ({str(error).splitlines()[-1].strip()[:120]}); {remedy}"
        ) from error
    name = path.parent.name if path.name == ENCODER_FILE else path.stem
    return VitEncoder(
        model, Preprocessing.from_json(contract), architecture=config, pooling=pooling, name=name, provenance=provenance
    )


def _sorted_header(data: bytes) -> bytes:
    """The same safetensors file with its header's keys sorted; safetensors writes metadata in an arbitrary order.

    Layout: 8 bytes little-endian header length, JSON header padded with spaces to a multiple of 8, tensor bytes.
    """
    (length,) = struct.unpack("<Q", data[:8])
    header = json.dumps(json.loads(data[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    return struct.pack("<Q", len(header)) + header + data[8 + length :]
