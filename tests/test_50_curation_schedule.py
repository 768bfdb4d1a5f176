"""The dynamic schedule: when events fall, that resumes repeat them, and that nothing is pruned on embeddings that mean nothing yet."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from eo_ssl.curation import (
    Context,
    Density,
    DynamicConfig,
    DynamicSchedule,
    Hierarchical,
    Random,
    Readiness,
    Selector,
    curate,
)
from eo_ssl.curation.packing import pack, unpack
from eo_ssl.curation.readiness import judge_readiness
from eo_ssl.errors import UserError

METHOD = Hierarchical(levels=(20, 4), n_resample=2)
CONFIG = DynamicConfig(warmup=1000, interval=300, keep=0.25, method=METHOD, seed=5)


def grouped(seed: int, n: int = 600, sizes: tuple[float, ...] = (0.9, 0.06, 0.04)) -> tuple[np.ndarray, np.ndarray]:
    """Unequal but well separated groups: what a ready encoder gives."""
    rng = np.random.default_rng(seed)
    group = np.random.default_rng(0).choice(len(sizes), n, p=sizes)
    return (np.eye(12)[group] * 4 + rng.normal(size=(n, 12)) * 0.2).astype(np.float32), group


def test_events_fall_on_the_marks() -> None:
    schedule = DynamicSchedule(CONFIG)
    assert not schedule.due(0) and not schedule.due(999)
    assert schedule.due(1000) and schedule.due(1063)  # until it is held
    schedule.update(grouped(1)[0], presentations=1063)
    assert schedule.next_at == 1300 and not schedule.due(1299) and schedule.due(1300)
    schedule.update(
        grouped(2)[0], presentations=2000
    )  # two marks were jumped over: one event, then the next mark after it
    assert schedule.next_at == 2200
    schedule.update(grouped(3)[0])
    assert schedule.next_at == 2500
    assert [entry["presentations"] for entry in schedule.log] == [1063, 2000, 2200]
    assert schedule.event == 3


def test_pools_are_balanced_and_redrawn_from_the_full_set() -> None:
    schedule = DynamicSchedule(replace(CONFIG, keep=36))
    ids = np.random.default_rng(1).permutation(5000)[:600]
    everything = set()
    for event in range(6):
        embeddings, group = grouped(event)
        pool, report = schedule.update(embeddings, ids)
        assert (np.diff(pool) > 0).all() and set(pool.tolist()) <= set(ids.tolist())
        counts = np.bincount(group[np.isin(ids, pool)], minlength=3)
        assert counts.sum() == 36 and counts.min() >= 6, "the small groups have 36 and 24 of 600"
        assert report.event == event + 1 and report.seed == 5
        assert (report.turnover is None) == (event == 0)
        assert report.after.top_entropy > report.chance.top_entropy  # type: ignore[operator]
        everything |= set(pool.tolist())
    assert len(everything) > 100, "a nested redraw could never leave the first 36"
    assert schedule.usage is not None and schedule.usage.sum() == 6 * 36
    np.testing.assert_array_equal(np.sort(ids[schedule.usage > 0]), np.sort(list(everything)))
    assert schedule.log[-1]["never_drawn"] == 600 - len(everything)


@pytest.mark.parametrize("stop", [0, 1, 3])
def test_a_resumed_schedule_holds_the_same_events(stop: int) -> None:
    whole, first = DynamicSchedule(CONFIG), DynamicSchedule(CONFIG)
    expected = [whole.update(grouped(event)[0]) for event in range(5)]
    for event in range(stop):
        first.update(grouped(event)[0])
    state = json.loads(json.dumps(first.state_dict(), allow_nan=False))  # plain values only
    resumed = DynamicSchedule(CONFIG)
    resumed.load_state_dict(state)
    if stop:
        np.testing.assert_array_equal(resumed.pool, expected[stop - 1][0])
    for event in range(stop, 5):
        pool, report = resumed.update(grouped(event)[0])
        np.testing.assert_array_equal(pool, expected[event][0])
        assert replace(report, cost=expected[event][1].cost) == expected[event][1]
    assert resumed.state_dict() == whole.state_dict()


def look_twice(noise: float, n: int = 300, d: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Two looks at n rows: what they have in common, and what each adds."""
    rng = np.random.default_rng(3)
    common = rng.normal(size=(n, d))
    first, second = (common + noise * rng.normal(size=(n, d)) for _ in range(2))
    return first.astype(np.float32), second.astype(np.float32)


