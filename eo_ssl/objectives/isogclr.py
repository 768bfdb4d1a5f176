"""iSogCLR (Qiu et al. 2023, arXiv 2305.11965): contrast with a temperature of its own for each item."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from lightly.models.modules import SimCLRProjectionHead
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, seed_weights
from eo_ssl.objectives.base import Method
from eo_ssl.objectives.parts import gather
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.two_views import TwoViews, check_temperature, check_widths
from eo_ssl.objectives.views import ViewSpec

LARGEST_SLOPE = 3.0  # a temperature's slope is cut to it (authors' unimodal_exps/losses.py, SogCLR_DRO_Loss)


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class ISogClr(Method):
    """iSogCLR: two views of an item attract, others repel at a temperature that the item learns."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        # crop of the authors' unimodal_exps/main_supcon.py
        "tile": ViewSpec(count=2, crop=(0.2, 1.0), gain=0.2, noise=0.1)
    }

    gamma: float = 0.8
    """Share of the batch in an item's running mean (authors' unimodal_exps/readme.md, CIFAR-100)."""
    rho: float = 0.4
    """How far an item's weights may be from even ones: large for large temperatures (the same file)."""
    temperature: float = 0.1
    """Of every item at first (the same file)."""
    temperature_range: tuple[float, float] = (0.05, 1.0)
    """Least and largest temperature (authors' unimodal_exps/losses.py)."""
    rate: float = 0.03
    """Step of a temperature along its smoothed slope (readme.md)."""
    smoothing: float = 0.5
    """Share of the latest slope in the smoothed one (readme.md)."""
    hidden_dim: int = 512
    """Width of the projector's hidden layer."""
    output_dim: int = 128
    """Width of the projection (default of main_supcon.py)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "temperature_range", tuple(self.temperature_range))
        check_widths(hidden_dim=self.hidden_dim, output_dim=self.output_dim)
        check_temperature(self.temperature, usual=0.1)
        expect(
            len(self.temperature_range) == 2
            and 0 < self.temperature_range[0] <= self.temperature <= self.temperature_range[1],
            expected=f"temperature_range as an increasing pair above 0 around the temperature {self.temperature}",
            got=self.temperature_range,
            remedy="try (0.05, 1.0)",
        )
        for name in ("gamma", "smoothing"):
            value = getattr(self, name)
            expect(0 < value <= 1, expected=f"{name} above 0 and at most 1", got=value, remedy="give a share")
        for name in ("rho", "rate"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="raise it")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> ISogClrObjective:
        """Encoders, one for each stream, and the projector that they share; refuses encoders of different widths."""
        return ISogClrObjective(encoders, self, seed=seed)


class IndividualContrast(NamedTuple):
    """What a batch says about its items."""

    loss: Tensor
    """Scalar; its gradient is that of the objective, its value is not."""
    means: Tensor
    """[B], running means of the items' powers."""
    slopes: Tensor
    """[B], of the objective over the items' temperatures."""


class ISogClrObjective(TwoViews):
    """Views of other items repel, at the temperature of the item; three numbers for each item of the source."""

    by_row = True
    means: Tensor
    """[N], running mean of the powers of an item's similarities; 0 before it is first seen."""
    temperatures: Tensor
    """[N]."""
    velocities: Tensor
    """[N], smoothed slopes of the temperatures."""

    def __init__(self, encoders: Mapping[str, Backbone], method: ISogClr, *, seed: int = 0) -> None:
        """Build the projector, its weights drawn from `seed`; `prepare` makes room for the items."""
        super().__init__(encoders)
        self.method = method
        with seed_weights(seed):
            self.projector = SimCLRProjectionHead(self.encoder.dim, method.hidden_dim, method.output_dim)
        self.prepare(0)
        self._fresh: list[tuple[Tensor, IndividualContrast]] = []  # rows and findings since the latest step

    def prepare(self, items: int, *, rows: int | None = None) -> None:
        """Make room for every item of the source, each at the first temperature."""
        size = items if rows is None else rows
        self.register_buffer("means", torch.zeros(size))
        self.register_buffer("temperatures", torch.full((size,), self.method.temperature))
        self.register_buffer("velocities", torch.zeros(size))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """The contrast of the items of all processes, `loss`, and the mean of their temperatures.

        The gradient of `loss` is that of the objective; its value is a stand-in that can be negative.
        """
        # The projector normalises over both views together, as SimCLR's.
        similarity = compute_cosines(self.projector(torch.cat(self.encode(self.take_views(batch)))))  # [2B, 2B]
        rows = gather(batch.rows)  # [B] of all processes
        temperatures = self.temperatures[rows]
        found = compare_individually(similarity, means=self.means[rows], temperatures=temperatures, method=self.method)
        if self.training:
            self._fresh.append((rows, found._replace(loss=found.loss.detach())))
        return {"loss": found.loss, "temperature": temperatures.mean()}

    @torch.no_grad()
    def after_step(self, step: Step) -> None:
        """Keep the means of the step's items, and move their temperatures along the smoothed slopes."""
        method = self.method
        for rows, found in self._fresh:
            self.means[rows] = found.means.to(self.means)
            velocities = (1 - method.smoothing) * self.velocities[rows] + method.smoothing * found.slopes.to(self.means)
            self.velocities[rows] = velocities
            self.temperatures[rows] = (self.temperatures[rows] - method.rate * velocities).clamp(
                *method.temperature_range
            )
        self._fresh.clear()


@use_float32
def compute_cosines(vectors: Tensor) -> Tensor:
    """Cosine of every two of n vectors: [n, d] -> [n, n]."""
    unit = nn.functional.normalize(vectors, dim=1)
    return unit @ unit.T


def compare_individually(
    similarity: Tensor, *, means: Tensor, temperatures: Tensor, method: ISogClr
) -> IndividualContrast:
    """The contrast of two views of each item with those of the others, by the items' own temperatures.

    The objective of an item with temperature t is t log mean exp(s / t) - s+ + t rho, with its similarity s+ to its own
    other view and s to both views of the others; the inner mean is a running one (authors' unimodal_exps/losses.py,
    SogCLR_DRO_Loss). It begins at the batch's own where an item is first seen, as their branch for epoch 0 has it;
    their loop begins at epoch 1 and never takes that branch, so that their first means are gamma times as large.

    Args:
        similarity: [2B, 2B], cosines of all first views and then all second ones.
        means: [B], running means so far, 0 for an item that was not seen.
        temperatures: [B].
        method: its shares and weights.
    """
    batch = len(means)
    others = ~torch.eye(batch, dtype=torch.bool, device=similarity.device).repeat(2, 2)  # [2B, 2B]
    scaled = similarity.detach() / temperatures.repeat(2)[:, None]
    powers = scaled.exp() * others
    count = 2 * batch - 2
    now, before = powers.sum(dim=1) / count, means.repeat(2)
    running = torch.where(before > 0, (1 - method.gamma) * before + method.gamma * now, now)  # [2B]
    weights = powers / (running[:, None] * count)  # [2B, 2B]
    own = torch.cat([similarity.diagonal(batch), similarity.diagonal(-batch)])  # [2B]
    loss = 2 * ((weights * similarity).sum(dim=1) - own).mean()  # both views of an item add up
    slopes = running.log() + method.rho - (weights * scaled).sum(dim=1)
    both = slopes.reshape(2, batch).mean(dim=0).clamp(-LARGEST_SLOPE, LARGEST_SLOPE)
    return IndividualContrast(loss, running.reshape(2, batch).mean(dim=0), both)
