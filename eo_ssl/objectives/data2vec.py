"""data2vec (Baevski et al. 2022, arXiv 2202.03555): tell a teacher's features of hidden patches from the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, MaskableBackbone, View, require_maskable, seed_weights
from eo_ssl.objectives.base import Method, Objective, Teacher, check_ramp, compute_momentum
from eo_ssl.objectives.beit_blocks import draw_beit_blocks
from eo_ssl.objectives.layer_targets import average_layers, check_layers, measure_spread
from eo_ssl.objectives.parts import find_seen, mean_of_valid, take_only_view
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Data2Vec(Method):
    """data2vec: a token stands for hidden patches, whose features a teacher that sees them gives.

    Numbers are those of the authors' command for ViT-B (README of facebookresearch/data2vec_vision, repeated in
    SSL4EO-S12) where nothing else is said.
    """

    views: ClassVar[Mapping[str, ViewSpec]] = {"tile": ViewSpec(crop=(0.2, 1.0))}  # script of SSL4EO-S12: crop_min 0.2

    mask_ratio: float = 0.6
    """Share of the patches that is hidden, in blocks; 120 of 196."""
    smallest_block: float = 0.08
    """Share of the patches that a block covers at least, while as many are missing; 16 of 196."""
    block_aspect: float = 0.3
    """Smallest height over width of a block, and width over height (BEiT's generator of masks)."""
    layers: int = 3
    """Last blocks whose mean is the target; 6 of 12 in the authors' command."""
    beta: float = 2.0
    """Distance up to which the loss is a square, in standard deviations of a feature."""
    momentum: tuple[float, float] = (0.999, 0.9998)
    """Share of itself that the teacher keeps at the beginning and from the end of the ramp on (fairseq,
    base_imagenet_d2v1.yaml; the authors' command, whose ema_start_at is 0, keeps the second throughout)."""
    momentum_ramp: float = 1.0
    """Share of the run over which it grows in a straight line (same file: all of it)."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "momentum", tuple(self.momentum))
        check_ramp(self.momentum, ramp=self.momentum_ramp)
        for name in ("mask_ratio", "smallest_block"):
            value = getattr(self, name)
            expect(0 < value < 1, expected=f"{name} between 0 and 1", got=value, remedy="give a share of the patches")
        expect(
            0 < self.block_aspect <= 1,
            expected="block_aspect above 0 and at most 1",
            got=self.block_aspect,
            remedy="try 0.3",
        )
        expect(self.beta > 0, expected="beta above 0", got=self.beta, remedy="try 2")
        expect(self.layers >= 1, expected="layers of at least 1", got=self.layers, remedy="raise it")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> Data2VecObjective:
        """Student, teacher and head; refuses a network that cannot hide patches or has too few blocks."""
        return Data2VecObjective(require_maskable(encoders["tile"], method="Data2Vec"), self, seed=seed)


class Data2VecObjective(Objective):
    """Encode all positions with a token in place of hidden patches, compare those with the teacher's whole view."""

    def __init__(self, encoder: MaskableBackbone, method: Data2Vec, *, seed: int = 0) -> None:
        """Build teacher, token and head, their weights drawn from `seed`, around `encoder`."""
        super().__init__({"tile": encoder})
        check_layers(encoder, method.layers)
        self.method, self.grid, self.patch_px = method, encoder.grid, encoder.patch_px
        rows, cols = encoder.grid
        self.n_hidden = int(rows * cols * method.mask_ratio)
        expect(
            self.n_hidden > 0,
            expected=f"a grid of which mask_ratio {method.mask_ratio} hides a patch",
            got=f"{rows} x {cols} patches",
            remedy="use smaller patches or larger tiles",
        )
        self.teacher = Teacher(encoder)
        with seed_weights(seed):
            self.head = nn.Linear(encoder.dim, encoder.dim)
            self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Smooth-L1 distance of the hidden patches' features, `loss`; patches without a valid pixel are left out.

        Beside it `target_spread` and `prediction_spread` over the patches: near 0 they have collapsed.
        """
        encoder = require_maskable(self.encoder, method="Data2Vec")
        view = take_only_view(batch, encoder, method="Data2Vec")
        hidden = self.draw_hidden(len(view), batch.step.generator()).to(view.image.device)  # [B, N]
        seen = find_seen(view, self.patch_px)  # [B, N]
        targets = self.compute_targets(view, seen)  # [B, N, D]
        prediction = self.head(encoder.masked(view, hidden, self.mask_token).patches).to(targets.dtype)  # [B, N, D]
        error = nn.functional.smooth_l1_loss(prediction, targets, reduction="none", beta=self.method.beta)
        return {
            "loss": mean_of_valid(error.mean(dim=2), (hidden & seen).to(error.dtype)),
            "target_spread": measure_spread(targets.flatten(0, 1)),
            "prediction_spread": measure_spread(prediction.flatten(0, 1)),
        }

    def draw_hidden(self, batch: int, rng: torch.Generator) -> Tensor:
        """Which patches of each tile are hidden: [B, N] bool."""
        method = self.method
        smallest = max(round(self.grid[0] * self.grid[1] * method.smallest_block), 1)
        wanted = torch.full((batch,), self.n_hidden)
        return draw_beit_blocks(self.grid, wanted, smallest=smallest, aspect=method.block_aspect, rng=rng)

    @torch.no_grad()
    def compute_targets(self, view: View, seen: Tensor) -> Tensor:
        """Mean of what the teacher's last blocks make of each patch of the whole view: [B, N, D]."""
        layers = self.teacher.network.layers(view, last=self.method.layers, part="block")
        return average_layers(layers, seen, norm="layer")

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along its ramp."""
        momentum = compute_momentum(step, self.method.momentum, ramp=self.method.momentum_ramp)
        self.teacher.follow(self.encoder, momentum=momentum)
