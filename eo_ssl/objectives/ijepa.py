"""I-JEPA (Assran et al. 2023, arXiv 2301.08243): predict a teacher's features of hidden blocks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import torch
from torch import Tensor, nn

from eo_ssl.models import Backbone, MaskableBackbone, View, require_maskable, seed_weights, take_patches
from eo_ssl.objectives.base import Method, Objective, Teacher, check_momentum
from eo_ssl.objectives.block_masks import BlockMaskConfig, draw_blocks
from eo_ssl.objectives.parts import Predictor, check_narrow, find_seen, mean_of_valid, take_only_view
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class IJepa(Method):
    """I-JEPA: encode a context block, predict the teacher's features of target blocks."""

    views: ClassVar[Mapping[str, ViewSpec]] = {
        "tile": ViewSpec(crop=(0.3, 1.0), flips=False)  # released code of Assran et al. 2023: crop alone
    }

    predictor_dim: int = 96
    """Width of the predictor, a multiple of 4 and of predictor_heads."""
    predictor_depth: int = 2
    """Blocks of the predictor."""
    predictor_heads: int = 3
    """Attention heads of the predictor."""
    momentum: float = 0.996
    """Share of itself that the teacher keeps at the first step; grows linearly to its end (appendix A.1)."""
    momentum_end: float = 1.0
    """That share at the end; an infinite schedule needs one below 1, or its teacher would stand still."""
    masks: BlockMaskConfig = field(default_factory=BlockMaskConfig)
    """Sizes of context and target blocks."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_momentum(self.momentum)
        check_momentum(self.momentum_end)
        check_narrow("predictor", width=self.predictor_dim, depth=self.predictor_depth, heads=self.predictor_heads)

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> IJepaObjective:
        """Student, teacher and predictor; refuses a network that cannot leave out patches."""
        return IJepaObjective(require_maskable(encoders["tile"], method="IJepa"), self, seed=seed)


class IJepaObjective(Objective):
    """Encode a context block without the targets, predict the teacher's features of the targets.

    The class token joins the context, so that it is trained too; the teacher sees the whole tile.
    """

    def __init__(self, encoder: MaskableBackbone, method: IJepa, *, seed: int = 0, beside: int = 0) -> None:
        """Build teacher and predictor, its weights drawn from `seed`; it says `beside` more numbers of a patch."""
        super().__init__({"tile": encoder})
        self.method, self.grid, self.patch_px = method, encoder.grid, encoder.patch_px
        self.teacher = Teacher(encoder)
        with seed_weights(seed):
            self.predictor = Predictor(
                encoder.dim,
                encoder.grid,
                width=method.predictor_dim,
                depth=method.predictor_depth,
                heads=method.predictor_heads,
                out=encoder.dim + beside,
            )

    @property
    def embedders(self) -> Mapping[str, Backbone]:
        """The EMA teacher (Assran et al. 2023, appendix A.1, evaluate the target encoder)."""
        return {"tile": self.teacher.network}

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Smooth-L1 distance of predicted and teacher features, `loss`; patches without a valid pixel are left out."""
        return {"loss": self.compare_features(*self.predict(batch))}

    def predict(self, batch: Batch) -> tuple[View, Tensor, Tensor]:
        """The view, the patches of its target blocks [B, n, T] int64, and what is predicted of them [B, n, T, D]."""
        method = type(self).__name__.removesuffix("Objective")
        encoder = require_maskable(self.encoder, method=method)
        view = take_only_view(batch, encoder, method=method)
        device = view.image.device
        context, targets = draw_blocks(self.grid, len(view), config=self.method.masks, rng=batch.step.generator())
        context, targets = context.to(device), targets.to(device)  # [B, K], [B, n, T]
        return view, targets, self.predictor(encoder.visible(view, context), context, targets)

    def compare_features(self, view: View, targets: Tensor, prediction: Tensor) -> Tensor:
        """Smooth-L1 distance of predicted features [B, n, T, D] to the teacher's, of patches with a valid pixel."""
        seen = find_seen(view, self.patch_px)  # [B, N]
        wanted = take_patches(self.target_features(view), targets.flatten(1)).reshape(prediction.shape)  # [B, n, T, D]
        weight = take_patches(seen, targets.flatten(1)).reshape(targets.shape).to(prediction.dtype)  # [B, n, T]
        return compute_feature_loss(prediction, wanted, weight)

    @torch.no_grad()
    def target_features(self, view: View) -> Tensor:
        """Teacher's patch features, each normalised over its channels: [B, N, D]."""
        patches = self.teacher.network.forward(view).patches  # [B, N, D]
        return nn.functional.layer_norm(patches, patches.shape[-1:])

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum linear in steps from its start to its end."""
        self.teacher.follow(self.encoder, momentum=step.linear(self.method.momentum, self.method.momentum_end))


@use_float32
def compute_feature_loss(prediction: Tensor, wanted: Tensor, weight: Tensor) -> Tensor:
    """Smooth-L1 with beta 1 (released code of Assran et al. 2023), mean over weighted patches and channels.

    Args:
        prediction: [B, n, T, D].
        wanted: [B, n, T, D], no gradient.
        weight: [B, n, T], 1 for patches that count, 0 else.

    Returns:
        Scalar; zero when no patch counts.
    """
    error = nn.functional.smooth_l1_loss(prediction, wanted, reduction="none").mean(dim=3)  # [B, n, T]
    return mean_of_valid(error, weight)
