"""Clusters and draws: exact water-filling, weighted draws, k-means that never loses a cluster, and the five rings."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import kmeans_plusplus

from eo_ssl.curation import Candidates, Hierarchical, Random
from eo_ssl.curation.balanced_sampling import allocate, allocate_evenly, draw, standardise_distance
from eo_ssl.curation.diversity import compute_normalised_entropy
from eo_ssl.curation.embeddings import rescale
from eo_ssl.curation.hierarchy import Hierarchy, Resampling, fit_hierarchy, plan_levels, take_per_cluster
from eo_ssl.curation.kmeans import assign, average_clusters, find_nearest_centroid, fit_centroids, seed_centroids
from eo_ssl.errors import UserError

RING_SIZES = (5000, 50, 250, 125, 2000)
RING_CENTRES = ((-2.2, 1.0), (0.0, 1.0), (2.2, 1.0), (-1.2, 0.2), (1.2, 0.2))


def rings(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Five interlocked rings between radius 0.7 and 1, from 50 to 5000 points."""
    rng = np.random.default_rng(seed)
    parts = []
    for size, centre in zip(RING_SIZES, RING_CENTRES, strict=True):
        radius, angle = rng.uniform(0.7, 1.0, size), rng.uniform(0, 2 * np.pi, size)
        parts.append(np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1) + centre)
    return np.concatenate(parts).astype(np.float32), np.repeat(np.arange(5), RING_SIZES)


def slow_cut(sizes: np.ndarray, target: int) -> int:
    """The largest integer x with sum(min(x, s)) <= target, by trying them all."""
    best = 0
    for x in range(int(sizes.max()) + 1):
        if np.minimum(x, sizes).sum() <= target:
            best = x
    return best


def test_water_filling_equals_brute_force_on_ten_thousand_vectors() -> None:
    rng = np.random.default_rng(0)
    for _ in range(10_000):
        sizes = rng.integers(0, rng.choice([2, 5, 30]), rng.integers(1, 9)).astype(np.int64)
        target = int(rng.integers(0, sizes.sum() + 3))
        shares = allocate_evenly(sizes, target, rng=rng)
        assert shares.sum() == min(target, sizes.sum())
        assert (shares <= sizes).all()
        if target >= sizes.sum():
            assert (shares == sizes).all()
            continue
        cut = slow_cut(sizes, target)
        extra = shares - np.minimum(sizes, cut)
        assert set(extra.tolist()) <= {0, 1}
        assert (sizes[extra == 1] > cut).all()


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=40), st.integers(0, 10**13), st.integers(0, 2**32))
@settings(max_examples=200)
def test_water_filling_keeps_its_promises_for_huge_sizes(sizes: list[int], target: int, seed: int) -> None:
    given_sizes = np.asarray(sizes, dtype=np.int64)
    shares = allocate_evenly(given_sizes, target, rng=np.random.default_rng(seed))
    assert shares.sum() == min(target, sum(sizes))
    assert ((shares >= 0) & (shares <= given_sizes)).all()
    full = shares == given_sizes
    if not full.all():  # nobody who could take more is more than one below anybody
        assert shares.max() - shares[~full].min() <= 1


def test_remainder_of_water_filling_goes_to_every_child_equally_often() -> None:
    rng = np.random.default_rng(1)
    shares = sum(
        allocate_evenly(np.asarray([9, 9, 9, 1]), 5, rng=rng) for _ in range(3000)
    )  # cut 1, one left for three
    assert shares[3] == 3000
    np.testing.assert_allclose(shares[:3] / 3000, 4 / 3, atol=0.05)


def test_water_filling_refuses_a_negative_size() -> None:
    with pytest.raises(UserError, match="expected sizes and target of at least 0, got a smallest size of -1"):
        allocate_evenly(np.asarray([3, -1]), 2, rng=np.random.default_rng(0))


