"""kNN against scikit-learn and brute force, the linear probe against its own optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from eo_ssl.errors import UserError
from eo_ssl.evaluation import knn, linear


def clusters(
    rng: np.random.Generator, n: int, dim: int, classes: int, spread: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    y = rng.integers(0, classes, n)
    centres = np.random.default_rng(5).normal(size=(classes, dim))
    return (spread * centres[y] + rng.normal(size=(n, dim))).astype(np.float32), y.astype(np.int64)


@pytest.mark.parametrize("engine", ["faiss", "torch"])
@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_is_scikit_learns(rng: np.random.Generator, engine: str, k: int) -> None:
    x, y = clusters(rng, 700, 24, 6)
    test, _ = clusters(rng, 1500, 24, 6)
    oracle = KNeighborsClassifier(k, algorithm="brute").fit(x.astype(np.float64), y)
    assert np.array_equal(
        knn.neighbours(x, test, k=k, engine=engine), oracle.kneighbors(test.astype(np.float64), return_distance=False)
    )
    assert np.array_equal(knn.predict(x, y, test, k=k, engine=engine), oracle.predict(test.astype(np.float64)))


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_knn_survives_the_rounding_of_float32(rng: np.random.Generator, engine: str) -> None:
    # A large common offset drowns a plain |a|^2 - 2ab + |b|^2, and many training rows lie within its rounding of each other.
    x = (1000 + 1e-3 * rng.normal(size=(600, 16))).astype(np.float32)
    test = (1000 + 1e-3 * rng.normal(size=(200, 16))).astype(np.float32)
    distance = np.square(test[:, None].astype(np.float64) - x[None]).sum(axis=2)
    assert np.array_equal(
        knn.neighbours(x, test, k=5, engine=engine), np.argsort(distance, axis=1, kind="stable")[:, :5]
    )


@pytest.mark.parametrize("engine", ["faiss", "torch"])
def test_knn_orders_equal_distances_by_row(engine: str) -> None:
    x = np.repeat(np.arange(4, dtype=np.float32), 30)[:, None]  # thirty copies of each
    found = knn.neighbours(x, np.array([[2.0], [0.2]], dtype=np.float32), k=5, engine=engine)
    assert found.tolist() == [[60, 61, 62, 63, 64], [0, 1, 2, 3, 4]]


def test_votes_tie_to_the_lowest_class() -> None:
    assert knn.vote(np.array([[3, 1, 1, 3, 0], [2, 2, 1, 1, 0], [4, 3, 2, 1, 0], [2, 2, 2, 0, 0]])).tolist() == [
        1,
        1,
        0,
        2,
    ]


@pytest.mark.parametrize("k", [0, 4])
def test_knn_refuses_k(k: int) -> None:
    with pytest.raises(UserError, match=r"within 1 \.\.\. 3"):
        knn.predict(np.zeros((3, 2), np.float32), np.zeros(3, np.int64), np.zeros((1, 2), np.float32), k=k)


@pytest.mark.parametrize("classes", [2, 5])
def test_probe_is_where_the_gradient_vanishes(rng: np.random.Generator, classes: int) -> None:
    x, y = clusters(rng, 300, 12, classes)
    probe = linear.fit(x, y, penalties=(0.3,))[0]
    z = torch.from_numpy((x - probe.shift) / probe.scale)
    weight, bias = (torch.from_numpy(v).requires_grad_() for v in (probe.weight, probe.bias))
    loss = 0.3 * torch.nn.functional.cross_entropy(z @ weight.T + bias, torch.from_numpy(y), reduction="sum")
    free = weight if classes > 2 else weight[1:]  # with two classes one row of weights is fixed at zero
    (loss + 0.5 * free.square().sum()).backward()
    assert float((weight.grad if classes > 2 else weight.grad[1:]).abs().max()) < 0.3 * 300 * 1e-4
    assert float(bias.grad.abs().max()) < 0.3 * 300 * 1e-4


def test_probe_agrees_with_scikit_learn_for_every_penalty(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 400, 20, 4)
    test, truth = clusters(rng, 1000, 20, 4)
    scaler = StandardScaler().fit(x.astype(np.float64))
    for probe in linear.fit(x, y, penalties=linear.PENALTIES):
        oracle = LogisticRegression(C=probe.penalty, tol=1e-7, max_iter=5000).fit(
            scaler.transform(x.astype(np.float64)), y
        )
        ours, theirs = probe.predict(test), oracle.predict(scaler.transform(test.astype(np.float64)))
        assert (ours == theirs).mean() > 0.995
        assert abs((ours == truth).mean() - (theirs == truth).mean()) < 0.004


def test_standardising_is_a_choice_and_forgives_constants(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 200, 6, 3)
    x[:, 2] = 0.1
    scaled = x * np.array([1e3, 1, 1, 1, 1, 1e-3], np.float32)
    standard = [linear.fit(v, y)[0].predict(v) for v in (x, scaled)]
    plain = [linear.fit(v, y, standardise=False)[0].predict(v) for v in (x, scaled)]
    assert np.array_equal(*standard) and not np.array_equal(*plain)
    assert linear.standardiser(x)[1][2] == 1.0


def test_probe_knows_only_classes_it_saw(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 60, 4, 3)
    some, one = y != 1, y == 2
    assert set(linear.fit(x[some], y[some])[0].predict(x).tolist()) == {0, 2}
    assert set(linear.fit(x[one], y[one])[0].predict(x).tolist()) == {2}


def test_strongest_of_equal_penalties_is_chosen() -> None:
    assert linear.choose_penalty(np.array([0.5, 0.8, 0.8, 0.7]), (0.01, 0.1, 1.0, 10.0)) == 0.1


def test_probe_refusals(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 20, 3, 2)
    with pytest.raises(UserError, match="as many labels as samples"):
        linear.fit(x, y[:5])
    with pytest.raises(UserError, match="C above 0"):
        linear.fit(x, y, penalties=(0.0, 1.0))
