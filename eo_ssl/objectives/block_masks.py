"""Blocks of patches: context and targets of I-JEPA (Assran et al. 2023, arXiv 2301.08243), masks of DINOv2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from eo_ssl.errors import UserError

ATTEMPTS = 20  # draws of the blocks of one image before its context may overlap all targets but the first

SMALLEST = 4  # patches of a block of a mask, `min_num_patches` of DINOv2's dinov2/data/masking.py
ASPECTS = (0.3, 1 / 0.3)  # range of the aspect of a block of a mask, the same file


@dataclass(frozen=True)  # no slots: the command line reads defaults through __dict__
class BlockMaskConfig:
    """Sizes of the blocks; shares are of the number of patches, aspects are height over width."""

    n_targets: int = 4
    """Target blocks per image (Assran et al. 2023, section 3)."""
    target_scale: tuple[float, float] = (0.15, 0.2)
    """Range of the share of a target block (section 3)."""
    target_aspect: tuple[float, float] = (0.75, 1.5)
    """Range of the aspect of a target block (section 3)."""
    context_scale: tuple[float, float] = (0.85, 1.0)
    """Range of the share of the context block, of aspect 1 (section 3)."""
    min_context: int = 10
    """Fewest context patches wanted; at most a quarter of the grid is asked for."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.n_targets < 1:
            raise UserError(f"n_targets must be at least 1, got {self.n_targets}: the paper uses 4")
        for name in ("target_scale", "context_scale"):
            low, high = getattr(self, name)
            if not 0 < low <= high <= 1:
                raise UserError(f"{name} must be an increasing pair within 0 and 1, got ({low}, {high})")
        low, high = self.target_aspect
        if not 0 < low <= high:
            raise UserError(f"target_aspect must be an increasing pair above 0, got ({low}, {high})")


def compute_block_size(grid: tuple[int, int], *, scale: float, aspect: float) -> tuple[int, int]:
    """Rows and columns of a block that covers about the share `scale` of the grid, each at least 1, at most the side.

    A block of the full height or width is allowed: it can then only sit at offset 0.
    """
    area = grid[0] * grid[1] * scale
    rows, cols = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
    return min(max(rows, 1), grid[0]), min(max(cols, 1), grid[1])


