"""Attention that falls with distance: slopes, distances, larger images, and the tokens of two sensors."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import ChannelVit, FusionEncoder, View, Vit, VitBackbone
from eo_ssl.models.alibi_attention import compute_slopes, measure_distances
from eo_ssl.models.fusion import FusionBlock
from tiles import BANDS

ALIBI = Vit(patch_size=8, depth=2, position="alibi")


def spread(network: torch.nn.Module) -> None:
    """Larger weights, so that attention is far from even."""
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith(("qkv.weight", "q.weight", "kv.weight")):
                parameter.mul_(8)


def build(*, size: int = 32) -> VitBackbone:
    encoder = ALIBI.build(BANDS[:3], size, 0).eval().double()
    spread(encoder)
    return encoder


def picture(*shape: int, batch: int = 2, seed: int = 0) -> View:
    image = torch.randn(batch, 3, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return View(image, torch.ones_like(image, dtype=torch.bool), BANDS[:3])


def test_slopes_are_the_published_ones() -> None:
    np.testing.assert_allclose(compute_slopes(16), [math.sqrt(0.5) ** h for h in range(1, 17)], rtol=1e-6)
    np.testing.assert_allclose(compute_slopes(8), [0.5**h for h in range(1, 9)], rtol=1e-6)
    quarter, half = [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8], [0.5**h for h in range(1, 9)]
    np.testing.assert_allclose(compute_slopes(6), quarter + half[0:3:2], rtol=1e-6)
    np.testing.assert_allclose(compute_slopes(3), [2.0**-4, 2.0**-8, 2.0**-2], rtol=1e-6)


def test_distances_are_those_on_the_ground() -> None:
    queries, keys = torch.tensor([[0, 9, 5], [3, 8, 11]]), torch.tensor([[2, 9], [0, 7]])  # on four columns
    found = measure_distances(queries, keys, columns=4, prefix=1)
    for b, i, j in np.ndindex(2, 3, 2):
        wanted = math.dist(divmod(int(queries[b, i]), 4), divmod(int(keys[b, j]), 4))
        assert float(found[b, 1 + i, 1 + j]) == pytest.approx(wanted)
    assert not found[:, 0].any() and not found[:, :, 0].any()


def attend(q: np.ndarray, k: np.ndarray, v: np.ndarray, places: list[tuple], others: list[tuple]) -> np.ndarray:
    """Attention token by token: q [H, N, d], k and v [H, M, d]; a token without place (None) is near all."""
    heads, n, width = q.shape
    slopes = compute_slopes(heads).double().numpy()
    found = np.zeros((n, heads * width))
    for h, i in np.ndindex(heads, n):
        near = [0 if None in (places[i], there) else math.dist(places[i], there) for there in others]
        scores = np.array([q[h, i] @ k[h, j] / math.sqrt(width) - slopes[h] * near[j] for j in range(len(others))])
        share = np.exp(scores - scores.max())
        found[i, h * width : (h + 1) * width] = share / share.sum() @ v[h]
    return found


def split(x: torch.Tensor, parts: int, heads: int) -> np.ndarray:
    """[N, parts * D] as [parts, H, N, d]."""
    return x.detach().reshape(len(x), parts, heads, -1).permute(1, 2, 0, 3).numpy()


def test_a_larger_image_is_encoded_by_distances_alone() -> None:
    encoder = build()
    view = picture(24, 48)  # three rows and six columns, trained on four by four
    network = encoder.network
    places = [None, *itertools.product(range(3), range(6))]
    for row, image in enumerate(view.image):
        x = network.patch_embed.proj(image[None]).flatten(2)[0].T
        x = torch.cat([network.cls_token[0], x])
        for block in network.blocks:
            q, k, v = split(block.attn.qkv(block.norm1(x)), 3, 3)
            x = x + block.attn.proj(torch.from_numpy(attend(q, k, v, places, places)))
            x = x + block.mlp(block.norm2(x))
        wanted = network.norm(x)[1:]
        torch.testing.assert_close(encoder(view).patches[row], wanted)
    # a part of an image is an image of its own, and the size that it was built for is nothing to it
    square = picture(64, 64)
    part = View(square.image[..., 16:40, 32:56], square.valid[..., 16:40, 32:56], square.bands)
    keep = torch.tensor([8 * row + col for row in (2, 3, 4) for col in (4, 5, 6)]).expand(2, -1)
    large = encoder.at_size(64)
    torch.testing.assert_close(large.visible(square, keep).patches, encoder(part).patches)
    assert large.grid == (8, 8) and torch.equal(large(square).patches, encoder(square).patches)
    torch.testing.assert_close(large.network.forward_features(square.image)[:, 1:], encoder(square).patches)
    with pytest.raises(UserError, match="position sincos or learned for a channel transformer, got 'alibi'"):
        ChannelVit(position="alibi")


def test_joint_tokens_see_their_own_by_their_own_distances() -> None:
    gen = torch.Generator().manual_seed(0)
    block = FusionBlock(16, 4).double().eval()
    spread(block)
    first, second = torch.randn(3, 16, generator=gen).double(), torch.randn(2, 16, generator=gen).double()
    ours, theirs = [(0, 0), (2, 1), (1, 3)], [(0, 2), (2, 2)]
    q, k, v = split(block.attn.qkv(block.norm1(first)), 3, 4)
    x = first + block.attn.proj(torch.from_numpy(attend(q, k, v, ours, ours)))
    (q,) = split(block.cross.q(block.norm2(x)), 1, 4)
    k, v = split(block.cross.kv(block.norm2(second)), 2, 4)
    x = x + block.cross.proj(torch.from_numpy(attend(q, k, v, ours, theirs)))
    wanted = x + block.mlp(block.norm3(x))
    places = tuple(torch.tensor([[4 * row + col for row, col in side]]) for side in (ours, theirs))
    between = [measure_distances(places[0], places[at], columns=4).double() for at in (0, 1)]
    torch.testing.assert_close(block(first[None], second[None], *between)[0], wanted)
    encoder = FusionEncoder(16, depth=1, heads=4).double()
    encoder.blocks[0] = block
    joint = encoder(first[None], second[None], places, columns=4)
    torch.testing.assert_close(joint[0], encoder.norm(wanted), rtol=1e-6, atol=1e-6)
