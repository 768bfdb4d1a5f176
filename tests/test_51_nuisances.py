"""Nuisances: clusters that are products say so, those that are not do not, whatever the number of products."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from eo_ssl.curation import Context, CurationReport, Hierarchical, curate
from eo_ssl.curation.nuisances import measure_brightness, measure_information, tell_nuisances


def test_clusters_that_follow_a_column_are_told_from_those_that_do_not(rng: np.random.Generator) -> None:
    cluster = rng.integers(0, 20, 5000).astype(np.int32)
    brightness = cluster + rng.normal(size=5000) * 0.1
    table = pa.table(
        {
            "product": [f"p{value}" for value in cluster],
            "month": pa.array(rng.integers(1, 13, 5000)),
            "brightness": pa.array(np.where(rng.random(5000) < 0.5, brightness, np.nan), from_pandas=True),
            "many": [f"tile {value}" for value in rng.integers(0, 600, 5000)],
            "one": ["s2"] * 5000,
            "unknown": pa.nulls(5000, pa.float64()),
        }
    )
    found = measure_information(cluster, table, rng=rng)
    assert found.keys() == {"product", "month", "brightness", "many"}
    assert found["product"] > 0.999 and found["brightness"] > 0.7  # deciles merge pairs of twenty clusters
    assert abs(found["month"]) < 0.02 and abs(found["many"]) < 0.05  # not for being many
    (sentence,) = tell_nuisances(found)
    assert sentence.startswith("clusters follow product (1.00), brightness (0.") and "month" not in sentence
    assert tell_nuisances({"month": 0.1}) == ()


def test_the_report_of_a_selection_says_what_its_clusters_follow(rng: np.random.Generator) -> None:
    product = np.repeat(np.arange(3), 100)
    points = np.eye(3)[product] * 9 + rng.normal(size=(300, 3)) * 0.1
    nuisances = pa.table({"product": product, "month": rng.permutation(product)})
    context = Context(nuisances=nuisances)
    report = curate(points, 0.5, rng, method=Hierarchical(levels=(3,), n_resample=0), context=context).report
    assert report.information["product"] > 0.99 and abs(report.information["month"]) < 0.1
    assert report.notes[-1].startswith("clusters follow product (1.00): mutual information")
    assert CurationReport.from_json(report.to_json()) == report


class Reader:
    """Two bands of four pixels; every third tile has no valid pixel."""

    def read(self, rows: np.ndarray) -> np.ndarray:
        tiles = np.broadcast_to(np.asarray(rows, dtype=np.float32)[:, None, None, None], (len(rows), 2, 2, 2)).copy()
        tiles[:, 0, 0, 0] = np.nan
        tiles[rows % 3 == 0] = np.nan
        return tiles


def test_brightness_is_the_mean_of_valid_pixels_of_a_sample(rng: np.random.Generator) -> None:
    rows = np.arange(0, 14_000, 2)
    found = measure_brightness(Reader(), rows, rng=rng)
    known = np.isfinite(found)
    np.testing.assert_array_equal(found[known], rows[known])
    assert 250 < known.sum() <= 500 * 0.8 and not (rows[known] % 3 == 0).any()