def test_allocation_follows_the_tree_not_the_leaves() -> None:
    """Two parents share evenly although one has one leaf and the other three."""
    one = np.zeros((4, 2), dtype=np.float32)
    tree = Hierarchy((one, one[:2]), (np.asarray([0, 1, 1, 1], dtype=np.int32),))
    share = partial(allocate_evenly, rng=np.random.default_rng(0))
    counts = allocate(tree, np.asarray([100, 50, 2, 50]), 40, share=share)
    assert counts.tolist() == [20, 9, 2, 9]
    starved = allocate(tree, np.asarray([5, 50, 2, 50]), 40, share=share)
    assert starved.tolist()[0] == 5 and starved[2] == 2 and starved.sum() == 40
    assert tree.paths().tolist() == [[0, 0], [1, 1], [2, 1], [3, 1]]


def test_infinite_eta_takes_the_farthest_or_the_closest_of_each_cluster(rng: np.random.Generator) -> None:
    labels = rng.integers(0, 4, 200).astype(np.int32)
    distance = rng.random(200).astype(np.float32)
    counts = np.asarray([3, 0, 7, 10**6])
    for eta, sign in ((np.inf, -1), (-np.inf, 1)):
        rows = draw(labels, distance, counts, eta=eta, rng=rng)
        expected: list[int] = []
        for cluster, count in enumerate(counts):
            members = np.flatnonzero(labels == cluster)
            expected += members[np.argsort(sign * distance[members])][:count].tolist()
        assert rows.tolist() == sorted(expected)
    large = {tuple(draw(labels, distance, counts, eta=eta, rng=rng)) for eta in (300.0, np.inf)}
    assert len(large) == 2 or len(large) == 1  # noise may still swap near-equals at a finite eta
    strict = draw(labels, np.round(distance * 50), counts, eta=1e6, rng=np.random.default_rng(0))
    farthest = draw(labels, np.round(distance * 50), counts, eta=np.inf, rng=np.random.default_rng(1))
    np.testing.assert_array_equal(np.sort(np.round(distance * 50)[strict]), np.sort(np.round(distance * 50)[farthest]))


def test_weighted_draws_have_the_probabilities_of_their_weights() -> None:
    """One of three members: inclusion is exp(eta z) / sum, and uniform for eta = 0."""
    rng = np.random.default_rng(2)
    labels, distance = np.zeros(3, dtype=np.int32), np.asarray([1.0, 2.0, 4.0], dtype=np.float32)
    z = standardise_distance(labels, distance, 1)
    np.testing.assert_allclose([z.mean(), z.std()], [0, 1], atol=1e-12)
    for eta in (0.0, 0.7, -1.5):
        hits = np.bincount(
            [draw(labels, distance, np.asarray([1]), eta=eta, rng=rng)[0] for _ in range(6000)], minlength=3
        )
        weights = np.exp(eta * z)
        np.testing.assert_allclose(hits / 6000, weights / weights.sum(), atol=0.025)


def test_equal_distances_are_drawn_uniformly_whatever_eta() -> None:
    labels, distance = np.zeros(50, dtype=np.int32), np.full(50, 0.1, dtype=np.float32)
    assert (standardise_distance(labels, distance, 1) == 0).all()


def test_taking_from_clusters_takes_all_of_small_and_none_of_empty_ones() -> None:
    labels = np.asarray([2, 0, 2, 2, 0], dtype=np.int32)
    rows = take_per_cluster(labels, np.asarray([0.3, 0.1, 0.2, 0.1, 0.0]), np.asarray([5, 2, 2]))
    assert rows.tolist() == [1, 2, 3, 4]


def test_kmeans_finds_planted_centres_and_depends_on_the_seed_alone(rng: np.random.Generator) -> None:
    centres = rng.normal(size=(12, 16)).astype(np.float32) * 8
    points = (centres[rng.integers(0, 12, 3000)] + rng.normal(size=(3000, 16)) * 0.1).astype(np.float32)
    found = fit_centroids(points, 12, rng=np.random.default_rng(5))
    assert np.sort(find_nearest_centroid(centres, found)[0]).tolist() == list(range(12))
    assert find_nearest_centroid(centres, found)[1].max() < 0.05
    np.testing.assert_array_equal(found, fit_centroids(points, 12, rng=np.random.default_rng(5)))


