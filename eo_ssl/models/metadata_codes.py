"""Codes of what is known of an image beside its pixels, added to its tokens: season, place, pixel size, incidence.

Prithvi-EO-2.0 (Szwarcman et al. 2024, arXiv 2412.02732; `prithvi_mae.py`) and Copernicus-FM (`models_mae_cfm.py` of
zhu-xlab/Copernicus-FM) add waves of such numbers to the patch tokens too. Here a code is periodic where what it stands
for is, and one that is unknown is zero, of its image alone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.image_metadata import COLUMNS, MetadataKind, list_columns
from eo_ssl.models.backbone import Architecture, seed_weights
from eo_ssl.models.location_encoder import place_on_sphere

YEAR_DAYS = 365.2425
"""Mean length of a calendar year."""
SEASON_PERIODS = (YEAR_DAYS, YEAR_DAYS / 2)
"""Days: the year and its half; ours. 31 December lies beside 1 January, and a year is like another."""
PLACE_PERIODS = (4.0, 2.0, 1.0, 0.5)
"""Of the three coordinates on the sphere, Earth radii; ours. The shortest is 3,200 km: climate and continent, which
tiles of one region share, and no address."""
GSD_PERIODS = (16.0, 8.0, 4.0, 2.0)
"""Of ln(pixel size in m): 0.1 m to 100 km lie within the longest; ours."""
INCIDENCE_PERIODS = (180.0, 90.0, 45.0)
"""Degrees; ours."""
METADATA_FIELDS = ("metadata", "metadata_drop")
"""Of an architecture, and of an encoder's file where there is metadata."""
DROP_SEED = 1 << 33
"""Added to the seed of a view, which other parts of a network may draw from too."""


def encode_metadata(metadata: Tensor, kinds: Sequence[MetadataKind]) -> Tensor:
    """Codes of images, [n, F] float64: for each kind 1, then sine and cosine of its phases; zeros where it is unknown.

    Args:
        metadata: [n, 5], columns as `image_metadata` has them; not finite where unknown.
        kinds: in order.
    """
    parts = [metadata.new_zeros(len(metadata), 0, dtype=torch.float64)]
    for kind in kinds:
        values = metadata[:, list(COLUMNS[kind])].double()  # [n, 1] or [n, 2]
        known = values.isfinite().all(dim=1, keepdim=True)
        phases = _PHASES[kind](torch.where(known, values, 1.0))  # [n, P]
        code = torch.cat([torch.ones_like(values[:, :1]), phases.sin(), phases.cos()], dim=1)
        parts.append(torch.where(known, code, 0.0))
    return torch.cat(parts, dim=1)


def _turn(values: Tensor, periods: Sequence[float]) -> Tensor:
    """Phases of values [n, k] in waves of some periods: [n, k * periods], radians."""
    waves = torch.tensor(periods, dtype=values.dtype, device=values.device)
    return (2 * math.pi * values[:, :, None] / waves).flatten(1)


def _turn_place(lonlat: Tensor) -> Tensor:
    """Phases of places [n, 2], degrees: equal on both sides of the antimeridian, and at a pole for every longitude."""
    within = torch.stack([lonlat[:, 0].remainder(360), lonlat[:, 1]], dim=1)
    return _turn(place_on_sphere(within), PLACE_PERIODS)


_PHASES: dict[MetadataKind, Callable[[Tensor], Tensor]] = {
    "time": lambda days: _turn(days, SEASON_PERIODS),
    "place": _turn_place,
    "gsd": lambda metres: _turn(metres.log(), GSD_PERIODS),
    "incidence": lambda degrees: _turn(degrees, INCIDENCE_PERIODS),
}


class MetadataEmbed(nn.Linear):
    """A vector for each image, which is added to its patch tokens: linear in the codes of its metadata.

    The weights begin as zeros. Where nothing is known the vector is zero, so the network is the one without.
    """

    def __init__(self, kinds: Sequence[MetadataKind], dim: int, *, drop: float) -> None:
        """Build it for tokens of `dim` channels; in training each kind of each image is unknown with chance `drop`."""
        super().__init__(encode_metadata(torch.full((1, 5), torch.nan), kinds).shape[1], dim, bias=False)
        self.kinds, self.drop = tuple(kinds), drop
        nn.init.zeros_(self.weight)

    def forward(self, metadata: Tensor, seed: int | None = None) -> Tensor:
        """Vectors of images: [n, 5] -> [n, D]; with a `seed`, in training, of what is left after some were dropped."""
        if self.training and seed is not None and self.drop:
            metadata = self._forget(metadata, torch.Generator().manual_seed(seed + DROP_SEED))
        codes = encode_metadata(metadata.to(self.weight.device), self.kinds)
        vectors: Tensor = super().forward(codes.to(self.weight.dtype))
        return vectors

    def _forget(self, metadata: Tensor, rng: torch.Generator) -> Tensor:
        """The metadata without what is dropped."""
        dropped = (torch.rand(len(metadata), len(self.kinds), generator=rng) < self.drop).to(metadata.device)
        kept = metadata.clone()
        for place, kind in enumerate(self.kinds):
            columns = list_columns((kind,))
            kept[:, columns] = torch.where(dropped[:, place : place + 1], torch.nan, kept[:, columns])
        return kept


def attach_metadata(network: nn.Module, model: Architecture, *, seed: int) -> None:
    """Give the network what encodes the metadata of an architecture, if any; its other weights stay as they are."""
    if model.metadata:
        with seed_weights(seed):  # what torch draws before the weights are zeroed moves nothing
            width, drop = cast(int, network.embed_dim), cast(float, getattr(model, METADATA_FIELDS[1]))
            network.metadata_embed = MetadataEmbed(model.metadata, width, drop=drop)


def write_metadata(model: Architecture) -> dict[str, Any]:
    """Fields of an encoder's file: nothing, as in earlier versions, for one that is told nothing."""
    return {name: getattr(model, name) for name in METADATA_FIELDS} if model.metadata else {}


def check_drop(share: float) -> None:
    """Refuse a chance of metadata to be unknown that would let nothing be learned of it.

    Raises:
        UserError: naming metadata_drop.
    """
    expect(0 <= share < 1, expected="metadata_drop of at least 0 and below 1", got=share, remedy="try 0.2")
