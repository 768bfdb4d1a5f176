"""Curation of a memory map: the outcome of the array of the same values, in memory that does not grow with it."""

from __future__ import annotations

import errno
import gc
import os
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from eo_ssl.curation import (
    D4,
    Context,
    Density,
    DynamicConfig,
    Hierarchical,
    KCenter,
    Prototypes,
    Random,
    Ranked,
    Selector,
    SemDedup,
    Stratified,
    Tempered,
    choose_scaling,
    curate,
)
from eo_ssl.curation.diversity import (
    compute_vendi_score,
    measure_coverage,
    measure_neighbour_distance,
    measure_neighbourhood_radius,
)
from eo_ssl.curation.embeddings import check_embeddings, rescale
from eo_ssl.curation.mapped_rows import (
    allocate_like,
    allocate_mapped,
    gather_rows,
    read_parts,
    release_pages,
    take_rows,
)
from eo_ssl.curation.neighbours import find_nearest
from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity

SELECTORS: tuple[Selector, ...] = (
    Hierarchical(levels=(30, 6), n_resample=2, fit_rows=300),
    Hierarchical(form="weights", fit_rows=None, scaling="none"),
    Tempered(clusters=12, scaling="zscore"),
    Density(reference_rows=200, scaling="zscore_l2"),
    Density(reference_rows=None, form="rows"),
    SemDedup(clusters=5, scaling="zscore"),
    Prototypes(),
    D4(scaling="zscore_l2"),
    KCenter(),
    Random(),
    Ranked(by="entropy"),
    Stratified(),
)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eo_ssl.curation.mapped_rows.PART", 150)


def mapped(values: np.ndarray, folder: Path, dtype: type = np.float16) -> np.memmap:
    found = allocate_mapped(folder, values.shape, dtype)
    found[:] = values
    return found


@pytest.fixture
def planted() -> np.ndarray:
    """Groups of very different size, with copies among them: the values of half precision in float32 [700, 12]."""
    rng = np.random.default_rng(5)
    group = rng.permutation(np.repeat(np.arange(4), (500, 120, 60, 20)))
    values = np.eye(12)[group] * 3 + rng.normal(size=(700, 12)) * 0.3 + 7
    values[rng.choice(700, 40)] = values[3]
    return values.astype(np.float16).astype(np.float32)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("method", SELECTORS, ids=lambda method: f"{method.name}-{method.scaling}")
