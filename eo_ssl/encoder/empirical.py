"""Empirical random convolutional features: filters that are whitened patches of training images.

"ZCA-RCF" of Corley et al. 2024, arXiv 2305.13456.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from eo_ssl.encoder.weight_free import FILTER_PX, FilterFeatures, count_filters
from eo_ssl.errors import UserError
from eo_ssl.preprocessing import Preprocessing

FITTED = ("rcf_zca",)
"""Names of the encoders that need no training but are fitted to training images."""
_BIAS = -1.0  # of every filter, as for Gaussian ones
_ZCA = 1e-3  # added to the eigenvalues of the patches' covariance
_FLAT = 1e-8  # norm below which a patch without its mean is a constant one and keeps its scale


class EmpiricalFeatures(FilterFeatures):
    """Responses to 3 x 3 patches of training images, whitened twice (MOSAIKS, Rolf et al. 2021)."""

    def __init__(self, preprocessing: Preprocessing, patches: Tensor, *, seed: int = 0) -> None:
        """Make the filters of ``patches`` [F, C, 3, 3] of prepared training images; ``seed`` drew them."""
        wanted = (len(preprocessing.bands), FILTER_PX, FILTER_PX)
        if patches.ndim != 4 or tuple(patches.shape[1:]) != wanted or not len(patches):
            raise UserError(
                f"expected patches [F, {', '.join(map(str, wanted))}] for the contract's bands, got"
                f" {list(patches.shape)}; "
                "cut them out of images prepared by it"
            )
        origin = {"weights": "training patches", "seed": seed, "patches": len(patches)}
        super().__init__("rcf_zca", preprocessing, origin, weights=whiten_patches(patches), bias=_BIAS)

    @classmethod
    def fit(cls, preprocessing: Preprocessing, images: Tensor, *, features: int = 512, seed: int = 0) -> Self:
        """Return the encoder whose filters are patches of ``images``.

        Args:
            preprocessing: contract of the encoder.
            images: [n, C, H, W] float32, output of the contract on *training* images.
            features: twice the number of patches.
            seed: which patches.

        Raises:
            UserError: an odd number of features, no images, other bands, or images too small for a patch.
        """
        if images.ndim != 4 or not len(images):
            raise UserError(
                f"expected training images [n, C, H, W] for rcf_zca, got {list(images.shape)}; give the contract's"
                " output on some"
            )
        index, top, left = draw_patches(
            len(images),
            height=images.shape[2],
            width=images.shape[3],
            bands=images.shape[1],
            features=features,
            seed=seed,
        )
        within = torch.arange(FILTER_PX)
        rows, columns = top[:, None, None] + within[:, None], left[:, None, None] + within  # [F, 3, 1], [F, 1, 3]
        patches = images[index[:, None, None], :, rows, columns].permute(0, 3, 1, 2)  # [F, C, 3, 3]
        return cls(preprocessing, patches, seed=seed)


def draw_patches(
    n: int, *, height: int, width: int, bands: int, features: int = 512, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    """Return where the patches are cut: image, first row and first column, int64 [F] each, for F = features / 2.

    The draws are those of TorchGeo 0.8's RCF(mode="empirical") for the same seed, which draws Gaussian filters first
    and never cuts at
    the last row and column; seed 0 is a seed here and none there. With the places known only the images concerned
    need be read.

    Args:
        n: number of training images.
        height: of an image, pixels.
        width: of an image, pixels.
        bands: of an image.
        features: twice the number of patches.
        seed: of the draw.
    """
    filters = count_filters(features)
    if n < 1 or min(height, width) <= FILTER_PX:
        raise UserError(
            f"expected training images of more than {FILTER_PX} px to cut patches from, got {n} of {height} x {width}"
            " px; "
            "give larger ones"
        )
    rng = torch.Generator().manual_seed(seed)
    torch.randn(filters, bands, FILTER_PX, FILTER_PX, generator=rng)  # spent as there
    index = torch.randint(0, n, (filters,), generator=rng)
    top = torch.randint(0, height - FILTER_PX, (filters,), generator=rng)
    left = torch.randint(0, width - FILTER_PX, (filters,), generator=rng)
    return index, top, left


def whiten_patches(patches: Tensor) -> Tensor:
    """Filters [F, C, 3, 3] float32 of patches [F, C, 3, 3]: own mean removed, unit norm, whitened twice.

    With the covariance S = P'P/F of the normalised patches P and W = (S + 1e-3)^(-1/2), ZCA's matrix, the filters are
    P W W' =
    P (S + 1e-3)^(-1): one linear system, in float64, and no eigenvectors.
    """
    flat = patches.flatten(1).double()  # [F, 9 C]
    flat = flat - flat.mean(dim=1, keepdim=True)
    norm = flat.norm(dim=1, keepdim=True)
    flat = flat / torch.where(norm < _FLAT, 1.0, norm)
    ridge = flat.T @ flat / len(flat) + _ZCA * torch.eye(flat.shape[1], dtype=flat.dtype)
    filters: Tensor = torch.linalg.solve(ridge, flat.T).T  # ridge is symmetric
    return filters.reshape(patches.shape).float().contiguous()
