"""What an ingest is asked to make: everything that decides the bytes of a fragment, and nothing else."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

from eo_ssl.errors import UserError
from eo_ssl.tiling import Edge

Codec = Literal["lz4", "none", "zstd"]
Tiling = Literal["native", "grid"]
Method = Literal["nearest", "bilinear", "average"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IngestConfig:
    """How products become tiles."""

    size_px: int = 64
    "side of a tile in pixels"
    tiling: Tiling = "native"
    "windows of the product's own grid, or cells of the UTM zone's grid (resampled once)"
    edge: Edge = "drop"
    "what happens at the border: drop, shift (native only) or pad"
    min_valid: float = 0.9
    "least share of valid pixels of a tile, 0..1"
    max_cloud: float = 1.0
    "largest share of cloud among a tile's valid pixels, 0..1; below 1 the product needs a mask, and so with the others"
    max_shadow: float = 1.0
    max_snow: float = 1.0
    max_saturated: float = 1.0
    max_border_noise: float = 1.0
    "largest share of radar border noise among all pixels of a tile, 0..1"
    min_enl: float = 0.0
    "least equivalent number of looks of a radar tile; above 0 the product must be a power"
    codec: Codec = "lz4"
    bands: tuple[str, ...] | None = None
    "bands to keep, in this order; None keeps those of the card"
    gsd_m: float | None = None
    "pixel size of the grid tiling in metres; None takes the product's"
    resampling: Method = "bilinear"
    "how the grid tiling resamples images (masks and labels: nearest)"
    shares: tuple[float, float, float] = (0.8, 0.1, 0.1)
    "train, val and test share of the locations"
    seed: int = 0
    "of the split by location"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.size_px < 4:
            raise UserError(f"expected size_px of at least 4, got {self.size_px}; give the side of a tile in pixels")
        for name, options in (
            ("tiling", ("native", "grid")),
            ("edge", ("drop", "shift", "pad")),
            ("codec", ("lz4", "none", "zstd")),
        ):
            if getattr(self, name) not in options:
                raise UserError(
                    f"expected {name} to be one of {', '.join(options)}, got {getattr(self, name)!r}; correct it"
                )
        for name in ("min_valid", "max_cloud", "max_shadow", "max_snow", "max_saturated", "max_border_noise"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(
                    f"expected {name} between 0 and 1, got {getattr(self, name)}; give a share, not percent"
                )
        if not 0 <= self.min_enl < math.inf:
            raise UserError(
                f"expected min_enl of at least 0, got {self.min_enl}; give a number of looks, 0 for no limit"
            )
        if len(self.shares) != 3 or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-9:
            raise UserError(
                f"expected three shares (train, val, test) that add up to 1, got {self.shares}; correct them"
            )
        if self.tiling == "grid" and self.edge == "shift":
            raise UserError("expected edge drop or pad with tiling grid, got shift; cells of a fixed grid cannot shift")
        if self.gsd_m is not None and (self.tiling == "native" or self.gsd_m <= 0):
            raise UserError(
                f"expected gsd_m (> 0) only with tiling grid, got {self.gsd_m} with {self.tiling}; native tiles keep "
                "the product's pixels"
            )

    def to_json(self) -> dict[str, Any]:
        """Return plain values, as they enter fingerprints and manifests."""
        value = asdict(self)
        return {**value, "bands": None if self.bands is None else list(self.bands), "shares": list(self.shares)}
