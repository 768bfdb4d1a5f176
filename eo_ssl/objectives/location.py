"""CSP (Mai et al. 2023, arXiv 2305.01118) beside any objective: images and the places they show find each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, LocationEncoder, LocationModel, SensorFusion, View, place_on_sphere, seed_weights
from eo_ssl.objectives.base import Objective, list_encoders
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step, derive_seed
from eo_ssl.objectives.two_views import OF_A_VIEW, check_temperature

EARTH_RADIUS_KM = 6371.0  # mean radius
LOCATION_STREAM = 1000  # first stream of random numbers of the term: those of objectives are below


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Location:
    """A term that any objective takes: an image and its place attract, those of other places repel."""

    weight: float = 1.0
    """Of the term beside the objective's loss."""
    temperature: float = 0.1
    """Of the cosines; run-fmow-contsoftmax.sh of gengchenmai/csp has 20 within the batch, which hardly tells places
    apart, and 1 for random places and for a place with itself."""
    random_places: int = 1
    """Places anywhere on Earth, for each item, that its image is told from (the same script)."""
    random_weight: float = 1.0
    """Of that comparison (the same script)."""
    dropout: float = 0.5
    """Share of hidden values dropped where a place is compared with itself (main/module.py)."""
    dropout_weight: float = 1.0
    """Of that comparison (the same script)."""
    apart_km: float = 10.0
    """Items nearer to each other do not repel: dates of one place, and places that the shortest waves hardly part."""
    model: LocationModel = LocationModel()  # noqa: RUF009  (frozen)
    """The network of places."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_temperature(self.temperature, usual=0.1)
        expect(self.weight > 0, expected="weight above 0", got=self.weight, remedy="leave location out instead")
        expect(0 <= self.dropout < 1, expected="dropout within 0 and 1", got=self.dropout, remedy="try 0.5")
        for name in ("random_places", "random_weight", "dropout_weight", "apart_km"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="raise it")

    def wrap(self, objective: Objective, seed: int) -> LocatedObjective:
        """The objective with the term beside its own.

        Args:
            objective: any.
            seed: of the initial weights of what the term adds.
        """
        return LocatedObjective(objective, self, seed=seed)


class LocatedObjective(Objective):
    """An objective, and beside it the contrast of each stream's first view with its place.

    The view is encoded once more for it, whole: that costs a pass of the encoder in each step.
    """

    def __init__(self, inner: Objective, location: Location, *, seed: int) -> None:
        """Build the network of places and a linear map of image features for each stream."""
        super().__init__(list_encoders(inner.encoders))
        self.inner, self.location = inner, location
        self.channels_differ, self.by_row = inner.channels_differ, inner.by_row
        self.told = tuple(kind for kind in inner.told if kind in OF_A_VIEW)  # a date can give away a place
        self.places = location.model.build(seed)
        with seed_weights(derive_seed(seed, 1)):
            maps = {stream: nn.Linear(encoder.dim, location.model.output_dim) for stream, encoder in self._students()}
        self.images = nn.ModuleDict(maps)

    def _students(self) -> list[tuple[str, Backbone]]:
        return list(list_encoders(self.encoders).items())

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """Those of the objective."""
        return self.inner.embedders

    @property
    def fused(self) -> SensorFusion | None:
        """That of the objective."""
        return self.inner.fused

    @property
    def inputs(self) -> dict[str, str]:
        """Those of the objective."""
        return self.inner.inputs

    @property
    def licences(self) -> list[dict[str, Any]]:
        """Those of the objective."""
        return self.inner.licences

    def prepare(self, items: int, *, rows: int | None = None) -> None:
        """Prepare the objective."""
        self.inner.prepare(items, rows=rows)

    def after_step(self, step: Step) -> None:
        """Update the objective."""
        self.inner.after_step(step)

    def project(self, features: Tensor) -> Tensor | None:
        """What the objective compares."""
        return self.inner.project(features)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The objective's results with the weighted term in `loss`, and the term itself as `location`."""
        results = self.inner(batch)
        first: dict[str, View] = {}
        for view in batch.all_views():
            first.setdefault(view.stream, view)
        terms = [
            self._compare(view, batch.step.generator(LOCATION_STREAM + place))
            for place, view in enumerate(first.values())
        ]
        term = torch.stack(terms).mean()
        return {**results, "loss": results["loss"] + self.location.weight * term, "location": term.detach()}

    def _compare(self, view: View, rng: torch.Generator) -> Tensor:
        """The term of one stream over the batches of all processes; 0 where no item's place is known."""
        encoder = list_encoders(self.encoders)[view.stream]
        features = encoder(view).pooled
        images = gather(use_float32(nn.functional.normalize)(self.images[view.stream](features), dim=1))  # [B, D]
        unknown = images.new_full((len(view), 2), torch.nan)
        lonlat = gather(unknown if view.lonlat is None else view.lonlat)  # [B, 2]
        return compare_places(images, lonlat, self.places, location=self.location, rng=rng)


