"""Selectors by redundancy, difficulty and distance, each against a loop that says the same slowly."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from eo_ssl.curation import D4, Candidates, KCenter, Prototypes, SemDedup, curate
from eo_ssl.curation import near_duplicates as near
from eo_ssl.curation.embeddings import Floats, rescale
from eo_ssl.curation.farthest_points import pick_farthest
from eo_ssl.curation.hierarchy import Clusters, Hierarchy
from eo_ssl.curation.kmeans import find_nearest_centroid, fit_centroids
from eo_ssl.errors import UserError


def draw_blobs(seed: int, n: int, groups: int = 30, d: int = 12) -> Floats:
    """Unit vectors around a few directions, some of them nearly the same."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(groups, d))
    return rescale((centres[rng.integers(0, groups, n)] + rng.normal(size=(n, d)) * 0.3).astype(np.float32), "l2")


def dedup_slowly(points: Floats, clusters: Clusters, eps: float) -> np.ndarray:
    """SemDeDup as it is written: per cluster, farthest first, row j goes iff max over i < j of S_ij > 1 - eps."""
    kept = []
    for cluster in range(clusters.hierarchy.levels[0]):
        members = np.flatnonzero(clusters.labels == cluster)
        centroid = clusters.hierarchy.centroids[0][cluster].astype(np.float64)
        members = members[np.argsort(points[members].astype(np.float64) @ centroid, kind="stable")]
        cosine = points[members].astype(np.float64) @ points[members].T.astype(np.float64)
        kept += [row for j, row in enumerate(members) if cosine[j, :j].max(initial=-np.inf) <= 1 - eps]
    return np.sort(kept)


@pytest.mark.parametrize(("clusters", "target"), [(1, 700), (20, 1500)])
def test_near_duplicates_go_as_in_the_slow_form(monkeypatch: pytest.MonkeyPatch, clusters: int, target: int) -> None:
    """The eps that the note names leaves the very rows that were picked; blocks smaller than a cluster change nothing."""
    points = draw_blobs(1, 2000)
    for block in (2048, 150):
        monkeypatch.setattr(near, "_BLOCK", block)
        result = SemDedup(clusters=clusters).pick(Candidates(points), target, np.random.default_rng(0))
        assert result.clusters is not None and result.clusters.hierarchy.levels == (clusters,)
        np.testing.assert_allclose(np.linalg.norm(result.clusters.hierarchy.centroids[0], axis=1), 1, atol=1e-6)
        eps = float(result.notes[0].split()[1].rstrip(":"))
        assert len(result.rows) == target and result.weights is None
        np.testing.assert_array_equal(result.rows, dedup_slowly(points, result.clusters, eps - 5e-7))


