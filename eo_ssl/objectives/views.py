"""Views as a method declares them, the table of augmentations of its paper; `pretraining` makes them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from eo_ssl.errors import UserError, suggest_nearest

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