def test_lloyd_ends_in_a_fixed_point_whose_centroids_are_double_precision_means(rng: np.random.Generator) -> None:
    points = (rng.normal(size=(2000, 3)) + 100).astype(np.float32)
    found = fit_centroids(points, 7, rng=rng, iterations=300)
    labels = assign(points, found)
    means = np.stack([points[labels == k].astype(np.float64).mean(axis=0) for k in range(7)])
    np.testing.assert_array_equal(found, means.astype(np.float32))


def test_an_empty_cluster_keeps_its_centroid() -> None:
    """Seven identical points and one other: three clusters, of which at least one must stay empty and finite."""
    points = np.asarray([[0, 0]] * 7 + [[1, 1]], dtype=np.float32)
    found = fit_centroids(points, 3, rng=np.random.default_rng(0))
    assert np.isfinite(found).all()
    assert {tuple(row) for row in found.tolist()} == {(0.0, 0.0), (1.0, 1.0)}


def test_more_clusters_than_points_are_refused() -> None:
    with pytest.raises(UserError, match="expected between 1 and 2 clusters for 2 points, got 3"):
        fit_centroids(np.eye(2, dtype=np.float32), 3, rng=np.random.default_rng(0))


@pytest.mark.parametrize(
    ("asked", "distinct", "planned"),
    [
        ((200, 20), 6000, (200, 20)),  # as asked
        ((200, 20), 200, (200, 20)),  # just enough
        ((200, 20), 100, (25, 20)),  # fewer rows than clusters: a quarter of them
        ((200, 50, 20), 100, (25, 6)),  # levels that are no longer coarser are quartered, then left out
        ((200,), 3, (1,)),
        (None, 7425, (371, 74, 14)),  # planned: 20 points per cluster, five children per parent
        (None, 60, (10,)),
        (None, 5, (1,)),
    ],
)
def test_levels_fit_the_number_of_different_rows(
    asked: tuple[int, ...] | None, distinct: int, planned: tuple[int, ...]
) -> None:
    levels, notes = plan_levels(asked, distinct)
    assert levels == planned
    assert bool(notes) == (asked is not None and asked != planned)


def test_resampling_sizes_are_half_the_mean_cluster_size() -> None:
    assert [Resampling().size(0, 7425, 250), Resampling().size(1, 250, 75)] == [15, 2]
    assert [Resampling(sizes=(9, 4)).size(level, 1000, 10) for level in (0, 1, 2)] == [9, 4, 4]


@pytest.mark.parametrize("mode", ["closest", "random"])
def test_resampling_flattens_density(mode: str) -> None:
    """On a line with nine tenths of the points in its left half, k-means alone has centroids as p^(1/3): 1/3.08 on the right."""
    rng = np.random.default_rng(3)
    line = np.concatenate([rng.uniform(0, 1, 9000), rng.uniform(1, 2, 1000)]).astype(np.float32)[:, None]
    share = {}
    for rounds in (0, 10):
        tree = fit_hierarchy(line, (40,), resampling=Resampling(rounds, mode=mode), rng=np.random.default_rng(0))  # type: ignore[arg-type]
        share[rounds] = float((tree.centroids[0] > 1).mean())
    assert share[0] == pytest.approx(1 / (1 + 9 ** (1 / 3)), abs=0.06)
    assert share[0] + 0.05 <= share[10] <= 0.5


