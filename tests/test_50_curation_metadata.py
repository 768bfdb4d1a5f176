"""Selectors by what the index says: strata with nulls of their own, ranks, and at most so many rows of a place."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest

from eo_ssl.curation import Candidates, Context, Ranked, Selector, Stratified, curate, thin_strata
from eo_ssl.curation.balanced_sampling import allocate_evenly
from eo_ssl.curation.strata import number_strata
from eo_ssl.curation.weights import count_effective_rows
from eo_ssl.errors import UserError

ORBITS = ["ascending"] * 300 + ["descending"] * 60 + [""] * 20 + [None] * 20


@pytest.fixture
def index() -> pa.Table:
    """400 rows of four orbits (unknown in two ways) and three months, in random order."""
    rng = np.random.default_rng(0)
    return pa.table(
        {
            "orbit": pa.chunked_array([pa.array(ORBITS[:150]), pa.array(ORBITS[150:], pa.string())]),
            "month": pa.array(rng.choice([0, 3, 11], 400, p=[0.1, 0.6, 0.3]), pa.int8()),
            "enl": pa.array([None, float("nan"), float("inf"), *rng.permutation(397)], pa.float32()),
            "place": pa.array([f"{k % 37}" for k in range(400)]),
        }
    ).take(pa.array(rng.permutation(400)))


def pick(method: Selector, index: pa.Table, target: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray | None, str]:
    points = np.zeros((len(index), 1), np.float32)
    columns = index.select(list(method.columns))
    result = method.pick(Candidates(points, columns), target, np.random.default_rng(seed))
    assert (np.diff(result.rows) > 0).all()
    return result.rows, result.weights, " ".join(result.notes)


def test_rows_are_shared_as_evenly_as_the_strata_allow(index: pa.Table) -> None:
    rows, weights, notes = pick(Stratified(("orbit",)), index, 130)
    assert weights is None and "4 strata by orbit of 20 to 300 rows, of which 20 to 45 are kept" in notes
    assert Counter(np.asarray(index["orbit"].to_pylist())[rows]) == {
        "ascending": 45,
        "descending": 45,
        "": 20,
        None: 20,
    }
    both = list(zip(index["orbit"].to_pylist(), index["month"].to_pylist(), strict=True))
    sizes = Counter(both)
    rows, _, _ = pick(Stratified(("orbit", "month")), index, 50)
    kept = Counter(both[row] for row in rows)
    shares = allocate_evenly(np.asarray(list(sizes.values())), 50, rng=np.random.default_rng(0))
    assert sorted(kept.values()) == sorted(shares.tolist()) and set(kept) == set(sizes)
    drawn = sum(np.isin(np.arange(400), pick(Stratified(("orbit",)), index, 130, seed)[0]) for seed in range(200))
    inside = drawn[np.asarray(index["orbit"].to_pylist()) == "ascending"] / 200
    assert inside.min() > 0 and inside.mean() == pytest.approx(45 / 300)  # any of a stratum, not its first rows


def test_weights_of_strata_are_a_power_of_their_sizes(index: pa.Table) -> None:
    rows, weights, _ = pick(Stratified(("orbit",), form="weights"), index, 250)
    assert weights is not None and len(rows) == 400 and count_effective_rows(weights) == pytest.approx(250, rel=1e-4)
    mass = {name: weights[[orbit == name for orbit in index["orbit"].to_pylist()]].sum() for name in ORBITS}
    power = np.log(mass["ascending"] / mass["descending"]) / np.log(300 / 60)
    assert 0 < power < 1 and mass[""] == pytest.approx(mass[None])
    assert np.log(mass["descending"] / mass[""]) / np.log(60 / 20) == pytest.approx(power, rel=1e-3)


def test_strata_are_numbered_without_gaps_and_measures_are_refused(index: pa.Table) -> None:
    numbers = number_strata(index.select(["orbit", "month"]))
    pairs = list(zip(index["orbit"].to_pylist(), index["month"].to_pylist(), strict=True))
    assert len(set(zip(pairs, numbers.tolist(), strict=True))) == len(set(pairs)) == numbers.max() + 1
    assert len(number_strata(index.select(["orbit"]).slice(0, 0))) == 0
    with pytest.raises(UserError, match="words or whole numbers to stratify by, got the measures enl"):
        Stratified(("orbit", "enl")).check(index)
    for wrong in ((), ("month", "month")):
        with pytest.raises(UserError, match="one or more different columns"):
            Stratified(wrong)


def test_the_highest_and_the_lowest_are_kept_and_equals_drawn(index: pa.Table) -> None:
    values = np.asarray(index["month"].to_pylist())
    highest = pick(Ranked("month"), index, int((values == 11).sum()) + 5)[0]
    assert Counter(values[highest]) == {11: int((values == 11).sum()), 3: 5}
    lowest = pick(Ranked("month", prefer="lowest"), index, int((values == 0).sum()))[0]
    assert lowest.tolist() == np.flatnonzero(values == 0).tolist()
    drawn = {tuple(pick(Ranked("month"), index, 3, seed)[0]) for seed in range(10)}
    assert len(drawn) > 5


def test_rows_without_a_value_are_refused_or_last(index: pa.Table) -> None:
    with pytest.raises(UserError, match="expected a value of enl for each of 400 rows, got 3 without; leave them out"):
        Ranked("enl").check(index)
    values = np.asarray(index["enl"].to_numpy(zero_copy_only=False), dtype=np.float64)
    unknown = np.flatnonzero(~np.isfinite(values))
    for prefer, cut in (("highest", 397 - 10), ("lowest", 10)):
        rows, _, notes = pick(Ranked("enl", prefer=prefer, unknown="last"), index, 10)  # type: ignore[arg-type]
        wanted = np.isfinite(values) & (values >= cut) if prefer == "highest" else values < cut
        assert rows.tolist() == np.flatnonzero(wanted).tolist() and "3 of 400 rows have no enl: last" in notes
        almost = pick(Ranked("enl", prefer=prefer, unknown="last"), index, 399)[0]  # type: ignore[arg-type]
        assert len(np.setdiff1d(np.arange(400), almost)) == 1 and np.isin(np.setdiff1d(np.arange(400), almost), unknown)
    rows, weights, _ = pick(Ranked("enl", unknown="last", form="weights"), index, 300)
    assert weights is not None and len(rows) == 400
    np.testing.assert_allclose(weights[unknown], weights.min())
    assert (np.diff(weights[np.argsort(np.nan_to_num(values, nan=0, posinf=0))]) >= 0).all()
    with pytest.raises(UserError, match="expected rows with a value of enl, got none"):
        pick(Ranked("enl", unknown="last"), pa.table({"enl": pa.nulls(5, pa.float32())}), 2)
    with pytest.raises(UserError, match="a column of numbers to rank by, got orbit, which holds string"):
        pick(Ranked("orbit"), index, 10)


@pytest.mark.parametrize("method", [Stratified(("orbit",)), Ranked("month")])
def test_the_columns_come_with_the_rows_that_are_left_without_copies(index: pa.Table, method: Selector) -> None:
    """Duplicates go first, so rows of columns and of embeddings must be the same ones."""
    identities = np.arange(400)
    identities[200:] = identities[:200]
    context = Context(columns=index, identities=identities, notes=("told before",))
    selection = curate(
        np.random.default_rng(1).normal(size=(400, 3)), 40, np.random.default_rng(0), method=method, context=context
    )
    expected = pick(method, index.slice(0, 200), 40)[0]
    assert selection.rows.max() < 200 and selection.report.notes[0] == "told before"
    name = method.columns[0]
    ours, theirs = (Counter(np.asarray(index[name].to_pylist())[rows].tolist()) for rows in (selection.rows, expected))
    assert ours == theirs
    with pytest.raises(UserError, match=f"expected a column {name} beside the embeddings"):
        curate(np.eye(9), 2, np.random.default_rng(0), method=method)


def test_at_most_so_many_rows_of_each_place_are_left(index: pa.Table) -> None:
    places = np.asarray(index["place"].to_pylist())
    for most in (1, 4, 11, 500):
        rows = thin_strata(index.select(["place"]), most, np.random.default_rng(0))
        sizes = Counter(places.tolist())
        assert Counter(places[rows].tolist()) == {name: min(most, size) for name, size in sizes.items()}
    drawn = [thin_strata(index.select(["place"]), 1, np.random.default_rng(seed)) for seed in range(300)]
    assert len(np.unique(np.concatenate(drawn))) > 395  # any of a place may be the one
    assert len(thin_strata(index.select(["place"]).slice(0, 0), 3, np.random.default_rng(0))) == 0
    with pytest.raises(UserError, match="at least 1 row of each, got 0"):
        thin_strata(index.select(["place"]), 0, np.random.default_rng(0))
