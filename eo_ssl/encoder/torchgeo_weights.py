"""TorchGeo's published weights as encoders."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlparse

import timm
import torch
from torch import Tensor, nn

from eo_ssl.encoder.adapters import resize_to_contract
from eo_ssl.encoder.contracts import PublishedContract, derive_contract
from eo_ssl.encoder.external import ExternalEncoder, Readout
from eo_ssl.encoder.foreign_weights import match_keys, put_tensors, read_tensors
from eo_ssl.encoder.specs import ExternalSpec
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.fingerprints import hash_file
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing, parse_conversion
from eo_ssl.sensors import sensor as sensor_named

if TYPE_CHECKING:
    from torchvision.models._api import WeightsEnum

# By enum and not by the metadata's `model`, which calls some ResNet-50 resnet18 and all ResNet-152 resnet50.
_TIMM = {
    "ResNet18_Weights": "resnet18",
    "ResNet50_Weights": "resnet50",
    "ResNet152_Weights": "resnet152",
    "ViTSmall16_Weights": "vit_small_patch16_224",
    "ViTBase16_Weights": "vit_base_patch16_224",
    "ViTLarge16_Weights": "vit_large_patch16_224",
    "ViTHuge14_Weights": "vit_huge_patch14_224",
    "ViTSmall14_DINOv2_Weights": "vit_small_patch14_dinov2",
    "ViTBase14_DINOv2_Weights": "vit_base_patch14_dinov2",
}
_SWIN = {
    "Swin_T_Weights": "swin_t",
    "Swin_S_Weights": "swin_s",
    "Swin_B_Weights": "swin_b",
    "Swin_V2_T_Weights": "swin_v2_t",
    "Swin_V2_B_Weights": "swin_v2_b",
}
_EARTHLOC = "EarthLoc_Weights"
_NORM = ("norm.",)


def list_weights() -> tuple[WeightsEnum, ...]:
    """Return every member of every `WeightsEnum` of the installed TorchGeo, by name of the enum."""
    enums = _enums()
    return tuple(member for name in sorted(enums) for member in enums[name])


def find_weights(name: str) -> WeightsEnum:
    """Return the member ``Enum.MEMBER``.

    Raises:
        UserError: TorchGeo has none of that name; the nearest is named.
    """
    enums = _enums()
    enum, _, member = name.partition(".")
    if enum not in enums:
        raise UserError(
            "expected weights of TorchGeo such as ResNet50_Weights.SENTINEL2_ALL_MOCO, got"
            f" {name!r}{suggest_nearest(enum, enums)}"
        )
    if member not in enums[enum].__members__:
        known = list(enums[enum].__members__)
        raise UserError(
            f"expected a member of {enum} ({', '.join(known)}), got {member!r}{suggest_nearest(member, known)}"
        )
    weights: WeightsEnum = enums[enum][member]
    return weights


def load_torchgeo(spec: ExternalSpec, *, preprocessing: Preprocessing | None = None, seed: int = 0) -> ExternalEncoder:
    """Return the encoder of TorchGeo's weights ``spec.name``, or its stand-in with random weights.

    Args:
        spec: of the route torchgeo.
        preprocessing: a contract of one's own, for weights whose metadata give none; it must name as many bands as
            the network has
            channels.
        seed: of random weights.

    Raises:
        UserError: no such weights, none that a contract can express, or a file that is not there.
    """
    weights = find_weights(spec.name)
    how = derive_contract(weights) if preprocessing is None else _own(weights, preprocessing)
    if "quantity" in spec.options:
        how = replace(how, preprocessing=_taking(how.preprocessing, spec.options["quantity"]))
    model, architecture = _network(weights, seed=seed)
    if preprocessing is not None:
        model = resize_to_contract(model, preprocessing, name=spec.text)
    meta = dict(weights.meta)
    origin: dict[str, Any] = {
        "weights": "random" if spec.random else str(weights.url),
        "source": spec.text,
        "dataset": meta.get("dataset"),
        "publication": meta.get("publication"),
        "licence": meta.get("license"),
        "contract": how.source,
    }
    if spec.random:
        origin["seed"] = seed
    else:
        file = find_hub_file(str(weights.url), name=spec.name, download="download" in spec.options)
        origin |= _load(model, read_tensors(file), name=spec.name) | _compare_hash(file)
    pooling: Any = spec.options.get("pooling", "own")
    readout = Readout(architecture, pooling=pooling, window_px=how.window_px, blank=how.blank)
    return ExternalEncoder(model, how.preprocessing, name=spec.text, readout=readout, provenance=origin)


def find_hub_file(url: str, *, name: str, download: bool) -> Path:
    """Return the file behind ``url`` in torch's hub folder, fetched only where ``download`` says so.

    Raises:
        UserError: it is not there, cannot be fetched, or has not the hash in its name.
    """
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if not file.exists():
        if not download:
            raise UserError(
                f"expected the weights of {name} as {file.name} in {file.parent}, got no such file; "
                f"put it there (from {url}), or allow the download by the option ?download"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=_hash_in(file.name), progress=False)
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"expected the weights of {name} from {url}, got {str(error).strip()[:160]}; fetch the file by other"
                f" means into {file.parent}"
            ) from error
    return file


def _compare_hash(file: Path) -> dict[str, str]:
    """Sha256 of a file that was there, and a remark where it is not the one in its name, that of the published file."""
    digest, published = hash_file(file), _hash_in(file.name)
    if published is None or digest.startswith(published):
        return {"sha256": digest}
    return {
        "sha256": digest,
        "remark": f"weights of the file {file.name}, which is not the published one: its sha256 begins with"
        f" {digest[: len(published)]}",
    }


def _hash_in(name: str) -> str | None:
    """First digits of the sha256 that many of these files bear in their name."""
    digits = re.search(r"-([0-9a-f]{8,})\.", name)
    return digits[1] if digits else None


def _taking(contract: Preprocessing, quantity: str) -> Preprocessing:
    """The contract for images in another quantity that it converts into its own: power for decibels."""
    if quantity == contract.quantity:
        return contract
    convert = (f"{quantity}->{contract.quantity.value}",)
    source, _ = parse_conversion(convert[0])
    return replace(contract, quantity=source, convert=convert, range=source.plausible)


def _own(weights: WeightsEnum, preprocessing: Preprocessing) -> PublishedContract:
    """A contract of one's own instead of the published one."""
    name, channels = f"{type(weights).__name__}.{weights.name}", weights.meta.get("in_chans")
    _check_supported(weights)
    if len(preprocessing.bands) != channels:
        raise UserError(
            f"expected a contract with one band for each of {channels} channels of {name}, got"
            f" {len(preprocessing.bands)}; name them in its order"
        )
    _check_order(weights, preprocessing)
    return PublishedContract(preprocessing, window_px=None, blank=(), source="given by the caller", differs="")


