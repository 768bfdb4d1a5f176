"""Residual networks of timm for any bands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import timm
from timm.models.resnet import ResNet as TimmResNet
from torch import Tensor

from eo_ssl.errors import UserError, nearest
from eo_ssl.models.backbone import Architecture, Backbone, Tokens, View, seeded_init


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ResNet(Architecture):
    """A residual network of timm, such as resnet18 or resnet50; the first layer takes as many bands as there are."""

    name: str = "resnet50"
    """Name registered in timm."""

    def build(self, bands: tuple[str, ...], size_px: int, seed: int) -> ResNetBackbone:
        """A residual network for `bands`; it takes images of any size.

        Raises:
            UserError: a name that timm does not know or that is no residual network, or images below its stride.
        """
        return ResNetBackbone(make_resnet(self.name, in_chans=len(bands), seed=seed), bands=bands, size_px=size_px)


class ResNetBackbone(Backbone):
    """A timm residual network; its patches are the positions of the last map, its vector their mean."""

    network: TimmResNet
    pooling = "avg"

    def __init__(self, network: TimmResNet, *, bands: tuple[str, ...], size_px: int) -> None:
        """Wrap `network`, which `make_resnet` made, for images of `bands` and `size_px`."""
        super().__init__()
        self.network, self.bands, self.size_px = network, bands, size_px
        self.dim = int(network.num_features)

    def forward(self, view: View) -> Tokens:
        """Encode the view: the last map [B, D, h, w] row by row, and timm's average pooling of it."""
        last: Tensor = self.network.forward_features(self.channels(view))  # [B, D, h, w]
        patches = last.flatten(2).transpose(1, 2)  # [B, N, D]
        return Tokens(self.network.global_pool(last), patches, patches[:, :0])

    def at_size(self, size_px: int) -> ResNetBackbone:
        """The same weights for images of another side; they know no size, so they are shared."""
        return ResNetBackbone(self.network, bands=self.bands, size_px=size_px)


def make_resnet(name: str, *, in_chans: int, seed: int = 0) -> TimmResNet:
    """A residual network without a head, and the state dict of plain timm.

    `timm.create_model(name, in_chans=..., num_classes=0)` loads its weights.

    Args:
        name: registered in timm.
        in_chans: number of bands.
        seed: of the initial weights.

    Raises:
        UserError: a name that timm does not know or that is no residual network.
    """
    names = timm.list_models()
    if name not in names:
        raise UserError(f"expected the name of a timm residual network, got '{name}'{nearest(name, names)}")
    with seeded_init(seed):
        model: Any = timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=0)
    if not isinstance(model, TimmResNet):
        raise UserError(f"expected a residual network of timm, got '{name}': choose one such as resnet18 or resnet50")
    return model