def test_rows_are_found_again_where_looks_agree_and_by_chance_where_they_do_not() -> None:
    assert judge_readiness(*look_twice(0.0), Readiness()).agreement == 1.0
    noise = judge_readiness(*look_twice(100.0), Readiness())
    assert noise.agreement < 0.05 and not noise.ready and noise.trust == 0
    first, second = look_twice(1.5)
    some = judge_readiness(first, second, Readiness(none=0.2, full=0.9))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    places = [
        np.log(1 + np.argsort(np.argsort(-looks, axis=1), axis=1).diagonal())
        for looks in (unit[0] @ unit[1].T, unit[1] @ unit[0].T)
    ]
    assert some.agreement == pytest.approx(1 - np.mean(places) / np.log(np.arange(1, 301)).mean())
    assert not some.ready and some.trust == pytest.approx((some.agreement - 0.2) / 0.7) and 0 < some.trust < 1
    assert judge_readiness(first, second, Readiness(none=0.2, full=some.agreement)).trust == 1
    # Collapsed features find nothing, and everything.
    assert judge_readiness(np.ones((9, 4), np.float32), np.ones((9, 4), np.float32), Readiness()).trust == 0
    for other in (second[1:], first[:1]):
        with pytest.raises(UserError, match="expected two looks at the same rows, at least two, got"):
            judge_readiness(other if len(other) == 1 else first, other, Readiness())


@pytest.mark.parametrize("method", [METHOD, Density(gamma=0)])
def test_the_less_features_are_trusted_the_less_is_curated(method: Selector) -> None:
    """keep^r of the rows, picked or effective, and all of them without trust; the next try comes sooner."""
    embeddings, _ = grouped(0)
    config = replace(CONFIG, method=method, readiness=Readiness(full=0.9, retry=50))
    for noise in (0.0, 1.5, 1e6):
        looks = look_twice(noise)
        trust = judge_readiness(*looks, config.readiness).trust
        schedule = DynamicSchedule(config)
        _, report = schedule.update(embeddings, presentations=1000, context=Context(looks=looks))
        assert report.gate is not None and report.gate.trust == trust and (0 < trust < 1) == (noise == 1.5)
        assert report.effective_rows == pytest.approx(600 * 0.25**trust, abs=1)
        assert schedule.next_at == (1300 if noise == 0 else 1050)
    unasked = DynamicSchedule(config)
    _, report = unasked.update(embeddings, presentations=1000)
    assert report.gate is None and report.effective_rows == pytest.approx(150, rel=0.01)


def test_keeping_everything_is_no_curation_at_all() -> None:
    schedule = DynamicSchedule(replace(CONFIG, keep=1))
    pool, report = schedule.update(np.random.default_rng(0).normal(size=(50, 4)))
    np.testing.assert_array_equal(pool, np.arange(50))
    assert report.event == 1 and report.gate is None


