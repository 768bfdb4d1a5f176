"""Patches without a valid pixel, behind encoders that leave them out: decoders learn nothing from where they lie."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from eo_ssl.models import ChannelVit, MaskableBackbone, SpectralVit, View
from eo_ssl.objectives import Data2Vec2, IJepa, Mae
from tiles import BANDS, training_tiles

MODELS = {
    "channel": ChannelVit("test_vit", depth=2, band_dropout=False),
    "groups": SpectralVit("test_vit", groups=(("B02", "B08"), ("B03", "B04")), depth=2),
}
EMPTY = (5, 9)  # of 4 x 4 patches


@pytest.fixture(params=MODELS)
def encoder(request: pytest.FixtureRequest) -> MaskableBackbone:
    return MODELS[request.param].build(BANDS[:4], 32, 3, sensor="sentinel2_l1c").eval()  # type: ignore[return-value]


def make_view() -> View:
    """Two tiles, the second without the patches `EMPTY`."""
    image, valid = training_tiles(2)
    for patch in EMPTY:
        row, col = divmod(patch, 4)
        valid[1, :, 8 * row : 8 * row + 8, 8 * col : 8 * col + 8] = False
    return View(image, valid, BANDS[:4])


def decode(encoder: MaskableBackbone, kind: str, view: View, keep: Tensor) -> Tensor:
    """What a method's decoder says of the patches 2 and 3, from those that are kept."""
    targets = torch.tensor([[2, 3]]).expand(2, -1)
    if kind == "Data2Vec2":
        objective = Data2Vec2(masks=1, layers=1, decoder_dim=32).build({"tile": encoder}, 1)
        tokens = encoder.visible(view, keep[:, None])
        return objective.fill_in(tokens, keep[:, None], torch.Generator().manual_seed(0))[:, 0, 2:4]
    if kind == "MaeCross":
        objective = Mae(decoder="cross", decoder_dim=32).build({"tile": encoder}, 1)
        return objective.decoder(*encoder.visible_layers(view, keep), targets)
    if kind == "IJepa":
        return IJepa().build({"tile": encoder}, 1).predictor(encoder.visible(view, keep), keep, targets[:, None])
    decoder = Mae(decoder_dim=32).build({"tile": encoder}, 1).decoder
    if kind == "judge":
        return decoder.judge_context(encoder.visible(view, keep), keep)[:, :2]
    return decoder(encoder.visible(view, keep), keep, targets[:, None])


@pytest.mark.parametrize("kind", ["Mae", "MaeCross", "judge", "IJepa", "Data2Vec2"])
@torch.no_grad()
def test_it_does_not_matter_which_empty_patch_is_shown(encoder: MaskableBackbone, kind: str) -> None:
    view = make_view()
    one, other = (decode(encoder, kind, view, torch.tensor([[0, 1, empty]] * 2)) for empty in EMPTY)
    torch.testing.assert_close(one[1], other[1])
    assert not torch.allclose(one[0], other[0], atol=1e-4)  # both patches of the first tile have pixels


@torch.no_grad()
def test_what_entered_the_blocks_has_one_vector_for_each_patch(encoder: MaskableBackbone) -> None:
    keep = torch.tensor([[0, 1, 5]] * 2)
    tokens, entered = encoder.visible_layers(make_view(), keep)
    assert {each.shape for each in entered} == {(2, 1 + 3, encoder.dim)}
    whole = torch.cat([tokens.prefix, tokens.patches], dim=1)
    last = encoder.layers(make_view(), last=1, part="block")[0]
    assert whole.shape == entered[0].shape and last.shape == (2, 16, encoder.dim)
