"""A network that turns longitude and latitude into a vector, from waves of many lengths over the sphere."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models.backbone import seed_weights


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class LocationModel:
    """Waves over the coordinates and one hidden layer (CSP, Mai et al. 2023, arXiv 2305.01118)."""

    waves: Literal["sphere", "grid"] = "sphere"
    """Over the three coordinates on the sphere, alike everywhere (ours), or over longitude and latitude as in CSP, for
    which both sides of the antimeridian lie apart."""
    frequencies: int = 32
    """Wave lengths in a geometric series (run-fmow-contsoftmax.sh of gengchenmai/csp)."""
    range_deg: tuple[float, float] = (0.1, 360.0)
    """Shortest and longest of them over 2 pi, degrees of arc (the same script)."""
    hidden_dim: int = 512
    """Width of the hidden layer (the same script)."""
    output_dim: int = 256
    """Length of the vector of a place."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "range_deg", tuple(self.range_deg))
        expect(
            self.waves in ("sphere", "grid"),
            expected="waves out of sphere, grid",
            got=repr(self.waves),
            remedy="choose one",
        )
        for name, least in (("frequencies", 2), ("hidden_dim", 1), ("output_dim", 1)):
            value = getattr(self, name)
            expect(value >= least, expected=f"{name} of at least {least}", got=value, remedy="raise it")
        expect(
            len(self.range_deg) == 2 and 0 < self.range_deg[0] < self.range_deg[1],
            expected="range_deg as an increasing pair above 0",
            got=self.range_deg,
            remedy="try (0.1, 360.0)",
        )

    def build(self, seed: int) -> LocationEncoder:
        """The network with weights drawn from `seed`."""
        with seed_weights(seed):
            return LocationEncoder(self)


class LocationEncoder(nn.Module):
    """Vectors of places."""

    frequencies: Tensor
    """[F] float32, per degree."""

    def __init__(self, model: LocationModel) -> None:
        """Build it; `LocationModel.build` draws its weights from a seed."""
        super().__init__()
        self.model = model
        exponents = torch.arange(model.frequencies, dtype=torch.float64) / (model.frequencies - 1)
        shortest, longest = model.range_deg
        lengths = shortest * (longest / shortest) ** exponents  # [F]
        self.register_buffer("frequencies", (1 / lengths).float(), persistent=False)
        axes = 3 if model.waves == "sphere" else 2
        self.hidden = nn.Linear(2 * axes * model.frequencies, model.hidden_dim)
        self.head = nn.Linear(model.hidden_dim, model.output_dim)

    def forward(self, lonlat: Tensor, keep: Tensor | None = None) -> Tensor:
        """Vectors of length 1 of places: [n, output_dim].

        Args:
            lonlat: [n, 2] float32, longitude and latitude, degrees.
            keep: [n, hidden_dim], what each hidden value is multiplied by; None for 1.
        """
        if self.model.waves == "sphere":
            coordinates = torch.rad2deg(place_on_sphere(lonlat))  # degrees of arc
        else:
            coordinates = lonlat
        phases = (coordinates[:, :, None] * self.frequencies).flatten(1)  # [n, axes * F]
        waves = torch.cat([phases.sin(), phases.cos()], dim=1).to(self.hidden.weight.dtype)
        hidden = nn.functional.gelu(self.hidden(waves))
        return nn.functional.normalize(self.head(hidden if keep is None else hidden * keep), dim=1)

    @torch.no_grad()
    def embed(self, lonlat: npt.ArrayLike) -> npt.NDArray[np.float32]:
        """Vectors of length 1 of places: [n, output_dim] float32; NaN for NaN.

        Args:
            lonlat: [n, 2], longitude and latitude, degrees.

        Raises:
            UserError: another shape, or what lies outside of -180 to 360 and -90 to 90 degrees.
        """
        values = np.asarray(lonlat, dtype=np.float32)
        low, high = np.array([[-180, -90], [360, 90]], dtype=np.float32)
        expect(
            values.ndim == 2 and values.shape[1] == 2 and not ((values < low) | (values > high)).any(),
            expected="longitudes and latitudes in degrees, [n, 2]",
            got=f"shape {values.shape}" if values.ndim != 2 or values.shape[1] != 2 else "values outside of the Earth",
            remedy="give pairs such as [[11.6, 48.1]]",
        )
        lon, lat = values.T
        west = np.stack([np.where(lon > 180, lon - 360, lon), lat], axis=1)  # as training has them
        vectors: npt.NDArray[np.float32] = self(torch.from_numpy(west)).float().numpy()
        return vectors


def place_on_sphere(lonlat: Tensor) -> Tensor:
    """Points on the sphere of radius 1 for longitude and latitude in degrees: [n, 2] -> [n, 3]."""
    lon, lat = torch.deg2rad(lonlat).unbind(dim=1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1)
