"""Stored values and statistics: error bounds of the round trip, exactness of what is counted, merges that do not depend on order."""

from __future__ import annotations

import json
from functools import reduce

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_ssl.corpus import BandStats, Encoding, Stream
from eo_ssl.corpus.statistics import CodeCounter, merge_strata, place_bin_edges
from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity, sensor

OPTICAL = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("B02", "B03"), 10.0, 8)
RADAR = Stream("sentinel1_rtc", Quantity.GAMMA0, ("VV", "VH"), 10.0, 8)


def round_trip(encoding: Encoding, image: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    stored = np.empty((len(image) + encoding.extra_channels, *image.shape[1:]), dtype=encoding.dtype)
    clipped = encoding.encode(image, stored)
    out = np.empty(image.shape, dtype=np.float32)
    encoding.decode(stored, out)
    return out, stored, clipped


def test_reflectance_keeps_half_a_unit_negatives_and_nan(rng: np.random.Generator) -> None:
    image = rng.uniform(-0.3, 3.2, (2, 8, 8)).astype(np.float32)
    image[0, 0, 0], image[1, 3, 3], image[1, 4, 4] = np.nan, -0.0123, 3.5
    out, stored, clipped = round_trip(Encoding.of(Quantity.BOA_REFLECTANCE, chips=False), image)
    assert stored.dtype == np.int16
    assert stored[0, 0, 0] == -32768 and np.isnan(out[0, 0, 0]) and np.isnan(out).sum() == 1
    assert stored[1, 3, 3] == -123
    assert stored[1, 4, 4] == 32767 and clipped.sum() == 1 and clipped[4, 4]
    kept = ~np.isnan(image) & (image < 3.2)
    assert np.abs(out - image)[kept].max() <= 0.5e-4 * 1.01


def test_integers_of_the_archive_come_back_exactly() -> None:
    archive = np.arange(-1000, 20000, dtype=np.float32).reshape(1, 100, 210) / np.float32(10000)
    _, stored, _ = round_trip(Encoding.of(Quantity.TOA_REFLECTANCE, chips=False), archive)
    assert (stored.ravel() == np.arange(-1000, 20000)).all()


def test_power_is_linear_float16_with_negatives_and_a_bounded_error(rng: np.random.Generator) -> None:
    image = (10 ** rng.uniform(-4.2, 1.5, (2, 8, 8))).astype(np.float32)
    image[0, 0, 0], image[0, 1, 1], image[1, 2, 2] = np.nan, -0.001, 1e9
    out, stored, clipped = round_trip(Encoding.of(Quantity.GAMMA0, chips=False), image)
    assert stored.dtype == np.float16
    assert np.isnan(out[0, 0, 0]) and out[0, 1, 1] < 0 and out[1, 2, 2] == 65504 and clipped.sum() == 1
    kept = np.isfinite(image) & (image > 6.2e-5) & (image < 100)
    assert (np.abs(out - image)[kept] / image[kept]).max() <= 2**-11


def test_digital_numbers_are_kept_exactly(rng: np.random.Generator) -> None:
    image = rng.integers(0, 65535, (1, 8, 8)).astype(np.float32)
    image[0, 0, 0], image[0, 1, 1] = np.nan, 65535
    out, stored, clipped = round_trip(Encoding.of(Quantity.DN, chips=False), image)
    assert stored[0, 0, 0] == 65535 and np.isnan(out[0, 0, 0])
    assert clipped[1, 1] and out[0, 1, 1] == 65534
    rest = np.ones((1, 8, 8), dtype=bool)
    rest[0, 0, 0] = rest[0, 1, 1] = False
    assert (out[rest] == image[rest]).all()


def test_chips_keep_their_bytes_and_a_mask(rng: np.random.Generator) -> None:
    numbers = rng.integers(0, 256, (1, 8, 8))
    image = (numbers.astype(np.float32) * np.float32(1 / 255)).astype(np.float32)
    image[0, 2, 3] = np.nan
    out, stored, _ = round_trip(Encoding.of(Quantity.AMPLITUDE, chips=True, scale=1 / 255), image)
    assert stored.shape == (2, 8, 8) and stored.dtype == np.uint8
    assert stored[1].sum() == 63 and stored[1, 2, 3] == 0
    valid = np.isfinite(image)
    assert (stored[:1][valid] == numbers[valid]).all()
    assert np.isnan(out[0, 2, 3]) and np.allclose(out[valid], image[valid], rtol=1e-6)


def test_chips_of_other_than_8_bits_are_refused(rng: np.random.Generator) -> None:
    with pytest.raises(UserError, match="8-bit integers after the card's scale"):
        round_trip(Encoding.of(Quantity.AMPLITUDE, chips=True), np.full((1, 4, 4), 0.5, dtype=np.float32))


def test_stream_names_are_short_unique_and_survive_json() -> None:
    full = Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, sensor("sentinel2_l2a").band_names, 10.0, 64)
    assert full.name == "s2_boa_12b_10m_64px"
    assert OPTICAL.name == "s2_boa_b02b03_10m_8px"
    assert RADAR.name == "s1rtc_gamma0_vvvh_10m_8px"
    six = [
        Stream("sentinel2_l1c", Quantity.TOA_REFLECTANCE, bands, 10.0, 64)
        for bands in (full.bands[:6], full.bands[1:7])
    ]
    assert six[0].name != six[1].name
    dn = {Stream(name, Quantity.DN, ("B02",), 10.0, 64).name for name in ("sentinel2_l1c", "sentinel2_l2a")}
    assert len(dn) == 2
    for stream in (full, OPTICAL, RADAR, *six):
        assert Stream.from_json(json.loads(json.dumps(stream.to_json()))) == stream


