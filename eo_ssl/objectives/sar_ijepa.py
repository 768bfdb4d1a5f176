"""I-JEPA for radar with gradients beside the teacher's features: an experiment of this project, of no paper."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from eo_ssl.models import Backbone, MaskableBackbone, require_maskable, take_patches
from eo_ssl.objectives.ijepa import IJepa, IJepaObjective
from eo_ssl.objectives.mae import normalise_patches
from eo_ssl.objectives.parts import mean_of_valid
from eo_ssl.objectives.ratio_gradients import RatioGradients, compute_gradient_patches
from eo_ssl.objectives.step import Batch
from eo_ssl.preprocessing import Preprocessing, require_backscatter


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class SarIJepa(IJepa):
    """Experimental: I-JEPA whose targets are the teacher's features and the ratio gradients of a radar image."""

    gradients: RatioGradients = field(default_factory=RatioGradients)
    """Scales and windows of the ratio gradients."""

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> SarIJepaObjective:
        """Student, teacher and predictor; refuses a network that cannot leave out patches."""
        return SarIJepaObjective(require_maskable(encoders["tile"], method="SarIJepa"), self, seed=seed)


class SarIJepaObjective(IJepaObjective):
    """Predict the teacher's features of target blocks and the gradients there, each normalised by itself."""

    def __init__(self, encoder: MaskableBackbone, method: SarIJepa, *, seed: int = 0) -> None:
        """Build teacher and predictor, its weights drawn from `seed`, around `encoder`."""
        method.gradients.check_size(encoder.config.size_px)
        numbers = len(encoder.bands) * len(method.gradients.scales) * encoder.patch_px**2
        super().__init__(encoder, method, seed=seed, beside=numbers)
        self.gradients, self.numbers = method.gradients, numbers
        self.contract: Preprocessing | None = None

    def accept(self, contracts: Mapping[str, Preprocessing]) -> None:
        """Learn what the values of the stream mean.

        Raises:
            UserError: a stream that is no radar's.
        """
        require_backscatter(contracts["tile"], method="SarIJepa")
        self.contract = contracts["tile"]

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Smooth-L1 distance of all predicted numbers, `loss`; of the `features` and of the `gradients` alone.

        A gradient counts where its window touches no missing pixel; those of a patch are normalised together.
        """
        view, targets, prediction = self.predict(batch)  # prediction [B, n, T, D + G]
        guess, edges = prediction[..., : -self.numbers], prediction[..., -self.numbers :]
        features = self.compare_features(view, targets, guess)
        made, known = (
            take_patches(x, targets.flatten(1))[:, :, None]  # [B, n*T, 1, G]
            for x in compute_gradient_patches(view, self.contract, self.gradients, patch_px=self.patch_px)
        )
        wanted = normalise_patches(made, known, norm="patch").reshape(edges.shape)
        error = nn.functional.smooth_l1_loss(edges, wanted, reduction="none")
        gradients = mean_of_valid(error, known.reshape(edges.shape).to(error.dtype))
        share = self.numbers / prediction.shape[3]
        return {"loss": (1 - share) * features + share * gradients, "features": features, "gradients": gradients}
