"""Weights: the effective rows asked for, the cap, draws as often as expected, and density against its closed form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eo_ssl.curation import Candidates, Context, Density, Hierarchical, Random, Selector, Tempered, curate
from eo_ssl.curation.balanced_sampling import allocate_evenly, fill_evenly
from eo_ssl.curation.diversity import measure_turnover
from eo_ssl.curation.neighbours import find_nearest_others
from eo_ssl.curation.weights import (
    cap_weights,
    check_weights,
    count_effective_rows,
    draw_systematically,
    draw_without_replacement,
    temper,
    weigh_to_effective,
)
from eo_ssl.errors import UserError

SIZES = (1000, 100, 10)


@given(
    st.integers(0, 10**6), st.sampled_from([1, 2, 9, 60]), st.sampled_from([1.0, 1.5, 3.0, 20.0, 1e3]), st.booleans()
)
@settings(max_examples=60, deadline=None)
def test_capped_weights_solve_their_equation(seed: int, k: int, cap: float, grouped: bool) -> None:
    """The mean of min(s w, cap) is 1: s found by bisection here, over ties and weights that double precision loses."""
    rng = np.random.default_rng(seed)
    logs = rng.choice([0.0, 0.5, 30.0]) * np.round(rng.normal(size=k), 1)
    sizes = rng.integers(1, 9, k) if grouped else np.ones(k, dtype=np.int64)
    n, low, high = int(sizes.sum()), -1e3, 1e3
    for _ in range(200):
        shift = (low + high) / 2
        mean = float((np.minimum(np.exp(np.minimum(logs + shift, 50)), cap) * sizes).sum()) / n
        low, high = (shift, high) if mean < 1 else (low, shift)
    expected = np.minimum(np.exp(np.minimum(logs + high, 50)), cap)
    found = cap_weights(logs, cap, sizes if grouped else None)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
    assert found.max() <= cap and (found * sizes).sum() == pytest.approx(n, rel=1e-9)


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Three groups of very different size but one extent, in random order: float32 [1110, 8] and group."""
    rng = np.random.default_rng(7)
    group = rng.permutation(np.repeat(np.arange(3), SIZES))
    return (np.eye(8)[group] * 5 + rng.normal(size=(len(group), 8)) * 0.15).astype(np.float32), group


@given(st.integers(0, 10**6), st.sampled_from([0.06, 0.15, 0.5, 0.99, 1.0]), st.sampled_from([1, 3]))
@settings(max_examples=40, deadline=None)
def test_tempered_weights_have_the_effective_rows_asked_for(seed: int, share: float, power: int) -> None:
    scores = np.random.default_rng(seed).normal(size=400) ** power
    weights = temper(scores, share * 400)
    assert count_effective_rows(weights) == pytest.approx(share * 400, rel=1e-6)
    assert weights.mean() == pytest.approx(1) and weights.max() <= 20 + 1e-9
    assert (np.diff(weights[np.argsort(scores)]) >= -1e-12).all()  # never less for a higher score


def test_no_row_is_lost_to_underflow_however_steep_the_weights() -> None:
    """A few outliers make the others' weights smaller than single precision holds; they are drawn still, if rarely."""
    scores = np.concatenate([np.random.default_rng(0).normal(size=2000), 1000 + np.linspace(0, 5, 150)])
    weights = temper(scores, 0.06 * 2150)
    assert count_effective_rows(weights) == pytest.approx(129, rel=1e-3)
    assert len(check_weights(weights)) == 2150 and (check_weights(weights) > 0).all()


def test_uncapped_weights_are_powers_of_one_number() -> None:
    scores = np.random.default_rng(0).normal(size=50)
    weights = temper(scores, 30, cap=50)
    steepness = np.diff(np.log(weights)) / np.diff(scores)
    np.testing.assert_allclose(steepness, steepness[0])


def test_the_cap_gives_what_it_takes_to_the_others_in_proportion() -> None:
    """Mean of min(s w, cap) is 1, by a slow search for s."""
    weights = np.random.default_rng(1).exponential(size=300) ** 3
    for cap in (1.5, 4.0, 20.0):
        low, high = 0.0, 1e6
        for _ in range(200):
            middle = (low + high) / 2
            low, high = (middle, high) if np.minimum(middle * weights, cap).mean() < 1 else (low, middle)
        np.testing.assert_allclose(cap_weights(np.log(weights), cap), np.minimum(low * weights, cap), rtol=1e-6)
        sizes = np.random.default_rng(2).integers(1, 6, 300)
        whole = cap_weights(np.repeat(np.log(weights), sizes), cap)
        np.testing.assert_allclose(np.repeat(cap_weights(np.log(weights), cap, sizes), sizes), whole, rtol=1e-9)


def test_scores_that_cannot_be_told_apart_leave_more_effective_rows_and_say_so() -> None:
    one_of_a_hundred = np.zeros(100)
    one_of_a_hundred[3] = 1
    weights = temper(one_of_a_hundred, 10)
    assert weights[3] == 20 and np.allclose(np.delete(weights, 3), 80 / 99)
    assert (temper(np.full(7, 3.0), 2) == 1).all()
    alike = curate(np.ones((40, 3)), 10, np.random.default_rng(0), method=Density(gamma=0))
    assert alike.report.effective_rows == 40 and "40 rows are effective, not 10" in alike.report.notes[0]


