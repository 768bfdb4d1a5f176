"""Encoders made elsewhere by name: one door for TorchGeo's weights, timm's models and RemoteCLIP."""

from __future__ import annotations

from collections.abc import Callable

from eo_ssl.encoder.foreign import ForeignEncoder
from eo_ssl.encoder.remoteclip import remoteclip_encoder
from eo_ssl.encoder.specs import parse_spec
from eo_ssl.encoder.timm_weights import timm_encoder
from eo_ssl.encoder.torchgeo_weights import torchgeo_encoder
from eo_ssl.preprocessing import Preprocessing

_ROUTES: dict[str, Callable[..., ForeignEncoder]] = {
    "torchgeo": torchgeo_encoder,
    "timm": timm_encoder,
    "remoteclip": remoteclip_encoder,
}


def foreign_encoder(source: str, *, preprocessing: Preprocessing | None = None, seed: int = 0) -> ForeignEncoder:
    """Return the encoder that ``source`` names, such as ``torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO?size=64``.

    Args:
        source: ``route:name[@random][?option=value&...]``, see `specs.OPTIONS`.
        preprocessing: a contract of one's own; None for the published one.
        seed: of random weights.

    Raises:
        UserError: as the routes say.
    """
    spec = parse_spec(source)
    size = spec.size_px
    encoder = _ROUTES[spec.route](spec, preprocessing=preprocessing, seed=seed)
    return encoder if size is None else encoder.at_size(size)
