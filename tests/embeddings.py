"""What the tests of embeddings share: a trained-like encoder, encoders whose answer is known, and scenes on disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eo_ssl.encoder import EncoderBase, TrainedEncoder, save_encoder
from eo_ssl.manifest import Clock, finish
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sample.geotiff import encode_geotiff
from eo_ssl.sensors import Quantity

BANDS = ("B02", "B03", "B04")
SIDE, PATCH = 16, 4
BOA = Quantity.BOA_REFLECTANCE


def contract(**changes: Any) -> Preprocessing:
    """Of a small optical encoder that changes no value: mean 0, deviation 1."""
    fields: dict[str, Any] = dict(  # noqa: C408
        sensor="sentinel2_l2a",
        quantity=BOA,
        bands=BANDS,
        convert=(),
        range=BOA.plausible,
        clip=None,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        size_px=SIDE,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )
    return Preprocessing(**{**fields, **changes})


class PatchMeans(EncoderBase):
    """Tokens are the means of each band over a patch, and the patch's sum of squares: they do not depend on where a window lies."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        super().__init__("patch_means", preprocessing, {})

    @property
    def dim(self) -> int:
        return len(self.preprocessing.bands) + 1

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        means = torch.nn.functional.avg_pool2d(x, PATCH)
        squares = torch.nn.functional.avg_pool2d(x.square().sum(dim=1, keepdim=True), PATCH)
        return torch.cat([means, squares], dim=1).flatten(2).transpose(1, 2)

    def features(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        return self.tokens(x).mean(dim=1)


class Placed(PatchMeans):
    """As `PatchMeans`, but each token also carries its column in the window: every window has a seam."""

    def tokens(self, x: Tensor, *, valid: Tensor | None = None) -> Tensor:
        tokens = super().tokens(x)
        column = torch.arange(tokens.shape[1]) % (x.shape[3] // PATCH)
        return torch.cat([tokens[..., :-1], column[None, :, None].expand(len(x), -1, 1).float()], dim=2)


def vit(seed: int = 0, **changes: Any) -> TrainedEncoder:
    normal = contract(mean=(0.1, 0.1, 0.1), std=(0.05, 0.05, 0.05), **changes)
    return TrainedEncoder(Vit(patch_size=PATCH, depth=1).build(normal.bands, SIDE, seed), normal, name="vit")


def save_vit(folder: Path, *, seed: int = 0, **changes: Any) -> Path:
    """Write an encoder as pretraining does and return its folder."""
    made = vit(seed, **changes)
    product = save_encoder(folder, made.backbone, preprocessing=made.preprocessing, provenance={})
    finish(folder, stage="pretrain", config={}, inputs={}, product=product, started=Clock())
    return folder


def write_scene(
    path: Path,
    image: np.ndarray,
    *,
    where: tuple[float, ...] = (10, 0, 600000, 0, -10, 5100000),
    bands: tuple[str, ...] = BANDS,
) -> Path:
    """Write reflectances [3, H, W], NaN invalid, as a float GeoTIFF in UTM 32N that names its ``bands``."""
    from affine import Affine

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        encode_geotiff(
            image.astype(np.float32),
            epsg=32632,
            transform=Affine(*where),
            nodata=float("nan"),
            bands=bands[: len(image)],
        )
    )
    return path


CARD = """
title: scenes of a test
sensor: sentinel2_l2a
reader: raster
files: "*.tif"
bands: [B02, B03, B04]
quantity: boa_reflectance
gsd_m: 10
datetime: "2023-06-01"
licence: CC BY-NC 4.0
attribution: nobody & sons
source: memory
"""


def write_card(path: Path, text: str = CARD) -> str:
    path.write_text(text)
    return str(path)