def test_a_cap_that_leaves_no_way_is_refused() -> None:
    with pytest.raises(UserError, match="at least 20 effective rows of 100 under a cap of 5 times the mean, got 10"):
        temper(np.arange(100), 10, cap=5)


@pytest.mark.parametrize("wrong", [[0.0, 1.0], [1.0, np.nan], [np.inf], [-1.0, 2.0], []])
def test_weights_that_draw_nothing_are_refused(wrong: list[float]) -> None:
    with pytest.raises(UserError, match="expected a finite weight above 0 for every row drawn from"):
        check_weights(np.asarray(wrong))


@given(st.integers(0, 10**6), st.integers(1, 900))
@settings(max_examples=60, deadline=None)
def test_each_row_comes_up_within_one_of_its_expected_number(seed: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    weights = rng.exponential(size=300).astype(np.float32) ** 2
    counts = draw_systematically(weights, count, rng)
    assert counts.sum() == count
    assert (np.abs(counts - count * weights / weights.sum(dtype=np.float64)) < 1 + 1e-4).all()


def test_systematic_draws_are_unbiased() -> None:
    weights, rng = np.asarray([0.1, 2.4, 0.5, 1.0]), np.random.default_rng(0)
    mean = np.mean([draw_systematically(weights, 4, rng) for _ in range(4000)], axis=0)
    np.testing.assert_allclose(mean, weights, atol=0.03)


def test_draws_without_replacement_follow_the_weights() -> None:
    """First draws are in proportion; of two of three rows the one left out has its closed form."""
    weights, rng = np.asarray([1.0, 2.0, 7.0]), np.random.default_rng(0)
    singles = np.bincount([draw_without_replacement(weights, 1, rng)[0] for _ in range(4000)]) / 4000
    np.testing.assert_allclose(singles, weights / 10, atol=0.03)
    left_out = np.bincount([3 - draw_without_replacement(weights, 2, rng).sum() for _ in range(4000)]) / 4000
    last = 0.1 * 2 / 9 + 0.2 * 1 / 8  # the heaviest is drawn last: first the one, then the other, or the reverse
    assert left_out[2] == pytest.approx(last, abs=0.02)


def test_neighbours_are_those_of_all_pairs(rng: np.random.Generator) -> None:
    points = rng.normal(size=(120, 5)).astype(np.float32)
    points[7] = points[80]
    pairwise = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(pairwise, np.inf)
    distance, found = find_nearest_others(points, 4, reference=np.arange(120))
    np.testing.assert_allclose(distance, np.sort(pairwise, axis=1)[:, :4], atol=1e-6)
    assert (found != np.arange(120)[:, None]).all() and found[7, 0] == 80 and distance[7, 0] == 0
    some = np.sort(rng.choice(120, 50, replace=False))
    distance, found = find_nearest_others(points, 4, reference=some)
    np.testing.assert_allclose(distance, np.sort(pairwise[:, some], axis=1)[:, :4], atol=1e-6)
    assert np.isin(found, some).all()
    with pytest.raises(UserError, match="between 1 and 49 neighbours of 50 rows, got 50"):
        find_nearest_others(points, 50, reference=some)


def test_density_weighs_rows_by_a_power_of_their_distance(planted: tuple[np.ndarray, np.ndarray]) -> None:
    """log w is linear in log r below the cap, whatever beta; a spread takes gamma times its local mean off."""
    points = planted[0] / np.linalg.norm(planted[0], axis=1, keepdims=True)
    distance, found = find_nearest_others(points, 10, reference=np.arange(len(points)))
    spread = np.random.default_rng(3).normal(size=len(points)).astype(np.float32)
    for given_spread, gamma in ((None, 0.5), (spread, 0.5), (spread, 0.0)):
        result = Density(gamma=gamma).pick(Candidates(points, None, given_spread), 600, np.random.default_rng(0))
        expected = np.log(distance[:, 4]) - (gamma * spread[found].mean(axis=1) if given_spread is not None else 0)
        assert result.weights is not None and len(result.rows) == len(points)
        assert result.effective_rows == pytest.approx(600, rel=1e-4)
        assert np.corrcoef(np.log(result.weights), expected)[0, 1] > 1 - 1e-6
        assert bool(result.notes) == (given_spread is None)


@pytest.mark.parametrize(
    "method",
    [
        Density(gamma=0, neighbour=2),
        Density(gamma=0, neighbour=2, form="rows"),
        Density(gamma=0, neighbour=2, reference_rows=800),
        Tempered(clusters=12),
        Tempered(clusters=12, form="rows"),
        Hierarchical(levels=(12, 3), form="weights"),
    ],
)
def test_rare_groups_come_up_more_often(planted: tuple[np.ndarray, np.ndarray], method: Selector) -> None:
    embeddings, group = planted
    context = Context(labels=group)
    selection = curate(embeddings, 0.3, np.random.default_rng(0), method=method, context=context)
    weights = np.ones(len(selection.rows)) if selection.weights is None else selection.weights
    share = np.bincount(group[selection.rows], weights, 3) / weights.sum()
    assert share[2] > 1.5 * SIZES[2] / 1110 and share[0] < SIZES[0] / 1110
    report = selection.report
    balanced = any("684 rows are effective, not 333" in note for note in report.notes)  # as few as 12 clusters leave
    assert report.effective_rows == pytest.approx(684 if balanced and report.weighs else 333, rel=0.02)
    assert balanced == isinstance(method, Tempered)
    assert report.after.label_entropy > report.chance.label_entropy  # type: ignore[operator]
    assert report.weighs == (selection.weights is not None)
    if report.weighs:
        assert report.n_kept == 1110 and report.reasons == {"duplicate": 0, "not drawn": 0}
        assert sum(report.cluster_kept) == 1110 and selection.weights.mean() == pytest.approx(1)
        assert report.after.label_entropy == pytest.approx(-np.sum(share * np.log(share)) / np.log(3), rel=1e-5)
    else:
        assert report.n_kept == 333


def test_balanced_weights_are_the_shares_of_water_filling() -> None:
    """With a cap out of the way a level's clusters weigh min(x, n_c) in all, for one x."""
    rng = np.random.default_rng(0)
    sizes = np.asarray([400, 120, 40, 8])
    points = np.repeat(np.eye(4) * 9, sizes, axis=0) + rng.normal(size=(sizes.sum(), 4)) * 0.01
    method = Hierarchical(levels=(4,), n_resample=0, form="weights", scaling="none", cap=1e9)
    result = method.pick(Candidates(points.astype(np.float32)), 300, rng)
    assert result.weights is not None and result.effective_rows == pytest.approx(300, rel=1e-4)
    mass = np.bincount(np.repeat(np.arange(4), sizes), result.weights)
    level = mass[:2].mean()
    assert mass[0] == pytest.approx(mass[1], rel=1e-4)  # above the water line
    np.testing.assert_allclose(mass[2:] / sizes[2:], mass[3] / 8, rtol=1e-4)  # whole below it
    assert level < 120 * mass[3] / 8 + 1e-3


def test_tempered_shares_are_a_power_of_the_sizes() -> None:
    rng = np.random.default_rng(0)
    sizes = np.asarray([400, 120, 40, 8])
    points = np.repeat(np.eye(4) * 9, sizes, axis=0) + rng.normal(size=(sizes.sum(), 4)) * 0.01
    result = Tempered(clusters=4, scaling="none").pick(Candidates(points.astype(np.float32)), 400, rng)
    mass = np.bincount(np.repeat(np.arange(4), sizes), result.weights)
    alpha = np.diff(np.log(mass)) / np.diff(np.log(sizes))
    np.testing.assert_allclose(alpha, alpha[0], rtol=1e-4)
    assert 0 < alpha[0] < 1
    flat = Tempered(clusters=4, scaling="none").pick(Candidates(points.astype(np.float32)), 60, rng)
    assert "effective, not 60" in flat.notes[0]  # balanced clusters leave this many
    mass = np.bincount(np.repeat(np.arange(4), sizes), flat.weights)
    assert flat.weights is not None and flat.weights.max() == pytest.approx(142 / 8, rel=0.01)
    np.testing.assert_allclose(mass, mass[0], rtol=1e-4)


def test_filling_without_rounding_is_that_with_it_but_for_the_remainder() -> None:
    rng = np.random.default_rng(5)
    for _ in range(300):
        sizes = rng.integers(0, 30, rng.integers(1, 12))
        target = int(rng.integers(0, sizes.sum() + 1))
        real = fill_evenly(sizes.astype(float), float(target))
        assert real.sum() == pytest.approx(target)
        assert (np.abs(real - allocate_evenly(sizes, target, rng=rng)) < 1 + 1e-9).all()


def test_turnover_is_the_distance_between_the_draws() -> None:
    rows, same, half = np.arange(4), np.ones(4, np.float32), np.asarray([2, 2, 0.0, 0.0], np.float32)
    assert measure_turnover(rows, rows, weights=(None, same)) == 0
    assert measure_turnover(rows, rows, weights=(None, half)) == 0.5
    assert measure_turnover(rows[:2], rows, weights=(None, half)) == 0


def test_weights_of_a_mark_are_found_for_groups_as_for_rows() -> None:
    sizes = np.asarray([5, 50, 500])
    for_groups = weigh_to_effective(lambda less: -less * np.log(sizes), 300, steepest=1.0, sizes=sizes)
    for_rows = weigh_to_effective(lambda less: -less * np.log(np.repeat(sizes, sizes)), 300, steepest=1.0)
    np.testing.assert_allclose(np.repeat(for_groups, sizes), for_rows)
    assert count_effective_rows(for_rows) == pytest.approx(300)


def test_a_uniform_draw_has_no_weights(planted: tuple[np.ndarray, np.ndarray]) -> None:
    selection = curate(planted[0], 0.5, np.random.default_rng(0), method=Random())
    assert selection.weights is None and not selection.report.weighs and selection.report.effective_rows == 555
