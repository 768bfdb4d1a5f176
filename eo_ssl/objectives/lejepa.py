"""LeJEPA (Balestriero and LeCun 2025, arXiv 2511.08544): views near the mean of the large ones, items as a Gaussian."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from lightly.models.modules.heads import ProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method, Objective, list_encoders
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch
from eo_ssl.objectives.two_views import OF_A_VIEW, check_one_width, check_several, check_widths, encode_views
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class LeJepa(Method):
    """LeJEPA: every view comes close to the mean of the large ones, and all items lie as a standard Gaussian does."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # areas of the authors' README.md; its six local views have 98 of 224 pixels
        "global": ViewSpec(count=2, crop=(0.3, 1.0), gain=0.2, noise=0.1),
        "local": ViewSpec(count=4, size=0.5, crop=(0.05, 0.3), gain=0.2, noise=0.1),
    }

    weight: float = 0.05
    """Share of the Gaussian term in the loss (default of lightly's LeJEPALoss; 0.02 in the authors' MINIMAL.md)."""
    directions: int = 256
    """Random lines on which the Gaussian is looked for in a step (MINIMAL.md); 1024 in README.md."""
    knots: int = 17
    """Frequencies at which it is (README.md)."""
    largest_frequency: float = 3.0
    """The last of them (lejepa/univariate/epps_pulley.py)."""
    hidden_dim: int = 512
    """Width of the projector's two hidden layers; 2048 in MINIMAL.md."""
    output_dim: int = 64
    """Width of the projection; 16 and 128 in MINIMAL.md."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_widths(directions=self.directions, hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        expect(0 < self.weight < 1, expected="weight within 0 and 1", got=self.weight, remedy="try 0.05")
        expect(self.knots >= 2, expected="knots of at least 2", got=self.knots, remedy="try 17")
        expect(
            self.largest_frequency > 0,
            expected="largest_frequency above 0",
            got=self.largest_frequency,
            remedy="try 3.0",
        )

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> LeJepaObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return LeJepaObjective(encoders, self, seed=seed)


class LeJepaObjective(Objective):
    """Distance of all views from the mean of the large ones, and of the items from a Gaussian; no teacher."""

    told = OF_A_VIEW

    def __init__(self, encoders: Mapping[str, Backbone], method: LeJepa, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`, behind `encoders`."""
        super().__init__(encoders)
        check_one_width(encoders)
        self.method = method
        widths = (self.encoder.dim, method.hidden_dim, method.hidden_dim, method.output_dim)
        with seed_weights(seed):
            self.projector = ProjectionHead(
                [
                    (widths[0], widths[1], nn.BatchNorm1d(widths[1]), nn.ReLU()),
                    (widths[1], widths[2], nn.BatchNorm1d(widths[2]), nn.ReLU()),
                    (widths[2], widths[3], None, None),
                ]
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The weighted mean of both terms over the batches of all processes, `loss`, and each by its name.

        `distance` is the mean square between every view and the mean of the large ones; `sigreg` the mean over views of
        `compare_with_gaussian`, about 1 for a Gaussian and in proportion to the batch where all items are one.

        Raises:
            UserError: fewer than two views of each item, or a batch of one item.
        """
        views = batch.all_views()
        expect(
            len(views) >= 2,
            expected="at least two views of each item for LeJepa",
            got=len(views),
            remedy="raise the count of its views",
        )
        check_several(views[0])
        groups = {name: encode_views(group, list_encoders(self.encoders)) for name, group in batch.views.items()}
        features = [gather(x) for group in groups.values() for x in group]  # [B, D] each, of all processes
        # The projector normalises over all views together (MINIMAL.md).
        vectors = self.projector(torch.cat(features)).reshape(len(features), len(features[0]), -1)  # [V, B, d]
        large = torch.tensor([name == "global" for name, group in groups.items() for _ in group])
        return self.compare(vectors, large.to(vectors.device), self.draw_directions(batch).to(vectors.device))

    @use_float32
    def compare(self, vectors: Tensor, large: Tensor, directions: Tensor) -> dict[str, Tensor]:
        """What `forward` gives, from projections [V, B, d], which views are large [V] bool, and directions [d, K]."""
        method = self.method
        distance = (vectors - vectors[large].mean(dim=0)).square().mean()
        values = vectors @ directions.to(vectors)  # [V, B, K]
        sigreg = compare_with_gaussian(values, knots=method.knots, largest=method.largest_frequency).mean()
        loss = method.weight * sigreg + (1 - method.weight) * distance
        return {"loss": loss, "distance": distance.detach(), "sigreg": sigreg.detach()}

    def draw_directions(self, batch: Batch) -> Tensor:
        """Directions of length 1 on which the batch is looked at, evenly over the sphere: [d, K] float32.

        Each process draws its own and sees the items of all: together they look along as many more lines.
        """
        drawn = torch.randn(self.method.output_dim, self.method.directions, generator=batch.step.generator())
        return nn.functional.normalize(drawn, dim=0)


def compare_with_gaussian(values: Tensor, *, knots: int, largest: float) -> Tensor:
    """Distance of samples from the standard normal distribution by the test of Epps and Pulley (1983): [...].

    n times the integral, over frequencies t from -`largest` to `largest`, of |mean exp(itx) - exp(-t^2 / 2)|^2 with the
    weight exp(-t^2 / 2), by trapezoids over half of the range, which is even (authors' lejepa/univariate/
    epps_pulley.py). Its mean is the same for every number of samples of that distribution, about 1.

    Args:
        values: [..., n, K], n samples on each of K lines, over which the distance is averaged.
        knots: frequencies from 0 on, at least 2.
        largest: of them.
    """
    frequencies = torch.linspace(0, largest, knots, device=values.device, dtype=values.dtype)
    wanted = torch.exp(-frequencies.square() / 2)
    phases = values[..., None] * frequencies  # [..., n, K, knots]
    errors = (phases.cos().mean(dim=-3) - wanted).square() + phases.sin().mean(dim=-3).square()  # [..., K, knots]
    distance: Tensor = 2 * values.shape[-2] * torch.trapezoid(errors * wanted, frequencies, dim=-1).mean(dim=-1)
    return distance
