"""Residual networks of timm for any bands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import timm
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor

from eo_ssl.errors import expect, suggest_nearest
from eo_ssl.models.backbone import (
    Architecture,
    Backbone,
    BackboneConfig,
    Tokens,
    View,
    check_fields,
    seed_weights,
)

_FIELDS = ("timm_name", "img_size", "in_chans")  # of an encoder's file


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ResNet(Architecture):
    """A residual network of timm, such as resnet18 or resnet50; the first layer takes as many bands as there are."""

    family = "resnet"
    title = "residual network"
    short = "ResNet"
    pooling = "avg"

    name: str = "resnet50"
    """Name registered in timm."""

    def build(self, bands: tuple[str, ...], size_px: int, seed: int, *, sensor: str = "") -> ResNetBackbone:
        """A residual network without a head, and the state dict of plain timm; it takes images of any size.

        Raises:
            UserError: a name that timm does not know or that is no residual network.
        """
        network = _make_network(self.name, in_chans=len(bands), seed=seed)
        return ResNetBackbone(network, BackboneConfig(self, bands, size_px))

    def to_json(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Registered name and sizes."""
        return dict(zip(_FIELDS, (self.name, size_px, bands), strict=True))

    @classmethod
    def from_json(cls, values: Mapping[str, Any], *, pooling: str) -> ResNet:
        """The architecture of an encoder's file; an unknown field is refused."""
        check_fields(values, _FIELDS, title=cls.title)
        expect(
            pooling == cls.pooling, expected=f"pooling {cls.pooling} of a {cls.title}", got=pooling, remedy="correct it"
        )
        return cls(values["timm_name"])

    def timm_options(self, *, bands: int, size_px: int) -> dict[str, Any]:
        """Bands and pooling."""
        return {"in_chans": bands, "num_classes": 0, "global_pool": self.pooling}


class ResNetBackbone(Backbone):
    """A timm residual network; its patches are the positions of the last map, its vector their mean."""

    network: TimmResNet

    def __init__(self, network: TimmResNet, config: BackboneConfig) -> None:
        """Wrap `network`, which `config` describes."""
        super().__init__(network, config)
        self.dim = int(network.num_features)

    def forward(self, view: View) -> Tokens:
        """Encode the view: the last map [B, D, h, w] row by row, and timm's average pooling of it."""
        last: Tensor = self.network.forward_features(self.channels(view))  # [B, D, h, w]
        patches = last.flatten(2).transpose(1, 2)  # [B, N, D]
        return Tokens(self.network.global_pool(last), patches, patches[:, :0])

    def at_size(self, size_px: int) -> ResNetBackbone:
        """The same weights for images of another side; they know no size, so they are shared."""
        return ResNetBackbone(self.network, replace(self.config, size_px=size_px))


def _make_network(name: str, *, in_chans: int, seed: int) -> TimmResNet:
    """The timm model; `timm.create_model(name, in_chans=..., num_classes=0)` loads its weights."""
    names = timm.list_models()
    expect(
        name in names,
        expected="the name of a timm residual network",
        got=f"'{name}'{suggest_nearest(name, names)}",
        remedy="timm.list_models() names them",
    )
    with seed_weights(seed):
        model: Any = timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=0)
    expect(
        isinstance(model, TimmResNet),
        expected="a residual network of timm",
        got=f"'{name}'",
        remedy="choose one such as resnet18 or resnet50",
    )
    return cast(TimmResNet, model)
