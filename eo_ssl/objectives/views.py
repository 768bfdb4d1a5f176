"""Views as a method declares them, the table of augmentations of its paper; `pretraining` makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eo_ssl.errors import UserError, expect, suggest_nearest

OPTICAL = ("offset", "sun_deg", "haze", "mtf", "snr")
"""Changes of reflectance."""
RADAR = ("looks", "gain_db", "drift_db")
"""Changes of backscatter."""
PHYSICAL = (*OPTICAL, *RADAR, "drop_bands")

LARGEST = 8  # tile sides; a view holds up to 64 times the pixels of its tile


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ViewSpec:
    """A group of views of an item: how many, of what, what may change between the tile and what the encoder sees."""

    count: int = 1
    """Views of the group."""
    size: float = 1.0
    """Side of a view as a share of the tile's: 96/224 for local crops, above 1 for targets at finer scales."""
    stream: str = "tile"
    """What a view is made of: `tile` for all that the item holds, in turn; `s1`, `s2`, `a` or `b` of a pair; `season`
    for the dates of a place, in turn."""
    crop: tuple[float, float] | None = (0.2, 1.0)
    """Range of the share of the area that a random crop covers, resized to the view's size; None for no crop."""
    flips: bool = True
    """Mirror and turn by quarters: the eight symmetries of a square, an overhead view has no preferred one."""
    aligned: bool = False
    """The same crop and symmetry as the other aligned views of the item with the same place in their group."""
    gain: float = 0.0
    """Largest relative change of the radiometric gain, drawn for each band: 0.1 for 0.9 to 1.1 in linear units."""
    noise: float = 0.0
    """Standard deviation of added noise in units of the band's standard deviation over the corpus."""
    offset: float = 0.0
    """Reflectance: largest offset, drawn for each band on both sides of zero."""
    sun_deg: tuple[float, float] | None = None
    """Reflectance: range of solar zenith angles, degrees. Two are drawn for each tile, and all bands change by the
    ratio of their cosines (the cosine correction of GRASS GIS i.topo.corr, applied backwards); None for no change."""
    haze: float = 0.0
    """Reflectance: largest path reflectance at 0.55 um, drawn from zero on for each tile and added in every band; falls
    with the fourth power of the wavelength, as scattering by molecules does."""
    mtf: float = 1.0
    """Reflectance: least modulation transfer at the tile's Nyquist frequency of a Gaussian blur, drawn for each band up
    to 1, which is none."""
    snr: float | Mapping[str, float] | None = None
    """Reflectance: signal to noise of added noise where a pixel has its band's mean over the corpus: one number, or
    one for each band by name; None for no noise."""
    looks: float | None = None
    """Backscatter: number of looks of multiplied speckle, gamma with mean 1 and variance 1 / looks; None for none."""
    gain_db: float = 0.0
    """Backscatter: largest change of the gain, dB, drawn for each band on both sides of zero."""
    drift_db: float = 0.0
    """Backscatter: largest change from the first to the last column, dB, linear as over incidence angles (Makynen and
    Karvonen 2017: -0.24 dB per degree in HH), drawn for each band on both sides of zero."""
    drop_bands: float = 0.0
    """Chance of each band to be missing, which is then invalid everywhere; one measured band always stays."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "crop", None if self.crop is None else tuple(self.crop))
        if self.count < 1:
            raise UserError(
                f"expected at least one view in a group, got count {self.count}; leave out the group instead"
            )
        if not 0 < self.size <= LARGEST:
            raise UserError(
                f"expected the size of a view as a share of the tile's side, up to {LARGEST}, got {self.size}; try 0.5"
            )
        if self.crop is not None and not (len(self.crop) == 2 and 0 < self.crop[0] <= self.crop[1] <= 1):
            raise UserError(f"crop must be an increasing pair within 0 and 1, got {self.crop}: try (0.5, 1.0)")
        if not 0 <= self.gain < 1 or self.noise < 0:
            raise UserError(f"gain must lie in [0, 1) and noise be >= 0, got {self.gain} and {self.noise}: lower them")
        self._check_physical()

    def _check_physical(self) -> None:
        """Check the ranges of what acts in physical units."""
        sun = None if self.sun_deg is None else tuple(self.sun_deg)
        object.__setattr__(self, "sun_deg", sun)
        ratios = list(self.snr.values()) if isinstance(self.snr, Mapping) else [self.snr or 1.0]
        for name, right, wanted in (
            ("offset", 0 <= self.offset < 1, "within [0, 1)"),
            ("haze", 0 <= self.haze < 1, "within [0, 1)"),
            (
                "sun_deg",
                sun is None or (len(sun) == 2 and 0 <= sun[0] <= sun[1] < 90),
                "as an increasing pair within [0, 90)",
            ),
            ("mtf", 0 < self.mtf <= 1, "within (0, 1]"),
            ("snr", self.snr != 0 and bool(ratios) and min(ratios) > 0, "above 0"),
            ("looks", self.looks is None or self.looks > 0, "above 0"),
            ("gain_db", self.gain_db >= 0, "of at least 0"),
            ("drift_db", self.drift_db >= 0, "of at least 0"),
            ("drop_bands", 0 <= self.drop_bands < 1, "within [0, 1)"),
        ):
            expect(right, expected=f"{name} {wanted}", got=getattr(self, name), remedy="correct it, or leave it out")

    def list_changes(self, names: Sequence[str]) -> list[str]:
        """Those of the fields `names` that ask for a change."""
        return [name for name in names if getattr(self, name) != getattr(ViewSpec, name)]

    def size_px(self, tile_px: int) -> int:
        """Side of the view of a tile of `tile_px`, pixels."""
        return max(round(self.size * tile_px), 1)


def override_views(
    declared: Mapping[str, ViewSpec], changes: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, ViewSpec]:
    """The views of a method with the fields that a person changed, by the names of the groups.

    Args:
        declared: the method's table.
        changes: {group: {field: value}}; None for none.

    Raises:
        UserError: a group that the method does not have, a field that views do not have, a value out of range.
    """
    views = dict(declared)
    fields = [field.name for field in dataclasses.fields(ViewSpec)]
    for name, values in (changes or {}).items():
        if name not in views:
            raise UserError(f"expected views out of {', '.join(views)}, got '{name}'{suggest_nearest(name, views)}")
        for key in values:
            if key not in fields:
                raise UserError(
                    f"expected fields of a view ({', '.join(fields)}), got '{key}'{suggest_nearest(key, fields)}"
                )
        try:
            views[name] = dataclasses.replace(views[name], **values)
        except TypeError as error:
            raise UserError(
                f"expected numbers in the views of '{name}', got {dict(values)} ({error}); correct them"
            ) from error
    return views