def test_a_memory_map_is_curated_as_the_array_of_its_values(
    method: Selector, planted: np.ndarray, tmp_path: Path
) -> None:
    columns = pa.table({"month": np.arange(700) % 5, "entropy": np.arange(700) % 97 / 7})
    spread = np.sin(np.arange(700)).astype(np.float32)
    for identities in (None, np.minimum(np.arange(700), 650)):
        context = Context(identities=identities, labels=np.arange(700) % 3, columns=columns, spread=spread)
        context = replace(context, scaling="zscore")
        made = [
            curate(embeddings, 0.3, np.random.default_rng(1), method=method, context=context)
            for embeddings in (planted, planted.astype(np.float16), mapped(planted, tmp_path))
        ]
        for other in made[1:]:
            assert other.rows.tobytes() == made[0].rows.tobytes()
            assert other.cluster.tobytes() == made[0].cluster.tobytes()
            assert other.distance.tobytes() == made[0].distance.tobytes()
            assert (other.weights is None) == (made[0].weights is None)
            if made[0].weights is not None and other.weights is not None:
                assert other.weights.tobytes() == made[0].weights.tobytes()
            assert replace(other.report, cost=made[0].report.cost) == made[0].report
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize(
    "method",
    [Density(reference_rows=300), Hierarchical(levels=(20, 4), n_resample=1, fit_rows=300), D4(fit_rows=300)],
    ids=lambda method: method.name,
)
def test_memory_grows_by_a_few_numbers_a_row_and_not_by_its_embedding(method: Selector, tmp_path: Path) -> None:
    """Of 256 numbers, which are 1024 bytes in single and 512 in half precision; figures see 2000 rows at most."""
    peaks = []
    for n in (8000, 16000):
        embeddings = mapped(np.random.default_rng(0).normal(size=(n, 256)), tmp_path)
        context = Context(identities=np.maximum(np.arange(n), 100))
        gc.collect()
        tracemalloc.start()
        curate(embeddings, 0.3, np.random.default_rng(0), method=method, context=context, clusters=0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / 8000 < 300


def test_no_page_of_a_map_stays_in_memory_after_a_part_is_read(tmp_path: Path, monkeypatch) -> None:
    points = mapped(np.ones((4096, 256)), tmp_path, np.float32)

    def resident() -> int:
        lines = Path("/proc/self/smaps").read_text().splitlines()
        starts = [number for number, line in enumerate(lines) if str(tmp_path) in line]
        assert len(starts) == 1
        return int(next(line for line in lines[starts[0] :] if line.startswith("Rss:")).split()[1]) * 1024

    assert resident() >= points.nbytes
    for _, values in read_parts(points, size=512):
        assert values.base is None and (values == 1).all()
        assert resident() < points.nbytes / 4
    seen: list[int] = []
    scattered = np.arange(0, 4096, 16)
    monkeypatch.setattr("eo_ssl.curation.mapped_rows._SCATTERED", 16)
    monkeypatch.setattr(
        "eo_ssl.curation.mapped_rows.release_pages", lambda of: seen.append(resident()) or release_pages(of)
    )
    assert (gather_rows(points, scattered) == 1).all() and len(seen) == 16 and max(seen) < points.nbytes / 4
    assert gather_rows(points, np.array([5, 3])).tolist() == points[[5, 3]].tolist()
    release_pages(points[10:20])
    assert resident() == 0 and (np.asarray(points) == 1).all()


def test_a_private_copy_of_a_map_keeps_what_was_written_to_it(tmp_path: Path) -> None:
    np.zeros((64, 512), np.float32).tofile(tmp_path / "x")
    private = np.memmap(tmp_path / "x", np.float32, mode="c", shape=(64, 512))
    private[:] = 3
    release_pages(private)
    assert (np.asarray(private) == 3).all()


def test_a_map_has_no_name_and_what_is_made_of_it_lies_beside_it(tmp_path: Path, monkeypatch) -> None:
    points = mapped(np.arange(12).reshape(4, 3), tmp_path)
    beside = allocate_like(points, (2, 5))
    again = take_rows(beside, np.array([1, 1, 0]))
    for made in (beside, again):
        assert isinstance(made, np.memmap) and made.dtype == np.float32 and Path(made.filename).parent == tmp_path
    assert list(tmp_path.iterdir()) == [] and again.shape == (3, 5) and not again.any()
    assert type(allocate_like(np.asarray(points), (2, 2))) is np.ndarray

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(UserError, match=r"expected space for 0\.4 GB of embeddings in .*, got No space left"):
        allocate_mapped(tmp_path, (10**6, 100), np.float32)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("small_parts")
def test_wrong_rows_of_a_map_are_counted_over_all_parts(tmp_path: Path) -> None:
    values = np.zeros((700, 3))
    values[[140, 690], 1] = np.inf, np.nan
    for embeddings in (values, mapped(values, tmp_path)):
        with pytest.raises(UserError, match=r"NaN or infinity in 2 of 700 rows \(first: row 140\)"):
            check_embeddings(embeddings)


@pytest.mark.usefixtures("small_parts")
def test_scales_by_parts_have_their_closed_forms(planted: np.ndarray, tmp_path: Path) -> None:
    planted[:, 4] = 0.1  # a column that does not vary
    rows = np.arange(700)[::-2].copy()
    wide = planted[rows].astype(np.float64)
    deviation = wide.std(axis=0)
    deviation[4] = 1
    standard = (wide - wide.mean(axis=0)) / deviation
    wanted = {
        "none": wide - wide.mean(axis=0),
        "l2": wide / np.linalg.norm(wide, axis=1, keepdims=True),
        "zscore": standard,
        "zscore_l2": standard / np.linalg.norm(standard, axis=1, keepdims=True),
    }
    for scale, values in wanted.items():
        found = rescale(planted, scale, rows)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, values, rtol=2e-6, atol=2e-6)
        of_map = rescale(mapped(planted, tmp_path, np.float32), scale, rows)  # type: ignore[arg-type]
        assert isinstance(of_map, np.memmap) and of_map.tobytes() == found.tobytes()
    assert (rescale(np.ones((3, 2), np.float32), "zscore_l2") == 0).all()


