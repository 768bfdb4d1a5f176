"""Selection as a whole: planted clusters become even, planted duplicates go, metrics have their closed forms, reports round-trip."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from eo_ssl.curation import Context, CurationReport, Hierarchical, Random, curate, tabulate_selection
from eo_ssl.curation.dedup import Repeats, find_first_copies, join_duplicates
from eo_ssl.curation.diversity import (
    compute_gini,
    compute_normalised_entropy,
    compute_vendi_score,
    measure_coverage,
    measure_neighbour_distance,
    measure_neighbourhood_radius,
    measure_turnover,
)
from eo_ssl.curation.embeddings import find_distinct_rows, rescale
from eo_ssl.curation.subset_selection import resolve_keep
from eo_ssl.errors import UserError

SIZES = (1000, 100, 10)


def select(
    embeddings: np.ndarray, keep: float, rng: np.random.Generator, **options: object
) -> tuple[np.ndarray, CurationReport]:
    selection = curate(embeddings, keep, rng, **options)  # type: ignore[arg-type]
    return selection.rows, selection.report


@pytest.fixture(scope="module")
def planted() -> tuple[np.ndarray, np.ndarray]:
    """Three well separated groups of very different size, in random order: embeddings float32 [1110, 8] and group."""
    rng = np.random.default_rng(7)
    group = rng.permutation(np.repeat(np.arange(3), SIZES))
    return (np.eye(8)[group] * 5 + rng.normal(size=(len(group), 8)) * 0.15).astype(np.float32), group


def test_planted_groups_are_nearly_equal_after_curation(planted: tuple[np.ndarray, np.ndarray]) -> None:
    embeddings, group = planted
    rows, report = select(
        embeddings, 30, np.random.default_rng(0), method=Hierarchical(levels=(12, 3)), context=Context(labels=group)
    )
    assert np.bincount(group[rows]).tolist() == [10, 10, 10]
    assert report.before.label_entropy == pytest.approx(compute_normalised_entropy(np.asarray(SIZES)))
    assert report.after.label_entropy == pytest.approx(1.0)
    assert report.chance.label_entropy < 0.6  # type: ignore[operator]
    many, _ = select(embeddings, 0.2, np.random.default_rng(0), method=Hierarchical(levels=(12, 3)))
    assert np.bincount(group[many]).tolist() == [112, 100, 10]  # the small groups whole, the rest from the large one


def test_report_counts_add_up(planted: tuple[np.ndarray, np.ndarray]) -> None:
    embeddings, group = planted
    identities = np.arange(len(embeddings))
    identities[500:600] = identities[100:200]
    context = Context(identities=identities, labels=group, corpus_fingerprint="c", encoder_fingerprint="e")
    selection = curate(embeddings, 0.3, np.random.default_rng(11), method=Hierarchical(levels=(20, 4)), context=context)
    report = selection.report
    assert report.n_kept == len(selection.rows) == round(0.3 * 1110)
    assert report.reasons == {"duplicate": 100, "not drawn": 1110 - 333 - 100}
    assert (
        sum(report.cluster_rows) == 1110 and sum(report.cluster_kept) == 333 and sum(report.cluster_duplicates) == 100
    )
    assert len(report.cluster_rows) == len(report.cluster_parents) == 20
    assert {parent for path in report.cluster_parents for parent in path} <= set(range(4))
    np.testing.assert_array_equal(np.bincount(selection.cluster, minlength=20), report.cluster_rows)
    np.testing.assert_array_equal(selection.cluster[500:600], selection.cluster[100:200])
    assert (report.seed, report.corpus_fingerprint, report.encoder_fingerprint) == (11, "c", "e")
    assert report.cost.forward_equivalents == 1110
    assert report.after.cluster_entropy > report.chance.cluster_entropy > 0.5  # type: ignore[operator]
    assert report.after.cluster_gini < report.chance.cluster_gini  # type: ignore[operator]
    assert report.after.coverage >= report.chance.coverage - 0.1
    assert report.before.coverage == 1.0
    for example in report.examples:
        assert len(example.kept) <= 8 and len(example.dropped) <= 8
        assert (selection.cluster[list(example.kept + example.dropped)] == example.cluster).all()
        assert (selection.reason[list(example.kept)] == "kept").all()
        assert (selection.reason[list(example.dropped)] != "kept").all()


def test_planted_duplicates_go_and_nothing_else(rng: np.random.Generator) -> None:
    embeddings = rng.normal(size=(400, 6)).astype(np.float32)
    hashes = [f"{i:064x}" for i in range(400)]
    copies = {17: 3, 250: 3, 399: 200, 5: 4}  # row -> the earlier row it repeats
    for late, early in copies.items():
        hashes[late] = hashes[early]
    for method in (Random(), Hierarchical()):
        selection = curate(embeddings, 1, rng, method=method, context=Context(identities=hashes))
        assert np.flatnonzero(selection.reason == "duplicate").tolist() == sorted(copies)
        assert np.array_equal(selection.rows, np.setdiff1d(np.arange(400), list(copies)))
        half = curate(embeddings, 300, rng, method=method, context=Context(identities=hashes))
        assert len(half.rows) == 300 and not set(half.rows.tolist()) & set(copies)


@pytest.mark.parametrize("chunked", [False, True])
def test_first_copies_are_first_and_groups_lead_back(rng: np.random.Generator, chunked: bool) -> None:
    names = rng.choice([f"tile {i}" for i in range(40)], 200).tolist()
    column = pa.chunked_array([names[:60], names[60:61], [], names[61:]]) if chunked else names
    first, group = find_first_copies(column)
    assert first.tolist() == sorted({name: names.index(name) for name in names}.values())
    assert [names[first[place]] for place in group] == names


def test_missing_identity_is_refused() -> None:
    with pytest.raises(UserError, match="expected an identity for each of 3 rows, got 1 missing"):
        find_first_copies(["a", None, "b"])
    with pytest.raises(UserError, match="expected an identity for each of 4 rows, got 3"):
        select(np.eye(4), 2, np.random.default_rng(0), context=Context(identities=["a", "b", "c"]))


def repeats(pairs: dict[int, int], n: int) -> Repeats:
    original = np.full(n, -1, dtype=np.int64)
    original[list(pairs)] = list(pairs.values())
    share = np.where(original < 0, np.nan, 0.875).astype(np.float32)
    return Repeats(original, share, share, ("looked",))


def test_rows_that_repeat_another_go_before_the_selector_and_stand_in_its_cluster(rng: np.random.Generator) -> None:
    embeddings = rng.normal(size=(300, 6)).astype(np.float32)
    identities = np.arange(300)
    identities[[7, 8]] = 3  # later copies of row 3, which itself repeats row 200
    found = repeats({3: 200, 50: 60}, 300)
    context = Context(identities=identities, repeats=found)
    selection = curate(embeddings, 296, rng, method=Random(), context=context)
    assert np.flatnonzero(selection.reason == "same acquisition").tolist() == [3, 50]
    assert np.flatnonzero(selection.reason == "duplicate").tolist() == [7, 8]
    assert np.array_equal(selection.rows, np.setdiff1d(np.arange(300), [3, 7, 8, 50]))
    assert selection.duplicates.original[[3, 7, 8, 50]].tolist() == [200, 200, 200, 60]
    assert selection.duplicates.overlap[[3, 7, 8, 50]].tolist() == [0.875] * 4
    assert selection.report.reasons == {"duplicate": 2, "same acquisition": 2, "not drawn": 0}
    assert selection.report.notes[0] == "looked"
    half = curate(embeddings, 150, rng, method=Hierarchical(levels=(12, 4)), context=context)
    np.testing.assert_array_equal(half.cluster[[3, 7, 8, 50]], half.cluster[[200, 200, 200, 60]])
    assert sum(half.report.cluster_duplicates) == 4


def test_copies_and_repeats_lead_to_rows_that_stay() -> None:
    joined = join_duplicates(6, ["a", "b", "a", "c", "b", "d"], repeats({1: 3}, 6))
    assert joined.original.tolist() == [-1, 3, 0, -1, 3, -1]
    assert joined.first.tolist() == [0, 3, 5] and joined.group.tolist() == [0, 1, 0, 1, 1, 2]
    assert joined.overlap[[1, 2, 4]].tolist() == [0.875, 1.0, 0.875] and np.isnan(joined.overlap[[0, 3, 5]]).all()
    nothing = join_duplicates(3, None, None)
    assert nothing.first.tolist() == nothing.group.tolist() == [0, 1, 2]
    with pytest.raises(UserError, match="expected a row or -1 for each of 4 rows, got 3"):
        join_duplicates(4, None, repeats({}, 3))
    for wrong in ({2: 5}, {5: 2}):  # a copy itself, or a copy as what is repeated
        with pytest.raises(UserError, match="expected repeats of first copies only"):
            join_duplicates(6, ["a", "b", "a", "c", "b", "d"], repeats(wrong, 6))


@pytest.mark.parametrize(
    "method", [Random(), Hierarchical(levels=(20, 5)), Hierarchical(levels=(9,), eta=2.0, fit_rows=300)]
)
def test_the_same_seed_gives_the_same_rows_and_report(
    planted: tuple[np.ndarray, np.ndarray], method: Hierarchical
) -> None:
    embeddings, _ = planted
    (rows, report), (again, report_again) = (
        select(embeddings, 0.4, np.random.default_rng(3), method=method) for _ in range(2)
    )
    np.testing.assert_array_equal(rows, again)
    assert replace(report, cost=report_again.cost) == report_again
    assert rows.dtype == np.int64 and (np.diff(rows) > 0).all() and len(rows) == 444
    other, _ = select(embeddings, 0.4, np.random.default_rng(4), method=method)
    assert not np.array_equal(rows, other)


@pytest.mark.parametrize("keep", [1, 1.0, 1110])
def test_keeping_all_is_no_curation(planted: tuple[np.ndarray, np.ndarray], keep: float) -> None:
    for method in (Random(), Hierarchical()):
        rows, report = select(planted[0], keep, np.random.default_rng(0), method=method)
        np.testing.assert_array_equal(rows, np.arange(1110))
        assert report.reasons == {"duplicate": 0, "not drawn": 0}
        assert replace(report.before) == report.after


def test_extreme_eta_keeps_the_prototypes_or_the_outliers(planted: tuple[np.ndarray, np.ndarray]) -> None:
    embeddings, _ = planted
    means = {}
    for eta in (-np.inf, 0.0, np.inf):
        chosen = curate(
            embeddings, 300, np.random.default_rng(0), method=Hierarchical(levels=(6,), n_resample=0, eta=eta)
        )
        means[eta] = chosen.distance[chosen.rows].mean()
        members = chosen.cluster == np.argmax(chosen.report.cluster_rows)
        kept, dropped = members & (chosen.reason == "kept"), members & (chosen.reason == "not drawn")
        if eta > 0:
            assert chosen.distance[kept].min() >= chosen.distance[dropped].max()
        if eta < 0:
            assert chosen.distance[kept].max() <= chosen.distance[dropped].min()
    assert means[-np.inf] < means[0.0] < means[np.inf]


@pytest.mark.parametrize(
    ("keep", "rows"), [(0.5, 50), (1, 100), (1.0, 100), (2, 2), (100, 100), (0.001, 1), (0.255, 26)]
)
def test_keep_is_a_fraction_up_to_one_and_a_count_above(keep: float, rows: int) -> None:
    assert resolve_keep(keep, 100) == rows


@pytest.mark.parametrize("keep", [0, -0.5, 1.5, 101, float("nan")])
def test_a_keep_without_meaning_is_refused(keep: float) -> None:
    with pytest.raises(UserError, match="expected keep to be a fraction"):
        resolve_keep(keep, 100)


def test_embeddings_that_are_not_finite_or_no_matrix_are_refused() -> None:
    broken = np.ones((5, 3), dtype=np.float32)
    broken[[2, 4], 1] = np.nan, np.inf
    with pytest.raises(UserError, match=r"got NaN or infinity in 2 of 5 rows \(first: row 2\)"):
        select(broken, 0.5, np.random.default_rng(0))
    with pytest.raises(UserError, match=r"expected embeddings of shape \[rows, features\], got \[5\]"):
        select(np.ones(5), 0.5, np.random.default_rng(0))


def test_identical_rows_and_too_few_rows_still_give_what_was_asked() -> None:
    """All-zero tiles embed alike; their centroids must not coincide, and the number of clusters must shrink with a note."""
    embeddings = np.concatenate([np.zeros((80, 4)), np.eye(4)]).astype(np.float32)
    rows, report = select(embeddings, 10, np.random.default_rng(0), method=Hierarchical(levels=(50, 10)))
    assert len(rows) == 10
    assert len(report.cluster_rows) == 1  # 5 different rows // 4
    assert "reduced from [50, 10] to [1]: only 5 different rows" in report.notes[0]
    alike, _ = select(np.ones((30, 2)), 7, np.random.default_rng(0))
    assert len(alike) == 7


def test_fit_on_a_sample_places_every_row(planted: tuple[np.ndarray, np.ndarray]) -> None:
    selection = curate(planted[0], 30, np.random.default_rng(0), method=Hierarchical(levels=(6, 3), fit_rows=400))
    assert sum(selection.report.cluster_rows) == 1110
    assert np.bincount(planted[1][selection.rows], minlength=3).max() <= 20


def test_entropy_and_gini_have_their_closed_forms() -> None:
    assert compute_normalised_entropy(np.full(7, 5)) == pytest.approx(1.0)
    assert compute_normalised_entropy(np.asarray([9, 0, 0])) == 0.0
    assert compute_normalised_entropy(np.asarray([1, 1, 0, 0])) == pytest.approx(0.5)  # ln 2 / ln 4
    assert compute_normalised_entropy(np.asarray([4])) == 1.0
    assert compute_gini(np.full(7, 5)) == pytest.approx(0.0)
    assert compute_gini(np.asarray([0, 0, 9, 0])) == pytest.approx(1 - 1 / 4)
    assert compute_gini(np.asarray([1, 3])) == pytest.approx(0.25)  # mean absolute difference / (2 mean) = 1 / 4
    assert compute_gini(np.zeros(3)) == 0.0


@pytest.mark.parametrize("dim", [6, 300])  # Gram matrix of columns, of rows
def test_vendi_score_of_orthogonal_groups_is_their_number(dim: int, rng: np.random.Generator) -> None:
    groups = np.repeat(np.eye(dim, dtype=np.float32)[:5], 40, axis=0) * rng.uniform(0.5, 3, (200, 1)).astype(np.float32)
    assert compute_vendi_score(groups, rng=rng) == pytest.approx(5.0, rel=1e-5)
    assert compute_vendi_score(np.ones((50, dim), dtype=np.float32), rng=rng) == pytest.approx(1.0, rel=1e-5)


def test_neighbour_distance_ignores_the_row_itself_but_not_its_copy(rng: np.random.Generator) -> None:
    assert measure_neighbour_distance(np.eye(6, dtype=np.float32), rng=rng) == pytest.approx(1.0)
    twice = np.repeat(np.eye(6, dtype=np.float32), 2, axis=0)
    assert measure_neighbour_distance(twice, rng=rng) == pytest.approx(0.0, abs=1e-6)
    points = rng.normal(size=(90, 5)).astype(np.float32)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    similarity = unit @ unit.T - 3 * np.eye(90)
    assert measure_neighbour_distance(points, rng=rng) == pytest.approx(
        float((1 - similarity.max(axis=1)).mean()), abs=1e-5
    )


def test_coverage_counts_rows_within_the_radius(rng: np.random.Generator) -> None:
    line = np.arange(10, dtype=np.float32)[:, None]
    assert measure_coverage(line, np.array([0, 5]), radius=1.0, rng=rng) == pytest.approx(0.5)  # 0 1 and 4 5 6
    assert measure_coverage(line, np.arange(10), radius=0.0, rng=rng) == 1.0
    assert measure_coverage(line, np.arange(0), radius=9.0, rng=rng) == 0.0
    grid = np.linspace(0, 1000, 1001, dtype=np.float32)[:, None]
    assert measure_neighbourhood_radius(grid, rng=rng) == pytest.approx(
        5.0, abs=0.01
    )  # ten neighbours: five on each side


def test_turnover() -> None:
    assert measure_turnover(np.asarray([1, 2, 3, 4]), np.asarray([3, 4, 5, 6])) == 0.5
    assert measure_turnover(np.asarray([1, 2]), np.asarray([1, 2])) == 0.0


def test_scalings(rng: np.random.Generator) -> None:
    points = (rng.normal(size=(500, 3)) * [1, 50, 0] + [1e3, -7, 0.1]).astype(np.float32)
    unit, standard, centred = (rescale(points, how) for how in ("l2", "zscore", "none"))
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(standard.std(axis=0), [1, 1, 0], atol=1e-4)
    np.testing.assert_allclose(np.diff(centred[:, 1]), np.diff(points[:, 1]), rtol=1e-4, atol=1e-4)
    assert np.isfinite(rescale(np.zeros((3, 2), dtype=np.float32), "l2")).all()


def test_distinct_rows_are_the_first_of_their_kind() -> None:
    points = np.asarray([[1, 2], [0.0, 3], [1, 2], [-0.0, 3], [5, 5]], dtype=np.float32)
    assert find_distinct_rows(points).tolist() == [0, 1, 4]


def test_report_round_trips_through_json(planted: tuple[np.ndarray, np.ndarray]) -> None:
    embeddings, group = planted
    context = Context(labels=group, previous=np.arange(400), identities=np.arange(1110) // 2)
    for keep, method in (
        (0.4, Hierarchical(levels=(20, 5), eta=-np.inf)),
        (0.4, Random()),
        (1, Hierarchical()),
    ):
        _, report = select(embeddings, keep, np.random.default_rng(0), method=method, context=context)
        text = json.dumps(report.to_json(), allow_nan=False)
        assert CurationReport.from_json(json.loads(text)) == report


def test_unknown_and_missing_report_fields_are_refused(planted: tuple[np.ndarray, np.ndarray]) -> None:
    plain = select(planted[0], 5, np.random.default_rng(0), method=Random())[1].to_json()
    with pytest.raises(UserError, match="unknown key 'n_keptt'; did you mean 'n_kept'"):
        CurationReport.from_json({**plain, "n_keptt": 3})
    with pytest.raises(UserError, match="expected a complete curation report"):
        CurationReport.from_json({key: value for key, value in plain.items() if key != "after"})


def test_a_row_of_no_cluster_says_so(planted: tuple[np.ndarray, np.ndarray]) -> None:
    selection = curate(planted[0], 0.5, np.random.default_rng(0), method=Random(), clusters=0)
    assert (selection.cluster == -1).all() and np.isnan(selection.distance).all() and selection.centroids is None


def test_table_holds_the_fate_of_every_row(planted: tuple[np.ndarray, np.ndarray]) -> None:
    selection = curate(planted[0], 100, np.random.default_rng(0), method=Hierarchical(levels=(6,)))
    table = tabulate_selection(selection, np.arange(1110) * 3)
    kept = table.filter(table["kept"])
    assert kept["row"].to_pylist() == (selection.rows * 3).tolist()
    assert set(kept["reason"].to_pylist()) == {"kept"} and table["reason"].to_pylist().count("not drawn") == 1010


def test_the_room_needs_no_torch() -> None:
    code = "import sys, eo_ssl.curation; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
