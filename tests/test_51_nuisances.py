"""Nuisances: clusters that are products say so, those that are not do not, whatever the number of products."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from eo_ssl.curation.nuisances import measure_information, tell_nuisances


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
    assert found["product"] > 0.999 and found["brightness"] > 0.8  # deciles merge pairs of twenty clusters
    assert abs(found["month"]) < 0.02 and abs(found["many"]) < 0.05  # not for being many
    (sentence,) = tell_nuisances(found)
    assert sentence.startswith("clusters follow product (1.00), brightness (0.8") and "month" not in sentence
    assert tell_nuisances({"month": 0.1}) == ()
