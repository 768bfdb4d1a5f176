"""How many directions embeddings use, against closed forms, scikit-learn and the monitor of training."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.decomposition import PCA

from eo_ssl.embedding import Covariance
from eo_ssl.errors import UserError
from eo_ssl.pretraining.monitors import rank_me


def test_the_effective_rank_of_known_spectra() -> None:
    line = np.outer(np.arange(1, 9), np.eye(5)[0]).astype(np.float32)
    assert Covariance.of([line]).rank_me == pytest.approx(1, abs=1e-4)
    alike = np.eye(6, dtype=np.float32) * 3
    assert Covariance.of([alike]).rank_me == pytest.approx(6, rel=1e-5)
    # Singular values 2, 1, 1: shares 1/2, 1/4, 1/4, entropy 1.5 ln 2.
    assert Covariance.of([np.diag([2.0, 1.0, 1.0]).astype(np.float32)]).rank_me == pytest.approx(2**1.5, rel=1e-5)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_parts_give_what_the_whole_gives_and_what_others_compute(rng: np.random.Generator, cut: int) -> None:
    x = (rng.normal(size=(300, 12)) * np.linspace(3, 0.1, 12) + rng.normal(size=12)).astype(np.float32)
    found = Covariance.of(x[at : at + cut] for at in range(0, len(x), cut))
    assert found.count == 300
    assert found.rank_me == pytest.approx(rank_me(x), rel=1e-5)
    axes, shares = found.components(3)
    oracle = PCA(n_components=3).fit(x.astype(np.float64))
    np.testing.assert_allclose(shares, oracle.explained_variance_ratio_, rtol=1e-5)
    np.testing.assert_allclose(np.abs(found.project(x, axes)), np.abs(oracle.transform(x)), rtol=1e-4, atol=1e-5)
    assert (axes[np.arange(3), np.abs(axes).argmax(axis=1)] > 0).all()  # one sign, on any machine


def test_nothing_has_no_rank() -> None:
    with pytest.raises(UserError, match="expected at least one embedding to measure, got none"):
        Covariance.of([np.empty((0, 4), dtype=np.float32)])
