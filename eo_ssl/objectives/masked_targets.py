"""What methods share that hide patches behind a token and predict there what a formula makes of the whole image."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from eo_ssl.models import MaskableBackbone, View, require_maskable, seed_weights, take_patches
from eo_ssl.objectives.base import Objective
from eo_ssl.objectives.parts import mean_of_valid, take_only_view
from eo_ssl.objectives.step import Batch


class MaskedTargets(Objective):
    """Encode images with a token in place of hidden patches, predict the numbers that a formula gives these patches."""

    def __init__(self, encoder: MaskableBackbone, *, seed: int) -> None:
        """Hold the encoder and the token, drawn from `seed`."""
        super().__init__({"tile": encoder})
        self.grid, self.patch_px = encoder.grid, encoder.patch_px
        with seed_weights(seed):
            self.mask_token = nn.Parameter(torch.randn(encoder.dim) * 0.02)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean squared error of the known numbers of hidden patches, `loss`."""
        method = type(self).__name__.removesuffix("Objective")
        view = take_only_view(batch, require_maskable(self.encoder, method=method), method=method)
        device = view.image.device
        places, hidden = (x.to(device) for x in self.draw_parts(len(view), batch.step.generator()))  # [B, M, K]
        prediction = self.predict(view, places, hidden)  # [B, M, K, T]
        wanted, known = (
            take_patches(x, places.flatten(1)).reshape(prediction.shape) for x in self.measure_targets(view)
        )
        weight = (known & hidden[..., None]).to(prediction.dtype)
        return {"loss": mean_of_valid((prediction - wanted).square(), weight)}

    @abstractmethod
    def draw_parts(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """M parts of each image: raster indices of their patches [B, M, K] int64, and which are hidden, bool."""

    @abstractmethod
    def predict(self, view: View, places: Tensor, hidden: Tensor) -> Tensor:
        """What stands at every patch of every part, of T numbers: [B, M, K, T]."""

    @abstractmethod
    def measure_targets(self, view: View) -> tuple[Tensor, Tensor]:
        """The numbers of every patch of the image [B, N, T], without gradient, and whether each is known, bool."""
