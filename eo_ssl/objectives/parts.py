"""Parts that methods share: a narrow transformer that fills in patches, and what processes of a run add up."""

from __future__ import annotations

import torch
from lightly.utils.dist import gather as gather_with_gradient
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from eo_ssl.errors import UserError, expect
from eo_ssl.models import (
    MaskableBackbone,
    Tokens,
    View,
    make_sincos_positions,
    run_blocks,
    split_patches,
    take_patches,
)
from eo_ssl.objectives.precision import use_float32
from eo_ssl.objectives.step import Batch


class Predictor(nn.Module):
    """A narrow transformer that says what stands at named positions, from the encoded patches of others.

    The decoder of a masked autoencoder (He et al. 2022, section 3) and the predictor of I-JEPA (Assran et al. 2023,
    section 3) are this one.
    """

    def __init__(
        self, dim: int, grid: tuple[int, int] | Tensor, *, width: int, depth: int, heads: int, out: int
    ) -> None:
        """Build it for tokens of `dim` channels on `grid`, with `depth` blocks of `width`; `out` channels an answer.

        In place of rows and columns, `grid` may be the codes [1, N, width] of the places that indices name.
        """
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.mask_token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.blocks = nn.Sequential(*[Block(width, heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(depth)])
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.head = nn.Linear(width, out)
        codes = grid if isinstance(grid, Tensor) else make_sincos_positions(grid, width, prefix=0)
        self.register_buffer("positions", codes, persistent=False)
        self.positions: Tensor  # [1, N, width]

    def forward(self, tokens: Tokens, context: Tensor, targets: Tensor, *, present: Tensor | None = None) -> Tensor:
        """What stands at each target, each of n blocks of targets by itself.

        Args:
            tokens: of the encoded context; its prefix tokens take part, without a position, and patches that are seen.
            context: [B, K] int64, raster indices of the context.
            targets: [B, n, T] int64, raster indices of the targets.
            present: [B, n, T] bool, those of the targets that there are; all when left out.

        Returns:
            [B, n, T, out].
        """
        batch, blocks, size = targets.shape
        answer = self.answer(tokens, context, targets, present=present)[:, -size:]  # [B*n, T, d]
        values: Tensor = self.head(self.norm(answer))  # [B*n, T, out]
        return values.reshape(batch, blocks, size, -1)

    def answer(self, tokens: Tokens, context: Tensor, targets: Tensor, *, present: Tensor | None = None) -> Tensor:
        """What the last block makes of prefix, context and targets, for norm and head: [B*n, P + K + T, width]."""
        batch, blocks, size = targets.shape
        positions = self.positions.expand(batch, -1, -1)  # [B, N, d]
        known = self._place(tokens, context).repeat_interleave(blocks, dim=0)  # [B*n, P + K, d]
        wanted = self.mask_token + take_patches(positions, targets.flatten(1))  # [B, n*T, d]
        wanted = wanted.reshape(batch * blocks, size, -1)  # [B*n, T, d]
        seen = None
        if tokens.seen is not None or present is not None:
            first, last = (
                torch.ones_like(index, dtype=torch.bool) if there is None else there
                for index, there in ((context, tokens.seen), (targets, present))
            )
            seen = torch.cat([first.repeat_interleave(blocks, dim=0), last.flatten(0, 1)], dim=1)
        return run_blocks(self.blocks, torch.cat([known, wanted], dim=1), seen, prefix=tokens.prefix.shape[1])

    def judge_context(self, tokens: Tokens, context: Tensor) -> Tensor:
        """What it says of the context itself, with nothing to fill in: [B, K, out]; arguments as for `forward`."""
        prefix = tokens.prefix.shape[1]
        answer = run_blocks(self.blocks, self._place(tokens, context), tokens.seen, prefix=prefix)
        values: Tensor = self.head(self.norm(answer[:, prefix:]))  # [B, K, out]
        return values

    def _place(self, tokens: Tokens, context: Tensor) -> Tensor:
        """Tokens of the context at its width and with its positions, after the prefix tokens: [B, P + K, d]."""
        known = self.embed(torch.cat([tokens.prefix, tokens.patches], dim=1))  # [B, P + K, d]
        prefix = tokens.prefix.shape[1]
        placed = known[:, prefix:] + take_patches(self.positions.expand(len(known), -1, -1), context)  # [B, K, d]
        return torch.cat([known[:, :prefix], placed], dim=1)


def take_only_view(batch: Batch, encoder: MaskableBackbone, *, method: str, times: int = 1) -> View:
    """The one whole view of a batch that a masked method works on, its bands in the encoder's order.

    Args:
        batch: of one view.
        encoder: whose patches are hidden.
        method: its name.
        times: how much wider the view is than the encoder's images.

    Raises:
        UserError: several views, one of another size than the encoder was built for, or one that lacks a band.
    """
    views = batch.all_views()
    expect(
        len(views) == 1, expected=f"one view of each tile for {method}", got=len(views), remedy="leave its count at 1"
    )
    sides = tuple(side // (encoder.patch_px * times) for side in views[0].image.shape[-2:])
    expect(
        sides == encoder.grid,
        expected=f"views of {'' if times == 1 else f'{times} times '}the tile's size for {method},"
        f" {encoder.grid[0]} x {encoder.grid[1]} patches",
        got=f"{sides[0]} x {sides[1]}",
        remedy=f"leave the size of its view at {times}",
    )
    return encoder.order_bands(views[0])


def check_narrow(what: str, *, width: int, depth: int, heads: int) -> None:
    """Refuse the sizes of a `Predictor` that no transformer can have.

    Raises:
        UserError: naming `what`_dim, `what`_heads and `what`_depth.
    """
    if depth < 1 or heads < 1 or width % heads:
        raise UserError(
            f"{what}_dim must be a multiple of {what}_heads with at least one block, got {width}, {heads} heads and"
            f" {depth} blocks: change one of them"
        )


def find_seen(view: View, patch_px: int) -> Tensor:
    """Patches with a valid pixel, [B, N] bool: those without are no targets."""
    return split_patches(view.valid, patch_px).flatten(2).any(dim=2)


def gather(x: Tensor) -> Tensor:
    """Rows of all processes in the order of their ranks, with gradient: [B, ...] -> [world * B, ...].

    The identity in one process.
    """
    if not _distributed():
        return x
    return torch.cat(gather_with_gradient(x.contiguous()))


@torch.no_grad()
def mean_over_processes(x: Tensor) -> Tensor:
    """Mean of a tensor over all processes, without gradient; the identity in one process."""
    if not _distributed():
        return x
    total = x.detach().clone()
    torch.distributed.all_reduce(total)
    return total / torch.distributed.get_world_size()


@use_float32
def mean_of_valid(error: Tensor, weight: Tensor) -> Tensor:
    """Sum of `error` times `weight` over the sum of the weights, both over all processes; 0 where no weight is.

    A process gives its own errors over the mean weight of a process, so that the mean over processes, which is what
    distributed training forms of losses and gradients, is the mean over everything.

    Args:
        error: any shape.
        weight: the same shape, 1 where it counts and 0 elsewhere.
    """
    total = mean_over_processes(weight.sum())
    world = torch.distributed.get_world_size() if _distributed() else 1
    return (error * weight).sum() / total.clamp(min=1 / world)


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