def test_any_selector_fits_and_the_duplicate_filter_goes_in_front() -> None:
    schedule = DynamicSchedule(replace(CONFIG, method=Random()))
    copies = Context(identities=np.arange(600) // 2)
    pool, report = schedule.update(grouped(0)[0], context=copies)
    assert report.method == "random" and report.reasons["duplicate"] == 300
    assert (pool % 2 == 0).all() and len(pool) == 150


def test_keep_swings_around_its_mean_and_the_end_sees_everything() -> None:
    config = replace(CONFIG, keep=0.4, swing=0.5, last=0.25)
    schedule = DynamicSchedule(config)
    embeddings, _ = grouped(1)
    n = len(embeddings)
    kept = []
    for at in (1000, 1300, 1600, 1900):
        assert schedule.due(at, 2800) and not schedule.ends(at, 2800)
        kept.append(len(schedule.update(embeddings, presentations=at)[0]))
    assert kept == [round(0.6 * n), round(0.2 * n)] * 2
    assert not schedule.ends(2099, 2800) and schedule.ends(2100, 2800) and not schedule.due(2200, 2800)
    resumed = DynamicSchedule(config)
    assert np.array_equal(schedule.release(np.arange(n)[::-1]), np.arange(n))
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for one in (schedule, resumed):
        assert one.pool is not None and len(one.pool) == n and one.weights is None
        assert not one.due(2200, 2800) and not one.ends(2200, 2800)
    assert [replace(config, keep=100).keep_at(event) for event in (1, 2)] == [150, 50]
    assert replace(config, keep=1).keep_at(1) == 1  # no curation at all


def test_first_features_are_trusted_later_as_far_as_at_first() -> None:
    """Nobody looks twice at what is redrawn from; also after a resume."""
    embeddings, _ = grouped(0)
    config = replace(CONFIG, features="first", method=Density(gamma=0), readiness=Readiness(full=0.9))
    schedule = DynamicSchedule(config)
    _, first = schedule.update(embeddings, context=Context(looks=look_twice(1.5)))
    resumed = DynamicSchedule(config)
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert first.gate is not None and 0 < first.gate.trust < 1
    for one in (schedule, resumed):
        _, again = one.update(embeddings)
        assert again.gate == first.gate and again.effective_rows == pytest.approx(first.effective_rows)


def test_nothing_is_released_that_was_never_pruned() -> None:
    schedule = DynamicSchedule(replace(CONFIG, last=0.5))
    assert not schedule.ends(900, 1000)


def test_weighted_pools_keep_their_order_and_add_up_their_use() -> None:
    embeddings, _ = grouped(1)
    ids = np.random.default_rng(0).permutation(len(embeddings)) + 7
    schedule = DynamicSchedule(replace(CONFIG, keep=0.5, method=Density(gamma=0)))
    pool, report = schedule.update(embeddings, ids)
    assert np.array_equal(pool, np.sort(ids)) and report.weighs and report.turnover is None
    plain = curate(embeddings, 0.5, np.random.default_rng(0), method=Density(gamma=0)).weights
    assert plain is not None and schedule.weights is not None and schedule.usage is not None
    np.testing.assert_array_equal(schedule.weights, plain[np.argsort(ids)])
    np.testing.assert_array_equal(schedule.usage, plain)
    _, again = schedule.update(embeddings, ids)
    assert again.turnover == pytest.approx(0, abs=1e-6)  # no chance is in these weights
    np.testing.assert_allclose(schedule.usage, 2 * plain)
    spread = np.linspace(-2, 2, len(embeddings)).astype(np.float32)
    told = DynamicSchedule(replace(CONFIG, keep=0.5, method=Density(gamma=1)))
    assert told.update(embeddings, ids, context=Context(spread=spread))[1].notes == ()
    assert np.abs(told.weights - schedule.weights).max() > 0


def test_another_full_set_or_configuration_is_refused() -> None:
    schedule = DynamicSchedule(CONFIG)
    schedule.update(grouped(0)[0])
    with pytest.raises(UserError, match="expected the full set of the earlier events"):
        schedule.update(grouped(0)[0][:500])
    with pytest.raises(UserError, match="expected 600 different ids"):
        schedule.update(grouped(0)[0], np.zeros(600, dtype=np.int64))
    other = DynamicSchedule(replace(CONFIG, interval=10, method=replace(METHOD, eta=1.0)))
    with pytest.raises(UserError, match="got another interval, method"):
        other.load_state_dict(schedule.state_dict())


def test_impossible_schedules_are_refused() -> None:
    for wrong, words in (
        ({"swing": 1.0}, "in .0, 1.*got 1.0 and 0.0"),
        ({"keep": 0.8, "swing": 0.5}, "at most all rows"),
    ):
        with pytest.raises(UserError, match=words):
            replace(CONFIG, **wrong)
    with pytest.raises(UserError, match="expected warmup >= 0 and interval >= 1"):
        DynamicConfig(warmup=-1, interval=5)
    with pytest.raises(UserError, match="expected keep to be a fraction"):
        DynamicConfig(warmup=1, interval=5, keep=0)
    for wrong in ({"full": 1.5}, {"none": 0.4}):
        with pytest.raises(UserError, match="expected none < full <= 1"):
            Readiness(**wrong)
    with pytest.raises(UserError, match="expected rows >= 4 and retry >= 1, got 2 and None"):
        Readiness(rows=2)


def test_packed_arrays_come_back_and_broken_ones_are_refused(rng: np.random.Generator) -> None:
    for array in (np.arange(7), rng.normal(size=(3, 4)).astype(np.float32), np.empty((0,), dtype=np.int64)):
        back = unpack(json.loads(json.dumps(pack(array))))
        assert back is not None and back.dtype == array.dtype
        np.testing.assert_array_equal(back, array)
    assert unpack(pack(None)) is None
    with pytest.raises(UserError, match="expected a packed array"):
        unpack({"dtype": "|O", "shape": [1], "zlib": ""})
    with pytest.raises(UserError, match="expected a packed array"):
        unpack({"dtype": "<i8", "shape": [1], "zlib": "AAAA"})
