"""data2vec 2.0 (Baevski et al. 2023, arXiv 2212.07525): many masks of an image share one teacher pass."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from eo_ssl.errors import expect
from eo_ssl.models import Backbone, MaskableBackbone, Tokens, View, require_maskable, seed_weights
from eo_ssl.objectives.base import Method, Objective, Teacher, check_ramp, compute_momentum
from eo_ssl.objectives.inverse_blocks import draw_inverse_blocks
from eo_ssl.objectives.layer_targets import average_layers, check_layers, measure_spread
from eo_ssl.objectives.parts import find_seen, mean_of_valid, take_only_view
from eo_ssl.objectives.step import Batch, Step
from eo_ssl.objectives.views import ViewSpec


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class Data2Vec2(Method):
    """data2vec 2.0: encode few patches, fill in the others with convolutions, meet the teacher's features there.

    Numbers are those of the released configuration for ViT-B (base_images_only_task.yaml) where nothing else is said.
    """

    views: ClassVar[Mapping[str, ViewSpec]] = {"tile": ViewSpec(crop=(0.2, 1.0))}  # crop and flip, as Mae

    masks: int = 8
    """Masks of each tile that share the teacher's pass; 16 in the released configuration."""
    mask_ratio: float = 0.8
    """Share of the patches that is hidden."""
    block_side: int = 3
    """Side of the squares that stay visible, patches."""
    block_surplus: float = 0.07
    """Share that the squares cover beyond what stays visible, because they meet."""
    mask_noise: float = 0.01
    """Standard deviation of the noise that the decoder gets in place of hidden patches."""
    layers: int = 4
    """Last blocks whose mean is the target; 10 of 12 in the released configuration."""
    decoder_dim: int = 192
    """Width of the decoder, a multiple of decoder_groups; 768 in the released configuration."""
    decoder_depth: int = 3
    """Convolutions of the decoder, of 3 x 3 patches; 6 in the released configuration."""
    decoder_groups: int = 16
    """Groups of channels that a convolution keeps apart; divides the encoder's width too."""
    cls_weight: float = 0.01
    """Weight of the class token's distance from the mean target, a mean over tiles and masks. The released code gives
    0.01 to the sum over the tiles and masks of a device: 2.56 here for its 16 tiles and 16 masks."""
    momentum: tuple[float, float] = (0.9998, 0.99999)
    """Share of itself that the teacher keeps at the beginning and from the end of the ramp on."""
    momentum_ramp: float = 0.27
    """Share of the run over which it grows in a straight line; 100000 of 375300 updates."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        object.__setattr__(self, "momentum", tuple(self.momentum))
        check_ramp(self.momentum, ramp=self.momentum_ramp)
        for name in ("masks", "block_side", "layers", "decoder_dim", "decoder_depth", "decoder_groups"):
            value = getattr(self, name)
            expect(value >= 1, expected=f"{name} of at least 1", got=value, remedy="raise it")
        for name in ("block_surplus", "mask_noise", "cls_weight"):
            value = getattr(self, name)
            expect(value >= 0, expected=f"{name} of at least 0", got=value, remedy="raise it")
        expect(0 < self.mask_ratio < 1, expected="mask_ratio between 0 and 1", got=self.mask_ratio, remedy="try 0.8")

    def build(self, encoders: Mapping[str, Backbone], seed: int) -> Data2Vec2Objective:
        """Student, teacher and decoder; refuses a network that cannot leave out patches or has too few blocks."""
        return Data2Vec2Objective(require_maskable(encoders["tile"], method="Data2Vec2"), self, seed=seed)


class PatchConvolutions(nn.Module):
    """The decoder: convolutions over the grid of patches, each added to what it got where the widths agree."""

    def __init__(self, dim: int, grid: tuple[int, int], *, width: int, depth: int, groups: int) -> None:
        """Build it for features of `dim` channels on `grid`, with `depth` convolutions of `width` channels.

        Raises:
            UserError: groups that do not divide both widths.
        """
        super().__init__()
        expect(
            dim % groups == 0 and width % groups == 0,
            expected=f"decoder_groups that divide decoder_dim and the encoder's width {dim}",
            got=f"{groups} groups and decoder_dim {width}",
            remedy="change one of them",
        )
        self.grid = grid
        widths = [dim, *[width] * (depth - 1)]
        self.convolutions = nn.ModuleList(nn.Conv2d(w, width, 3, padding=1, groups=groups) for w in widths)
        self.head = nn.Linear(width, dim)

    def forward(self, patches: Tensor) -> Tensor:
        """Predicted features of every patch: [B, N, D] -> [B, N, D]."""
        x = patches.transpose(1, 2).reshape(len(patches), -1, *self.grid)  # [B, D, H, W]
        for convolution in self.convolutions:
            y = convolution(x).permute(0, 2, 3, 1)  # [B, H, W, d]
            y = nn.functional.gelu(nn.functional.layer_norm(y, y.shape[-1:])).permute(0, 3, 1, 2)
            x = y + x if y.shape == x.shape else y
        values: Tensor = self.head(x.flatten(2).transpose(1, 2))
        return values


class Data2Vec2Objective(Objective):
    """Encode the visible patches under each mask, decode, compare the hidden ones with the teacher's whole view."""

    def __init__(self, encoder: MaskableBackbone, method: Data2Vec2, *, seed: int = 0) -> None:
        """Build teacher and decoder, its weights drawn from `seed`, around `encoder`."""
        super().__init__({"tile": encoder})
        check_layers(encoder, method.layers)
        self.method, self.grid, self.patch_px = method, encoder.grid, encoder.patch_px
        self.teacher = Teacher(encoder)
        self.draw_masks(1, torch.Generator())  # refuses a grid with nothing to hide before the run
        with seed_weights(seed):
            self.decoder = PatchConvolutions(
                encoder.dim,
                encoder.grid,
                width=method.decoder_dim,
                depth=method.decoder_depth,
                groups=method.decoder_groups,
            )

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Squared distance of the hidden patches' features, plus that of the class token, as `loss`.

        Beside it `target_spread` and `prediction_spread` over the patches: near 0 they have collapsed.
        """
        encoder = require_maskable(self.encoder, method="Data2Vec2")
        view = take_only_view(batch, encoder, method="Data2Vec2")
        keep, hidden = (x.to(view.image.device) for x in self.draw_masks(len(view), batch.step.generator()))
        seen = find_seen(view, self.patch_px)  # [B, N]
        targets = self.compute_targets(view, seen)  # [B, N, D], once for all masks
        tokens = encoder.visible(view, keep)  # B*M rows
        prediction = self.fill_in(tokens, keep, batch.step.generator(1)).to(targets.dtype)  # [B, M, N, D]
        error = prediction - targets[:, None]
        distance = error.square().sum(dim=3) / math.sqrt(encoder.dim)  # [B, M, N]
        weight = torch.zeros_like(distance).scatter_(2, hidden, 1.0) * seen[:, None]
        loss = mean_of_valid(distance, weight)
        if self.method.cls_weight:
            loss = loss + self.method.cls_weight * self.compare_class(tokens.prefix[:, 0], targets, seen)
        return {
            "loss": loss,
            "target_spread": measure_spread(targets.flatten(0, 1)),
            "prediction_spread": measure_spread(prediction.flatten(0, 2)),
        }

    def draw_masks(self, batch: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Visible and hidden patches under each mask of each tile: [B, M, K] and [B, M, N - K] int64."""
        method = self.method
        keep, hidden = draw_inverse_blocks(
            self.grid,
            batch * method.masks,
            share=1 - method.mask_ratio,
            side=method.block_side,
            surplus=method.block_surplus,
            rng=rng,
        )
        return keep.reshape(batch, method.masks, -1), hidden.reshape(batch, method.masks, -1)

    @torch.no_grad()
    def compute_targets(self, view: View, seen: Tensor) -> Tensor:
        """Mean of what the second halves of the teacher's last blocks add to each patch of the view: [B, N, D]."""
        layers = self.teacher.network.layers(view, last=self.method.layers, part="mlp")
        return average_layers(layers, seen, norm="instance")

    def fill_in(self, tokens: Tokens, keep: Tensor, rng: torch.Generator) -> Tensor:
        """Features of every patch, out of the visible ones that are seen and noise elsewhere: [B, M, N, D]."""
        patches, dim = self.grid[0] * self.grid[1], tokens.patches.shape[2]
        noise = torch.randn(*keep.shape[:2], patches, dim, generator=rng) * self.method.mask_noise  # [B, M, N, D]
        place = keep.flatten(0, 1)[..., None].expand(-1, -1, dim)  # [B*M, K, D]
        filled, known = noise.flatten(0, 1).to(tokens.patches), tokens.patches  # [B*M, N, D], [B*M, K, D]
        if tokens.seen is not None:
            known = torch.where(tokens.seen[..., None], known, filled.gather(1, place))
        filled = filled.scatter(1, place, known)
        values: Tensor = self.decoder(filled)
        return values.reshape(*keep.shape[:2], patches, dim)

    def compare_class(self, token: Tensor, targets: Tensor, seen: Tensor) -> Tensor:
        """Squared distance of the class token [B*M, D] from the mean target of the tile's seen patches, a mean."""
        weight = seen[..., None].to(targets.dtype)  # [B, N, 1]
        mean = (targets * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)  # [B, D]
        error = token.reshape(len(targets), -1, token.shape[1]).to(mean.dtype) - mean[:, None]  # [B, M, D]
        distance = error.square().sum(dim=2) / math.sqrt(token.shape[1])  # [B, M]
        return mean_of_valid(distance, seen.any(dim=1)[:, None].expand_as(distance).to(distance.dtype))

    def after_step(self, step: Step) -> None:
        """Move the teacher towards the student, momentum along its ramp."""
        momentum = compute_momentum(step, self.method.momentum, ramp=self.method.momentum_ramp)
        self.teacher.follow(self.encoder, momentum=momentum)