def draw_blocks(
    grid: tuple[int, int], batch: int, *, config: BlockMaskConfig, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Context and target patches of each image of a batch.

    Block sizes are drawn once for the batch, scale and aspect independently; positions are drawn for each image and
    may touch every border (offsets 0 to H - h, both included). Contexts are cut to the smallest of the batch by
    leaving out random patches, not the last ones in raster order, which would favour the top left.

    Args:
        grid: rows and columns of patches.
        batch: number of images B.
        config: sizes.
        rng: source of randomness (CPU).

    Returns:
        context [B, K] int64 and targets [B, n_targets, T] int64, raster indices; no context patch is in a target
        (save where `ATTEMPTS` draws left fewer than one patch).

    Raises:
        UserError: if the grid is too small for a context beside one target.
    """
    height, width = grid
    low, high = config.target_scale
    rows, cols = compute_block_size(grid, scale=_uniform(low, high, rng), aspect=_uniform(*config.target_aspect, rng))
    if rows * cols >= height * width:
        raise UserError(
            f"a target block of {rows} x {cols} patches leaves no context on a {height} x {width} grid:"
            " use smaller patches or a smaller target_scale"
        )
    context_size = compute_block_size(grid, scale=_uniform(*config.context_scale, rng), aspect=1.0)
    wanted = min(config.min_context, height * width // 4)
    origin = torch.zeros(batch, config.n_targets, 2, dtype=torch.int64)  # top, left of each target
    context = torch.zeros(batch, height, width, dtype=torch.bool)
    todo = torch.arange(batch)
    for attempt in range(ATTEMPTS):
        drawn = _origins((len(todo), config.n_targets), grid, (rows, cols), rng)  # [b, n_targets, 2]
        box = _cover(_origins((len(todo),), grid, context_size, rng), context_size, grid)  # [b, H, W]
        hidden = _cover(drawn, (rows, cols), grid)  # [b, n_targets, H, W]
        free = box & ~hidden.any(dim=1)  # [b, H, W]
        if attempt == ATTEMPTS - 1:
            empty = ~free.flatten(1).any(dim=1)
            free[empty] = ~hidden[empty, 0]
        origin[todo], context[todo] = drawn, free
        todo = todo[free.flatten(1).sum(dim=1) < wanted]
        if not len(todo):
            break
    return _cut(context.flatten(1), rng), _indices(origin, (rows, cols), width)


def draw_masks(
    grid: tuple[int, int], batch: int, *, share: float, ratio: tuple[float, float], rng: torch.Generator
) -> Tensor:
    """Hidden patches of images, made of blocks; the other images have none: [batch, N] bool.

    As DINOv2 draws them (dinov2/data/collate.py): a fixed number of images is masked, each by a ratio out of its own
    part of the range, so that every step sees small and large masks. Blocks have random sizes and aspects (BEiT, Bao et
    al. 2022, arXiv 2106.08254, algorithm 1). What no block fitted is made up by single patches, so that the ratio is
    the drawn one on small grids too.

    Args:
        grid: rows and columns of patches.
        batch: number of images.
        share: of images that are masked; at least one is, if the share is above 0.
        ratio: range of the share of the patches of a masked image; at least one patch, and not all, are hidden.
        rng: source of randomness (CPU).
    """
    patches, chosen = grid[0] * grid[1], min(max(int(batch * share), 1), batch) if share > 0 else 0
    masks = torch.zeros(batch, patches, dtype=torch.bool)
    edges = torch.linspace(*ratio, chosen + 1).tolist()
    for i, image in enumerate(torch.randperm(batch, generator=rng)[:chosen].tolist()):
        wanted = min(max(int(patches * _uniform(edges[i], edges[i + 1], rng)), 1), patches - 1)
        masks[image] = _draw_mask(grid, wanted, rng)
    return masks


def _draw_mask(grid: tuple[int, int], wanted: int, rng: torch.Generator) -> Tensor:
    """A mask of blocks that hides `wanted` patches: [N] bool."""
    mask = torch.zeros(grid, dtype=torch.bool)
    for _ in range(ATTEMPTS):
        left = wanted - int(mask.sum())
        if left == 0:
            break
        area = _uniform(min(SMALLEST, left), left, rng)
        aspect = math.exp(_uniform(math.log(ASPECTS[0]), math.log(ASPECTS[1]), rng))
        size = compute_block_size(grid, scale=area / mask.numel(), aspect=aspect)
        block = _cover(_origins((), grid, size, rng), size, grid)  # [H, W]
        if int((block & ~mask).sum()) <= left:
            mask |= block
    score = torch.rand(mask.shape, generator=rng).masked_fill(mask, -1).flatten()  # hidden ones first
    return torch.zeros(mask.numel(), dtype=torch.bool).index_fill(0, score.argsort()[:wanted], True)


def _uniform(low: float, high: float, rng: torch.Generator) -> float:
    """One number between low and high."""
    return low + (high - low) * float(torch.rand((), generator=rng, dtype=torch.float64))


def _origins(shape: tuple[int, ...], grid: tuple[int, int], size: tuple[int, int], rng: torch.Generator) -> Tensor:
    """Top and left of blocks anywhere on the grid, the last offset included: [*shape, 2] int64."""
    top = torch.randint(0, grid[0] - size[0] + 1, shape, generator=rng)
    left = torch.randint(0, grid[1] - size[1] + 1, shape, generator=rng)
    return torch.stack([top, left], dim=-1)


def _cover(origin: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Patches inside blocks: origin [..., 2] -> [..., H, W] bool."""
    row, col = torch.arange(grid[0]), torch.arange(grid[1])
    top, left = origin[..., :1], origin[..., 1:]  # [..., 1]
    inside_row = (row >= top) & (row < top + size[0])  # [..., H]
    inside_col = (col >= left) & (col < left + size[1])  # [..., W]
    return inside_row[..., :, None] & inside_col[..., None, :]


def _cut(context: Tensor, rng: torch.Generator) -> Tensor:
    """Random patches of each context, as many as the smallest has: [B, N] bool -> [B, K] int64."""
    smallest = int(context.sum(dim=1).min())
    score = torch.rand(context.shape, generator=rng).masked_fill(~context, 2.0)  # [B, N]
    return score.argsort(dim=1)[:, :smallest]


def _indices(origin: Tensor, size: tuple[int, int], width: int) -> Tensor:
    """Raster indices of the patches of each block: origin [B, n, 2] -> [B, n, h*w] int64."""
    row = origin[..., 0, None, None] + torch.arange(size[0])[:, None]  # [B, n, h, 1]
    col = origin[..., 1, None, None] + torch.arange(size[1])[None, :]  # [B, n, 1, w]
    return (row * width + col).flatten(2)
