"""Data, sampler, augmentation, schedules and monitors of pretraining."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch

from eo_ssl.errors import UserError
from eo_ssl.models import View
from eo_ssl.objectives import Step, ViewSpec, derive_seed, override_views
from eo_ssl.pretraining import (
    ItemBatch,
    ItemSampler,
    OptimizerConfig,
    Pretraining,
    TileSource,
    ViewMaker,
    measure_feature_std,
    rank_me,
)
from eo_ssl.pretraining.augmentation import (
    apply_gain,
    cut_windows,
    draw_windows,
    span_whole,
    turn_randomly,
    turn_windows,
)
from eo_ssl.pretraining.module import compute_lr_share, compute_weight_decay, group_parameters, make_optimizer
from eo_ssl.pretraining.sampler import shuffle_blocks, spread_copies
from eo_ssl.sensors import Quantity
from runs import BATCH, FakeReader, FakeStream, make_loader, make_objective, preprocessing

# ---------------------------------------------------------------- sampler


@pytest.mark.parametrize(("n", "block", "buffer"), [(10, 4, 100), (1000, 16, 64), (1003, 16, 50), (1, 1, 1)])
def test_block_shuffle_is_a_permutation_whose_buffers_touch_few_blocks(n, block, buffer):
    order = shuffle_blocks(n, np.random.default_rng(0), block=block, buffer=buffer)
    assert np.array_equal(np.sort(order), np.arange(n))
    if n > buffer:
        for start in range(0, n, buffer):
            assert len(np.unique(order[start : start + buffer] // block)) <= math.ceil(buffer / block) + 2
        assert not np.array_equal(order, np.arange(n))


def test_a_pool_within_the_buffer_is_shuffled_uniformly():
    rng = np.random.default_rng(0)
    place = np.stack([np.argsort(shuffle_blocks(6, rng)) for _ in range(6000)])
    counts = np.stack([np.bincount(place[:, i], minlength=6) for i in range(6)])
    assert counts.min() > 850 and counts.max() < 1150  # 1000 expected, sigma 29


def _sequence(sampler: ItemSampler, steps: int) -> np.ndarray:
    found = []
    for _ in range(steps):
        found.append(sampler.rows())
        sampler.advance()
    return np.stack(found)


def test_an_epoch_holds_each_tile_once_and_the_next_one_in_another_order():
    batches = _sequence(ItemSampler(np.arange(0, 96, 2), batch_size=8, seed=1), 12)
    first, second = batches[:6].ravel(), batches[6:].ravel()
    assert np.array_equal(np.sort(first), np.arange(0, 96, 2)) and np.array_equal(np.sort(second), np.sort(first))
    assert not np.array_equal(first, second)


def test_ranks_share_each_global_batch_and_do_equally_many_steps():
    pool = np.arange(50)
    whole = _sequence(ItemSampler(pool, batch_size=12, seed=1), 8)
    parts = [_sequence(ItemSampler(pool, batch_size=4, seed=1, rank=rank, world=3), 8) for rank in range(3)]
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_a_batch_depends_on_seed_epoch_and_step_alone():
    sampler = ItemSampler(np.arange(40), batch_size=8, seed=4)
    wanted = _sequence(sampler, 17)
    state = sampler.state_dict()
    assert {key for key, value in state.items() if isinstance(value, int)} == {"seed", "epoch", "step"}
    other = ItemSampler(np.arange(8), batch_size=8, seed=0)
    other.load_state_dict(state)
    assert np.array_equal(_sequence(other, 9), _sequence(sampler, 9))
    assert np.array_equal(_sequence(ItemSampler(np.arange(40), batch_size=8, seed=4), 17), wanted)


def test_replacing_the_pool_starts_an_epoch_and_the_same_pool_changes_nothing():
    sampler, untouched = (ItemSampler(np.arange(40), batch_size=8, seed=4) for _ in range(2))
    _sequence(sampler, 3), _sequence(untouched, 3)
    assert not sampler.replace_pool(np.arange(40)[::-1])
    assert np.array_equal(_sequence(sampler, 4), _sequence(untouched, 4))
    assert sampler.replace_pool(np.arange(10, 26))
    assert (sampler.epoch, sampler.step) == (2, 0)
    assert np.array_equal(np.sort(_sequence(sampler, 2).ravel()), np.arange(10, 26))


WEIGHTS = np.array([0.2, 3.0, 0.7, 0.1] * 10, dtype=np.float32)


def test_with_weights_each_tile_comes_up_within_one_of_its_expected_number_of_times():
    sampler = ItemSampler(np.arange(100, 140), weights=WEIGHTS, batch_size=8, seed=4)
    epochs = [np.bincount(_sequence(sampler, 5).ravel() - 100, minlength=40) for _ in range(200)]
    assert (np.abs(np.array(epochs) - WEIGHTS) < 1).all() and all(counts.sum() == 40 for counts in epochs)
    np.testing.assert_allclose(np.mean(epochs, axis=0), WEIGHTS, atol=0.15)
    assert not all(np.array_equal(counts[::4], epochs[0][::4]) for counts in epochs)  # not always the same of a kind


def test_copies_of_a_tile_stand_as_far_from_each_other_as_can_be():
    """A batch that holds an image twice would teach a contrastive method that it differs from itself."""
    weights = np.ones(1000, dtype=np.float32)
    weights[::50] = 15
    sampler = ItemSampler(np.arange(1000), weights=weights, batch_size=20, seed=0)
    batches = _sequence(sampler, 50)
    assert max(np.bincount(batch).max() for batch in batches) == 1
    places = np.flatnonzero(batches.ravel() == 50)
    assert len(places) in (11, 12) and np.diff(places).min() > 1000 / 12 / 1.5


@pytest.mark.parametrize("buffer", [64, 10_000])
def test_a_spread_pass_holds_every_row_as_often_as_counted(buffer: int):
    counts = np.random.default_rng(0).integers(0, 5, 300)
    drawn = spread_copies(counts, np.random.default_rng(1), block=8, buffer=buffer)
    assert np.array_equal(np.bincount(drawn, minlength=300), counts)
    if buffer == 64:  # reads stay local: a buffer touches few blocks of the store
        assert len(np.unique(drawn[:64] // 8)) <= 9
    ones = spread_copies(np.ones(300, dtype=np.int64), np.random.default_rng(1), block=8, buffer=buffer)
    assert np.array_equal(np.sort(ones), np.arange(300)) and not np.array_equal(ones, np.arange(300))


def test_equal_weights_are_no_weights_and_weights_resume_exactly():
    plain, equal = (ItemSampler(np.arange(40), weights=w, batch_size=8, seed=4) for w in (None, WEIGHTS * 0 + 0.3))
    assert np.array_equal(_sequence(plain, 12), _sequence(equal, 12)) and equal.state_dict().keys() == {
        *("seed", "epoch", "step", "pool")
    }
    sampler = ItemSampler(np.arange(40)[::-1], weights=WEIGHTS[::-1], batch_size=8, seed=4)  # in any order
    assert np.array_equal(
        _sequence(ItemSampler(np.arange(40), weights=WEIGHTS, batch_size=8, seed=4), 3), _sequence(sampler, 3)
    )
    other = ItemSampler(np.arange(8), batch_size=8, seed=0)
    other.load_state_dict(sampler.state_dict())
    assert np.array_equal(_sequence(other, 9), _sequence(sampler, 9))
    parts = [
        _sequence(ItemSampler(np.arange(40), weights=WEIGHTS, batch_size=2, seed=4, rank=rank, world=4), 7)
        for rank in range(4)
    ]
    whole = _sequence(ItemSampler(np.arange(40), weights=WEIGHTS, batch_size=8, seed=4), 7)
    assert np.array_equal(np.concatenate(parts, axis=1), whole)


def test_replacing_the_weights_starts_an_epoch_and_the_same_ones_change_nothing():
    sampler = ItemSampler(np.arange(40), weights=WEIGHTS, batch_size=8, seed=4)
    assert not sampler.replace_pool(np.arange(40), 2 * WEIGHTS)
    assert sampler.replace_pool(np.arange(40), WEIGHTS[::-1].copy()) and (sampler.epoch, sampler.step) == (1, 0)
    assert sampler.replace_pool(np.arange(40)) and sampler.weights is None


def test_sampler_refusals():
    with pytest.raises(UserError, match="a weight for each of 10 rows, got 9"):
        ItemSampler(np.arange(10), weights=np.ones(9, np.float32), batch_size=2, seed=0)
    with pytest.raises(
        UserError, match="expected a finite weight above 0 for every row drawn from, got 10 others of 10"
    ):
        ItemSampler(np.arange(10), weights=np.zeros(10, np.float32), batch_size=2, seed=0)
    with pytest.raises(UserError, match="at least one batch of 32 tiles, got 10: choose a batch_size of at most 10"):
        ItemSampler(np.arange(10), batch_size=32, seed=0)
    with pytest.raises(UserError, match="each row once in the pool, got 1 repeated"):
        ItemSampler(np.array([1, 2, 2]), batch_size=1, seed=0)


# ---------------------------------------------------------------- source and loader


def test_streams_are_joined_by_row_and_bands_chosen_by_name():
    wide = FakeStream(bands=("B08", "B04", "B02", "B03"), gsd_m=20.0, name="wide")
    source = TileSource([FakeReader(30), FakeReader(20, stream=wide, base=1)], bands=["B04", "B02"])
    assert (len(source), source.bands, source.gsd_m) == (50, ("B04", "B02"), (10.0, 20.0))
    got = source.read(np.array([31, 2, 49, 30, 7])).clone()
    for place, (reader, row, channels) in enumerate(
        [(1, 1, [1, 2]), (0, 2, [2, 0]), (1, 19, [1, 2]), (1, 0, [1, 2]), (0, 7, [2, 0])]
    ):
        wanted = source.readers[reader].tile(row)[channels]
        assert np.array_equal(got[place].numpy(), wanted, equal_nan=True)
    # and the same memory is used again
    assert source.read(np.arange(5)).data_ptr() == source.read(np.arange(5, 10)).data_ptr()


def test_source_refusals():
    small = FakeStream(size_px=32, name="small")
    with pytest.raises(UserError, match="got none: name a corpus"):
        TileSource([])
    with pytest.raises(UserError, match="expected tiles in stream fake, got none"):
        TileSource([FakeReader(0)])
    with pytest.raises(UserError, match="got size_px 16 in fake and 32 in small"):
        TileSource([FakeReader(), FakeReader(stream=small)])
    other = FakeStream(quantity=Quantity.TOA_REFLECTANCE, name="other")
    with pytest.raises(UserError, match="got quantity boa_reflectance in fake and toa_reflectance in other"):
        TileSource([FakeReader(), FakeReader(stream=other)])
    with pytest.raises(UserError, match="in stream fake, got none of B08"):
        TileSource([FakeReader()], bands=["B02", "B08"])


@pytest.mark.parametrize("ahead", [True, False])
def test_loader_serves_the_samplers_rows_normalised(ahead):
    loader = make_loader(steps=20, ahead=ahead)
    wanted = _sequence(ItemSampler(np.arange(96), batch_size=BATCH, seed=3), 20)
    contract, source = loader.items.contracts["tile"], loader.items.sources["tile"]
    mean, std = (np.array(x)[:, None, None] for x in (contract.mean, contract.std))
    for step, batch in enumerate(loader):
        assert np.array_equal(batch.rows.numpy(), wanted[step])
        assert batch.step == Step(step, 20, derive_seed(3, step, 0), common_seed=derive_seed(3, step))
        for tile, valid, row in zip(*batch.streams["tile"], wanted[step], strict=True):
            raw = source.readers[0].tile(int(row))
            assert np.array_equal(valid[0].numpy(), np.isfinite(raw))
            np.testing.assert_allclose(tile[0].numpy(), np.nan_to_num((raw - mean) / std), atol=1e-5)
    assert step == 19


def test_a_batch_read_ahead_is_thrown_away_when_the_pool_changes():
    def rows(ahead: bool) -> list[list[int]]:
        loader = make_loader(steps=15, ahead=ahead)
        found = []
        for step, batch in enumerate(loader):
            found.append(batch.rows.tolist())
            if step == 6:
                loader.sampler.replace_pool(np.arange(0, 96, 3))
        return found

    assert rows(ahead=True) == rows(ahead=False)
    assert all(row % 3 == 0 for batch in rows(ahead=True)[7:] for row in batch)


def test_a_loader_continues_where_its_state_was_taken():
    whole = [batch.rows.tolist() for batch in make_loader(steps=20)]
    loader = make_loader(steps=20)
    for step, _ in enumerate(loader):
        if step == 8:
            state = loader.state_dict()
            break
    again = make_loader(steps=20, seed=99)
    again.load_state_dict(state)
    assert [batch.rows.tolist() for batch in again] == whole[9:]


def test_step_seeds_differ_by_step_and_rank_and_fit_torch():
    seeds = {derive_seed(seed, step, rank) for seed in range(3) for step in range(50) for rank in range(2)}
    assert len(seeds) == 300 and max(seeds) < 2**63


# ---------------------------------------------------------------- augmentation


def _views(image: torch.Tensor, valid: torch.Tensor, *specs: ViewSpec, seed: int = 0) -> list[View]:
    """The views that these specifications, groups `0`, `1` ..., make of one date of tiles."""
    batch = ItemBatch({"tile": (image[:, None], valid[:, None])}, torch.arange(len(image)), Step(0, 1, seed))
    maker = ViewMaker({str(i): spec for i, spec in enumerate(specs)}, {"tile": preprocessing()})
    return maker(batch).all_views()


def test_symmetries_move_pixels_and_validity_together_and_all_eight_occur():
    image = torch.arange(16.0).view(1, 1, 4, 4).repeat(400, 1, 1, 1)
    got, valid = turn_randomly(image, image > 5, rng=torch.Generator().manual_seed(0))
    square = image[0, 0]
    known = {tuple(torch.rot90(s, k, (0, 1)).flatten().tolist()) for s in (square, square.T) for k in range(4)}
    counts = {}
    for tile in got:
        key = tuple(tile.flatten().tolist())
        counts[key] = counts.get(key, 0) + 1
    assert set(counts) == known and min(counts.values()) > 25  # 50 expected each
    assert torch.equal(valid, got > 5)


def test_turned_windows_hold_the_symmetries_of_the_windows() -> None:
    """Cutting a turned window is turning what the window cuts, by the same draw, masks included."""
    image = torch.randn(64, 2, 12, 12, generator=torch.Generator().manual_seed(3))
    known = torch.rand(image.shape, generator=torch.Generator().manual_seed(4)) > 0.1
    windows = draw_windows(64, scale=(0.2, 0.8), rng=torch.Generator().manual_seed(5))
    rngs = [torch.Generator().manual_seed(6) for _ in range(2)]
    cut = cut_windows(image, known, windows, size_px=8)
    expected, valid = turn_randomly(*cut, rng=rngs[0])
    got, holes = cut_windows(image, known, turn_windows(windows, rng=rngs[1]), size_px=8)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(holes, valid)
    assert rngs[0].get_state().equal(rngs[1].get_state())
    assert not torch.isclose(got, cut[0], atol=1e-3).flatten(1).all(dim=1).all()


def test_crop_of_a_ramp_is_the_ramp_of_the_window_and_nodata_does_not_bleed():
    axis = (torch.arange(16.0) + 0.5) / 16
    image = axis.view(1, 1, 1, 16).expand(64, 2, 16, 16).contiguous()
    whole = torch.ones_like(image, dtype=torch.bool)
    windows = draw_windows(64, scale=(0.3, 0.6), rng=torch.Generator().manual_seed(0))
    got, valid = cut_windows(image, whole, windows, size_px=16)
    inner = got[:, :, :, 2:-2]  # away from the border, where the edge pixel repeats
    slope = inner[..., 1:] - inner[..., :-1]
    assert valid.all() and (slope - slope.mean(-1, keepdim=True)).abs().max() < 1e-4  # linear stays linear
    share = 16 * slope.mean((1, 2, 3))  # width of the window as a share of the tile
    assert share.min() > math.sqrt(0.3 * 3 / 4) - 0.02 and share.max() <= 1.0
    holes = whole.clone()
    holes[:, :, 5:9, 5:9] = False
    poisoned, known = cut_windows(torch.where(holes, image, torch.tensor(1e6)), holes, windows, size_px=16)
    assert poisoned.abs().max() <= 1.0 and not known.all()
    assert torch.equal(poisoned[~known], torch.zeros_like(poisoned[~known]))
    # far from the hole nothing changed: same window, same pixels
    far = torch.nn.functional.max_pool2d((~known).float(), 9, 1, 4) == 0
    torch.testing.assert_close(poisoned[far], got[far], rtol=1e-4, atol=1e-5)


def test_gain_is_a_gain_in_physical_units():
    contract = preprocessing()
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (contract.mean, contract.std))
    physical = 0.1 + 0.2 * torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    gain = torch.tensor([0.5, 1.0, 1.3]).view(1, 3, 1, 1).expand(5, 3, 1, 1)
    torch.testing.assert_close(apply_gain((physical - mean) / std, gain, contract) * std + mean, gain * physical)
    radar = dataclasses.replace(
        contract,
        sensor="sentinel1_rtc",
        quantity=Quantity.GAMMA0,
        bands=("VV", "VH"),
        convert=("gamma0->gamma0_db",),
        range=Quantity.GAMMA0.plausible,
        mean=(-10.0, -17.0),
        std=(3.0, 4.0),
    )
    decibel, two = 10 * physical[:, :2].log10(), gain[:, :2]
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (radar.mean, radar.std))
    got = apply_gain((decibel - mean) / std, two, radar) * std + mean
    torch.testing.assert_close(got, 10 * (two * physical[:, :2]).log10(), rtol=1e-4, atol=1e-4)


def test_gain_is_drawn_on_both_sides_of_one_and_for_each_band():
    mean, std = (torch.tensor(x).view(1, -1, 1, 1) for x in (preprocessing().mean, preprocessing().std))
    image = ((0.2 - mean) / std).expand(400, 3, 4, 4)
    (view,) = _views(image, torch.ones_like(image, dtype=torch.bool), ViewSpec(crop=None, flips=False, gain=0.2))
    gain = ((view.image * std + mean) / 0.2)[:, :, 0, 0]  # [400, 3], uniform between 0.8 and 1.2
    assert gain.min() < 0.82 and gain.max() > 1.18 and gain.min() >= 0.8 - 1e-5 and gain.max() <= 1.2 + 1e-5
    assert abs(float(gain.mean()) - 1) < 0.02  # 0.0033 is its standard error
    assert (torch.corrcoef(gain.T) - torch.eye(3)).abs().max() < 0.2


def test_views_follow_the_seed_of_the_step_and_keep_invalid_pixels_at_zero():
    image, valid = torch.randn(6, 3, 16, 16), torch.rand(6, 3, 16, 16) > 0.2
    spec = ViewSpec(crop=(0.4, 0.9), gain=0.2, noise=0.3)
    (first,), (again,), (other,) = (_views(image, valid, spec, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.image, again.image) and not torch.equal(first.image, other.image)
    assert torch.equal(first.image[~first.valid], torch.zeros(int((~first.valid).sum())))
    (plain,) = _views(image, torch.ones_like(valid), ViewSpec(crop=None, flips=False))
    assert torch.equal(plain.image, image) and plain.bands == preprocessing().bands
    pair = _views(image, valid, ViewSpec(count=2, crop=(0.4, 0.9)))
    assert len(pair) == 2 and not torch.equal(pair[0].image, pair[1].image)


def test_adding_a_view_moves_no_others_numbers():
    image, valid = torch.randn(6, 3, 16, 16), torch.ones(6, 3, 16, 16, dtype=torch.bool)
    spec = ViewSpec(crop=(0.4, 0.9), noise=0.3)
    (alone,) = _views(image, valid, spec)
    first, second, third = _views(image, valid, dataclasses.replace(spec, count=2), spec)
    assert torch.equal(first.image, alone.image)
    assert not torch.equal(second.image, alone.image) and not torch.equal(third.image, alone.image)


def test_views_have_sizes_of_their_own():
    ramp = ((torch.arange(16.0) + 0.5) / 16).view(1, 1, 1, 16).expand(4, 3, 16, 16).contiguous()
    valid = torch.ones_like(ramp, dtype=torch.bool)
    large, small, whole = _views(
        ramp, valid, ViewSpec(), ViewSpec(size=0.5, crop=(0.1, 0.3)), ViewSpec(size=0.25, crop=None, flips=False)
    )
    assert (large.image.shape[-1], small.image.shape[-1], whole.image.shape[-1]) == (16, 8, 4)
    inner = whole.image[0, 0, 0]
    torch.testing.assert_close(inner, (torch.arange(4) + 0.5) / 4, atol=1e-5, rtol=0)
    valid[:, :, :, :8] = False
    _, known = cut_windows(torch.where(valid, ramp, torch.tensor(1e9)), valid, span_whole(len(ramp)), size_px=4)
    assert known.float().mean() == 0.5


def test_aligned_views_share_their_geometry_across_streams():
    radar = dataclasses.replace(preprocessing(), bands=("B02", "B03"), mean=(0.1, 0.1), std=(0.1, 0.1))
    image = torch.randn(5, 1, 3, 16, 16)
    valid = torch.ones_like(image, dtype=torch.bool)
    batch = ItemBatch({"s2": (image, valid), "s1": (image[:, :, :2], valid[:, :, :2])}, torch.arange(5), Step(0, 1, 4))
    contracts = {"s2": preprocessing(), "s1": radar}
    for aligned in (True, False):
        spec = {"optical": ViewSpec(stream="s2", aligned=aligned), "radar": ViewSpec(stream="s1", aligned=aligned)}
        optical, other = ViewMaker(spec, contracts)(batch).all_views()
        assert (optical.stream, other.stream, other.bands) == ("s2", "s1", ("B02", "B03"))
        assert torch.equal(optical.image[:, :2], other.image) == aligned


def test_views_take_streams_and_dates_in_turn():
    image = torch.arange(3.0).view(1, 3, 1, 1, 1).expand(2, 3, 3, 16, 16)
    batch = ItemBatch({"tile": (image, torch.ones_like(image, dtype=torch.bool))}, torch.arange(2), Step(0, 1, 4))
    for stream in ("tile", "season"):
        spec = {"a": ViewSpec(count=4, stream=stream, crop=None), "b": ViewSpec(crop=None)}
        views = ViewMaker(spec, {"tile": preprocessing()}, dates=3)(batch).views
        assert [float(view.image[0, 0, 0, 0]) for view in views["a"]] == [0, 1, 2, 0]
    both = {"s1": preprocessing(), "s2": preprocessing()}
    with pytest.raises(UserError, match="views of every stream of the items, got none of s2"):
        ViewMaker({"tile": ViewSpec()}, both)
    with pytest.raises(UserError, match="expected views of the streams tile of the items, or of tile, got s1"):
        ViewMaker({"radar": ViewSpec(stream="s1")}, {"tile": preprocessing()})
    with pytest.raises(UserError, match="views of all 3 dates of an item, got views of 2; lower --dates, raise the"):
        ViewMaker({"tile": ViewSpec(count=2)}, {"tile": preprocessing()}, dates=3)  # the third used to be left unseen
    with pytest.raises(UserError, match="several dates for views of stream season, got one date"):
        ViewMaker({"season": ViewSpec(stream="season")}, {"tile": preprocessing()})


def test_masks_do_not_repeat_the_numbers_of_the_views():
    # From one seed for both, the crop of the first tile would tell which of its patches are hidden.
    image, valid = torch.zeros(4, 3, 16, 16), torch.ones(4, 3, 16, 16, dtype=torch.bool)
    (noise,) = _views(image, valid, ViewSpec(crop=None, flips=False, noise=1.0), seed=11)
    for stream in range(3):
        objective = torch.randn(image.shape, generator=Step(0, 1, 11).generator(stream))
        assert abs(torch.corrcoef(torch.stack([noise.image.flatten(), objective.flatten()]))[0, 1]) < 0.1


def test_a_person_changes_fields_of_views_by_the_name_of_their_group():
    declared = {"global": ViewSpec(count=2, gain=0.1), "local": ViewSpec(count=6, size=0.5)}
    changed = override_views(declared, {"local": {"count": 4, "crop": [0.1, 0.4]}})
    assert changed == {"global": declared["global"], "local": ViewSpec(count=4, size=0.5, crop=(0.1, 0.4))}
    with pytest.raises(UserError, match="views out of global, local, got 'locale'; did you mean 'local'"):
        override_views(declared, {"locale": {"count": 4}})
    with pytest.raises(UserError, match="got 'gian'; did you mean 'gain'"):
        override_views(declared, {"local": {"gian": 0.1}})
    with pytest.raises(UserError, match=r"crop must be an increasing pair within 0 and 1, got \(0.9, 0.2\)"):
        ViewSpec(crop=(0.9, 0.2))
    with pytest.raises(UserError, match="gain must lie in"):
        ViewSpec(gain=1.5)
    with pytest.raises(UserError, match="expected numbers in the views of 'local'"):
        override_views(declared, {"local": {"count": "many"}})


# ---------------------------------------------------------------- schedules


def test_learning_rate_warms_up_and_falls_along_a_cosine_in_steps():
    config = OptimizerConfig(warmup_steps=10, lr_start=0.1, lr_end=0.01)
    shares = [compute_lr_share(step, total=110, config=config) for step in range(111)]
    np.testing.assert_allclose(shares[:10], 0.1 + 0.9 * np.arange(1, 11) / 10)
    np.testing.assert_allclose(shares[10:], 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * np.arange(101) / 100)))


def test_weight_decay_follows_its_cosine():
    config = OptimizerConfig(weight_decay=0.04, weight_decay_end=0.4)
    assert compute_weight_decay(0, total=100, config=config) == pytest.approx(0.04)
    assert compute_weight_decay(50, total=100, config=config) == pytest.approx(0.22)
    assert compute_weight_decay(100, total=100, config=config) == pytest.approx(0.4)
    assert compute_weight_decay(70, total=100, config=OptimizerConfig(weight_decay=0.05)) == 0.05


def test_biases_norms_and_tokens_do_not_decay():
    objective = make_objective("mae")
    decayed, free = (group["params"] for group in group_parameters(objective, weight_decay=0.1))
    names = {id(parameter): name for name, parameter in objective.named_parameters()}
    assert {names[id(p)] for p in free} == {
        name
        for name, p in objective.named_parameters()
        if p.requires_grad and (name.endswith(("bias", "_token")) or "norm" in name)
    }
    assert {names[id(p)] for p in decayed} >= {
        "encoders.tile.network.patch_embed.proj.weight",
        "encoders.tile.network.blocks.0.attn.qkv.weight",
    }
    assert len(decayed) + len(free) == sum(p.requires_grad for p in objective.parameters())


def test_lars_scales_a_step_by_the_size_of_the_weights_but_for_what_does_not_decay():
    """One step in closed form (You et al. 2017, algorithm 1), beside SGD, which scales nothing."""
    rng = torch.Generator().manual_seed(0)
    matrix, bias, gradients = (torch.randn(3, 4, generator=rng), torch.randn(4, generator=rng), torch.ones(3, 4))
    for algorithm in ("lars", "sgd"):
        w, b = torch.nn.Parameter(matrix.clone()), torch.nn.Parameter(bias.clone())
        w.grad, b.grad = gradients.clone(), torch.ones(4)
        groups = [{"params": [w], "weight_decay": 0.1}, {"params": [b], "weight_decay": 0.0}]
        make_optimizer(groups, lr=0.5, config=OptimizerConfig(algorithm=algorithm)).step()
        step = gradients + 0.1 * matrix
        trust = 0.001 * matrix.norm() / (gradients.norm() + 0.1 * matrix.norm()) if algorithm == "lars" else 1.0
        torch.testing.assert_close(w.detach(), matrix - 0.5 * trust * step)
        torch.testing.assert_close(b.detach(), bias - 0.5)
    with pytest.raises(UserError, match="momentum within 0 and 1, got 1"):
        OptimizerConfig(algorithm="sgd", momentum=1.0)


def test_module_refusals():
    with pytest.raises(UserError, match=r"more steps than warm-up, got lr 0.1, 10 steps and 20 of warm-up"):
        Pretraining(make_objective("mae"), lr=0.1, steps=10, optimizer=OptimizerConfig(warmup_steps=20))
    with pytest.raises(UserError, match="shares of the peak"):
        OptimizerConfig(lr_end=2)


# ---------------------------------------------------------------- monitors


def test_rank_me_counts_directions_of_planted_spectra(rng):
    left, _ = np.linalg.qr(rng.normal(size=(200, 16)))
    right, _ = np.linalg.qr(rng.normal(size=(16, 16)))
    for rank in (1, 4, 16):
        features = (left[:, :rank] * 3.0 @ right[:rank]).astype(np.float32)
        assert rank_me(features) == pytest.approx(rank, rel=1e-3)
    share = np.array([0.5, 0.25, 0.25])
    features = (left[:, :3] * share @ right[:3]).astype(np.float32)
    assert rank_me(features) == pytest.approx(math.exp(-(share * np.log(share)).sum()), rel=1e-3)


def test_feature_std_is_zero_for_one_point_and_one_for_noise(rng):
    assert measure_feature_std(np.ones((50, 8), np.float32)) == pytest.approx(0, abs=1e-9)
    assert measure_feature_std(rng.normal(size=(4000, 64)).astype(np.float32)) == pytest.approx(1, abs=0.02)