def test_every_number_of_rows_can_be_kept_and_of_copies_the_first_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four copies each of 50 rows: 50 rows are one of each, and whatever is asked for comes back.

    Blocks of odd sizes round the products of copies differently.
    """
    monkeypatch.setattr(near, "_BLOCK", 7)
    once = draw_blobs(2, 50, groups=50, d=101)
    points = np.concatenate([once, once, once, once])
    for target in (1, 3, 50, 51, 120, 199):
        result = SemDedup(clusters=4).pick(Candidates(points), target, np.random.default_rng(0))
        assert len(np.unique(result.rows)) == target
        if target == 50:
            assert result.rows.tolist() == list(range(50))
        if target > 50:
            kept = set(result.rows.tolist())
            assert {row - 50 for row in kept if row >= 50} | set(range(50)) <= kept  # earlier copies before later ones
            assert "1.000000 similar" in result.notes[-1]
        if target < 4:
            assert "fewer than the 4 clusters" in result.notes[-1]


def test_of_a_chain_only_the_farthest_from_the_centroid_stays() -> None:
    """a ~ b ~ c, a not like c: c goes too, since what is compared with need not have stayed (Abbas et al.)."""
    angle = np.deg2rad([0.0, 10.0, 20.0, 90.0])
    points = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    place = Hierarchy((np.asarray([[0.0, 1.0]], np.float32),), ())  # the farthest is the row at 0 degrees
    found, order = near.measure_repetition(points, Clusters(place, *find_nearest_centroid(points, place.centroids[0])))
    np.testing.assert_allclose(
        found, [-np.inf, np.cos(angle[1]), np.cos(angle[1]), np.cos(angle[3] - angle[2])], atol=1e-6
    )
    assert order.tolist() == [0, 1, 2, 3]


def test_rows_of_nothing_and_rows_all_alike_are_no_trouble() -> None:
    zeros = np.zeros((30, 4), np.float32)
    assert len(SemDedup().pick(Candidates(zeros), 7, np.random.default_rng(0)).rows) == 7
    alike = curate(np.ones((40, 3)), 10, np.random.default_rng(0), method=SemDedup(clusters=3))
    assert alike.rows.tolist() == list(range(10)) and alike.report.n_kept == 10
    assert curate(np.eye(3), 1 / 3, np.random.default_rng(0), method=SemDedup()).report.n_kept == 1
    with pytest.raises(UserError, match="expected at least 1 cluster, got 0"):
        SemDedup(clusters=0)


def test_spherical_centroids_are_the_directions_of_the_rows_of_highest_cosine(rng: np.random.Generator) -> None:
    points = draw_blobs(3, 900)
    found = fit_centroids(points, 8, rng=rng, iterations=300, spherical=True)
    labels = (points.astype(np.float64) @ found.T).argmax(axis=1)
    sums = np.stack([points[labels == k].astype(np.float64).sum(axis=0) for k in range(8)])
    np.testing.assert_allclose(found, sums / np.linalg.norm(sums, axis=1, keepdims=True), atol=1e-6)


@pytest.mark.parametrize("prefer", ["hard", "easy"])
def test_the_rows_farthest_from_and_nearest_to_their_centroids_are_picked(prefer: str) -> None:
    points = draw_blobs(4, 500)
    method = Prototypes(clusters=9, prefer=prefer)  # type: ignore[arg-type]
    result = method.pick(Candidates(points), 120, np.random.default_rng(0))
    assert result.clusters is not None
    cosine = (points.astype(np.float64) @ result.clusters.hierarchy.centroids[0].T).max(axis=1)
    hardest = np.sort(np.argsort(cosine if prefer == "hard" else -cosine)[:120])
    np.testing.assert_array_equal(result.rows, hardest)
    weighed = replace(method, form="weights").pick(Candidates(points), 120, np.random.default_rng(0))
    assert weighed.weights is not None and weighed.effective_rows == pytest.approx(120, rel=1e-4)
    below = weighed.weights < 0.999 * weighed.weights.max()  # log w is linear in 1 - cos where nothing is capped
    slope = np.polyfit(1 - cosine[below], np.log(weighed.weights[below]), 1)
    assert (slope[0] > 0) == (prefer == "hard")
    np.testing.assert_allclose(np.polyval(slope, 1 - cosine[below]), np.log(weighed.weights[below]), atol=0.01)


def test_scaled_embeddings_are_compared_by_their_cosines_too() -> None:
    """With z-scores, what counts is the direction of the z-scores: a row ten times as far out is no harder."""
    points = draw_blobs(5, 300)
    once, stretched = (
        Prototypes(clusters=5).pick(Candidates(part.astype(np.float32)), 60, np.random.default_rng(0)).rows
        for part in (points, points * np.random.default_rng(1).uniform(0.1, 10, (300, 1)))
    )
    np.testing.assert_array_equal(once, stretched)


def test_of_rows_equally_hard_any_may_be_picked() -> None:
    picks = {
        tuple(Prototypes(clusters=1).pick(Candidates(np.ones((6, 2), np.float32)), 2, np.random.default_rng(seed)).rows)
        for seed in range(40)
    }
    assert len(picks) > 8  # of the fifteen pairs


def test_d4_is_dedup_and_then_the_hardest_of_what_is_left() -> None:
    points = draw_blobs(6, 1000)
    for form in ("rows", "weights"):
        method = D4(unrepeated=0.6, duplicate_clusters=4, clusters=7, form=form)  # type: ignore[arg-type]
        result = method.pick(Candidates(points), 250, np.random.default_rng(2))
        rng = np.random.default_rng(2)
        rest = SemDedup(clusters=4).pick(Candidates(points), 600, rng).rows
        hard = Prototypes(clusters=7, form=form).pick(Candidates(points[rest]), 250, rng)  # type: ignore[arg-type]
        np.testing.assert_array_equal(result.rows, rest[hard.rows])
        assert (form == "rows") == (result.weights is None)
        if result.weights is not None:
            assert hard.weights is not None and len(result.rows) == 600
            np.testing.assert_array_equal(result.weights, hard.weights)
        assert result.clusters is not None and len(result.clusters.labels) == 1000
        nearest = (points @ result.clusters.hierarchy.centroids[0].T).argmax(axis=1)
        np.testing.assert_array_equal(result.clusters.labels, nearest)


def test_d4_keeps_more_than_its_share_only_when_told_to_keep_more() -> None:
    points = draw_blobs(7, 200)
    result = D4(unrepeated=0.5).pick(Candidates(points), 150, np.random.default_rng(0))
    assert len(result.rows) == 150 and "150 of 200 rows are left" in result.notes[1]
    with pytest.raises(UserError, match="share in"):
        D4(unrepeated=1.5)
    selection = curate(points, 90, np.random.default_rng(0), method=D4(form="weights"))
    assert len(selection.rows) == 150 and selection.report.effective_rows == pytest.approx(90, rel=1e-3)
    assert selection.report.reasons == {"duplicate": 0, "not drawn": 50}


def cover(points: np.ndarray, rows: np.ndarray) -> float:
    """The largest distance of any row to the nearest of ``rows``."""
    wide = points.astype(np.float64)
    return float(np.linalg.norm(wide[:, None] - wide[rows][None], axis=2).min(axis=1).max())


def test_the_farthest_rows_are_those_of_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    points = np.random.default_rng(8).normal(size=(160, 5)).astype(np.float32)
    wide = points.astype(np.float64)
    for start in (1, 4):
        expected = np.random.default_rng(3).choice(160, start, replace=False).tolist()
        while len(expected) < 40:
            away = [min(np.linalg.norm(wide[i] - wide[j]) for j in expected) for i in range(160)]
            expected.append(int(np.argmax(away)))
        for size in (1 << 18, 300):  # all at once, or fifteen rows at a time
            monkeypatch.setattr("eo_ssl.curation.farthest_points._CHUNK_BYTES", size)
            rows, radius = pick_farthest(points, np.asarray(expected[:start]), 40)
            assert rows.tolist() == expected and radius == pytest.approx(cover(points, rows), rel=1e-6)
            picked = KCenter(start=start).pick(Candidates(points), 40, np.random.default_rng(3))
            assert picked.rows.tolist() == sorted(expected) and f"{radius:.6g}" in picked.notes[0]


def test_every_far_group_has_a_row_and_the_radius_is_at_most_twice_the_best(rng: np.random.Generator) -> None:
    """Groups of radius 1, twenty apart: as many rows as groups are one of each; and all triples of fourteen points."""
    group = rng.permutation(np.repeat(np.arange(6), (300, 50, 20, 5, 2, 1)))
    around = rng.normal(size=(len(group), 6))
    points = 20 * np.eye(6)[group] + around / np.maximum(np.linalg.norm(around, axis=1, keepdims=True), 1)
    picked = KCenter(scaling="none").pick(Candidates(points.astype(np.float32)), 6, np.random.default_rng(0)).rows
    assert sorted(group[picked]) == list(range(6)) and cover(points, picked) <= 2
    for seed in range(30):
        few = np.random.default_rng(seed).normal(size=(14, 2)).astype(np.float32)
        best = min(cover(few, np.asarray(rows)) for rows in combinations(range(14), 3))
        assert best <= cover(few, KCenter().pick(Candidates(few), 3, np.random.default_rng(0)).rows) <= 2 * best


def test_copies_are_picked_last_and_none_twice() -> None:
    points = np.repeat(np.eye(4, dtype=np.float32), (5, 1, 3, 1), axis=0)
    for target in range(1, 11):
        rows = KCenter().pick(Candidates(points), target, np.random.default_rng(0)).rows
        assert len(np.unique(rows)) == target
        assert len(np.unique(points[rows], axis=0)) == min(target, 4)
    assert len(curate(points, 1, np.random.default_rng(0), method=KCenter(start=99)).rows) == 10
    assert len(curate(points, 2, np.random.default_rng(0), method=KCenter(start=99)).rows) == 2
    with pytest.raises(UserError, match="start of at least 1 row, got 0"):
        KCenter(start=0)
