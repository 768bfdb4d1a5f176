"""Decoders from feature maps to the logits of a mask: linear, UPerNet and DPT (segmentation-models-pytorch)."""

from __future__ import annotations

import torch
from segmentation_models_pytorch.base.initialization import initialize_decoder
from segmentation_models_pytorch.decoders.dpt.decoder import DPTDecoder, DPTSegmentationHead
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn
from torch.nn import functional

from eo_ssl.evaluation.tuning.feature_maps import DEPTHS, Maps
from eo_ssl.evaluation.tuning.tuning_config import Decoder


class LinearDecoder(nn.Module):
    """A 1 x 1 convolution after batch normalisation, as Oquab et al. 2023 (DINOv2, code)."""

    def __init__(self, example: Maps, *, classes: int) -> None:
        super().__init__()
        width = example.maps[0].shape[1]
        self.norm = nn.BatchNorm2d(width)
        self.project = nn.Conv2d(width, classes, 1)
        nn.init.normal_(self.project.weight, std=0.01)
        nn.init.zeros_(self.project.bias)  # type: ignore[arg-type]

    def forward(self, given: Maps) -> Tensor:
        """One map [B, D, h, w] -> logits [B, K, h, w]."""
        logits: Tensor = self.project(self.norm(given.maps[0]))
        return logits


class UPerNet(nn.Module):
    """Pyramid pooling and a feature pyramid (Xiao et al. 2018, arXiv 1807.10221).

    The maps of a plain transformer have one size: the shallow ones are enlarged four and two times by transposed
    convolutions, the deepest is halved, as Bao et al. 2022 (BEiT) and He et al. 2022 (MAE) do.
    """

    def __init__(self, example: Maps, *, classes: int, width: int) -> None:
        super().__init__()
        channels = [one.shape[1] for one in example.maps]
        self.rescale = nn.ModuleList(_rescalers(channels) if _of_one_size(example) else [nn.Identity()] * DEPTHS)
        # The decoder counts from the whole image on and skips the first two sizes.
        self.decoder = UPerNetDecoder(
            encoder_channels=[0, 0, *channels], encoder_depth=DEPTHS + 1, decoder_channels=width
        )
        self.project = nn.Conv2d(width, classes, 1)
        initialize_decoder(self.decoder)

    def forward(self, given: Maps) -> Tensor:
        """Four maps -> logits [B, K, h, w] of the size of the largest (rescaled) map."""
        rescaled = [rescale(one) for rescale, one in zip(self.rescale, given.maps, strict=True)]
        logits: Tensor = self.project(self.decoder([rescaled[0], rescaled[0], *rescaled]))
        return logits


class Dpt(nn.Module):
    """Dense prediction transformer (Ranftl et al. 2021, arXiv 2103.13413), the class token beside every position.

    The decoder doubles a map and adds it to the next, which fails on maps of odd sides (120 pixels in patches of 8).
    Maps are brought to sides that double first: a transformer's grid to an even one, a residual network's stages to 8,
    4, 2 and 1 times the deepest.
    """

    def __init__(self, example: Maps, *, classes: int, width: int) -> None:
        super().__init__()
        channels = [one.shape[1] for one in example.maps]
        self.plain = _of_one_size(example)
        prefixed = example.prefix[0] is not None
        self.decoder = DPTDecoder(
            encoder_out_channels=channels,
            # Only ratios of the sides count: logits are resized to the mask, so a patch of 14 is as good as one of 16.
            encoder_output_strides=(16,) * DEPTHS if self.plain else (4, 8, 16, 32),
            encoder_has_prefix_tokens=prefixed,
            readout="cat" if prefixed else "ignore",
            intermediate_channels=(width, 2 * width, 4 * width, 4 * width),
            fusion_channels=width,
        )
        self.head = DPTSegmentationHead(width, classes)
        initialize_decoder(self.decoder)

    def forward(self, given: Maps) -> Tensor:
        """Four maps -> logits [B, K, h, w]."""
        rows, columns = given.maps[-1].shape[-2:]
        if self.plain:
            sides = [(rows + rows % 2, columns + columns % 2)] * DEPTHS
        else:
            sides = [(rows << power, columns << power) for power in range(DEPTHS - 1, -1, -1)]
        aligned = [resize_maps(one, side) for one, side in zip(given.maps, sides, strict=True)]
        logits: Tensor = self.head(self.decoder(aligned, list(given.prefix)))
        return logits


def make_decoder(decoder: Decoder, example: Maps, *, classes: int, width: int) -> nn.Module:
    """Return a decoder with initial weights (torch's global generator) for maps like ``example``."""
    if decoder == "linear":
        return LinearDecoder(example, classes=classes)
    made = UPerNet if decoder == "upernet" else Dpt
    return made(example, classes=classes, width=width)


def resize_maps(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Return [B, D, h, w] at another size, bilinear, edges of the images together; as it is where it fits."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def _of_one_size(example: Maps) -> bool:
    return len({one.shape[-2:] for one in example.maps}) == 1 and example.maps[0].shape[-2:] != torch.Size((1, 1))


def _rescalers(channels: list[int]) -> list[nn.Module]:
    """Times 4, times 2, as it is, half."""
    first, second, _, _ = channels
    return [
        nn.Sequential(
            nn.ConvTranspose2d(first, first, 2, stride=2),
            nn.BatchNorm2d(first),
            nn.GELU(),
            nn.ConvTranspose2d(first, first, 2, stride=2),
        ),
        nn.ConvTranspose2d(second, second, 2, stride=2),
        nn.Identity(),
        nn.MaxPool2d(2, ceil_mode=True),
    ]
