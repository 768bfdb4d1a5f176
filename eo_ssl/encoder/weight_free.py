"""Encoders that need no training, the honest baselines of every result (Corley et al. 2024, arXiv 2305.13456).

Image statistics, random convolutional features, and a residual network with random weights. A seed gives each band its
own kernels by name: images whose planes stand in another order give the same features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from eo_ssl.encoder.first_layer import order_drawn_kernels, order_first_layer
from eo_ssl.encoder.protocol import EncoderBase
from eo_ssl.errors import UserError
from eo_ssl.models import seed_weights
from eo_ssl.preprocessing import Preprocessing

_RCF_BATCH = 16  # images convolved at once: 256 maps of 64 x 64 float32 are 4 MB per image
FILTER_PX = 3  # side of a filter, as Corley et al. use


def find_incomplete(valid: Tensor | None) -> Tensor:
    """Images of [B, C, H, W] bool that miss a pixel, int64 [b]; others keep their bits whatever is in the batch."""
    return torch.empty(0, dtype=torch.int64) if valid is None else (~valid).flatten(1).any(dim=1).nonzero().squeeze(1)


class ImageStats(EncoderBase):
    """Mean, standard deviation (unbiased), maximum and minimum of each band: 4C numbers, no weights."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__("imagestats", preprocessing, {"weights": "none"})

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return 4 * len(self.preprocessing.bands)

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, 4C]: means, standard deviations, maxima, minima of the bands, over the measured pixels.

        A band without any gives four zeros, the band's mean.
        """
        self.check_prepared(x)
        flat = x.flatten(2)  # [B, C, H*W]
        std, mean = torch.std_mean(flat, dim=2, correction=1)
        low, high = torch.aminmax(flat, dim=2)
        out = torch.cat([mean, std, high, low], dim=1)
        holed = find_incomplete(valid)
        if valid is not None and len(holed):
            out[holed] = self._measured(flat[holed], valid[holed].flatten(2))
        return out

    def _measured(self, x: Tensor, valid: Tensor) -> Tensor:
        """The same of the valid ones among [b, C, P] pixels."""
        count = valid.sum(dim=2)  # [b, C]
        mean = torch.where(valid, x, 0.0).sum(dim=2) / count.clamp(min=1)
        spread = torch.where(valid, x - mean[..., None], 0.0).square().sum(dim=2)
        std = (spread / (count - 1).clamp(min=1)).sqrt()
        high, low = (torch.where(valid, sign * x, -torch.inf).amax(dim=2) * sign for sign in (1, -1))
        return torch.cat([torch.where(count > 0, part, 0.0) for part in (mean, std, high, low)], dim=1)

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """The whole image is the one position: [B, 1, 4C]."""
        return self.features(x)[:, None]


class FilterFeatures(EncoderBase):
    """Mean responses to a bank of 3 x 3 filters, whatever the filters are made of."""

    weights: Tensor
    bias: Tensor

    def __init__(
        self, name: str, preprocessing: Preprocessing, provenance: Mapping[str, Any], *, weights: Tensor, bias: float
    ) -> None:
        """Keep filters ``weights`` [F, C, 3, 3] float32, a channel for each band, and their common ``bias``."""
        super().__init__(name, preprocessing, provenance)
        self.register_buffer("weights", weights)
        self.register_buffer("bias", torch.full((len(weights),), bias))

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return 2 * self.weights.shape[0]

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, D]: means of relu(y), then of relu(-y), y = filters * x + bias inside the image.

        Filters that touch a missing pixel are left out, except of bands without any pixel, and where no filter would
        remain.
        """
        self.check_prepared(x)
        out = torch.cat([self._pooled(part) for part in torch.split(x, _RCF_BATCH)])
        holed = find_incomplete(valid)
        if valid is not None:
            for image in holed.tolist():  # few: a tile is kept only where nearly all of it was measured
                out[image] = self._measured(x[image : image + 1], valid[image], otherwise=out[image])
        return out

    def _measured(self, x: Tensor, valid: Tensor, *, otherwise: Tensor) -> Tensor:
        """Features [D] of one image [1, C, H, W] over the filters that see measured pixels only."""
        hole = (~valid & valid.any(dim=(1, 2), keepdim=True)).any(dim=0)  # [H, W], bands without any pixel aside
        whole = nn.functional.max_pool2d(hole[None].to(x.dtype), 3, stride=1)[0] == 0  # [H-2, W-2]
        if not bool(whole.any()):
            return otherwise
        y = nn.functional.conv2d(x, self.weights, self.bias)[0, :, whole]  # [F/2, positions]
        return torch.cat([y.relu().mean(dim=1), (-y).relu().mean(dim=1)])

    def _pooled(self, x: Tensor) -> Tensor:
        y = nn.functional.conv2d(x, self.weights, self.bias)  # [b, F/2, H-2, W-2]
        whole = y.mean(dim=(2, 3))
        positive = y.relu_().mean(dim=(2, 3))
        return torch.cat([positive, positive - whole], dim=1)  # relu(-y) = relu(y) - y

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """[B, C, H, W] -> [B, (H-2)*(W-2), D]."""
        self.check_prepared(x)
        y = nn.functional.conv2d(x, self.weights, self.bias)
        return torch.cat([y.relu(), (-y).relu()], dim=1).flatten(2).transpose(1, 2)

    def _check_size(self, contract: Preprocessing) -> None:
        if contract.resize != "native" and contract.size_px < FILTER_PX:
            raise UserError(
                f"expected images of at least {FILTER_PX} px for {self.name}, got {contract.size_px} px; choose a"
                " larger size"
            )


class RandomFeatures(FilterFeatures):
    """Random convolutional features: seeded Gaussian 3 x 3 filters.

    MOSAIKS, Rolf et al. 2021, doi:10.1038/s41467-021-24638-z.
    """

    def __init__(self, preprocessing: Preprocessing, *, features: int = 512, bias: float = -1.0, seed: int = 0) -> None:
        filters = count_filters(features)
        rng = torch.Generator().manual_seed(seed)
        drawn = torch.randn(filters, len(preprocessing.bands), FILTER_PX, FILTER_PX, generator=rng)
        weights = order_drawn_kernels(drawn, preprocessing)
        super().__init__("rcf", preprocessing, {"weights": "random", "seed": seed}, weights=weights, bias=bias)


def count_filters(features: int) -> int:
    """Half of the features: each filter gives the mean of its positive and of its negative responses."""
    if features < 2 or features % 2:
        raise UserError(f"expected an even number of random features, got {features}; each filter gives two")
    return features // 2


class RandomResNet(EncoderBase):
    """ResNet-50 (timm) with random weights, batch normalisation with mean 0 and variance 1."""

    def __init__(self, preprocessing: Preprocessing, *, seed: int = 0) -> None:
        super().__init__("random_resnet50", preprocessing, {"weights": "random", "seed": seed})
        self.model: Any
        with seed_weights(seed):
            self.model = timm.create_model(
                "resnet50", pretrained=False, in_chans=len(preprocessing.bands), num_classes=0
            )
        order_first_layer(self.model, preprocessing, name=self.name)
        self.eval()

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return int(self.model.num_features)

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Mean over positions: [B, C, H, W] -> [B, 2048]; missing pixels are the band's mean."""
        self.check_prepared(x)
        pooled: Tensor = self.model(x)
        return pooled

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        """Last feature map: [B, C, H, W] -> [B, H/32 * W/32, 2048]."""
        self.check_prepared(x)
        grid: Tensor = self.model.forward_features(x)
        return grid.flatten(2).transpose(1, 2)