@pytest.mark.usefixtures("small_parts")
def test_nearest_rows_are_those_of_all_parts(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    points = rng.normal(size=(700, 5)).astype(np.float32)
    points[600] = points[10]
    rows = np.concatenate([rng.permutation(700)[:451], [10, 600]])
    apart = np.linalg.norm(points[:30, None].astype(np.float64) - points[rows][None], axis=2)
    for given in (points, mapped(points, tmp_path, np.float32)):
        squared, found = find_nearest(points[:30], given, 4, rows=rows)
        np.testing.assert_allclose(np.sqrt(np.maximum(squared, 0)), np.sort(apart, axis=1)[:, :4], atol=2e-3)
        np.testing.assert_allclose(np.take_along_axis(apart, found, axis=1), np.sort(apart, axis=1)[:, :4], atol=2e-3)
        unit = rescale(points, "l2")
        cosine, _ = find_nearest(unit[:30], given, 2, rows=rows, cosine=True)
        np.testing.assert_allclose(cosine, np.sort(unit[:30] @ unit[rows].T, axis=1)[:, :-3:-1], atol=1e-6)


def test_measures_over_parts_are_those_of_all_rows_at_once(
    planted: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows named twice are copies of each other."""
    rng = np.random.default_rng(0)
    rows, pool = np.sort(rng.choice(700, 500)), rng.choice(700, 90, replace=False)

    def measured(points: np.ndarray) -> tuple[float, ...]:
        made = [np.random.default_rng(3) for _ in range(4)]
        return (
            measure_neighbour_distance(points, rows, rng=made[0], queries=200),
            compute_vendi_score(points, rows, rng=made[1], queries=200),
            measure_neighbourhood_radius(points, rows, rng=made[2], queries=200),
            measure_coverage(points, pool, rows, radius=1.0, rng=made[3], queries=200),
        )

    whole = measured(planted)
    monkeypatch.setattr("eo_ssl.curation.mapped_rows.PART", 64)
    assert measured(planted) == pytest.approx(whole, rel=1e-4)
    assert measured(mapped(planted, tmp_path)) == measured(planted)
    gathered = planted[rows]
    apart = np.linalg.norm(gathered[:, None] - planted[pool], axis=2).min(axis=1)
    everyone = measure_coverage(planted, pool, rows, radius=1.0, rng=rng, queries=500)
    assert everyone == pytest.approx(float((apart <= 1).mean()))


@pytest.mark.parametrize(
    ("encoder", "quantity", "scale"),
    [
        ("imagestats", Quantity.TOA_REFLECTANCE, "zscore_l2"),
        ("imagestats", Quantity.BOA_REFLECTANCE, "zscore_l2"),
        ("imagestats", Quantity.SIGMA0, "zscore"),
        ("imagestats", Quantity.GAMMA0_DB, "zscore"),
        ("imagestats", Quantity.AMPLITUDE, "zscore"),
        ("rcf", Quantity.BOA_REFLECTANCE, "l2"),
        ("random_init", Quantity.SIGMA0_DB, "l2"),
        ("mae", Quantity.TOA_REFLECTANCE, "l2"),
    ],
)
def test_the_scale_that_suits_an_encoder(encoder: str, quantity: Quantity, scale: str) -> None:
    assert choose_scaling(encoder, quantity) == scale


def test_a_selector_takes_the_scale_of_the_context_unless_it_names_one(planted: np.ndarray) -> None:
    for asked, suited, used in (
        (Random(), "zscore_l2", "zscore_l2"),
        (Random(), "l2", "l2"),
        (Random(scaling="none"), "zscore_l2", "none"),
    ):
        context = Context(scaling=suited)  # type: ignore[arg-type]
        report = curate(planted, 9, np.random.default_rng(0), method=asked, context=context).report
        assert report.parameters["scaling"] == used
    assert Context().scaling == "l2"
    assert DynamicConfig(1, 1).method.scaling == "l2"
    assert DynamicConfig(1, 1, method=Density(scaling="zscore")).method.scaling == "zscore"
