"""Vision transformers over groups of bands: each token by itself, tokens that are not there, and the files of encoders."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.layers.pos_embed import resample_abs_pos_embed

from eo_ssl.encoder import TrainedEncoder, save_encoder
from eo_ssl.encoder.storage import read_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.tuning.feature_maps import compute_four_maps, compute_last_map
from eo_ssl.export.encoder_module import MODULE_FILE, make_module, run_module
from eo_ssl.models import BackboneConfig, SpectralVit, SpectralVitBackbone, View, make_group_positions
from eo_ssl.objectives import IJepa, Mae
from eo_ssl.preprocessing import Preprocessing
from runs import FakeStream
from tiles import BANDS, holes, make_batch, training_tiles

GROUPS = (("B02", "B11"), ("B08", "B03", "B04"))  # other than in the order of the bands
TINY = SpectralVit("test_vit", groups=GROUPS, patch_size=8, depth=2)
P, N = 8, 16
MEAN, STD = np.full(5, 0.15), np.full(5, 0.03)


def build(architecture: SpectralVit = TINY, *, size: int = 32) -> SpectralVitBackbone:
    return architecture.build(BANDS, size, 3).eval()


def view(*, missing: bool = False, bands: tuple[str, ...] = BANDS) -> View:
    image, valid = training_tiles(3, bands=5)
    valid = holes(image.shape, patch=8) if missing else valid
    order = [BANDS.index(band) for band in bands]
    return View(image[:, order], valid[:, order], bands)


def code(token: int, dim: int = 64) -> np.ndarray:
    """Where a token lies, row and column, then its group: sine and cosine at a geometric series of wavelengths."""
    group, place = divmod(token, N)
    row, col = divmod(place, 4)
    own = dim // 4
    waves = {length: 10_000.0 ** -(np.arange(length // 2) / (length // 2)) for length in ((dim - own) // 2, own)}
    parts = [(row, (dim - own) // 2), (col, (dim - own) // 2), (group, own)]
    return np.concatenate([f(number * waves[length]) for number, length in parts for f in (np.sin, np.cos)])


def embed_one_by_one(vit: SpectralVitBackbone, image: torch.Tensor, tokens: list[int]) -> torch.Tensor:
    """Class token and named tokens of one image [C, H, W] before the blocks, each computed by itself: [1 + T, D]."""
    rows = [vit.network.cls_token[0, 0]]
    for token in tokens:
        group, place = divmod(token, N)
        row, col = divmod(place, 4)
        window = image[:, row * P : row * P + P, col * P : col * P + P]
        pixels = torch.stack([window[BANDS.index(band)] for band in GROUPS[group]])
        project = vit.patch_embed.proj[group]
        rows.append((project.weight * pixels).sum(dim=(1, 2, 3)) + project.bias + torch.from_numpy(code(token)).float())
    return torch.stack(rows)


def test_tokens_are_those_of_a_loop_over_groups_and_patches() -> None:
    vit, images = build(), view()
    every = torch.arange(2 * N).expand(3, -1)
    tokens = vit.encode_tokens(images, every, torch.ones_like(every, dtype=torch.bool))
    for number in range(3):
        entered = embed_one_by_one(vit, images.image[number], list(range(2 * N)))
        wanted = vit.network.norm(vit.network.blocks(entered[None]))[0]
        torch.testing.assert_close(tokens.patches[number], wanted[1:], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(tokens.pooled[number], wanted[1:].mean(0), rtol=1e-4, atol=1e-5)
    # a patch is the mean of its groups; timm's own forward pass of the network gives the same
    whole = vit(images)
    torch.testing.assert_close(whole.patches, (tokens.patches[:, :N] + tokens.patches[:, N:]) / 2)
    torch.testing.assert_close(vit.network.forward_features(images.image)[:, 1:], tokens.patches)
    by_class = build(dataclasses.replace(TINY, pooling="cls"))
    assert torch.equal(by_class(images).pooled, by_class(images).prefix[:, 0])


def test_the_published_code_takes_256_of_1024_channels() -> None:
    codes = make_group_positions((2, 3), 1024, groups=3, prefix=1)
    assert codes.shape == (1, 19, 1024) and not codes[0, 0].any()
    assert torch.equal(codes[0, 1, :768], codes[0, 7, :768])  # the same place in two groups
    assert torch.equal(codes[0, 7, 768:], codes[0, 12, 768:])  # the same group at two places
    assert len(torch.unique(codes[0], dim=0)) == 19


def test_a_token_without_a_valid_pixel_is_as_if_it_were_not_there() -> None:
    vit, images = build(), view(missing=True)
    images.valid[1, BANDS.index("B11")] = False  # one band of a group
    present = vit.present_tokens(images)
    counted = [
        images.valid[:, [BANDS.index(band) for band in group], r * P : r * P + P, c * P : c * P + P].flatten(1).any(1)
        for group in GROUPS
        for r in range(4)
        for c in range(4)
    ]
    assert torch.equal(present, torch.stack(counted, dim=1)) and 0 < present.sum() < present.numel()
    images.valid[0, [BANDS.index(band) for band in GROUPS[1]]] = False  # a whole group
    present, whole = vit.present_tokens(images), vit(images)
    for number in range(3):
        there = present[number].nonzero()[:, 0]
        entered = embed_one_by_one(vit, images.pixels[number], there.tolist())
        alone = vit.network.norm(vit.network.blocks(entered[None]))[0]
        torch.testing.assert_close(whole.pooled[number], alone[1:].mean(0), rtol=1e-4, atol=1e-5)
        patch = int(there[0])  # of the first group; in the first image its only token
        mine = [place for place, token in enumerate(there.tolist()) if token % N == patch]
        torch.testing.assert_close(whole.patches[number, patch], alone[1:][mine].mean(0), rtol=1e-4, atol=1e-5)
    for poison in (float("nan"), -9999.0):
        again = vit(dataclasses.replace(images, image=torch.where(images.valid, images.image, torch.tensor(poison))))
        assert torch.equal(again.pooled, whole.pooled) and torch.equal(again.patches, whole.patches)
    nothing = vit(dataclasses.replace(images, valid=torch.zeros_like(images.valid)))
    assert torch.isfinite(nothing.pooled).all() and torch.isfinite(nothing.patches).all()


def test_patches_are_kept_and_hidden_in_all_groups() -> None:
    vit, images = build(), view(missing=True)
    keep = torch.tensor([[0, 5, 10], [3, 2, 1], [15, 8, 7]])
    shown = vit.visible(images, keep)
    tokens = torch.cat([keep, keep + N], dim=1)
    alone = vit.encode_tokens(images, tokens, vit.present_tokens(images).gather(1, tokens))
    assert torch.equal(shown.pooled, alone.pooled) and shown.patches.shape == (3, 3, 64)
    every = torch.arange(N).expand(3, -1)
    torch.testing.assert_close(vit.visible(images, every).patches, vit(images).patches, rtol=1e-4, atol=1e-5)

    mask = torch.zeros(3, N, dtype=torch.bool).scatter(1, keep, True)
    pixels = mask.view(3, 1, 4, 1, 4, 1).expand(3, 5, 4, 8, 4, 8).reshape(images.image.shape)
    first = vit.masked(images, mask, torch.ones(64))
    changed = dataclasses.replace(images, image=torch.where(pixels, 1e6, images.image), valid=images.valid & ~pixels)
    assert torch.equal(vit.masked(changed, mask, torch.ones(64)).patches, first.patches)
    assert not torch.allclose(vit.masked(images, mask, torch.zeros(64)).patches, first.patches)
    assert torch.equal(vit.masked(images, torch.zeros_like(mask), torch.ones(64)).patches, vit(images).patches)


def test_maps_of_the_network_are_its_patches() -> None:
    vit, images = build(), view(missing=True)
    x, options = vit.mark_input(images.pixels, images.valid)
    (last,) = compute_last_map(vit.network, x, **options).maps
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), vit(images).patches)
    four = compute_four_maps(vit.network, x, **options)
    torch.testing.assert_close(vit.network.norm(four.prefix[3]), vit(images).prefix)
    assert [one.shape for one in four.maps] == [(3, 64, 4, 4)] * 4
    whole = dataclasses.replace(images, valid=torch.ones_like(images.valid))
    (last,) = compute_last_map(vit.network, whole.image).maps
    torch.testing.assert_close(last.flatten(2).transpose(1, 2), vit(whole).patches)


def test_another_size_moves_places_and_leaves_groups() -> None:
    vit = build()
    larger = vit.at_size(64)
    codes, before = larger.network.pos_embed[0], vit.network.pos_embed[0]
    assert larger.grid == (8, 8) and codes.shape == (1 + 2 * 64, 64) and not codes.requires_grad
    for group in range(2):
        wanted = resample_abs_pos_embed(
            before[None, 1 + group * N : 1 + group * N + N], (8, 8), (4, 4), num_prefix_tokens=0
        )
        assert torch.equal(codes[1 + group * 64 : 65 + group * 64], wanted[0])
        torch.testing.assert_close(codes[1 + group * 64, -16:], before[1 + group * N, -16:], rtol=0, atol=1e-6)
    image = torch.randn(2, 5, 64, 64, generator=torch.Generator().manual_seed(0))
    small = View(image, torch.ones_like(image, dtype=torch.bool), BANDS)
    torch.testing.assert_close(larger(small).patches, vit(small).patches)
    assert vit.at_size(32) is vit


def test_bands_are_found_by_name() -> None:
    vit, images, shuffled = build(), view(missing=True), view(missing=True, bands=tuple(reversed(BANDS)))
    for each in (images, shuffled):
        each.valid[0, [each.bands.index(band) for band in GROUPS[0]]] = False
    assert torch.equal(vit(shuffled).pooled, vit(images).pooled)


def make_contract() -> Preprocessing:
    stream = FakeStream(bands=BANDS, size_px=32)
    return Preprocessing.of_stream(stream, SimpleNamespace(quantity=stream.quantity, mean=MEAN, std=STD))


def test_its_file_gives_it_back(tmp_path) -> None:
    vit = build()
    values = BackboneConfig(TINY, BANDS, 32).to_json()
    assert SpectralVit.from_json(values, pooling="mean") == TINY
    contract = make_contract()
    save_encoder(tmp_path, vit, preprocessing=contract, provenance={"config": {}, "inputs": {}})
    loaded = read_encoder(tmp_path / "encoder.safetensors")
    images = view(missing=True)
    prepared = {"x": images.pixels, "valid": images.valid}  # what a contract gives
    assert torch.equal(loaded.features(**prepared), vit(images).pooled)
    assert torch.equal(loaded.tokens(**prepared), vit(images).patches)
    assert not torch.allclose(loaded.features(images.pixels), vit(images).pooled)


def test_a_program_of_torch_leaves_out_the_same_tokens(tmp_path) -> None:
    encoder, images = TrainedEncoder(build(dataclasses.replace(TINY, depth=1)), make_contract()), view(missing=True)
    (tmp_path / MODULE_FILE).parent.mkdir()
    (tmp_path / MODULE_FILE).write_bytes(make_module(encoder))
    marked = torch.where(images.valid, images.image, torch.nan)
    with torch.no_grad():
        wanted = encoder.features(images.pixels, valid=images.valid)
    torch.testing.assert_close(run_module(tmp_path, marked), wanted)


@pytest.mark.parametrize("method", [Mae(decoder_dim=32, decoder_depth=1), IJepa(predictor_dim=48, predictor_depth=1)])
def test_objectives_that_hide_patches_hide_them_in_all_groups(method) -> None:
    objective = method.build({"tile": build()}, 1)
    images = view(missing=True)
    losses = [
        objective(make_batch(torch.where(images.valid, images.image, torch.tensor(fill)), valid=images.valid))["loss"]
        for fill in (0.0, float("nan"))
    ]
    losses[0].backward()
    assert torch.equal(*losses) and float(losses[0].detach()) > 0
    assert objective.encoder.patch_embed.proj[1].weight.grad.abs().sum() > 0


def test_refusals() -> None:
    with pytest.raises(
        UserError, match=r"bands of the groups B02 B11 \| B08 B03 B04, got B02, B03, B04, B08; name these"
    ):
        TINY.build(BANDS[:4], 32, 0)
    with pytest.raises(UserError, match=r"each band in one of them, got B02 \| B02; name each band once"):
        SpectralVit(groups=(("B02",), ("B02",)))
    with pytest.raises(UserError, match="groups of bands, each band in one of them, got none"):
        SpectralVit(groups=())
    with pytest.raises(
        UserError, match="an even group_dim of at least 2 that leaves 4 of the 64 channels or more, got 63"
    ):
        dataclasses.replace(TINY, group_dim=63).build(BANDS, 32, 0)
    with pytest.raises(UserError, match="patch size of at least 1"):
        SpectralVit(patch_size=0)
    with pytest.raises(UserError, match="pooling out of mean, cls"):
        SpectralVit(pooling="avg")  # type: ignore[arg-type]