@use_float32
def compare_places(
    images: Tensor, lonlat: Tensor, places: LocationEncoder, *, location: Location, rng: torch.Generator
) -> Tensor:
    """The loss `contsoftmaxsym` of gengchenmai/csp (main/losses.py): scalar.

    The sum of four mean cross-entropies over the items whose place is known: a place finds its image among those of the
    batch, an image its place, an image its place among random ones, and a place itself, its vector made with other
    hidden values dropped.

    Args:
        images: [B, D], of length 1.
        lonlat: [B, 2], degrees; NaN where unknown.
        places: turns [n, 2] and factors of the hidden values into [n, D].
        location: its numbers.
        rng: of random places and of what is dropped.
    """
    known = lonlat.isfinite().all(dim=1)  # [B]
    lonlat = torch.where(known[:, None], lonlat, lonlat.new_zeros(()))
    compared = find_apart(lonlat, km=location.apart_km) & known  # [B, B]
    compared = compared | torch.eye(len(known), dtype=torch.bool, device=known.device)
    count = known.sum().clamp(min=1)

    def match(cosines: Tensor) -> Tensor:
        """Mean over known items of the cross-entropy of what stands on the diagonal of [B, B]."""
        shares = (cosines / location.temperature).masked_fill(~compared, -torch.inf).log_softmax(dim=1)
        return -(shares.diagonal() * known).sum() / count

    at = places(lonlat)  # [B, D]
    cosines = at @ images.T
    loss = match(cosines) + match(cosines.T)
    if location.random_places:
        elsewhere = draw_places(len(images) * location.random_places, rng).to(lonlat)
        others = places(elsewhere).reshape(len(images), location.random_places, -1)  # [B, n, D]
        scores = torch.cat([(images * at).sum(dim=1)[:, None], (others @ images[:, :, None])[:, :, 0]], dim=1)
        shares = (scores / location.temperature).log_softmax(dim=1)  # [B, 1 + n]
        loss = loss - location.random_weight * (shares[:, 0] * known).sum() / count
    if location.dropout_weight:
        shape = (2, len(images), location.model.hidden_dim)
        keep = ((torch.rand(shape, generator=rng) >= location.dropout) / (1 - location.dropout)).to(at)
        loss = loss + location.dropout_weight * match(places(lonlat, keep[0]) @ places(lonlat, keep[1]).T)
    return loss


def find_apart(lonlat: Tensor, *, km: float) -> Tensor:
    """Whether two places are at least `km` apart, along a straight line: [B, 2] degrees -> [B, B] bool."""
    points = place_on_sphere(lonlat.double())
    chord = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist")  # exact for near ones
    return chord * EARTH_RADIUS_KM >= km


def draw_places(n: int, rng: torch.Generator) -> Tensor:
    """Places evenly over the sphere: [n, 2] float32, longitude and latitude, degrees."""
    drawn = torch.rand(n, 2, generator=rng)
    return torch.stack([360 * drawn[:, 0] - 180, torch.rad2deg((2 * drawn[:, 1] - 1).asin())], dim=1)
