"""What the benchmarks of curation compare with, and what they print."""

from __future__ import annotations

import numpy as np
import pytest

from bench import curate
from bench.plain_hierarchy import pick_plainly
from eo_ssl.curation.diversity import compute_normalised_entropy


def test_the_plain_rendering_balances_the_rings_as_the_paper_says() -> None:
    points = curate.make_rings(0)[::3].astype(np.float64)
    ring = np.repeat(np.arange(5), curate.RING_SIZES)[::3]
    rows = pick_plainly(points, (60, 20), 160, rounds=3, rng=np.random.default_rng(0))
    assert len(set(rows.tolist())) == 160
    before, after = (compute_normalised_entropy(np.bincount(which, minlength=5)) for which in (ring, ring[rows]))
    assert before < 0.6 and after > 0.85


def test_a_row_says_what_limits_and_what_was_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curate, "time_training", lambda: 0.5)
    events = list(curate.share_events(300, 8))
    assert [event["name"] for event in events] == ["curate/event-share-density", "curate/event-share-hierarchical"]
    assert all(event["value"] == pytest.approx(100 * event["seconds"] / 150) for event in events)
    row = curate.compare_density(400, 200, 8)
    assert row["wanted"] == 1.2 and "400 x 8, 200 of them searched" in row["note"] and row["ratio"] > 0
    assert curate.compare_kmeans(500, 5, 8, iterations=2)["name"] == "curate/kmeans-vs-faiss"
