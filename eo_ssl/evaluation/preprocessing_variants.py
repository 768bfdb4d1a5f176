"""Preprocessing variants: other sizes, normalisations, resizers than a contract's (Corley et al., arXiv 2305.13456)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.evaluation.training_statistics import TrainStats
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.preprocessing.interpolation import Interpolation
from eo_ssl.sensors import sensor

Normalisation = Literal["contract", "zscore", "divide", "minmax", "percentile", "imagenet"]
NORMALISATIONS: tuple[Normalisation, ...] = get_args(Normalisation)
Resizer = Literal["contract", "torchvision", "torchvision-no-antialias", "kornia"]
RESIZERS: tuple[Resizer, ...] = get_args(Resizer)
_KERNELS: dict[Resizer, tuple[Interpolation, bool]] = {
    "torchvision": ("bilinear", True),  # transforms.v2.Resize as it is
    "torchvision-no-antialias": ("bilinear", False),
    "kornia": ("bilinear-corners", False),  # augmentation.Resize as it is
}
_IMAGENET = {"red": (0.485, 0.229), "green": (0.456, 0.224), "blue": (0.406, 0.225)}
"""Mean and standard deviation of ImageNet's channels in [0, 1] (He et al. 2016; torchvision's weights)."""


@dataclass(frozen=True, slots=True)
class PreprocessingVariant:
    """Size, normalisation and resizing in place of the contract's."""

    size_px: int | None = None
    "side the images are brought to; None: the contract's"
    normalisation: Normalisation = "contract"
    resizer: Resizer = "contract"

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        for field, options in (("normalisation", NORMALISATIONS), ("resizer", RESIZERS)):
            value = getattr(self, field)
            if value not in options:
                raise UserError(
                    f"expected a {field} out of {', '.join(options)}, got {value!r}{suggest_nearest(value, options)}"
                )
        if self.size_px is not None and self.size_px < 1:
            raise UserError(f"expected a size of at least 1 px, got {self.size_px}; give a positive number")

    @property
    def name(self) -> str:
        """For a table."""
        size = "contract's size" if self.size_px is None else f"{self.size_px} px"
        how = "" if self.resizer == "contract" else f" by {self.resizer}"
        return f"{size}{how}, {self.normalisation}"

    def apply(self, contract: Preprocessing, stats: TrainStats) -> Preprocessing:
        """Return ``contract`` with this variant; ``stats`` of the training images are in the order of its bands.

        Normalisations, per band: `zscore` (x - mean) / std of the training images; `divide` leaves physical values, as
        division of Sentinel-2 numbers by 10,000 does; `minmax` (x - min) / (max - min); `percentile` the same between
        the 2nd and 98th percentiles, clipped; `imagenet` ImageNet's statistics on values brought to 0 ... 1.

        Raises:
            UserError: bands that are constant in training.
        """
        changed = contract
        if self.normalisation != "contract":
            shift, scale, clip = _affine(self.normalisation, contract, stats)
            constant = [band for band, s in zip(contract.bands, scale, strict=True) if not s > 0]
            if constant:
                raise UserError(
                    f"expected bands that vary in training for the normalisation {self.normalisation}, got constant "
                    f"{', '.join(constant)}; leave it out"
                )
            changed = replace(changed, mean=tuple(shift.tolist()), std=tuple(scale.tolist()), clip=clip)
        if self.resizer != "contract":
            interpolation, antialias = _KERNELS[self.resizer]
            changed = replace(changed, interpolation=interpolation, antialias=antialias)
        return changed if self.size_px is None else replace(changed, size_px=self.size_px, resize="to_size")


Floats = npt.NDArray[np.float64]
_Clip = tuple[tuple[float, float], ...] | None


def _affine(name: Normalisation, contract: Preprocessing, stats: TrainStats) -> tuple[Floats, Floats, _Clip]:
    """Shift, scale and the bounds applied first, per band [C]."""
    zero, one = np.zeros(len(contract.bands)), np.ones(len(contract.bands))
    if name == "zscore":
        return stats.mean, stats.std, None
    if name == "divide":
        return zero, one, None
    if name == "minmax":
        return stats.low, stats.high - stats.low, None
    if name == "percentile":
        pairs = tuple((float(a), float(b)) for a, b in zip(stats.p02, stats.p98, strict=True))
        return stats.p02, stats.p98 - stats.p02, pairs if all(a < b for a, b in pairs) else None
    mean, std = np.array([_imagenet(contract, band) for band in contract.bands]).T
    if contract.final_quantity.is_reflectance:
        return mean, std, None
    span = stats.high - stats.low
    return stats.low + mean * span, std * span, None


def _imagenet(contract: Preprocessing, band: str) -> tuple[float, float]:
    """Statistics of the channel of that colour; of a band of no colour, the mean over the three."""
    common = sensor(contract.sensor).band(band).common
    if common in _IMAGENET:
        return _IMAGENET[common]
    mean, std = np.mean(list(_IMAGENET.values()), axis=0)
    return float(mean), float(std)