def _check_order(weights: WeightsEnum, preprocessing: Preprocessing) -> None:
    """Refuse a contract that names the bands of the weights in another order, where its sensor knows their names.

    Channels would be exchanged and nothing would complain.
    """
    known = sensor_named(preprocessing.sensor)
    try:
        published = known.resolve_all(weights.meta.get("bands") or ())
    except UserError:  # another sensor's bands: the contract says which of its own stand for them
        return
    expect(
        not published or published == preprocessing.bands,
        expected=f"the bands {', '.join(published)} in this order, that of the channels of {type(weights).__name__}."
        f"{weights.name}",
        got=", ".join(preprocessing.bands),
        remedy="name them so; images may hold them in any order",
    )


def _network(weights: WeightsEnum, *, seed: int) -> tuple[nn.Module, str]:
    """Network without head and with seeded random weights, and its name."""
    _check_supported(weights)
    enum, meta = type(weights).__name__, weights.meta
    channels = meta["in_chans"]
    with seed_weights(seed):
        if enum in _TIMM:
            name, options = _TIMM[enum], {"img_size": meta["img_size"]} if "img_size" in meta else {}
            return timm.create_model(name, pretrained=False, in_chans=channels, num_classes=0, **options), name
        if enum in _SWIN:
            return _swin(_SWIN[enum], channels, window_px=meta.get("window_size")), _SWIN[enum]
        from torchgeo.models import EarthLoc

        sizes = {"in_channels": channels, "image_size": meta["image_size"], "desc_dim": meta["desc_dim"]}
        return EarthLoc(**sizes, backbone=meta["encoder"], pretrained=False), "earthloc"


def _check_supported(weights: WeightsEnum) -> None:
    enum, known = type(weights).__name__, (*_TIMM, *_SWIN, _EARTHLOC)
    if enum not in known:
        raise UserError(
            f"expected weights of an image encoder out of {', '.join(known)}, got {enum}; choose one of these"
        )


def _swin(name: str, channels: int, *, window_px: int | None) -> nn.Module:
    """A Swin transformer of torchvision without head, with TorchGeo's first layer and attention window."""
    from torchvision.models import SwinTransformer, swin_transformer

    if name == "swin_b" and window_px is not None:  # swin_b() has a window of 7
        model: Any = SwinTransformer(
            [4, 4], 128, [2, 2, 18, 2], [4, 8, 16, 32], [window_px, window_px], stochastic_depth_prob=0.5
        )
    else:
        model = getattr(swin_transformer, name)(weights=None)
    first = model.features[0][0]
    model.features[0][0] = nn.Conv2d(channels, first.out_channels, kernel_size=(4, 4), stride=(4, 4))
    model.head = nn.Identity()
    headless: nn.Module = model
    return headless


def _load(model: nn.Module, state: Mapping[str, Tensor], *, name: str) -> dict[str, Any]:
    """Load all but heads and return what is to be said of it.

    Some published encoders lack the last normalisation, which then stays neutral.
    """
    options: dict[str, Any] = {"name": name, "where": "the file of torch's hub", "remedy": "fetch it again"}
    matched = match_keys(state, model, may_lack=_NORM, **options)
    put_tensors(model, matched.tensors, **options)
    return {"file": matched.to_json()} if matched.to_json() else {}


def _enums() -> dict[str, Any]:
    """TorchGeo's enums by name; imported here because it takes seconds and only these weights need it."""
    import torchgeo.models

    names = [name for name in torchgeo.models.__all__ if name.endswith("_Weights")]
    enums = {name: getattr(torchgeo.models, name) for name in names}
    return {name: enum for name, enum in enums.items() if len(enum)}