def test_streams_resolve_band_names_and_refuse_decibel() -> None:
    assert Stream("sentinel2_l2a", Quantity.BOA_REFLECTANCE, ("blue", "B8A"), 10.0, 64).bands == ("B02", "B8A")
    with pytest.raises(UserError, match="linear quantity, got gamma0_db"):
        Stream("sentinel1_rtc", Quantity.GAMMA0_DB, ("VV",), 10.0, 64)


def tiles(rng: np.random.Generator, stream: Stream, count: int) -> np.ndarray:
    if stream is RADAR:
        values = (rng.gamma(4.4, 0.02, (count, 2, 8, 8)) - 0.004).astype(np.float16)
        values[rng.random(values.shape) < 0.1] = np.nan
        return values
    codes = rng.integers(-200, 9000, (count, 2, 8, 8)).astype(np.int16)
    codes[rng.random(codes.shape) < 0.1] = -32768
    return codes


def counted(stream: Stream, stored: np.ndarray, *, baseline: str = "03.01") -> list[BandStats]:
    counter = CodeCounter(stream, Encoding.of(stream.quantity, chips=False))
    counter.add(stored)
    return counter.statistics(baseline=baseline, orbit="22")


@pytest.mark.parametrize("stream", [OPTICAL, RADAR], ids=["int16", "float16"])
def test_statistics_equal_direct_float64_computation(rng: np.random.Generator, stream: Stream) -> None:
    stored = tiles(rng, stream, 40)
    values = np.empty(stored.shape, dtype=np.float32)
    Encoding.of(stream.quantity, chips=False).decode(stored, values)
    views = [values.astype(np.float64)]
    if stream is RADAR:
        views.append(10 * np.log10(np.maximum(views[0], 1e-5)))
    found = counted(stream, stored)
    assert [stats.quantity.value for stats in found] == (
        ["gamma0", "gamma0_db"] if stream is RADAR else ["boa_reflectance"]
    )
    for stats, direct in zip(found, views, strict=True):
        flat = direct.transpose(1, 0, 2, 3).reshape(2, -1)
        assert (stats.count == np.isfinite(flat).sum(axis=1)).all()
        np.testing.assert_allclose(stats.mean, np.nanmean(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.std, np.nanstd(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.minimum, np.nanmin(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.maximum, np.nanmax(flat, axis=1), rtol=1e-6)
        assert (stats.histogram.sum(axis=1) == stats.count).all()
        width = np.diff(stats.edges)
        for q in (0, 2, 25, 50, 98, 100):
            exact = np.nanpercentile(flat, q, axis=1, method="inverted_cdf")
            bins = np.clip(np.searchsorted(stats.edges, exact, side="right") - 1, 0, len(width) - 1)
            assert (np.abs(stats.percentile(q) - exact) <= width[bins]).all()


def test_a_mask_keeps_chips_padding_out_of_statistics() -> None:
    stream = Stream("sar_chip", Quantity.AMPLITUDE, ("SAR",), 0.3, 4)
    stored = np.full((1, 2, 4, 4), 100, dtype=np.uint8)
    stored[0, 1] = 0
    stored[0, :, 0, 0] = (51, 1)
    counter = CodeCounter(stream, Encoding("uint8", 1 / 255))
    counter.add(stored)
    (stats,) = counter.statistics(baseline="", orbit="")
    assert stats.count.tolist() == [1]
    np.testing.assert_allclose(stats.mean, [0.2], rtol=1e-6)


@pytest.fixture(scope="module")
def pieces() -> tuple[list[BandStats], list[list[BandStats]]]:
    """Statistics of 25 tiles, and of each five of them."""
    stored = tiles(np.random.default_rng(3), RADAR, 25)
    return counted(RADAR, stored), [counted(RADAR, stored[5 * k : 5 * k + 5]) for k in range(5)]


@given(st.permutations(range(5)), st.integers(1, 4))
@settings(max_examples=20)
def test_merging_does_not_depend_on_order_or_grouping(pieces, order: list[int], first: int) -> None:
    whole, of_five = pieces
    parts = [of_five[k] for k in order]
    left, right = (
        merge_strata([stats for part in group for stats in part]) for group in (parts[:first], parts[first:])
    )
    for one, two, all_ in zip(left, right, whole, strict=True):
        merged = one.merge(two)
        assert (merged.count == all_.count).all() and (merged.histogram == all_.histogram).all()
        np.testing.assert_allclose(merged.mean, all_.mean, rtol=1e-12)
        np.testing.assert_allclose(merged.std, all_.std, rtol=1e-12)
        assert (merged.minimum == all_.minimum).all() and (merged.maximum == all_.maximum).all()


@st.composite
def trees(draw, leaves: int = 7):
    """An order of leaves, and which neighbours to merge next until one is left: every way to combine parts."""
    order = draw(st.permutations(range(leaves)))
    return order, [draw(st.integers(0, left - 2)) for left in range(leaves, 1, -1)]


def parts_of(stored: np.ndarray) -> list[tuple[np.ndarray, int]]:
    """Five parts of 25 tiles with their months, the first stratum in two parts, and two empty parts."""
    cuts = [(0, 4, 1), (4, 5, 1), (5, 5, 7), (5, 16, 7), (16, 24, 12), (24, 25, 0), (25, 25, 0)]
    return [(stored[first:last], month) for first, last, month in cuts]


@given(trees())
@settings(max_examples=60)
def test_any_tree_of_merges_gives_the_direct_statistics(tree) -> None:
    """Moments to 1e-6 and percentiles to one bin of a float64 computation over all pixels, in total and per month."""
    order, steps = tree
    stored = tiles(np.random.default_rng(9), RADAR, 25)
    values = stored.astype(np.float64)
    parts = []
    for part, month in parts_of(stored):
        counter = CodeCounter(RADAR, Encoding.of(RADAR.quantity, chips=False))
        counter.add(part, month=month)
        parts.append(counter.statistics(baseline="003.31", orbit="ascending")[0])
    left = [parts[k] for k in order]
    for k in steps:
        left[k : k + 2] = [left[k].merge(left[k + 1])]
    (merged,) = left
    wanted = {0: values[24:], 1: values[:5], 7: values[5:16], 12: values[16:24]}
    assert sorted(key.month for key in merged.strata) == sorted(wanted)
    chosen = [(merged, values)] + [(merged.where(month=month), part) for month, part in wanted.items()]
    for stats, part in [
        *chosen,
        (merged.where(month=(1, 12), orbit="ascending"), np.concatenate([wanted[1], wanted[12]])),
    ]:
        flat = part.transpose(1, 0, 2, 3).reshape(2, -1)
        assert (stats.count == np.isfinite(flat).sum(axis=1)).all()
        np.testing.assert_allclose(stats.mean, np.nanmean(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.std, np.nanstd(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.minimum, np.nanmin(flat, axis=1), rtol=1e-6)
        np.testing.assert_allclose(stats.maximum, np.nanmax(flat, axis=1), rtol=1e-6)
        for q in (2, 50, 98):
            exact = np.nanpercentile(flat, q, axis=1, method="inverted_cdf")
            bins = np.clip(np.searchsorted(stats.edges, exact, side="right") - 1, 0, len(stats.edges) - 2)
            assert (np.abs(stats.percentile(q) - exact) <= np.diff(stats.edges)[bins]).all()


def test_strata_are_asked_for_by_name(rng: np.random.Generator) -> None:
    old, new = (counted(OPTICAL, tiles(rng, OPTICAL, 3), baseline=name)[0] for name in ("03.01", "05.09"))
    merged = old.merge(new)
    assert merged.where(baseline="05.09").mean.tolist() == new.mean.tolist()
    assert (merged.where().count == merged.count).all()
    with pytest.raises(UserError, match=r"strata with baseline '02.04', got '03.01', '05.09'; choose"):
        merged.where(baseline="02.04")
    with pytest.raises(UserError, match="sensor, level, baseline, orbit, month, got 'year'"):
        merged.where(year=2020)


def test_strata_stay_apart_and_add_up(rng: np.random.Generator) -> None:
    stored = tiles(rng, OPTICAL, 20)
    (old,), (new,) = counted(OPTICAL, stored[:5]), counted(OPTICAL, stored[5:], baseline="05.09")
    merged = reduce(BandStats.merge, [old, new])
    assert sorted(key[2] for key in merged.strata) == ["03.01", "05.09"]
    (whole,) = counted(OPTICAL, stored)
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-12)
    assert (merged.strata["sentinel2_l2a", "boa_reflectance", "03.01", "22", 0].count == old.count).all()


def test_statistics_survive_json_exactly(rng: np.random.Generator) -> None:
    for stats in counted(RADAR, tiles(rng, RADAR, 5)):
        back = BandStats.from_json(json.loads(json.dumps(stats.to_json())))
        for name in ("count", "mean", "std", "minimum", "maximum", "histogram"):
            assert np.array_equal(getattr(back, name), getattr(stats, name))
        assert (back.quantity, back.bands, list(back.strata)) == (stats.quantity, stats.bands, list(stats.strata))


def test_a_band_without_valid_pixels_has_no_mean_but_does_not_spoil_the_others(rng: np.random.Generator) -> None:
    stored = tiles(rng, OPTICAL, 4)
    stored[:, 1] = -32768
    (stats,) = counted(OPTICAL, stored)
    (other,) = counted(OPTICAL, tiles(rng, OPTICAL, 4))
    assert np.isnan(stats.mean[1]) and stats.count[1] == 0
    merged = stats.merge(other)
    np.testing.assert_allclose(merged.mean[1], other.mean[1])
    assert merged.minimum[1] == other.minimum[1]
    assert json.loads(json.dumps(stats.to_json()))["strata"][0]["mean"][1] is None


def test_empty_and_mixed_statistics_are_refused_in_words(rng: np.random.Generator) -> None:
    counter = CodeCounter(OPTICAL, Encoding.of(OPTICAL.quantity, chips=False))
    (empty,) = counter.statistics(baseline="", orbit="")
    with pytest.raises(UserError, match="at least one training tile"):
        _ = empty.mean
    (optical,) = counted(OPTICAL, tiles(rng, OPTICAL, 2))
    with pytest.raises(UserError, match="same quantity and bands"):
        optical.merge(counted(RADAR, tiles(rng, RADAR, 2))[0])
    with pytest.raises(UserError, match="percentile from 0 to 100, got 101"):
        optical.percentile(101)


@pytest.mark.parametrize("quantity", list(Quantity))
def test_bins_are_fixed_and_ascend(quantity: Quantity) -> None:
    assert (np.diff(place_bin_edges(quantity)) > 0).all()