def test_rings_are_balanced_by_the_hierarchy_and_more_so_with_resampling() -> None:
    """Vo et al. (2024), their toy example at a quarter of its size: 500 of 7425 points; entropy of ring shares / ln 5."""
    flat = Hierarchical(levels=(75,), n_resample=0, scaling="none")
    plain = Hierarchical(levels=(250, 75), n_resample=0, scaling="none")
    resampled = Hierarchical(levels=(250, 75), n_resample=10, scaling="none")
    for seed in (0, 1, 2):
        points, ring = rings(seed)
        entropy = [compute_normalised_entropy(np.bincount(ring))]
        for method in (Random(), flat, plain, resampled):
            rows = method.pick(Candidates(rescale(points, "none")), 500, np.random.default_rng(seed)).rows
            assert len(np.unique(rows)) == 500
            entropy.append(compute_normalised_entropy(np.bincount(ring[rows], minlength=5)))
        raw, random, balanced, tree, best = entropy
        assert abs(random - raw) < 0.06
        assert max(raw, random) + 0.1 < balanced < tree < best
        assert tree >= 0.86
        assert best >= 0.93


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"levels": (5, 20)}, "strictly decreasing levels"),
        ({"levels": ()}, "strictly decreasing levels"),
        ({"sample_sizes": (0,)}, "expected sample_sizes of at least 1"),
        ({"n_resample": -1}, "expected n_resample >= 0"),
        ({"fit_rows": 0}, "expected fit_rows >= 1"),
        ({"eta": float("nan")}, "expected a number for eta"),
    ],
)
def test_wrong_parameters_are_refused_in_a_sentence(wrong: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        Hierarchical(**wrong)


def test_seeds_lie_apart_and_are_different_rows_whatever_the_points() -> None:
    """Groups a thousand times farther apart than wide each get one of as many seeds, however few rows they have."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(6), (400, 300, 100, 10, 2, 1))
    points = (np.eye(6)[group] * 100 + rng.normal(size=(813, 6)) * 0.1).astype(np.float32)
    for seed in range(20):
        assert sorted(group[seed_centroids(points, 6, np.random.default_rng(seed))]) == list(range(6))
    for alike, k in ((np.ones((9, 3), np.float32), 9), (points[:1], 1), (np.repeat(points[:2], 4, axis=0), 8)):
        assert len(set(seed_centroids(alike, k, rng).tolist())) == k
    again = [seed_centroids(points, 50, np.random.default_rng(3)).tolist() for _ in range(2)]
    assert again[0] == again[1] and len(set(again[0])) == 50


def test_greedy_seeds_leave_less_than_seeds_of_one_candidate_or_none() -> None:
    """What is left of the squared distances, against uniform seeds and against scikit-learn's greedy ones as an oracle."""
    points, _ = rings(0)

    def left(rows: np.ndarray) -> float:
        return float(np.square(find_nearest_centroid(points, points[rows])[1], dtype=np.float64).sum())

    ours, theirs, uniform = ([] for _ in range(3))
    for seed in range(6):
        ours.append(left(seed_centroids(points, 40, np.random.default_rng(seed))))
        theirs.append(left(kmeans_plusplus(points, 40, random_state=seed)[1]))
        uniform.append(left(np.random.default_rng(seed).choice(len(points), 40, replace=False)))
    assert np.mean(ours) == pytest.approx(np.mean(theirs), rel=0.08)
    assert np.mean(ours) < 0.8 * np.mean(uniform)


def test_means_of_clusters_are_those_of_double_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    points = (rng.normal(size=(500, 7)) + 1e4).astype(np.float32)
    labels = rng.choice([0, 1, 2, 5, 8], 500).astype(np.int32)
    old = rng.normal(size=(9, 7)).astype(np.float32)
    expected = old.copy()
    for cluster in np.unique(labels):
        expected[cluster] = points[labels == cluster].astype(np.float64).mean(axis=0)
    for size in (1 << 10, 37):
        monkeypatch.setattr("eo_ssl.curation.kmeans._ADDED", size)
        np.testing.assert_array_equal(average_clusters(points, labels, old), expected)
