"""kNN against scikit-learn and brute force, the linear probe against its own optimality conditions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from eo_ssl.errors import UserError
from eo_ssl.evaluation import knn, linear, sgd


def clusters(
    rng: np.random.Generator, n: int, dim: int, classes: int, spread: float = 0.4
) -> tuple[np.ndarray, np.ndarray]:
    y = rng.integers(0, classes, n)
    centres = np.random.default_rng(5).normal(size=(classes, dim))
    return (spread * centres[y] + rng.normal(size=(n, dim))).astype(np.float32), y.astype(np.int64)


@pytest.mark.parametrize("k", [1, 5, 20])
def test_knn_is_scikit_learns(rng: np.random.Generator, k: int) -> None:
    x, y = clusters(rng, 700, 24, 6)
    test, _ = clusters(rng, 1500, 24, 6)
    oracle = KNeighborsClassifier(k, algorithm="brute").fit(x.astype(np.float64), y)
    assert np.array_equal(
        knn.find_neighbours(x, test, k=k), oracle.kneighbors(test.astype(np.float64), return_distance=False)
    )
    assert np.array_equal(knn.predict(x, y, test, k=k), oracle.predict(test.astype(np.float64)))


def test_knn_survives_the_rounding_of_float32(rng: np.random.Generator) -> None:
    # A large common offset drowns a plain |a|^2 - 2ab + |b|^2, and many training rows lie within its rounding of each other.
    x = (1000 + 1e-3 * rng.normal(size=(600, 16))).astype(np.float32)
    test = (1000 + 1e-3 * rng.normal(size=(200, 16))).astype(np.float32)
    distance = np.square(test[:, None].astype(np.float64) - x[None]).sum(axis=2)
    assert np.array_equal(knn.find_neighbours(x, test, k=5), np.argsort(distance, axis=1, kind="stable")[:, :5])


def test_knn_orders_equal_distances_by_row() -> None:
    x = np.repeat(np.arange(4, dtype=np.float32), 30)[:, None]  # thirty copies of each
    found = knn.find_neighbours(x, np.array([[2.0], [0.2]], dtype=np.float32), k=5)
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
    assert linear.fit_standardiser(x)[1][2] == 1.0


def test_probe_knows_only_classes_it_saw(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 60, 4, 3)
    some, one = y != 1, y == 2
    assert set(linear.fit(x[some], y[some])[0].predict(x).tolist()) == {0, 2}
    assert set(linear.fit(x[one], y[one])[0].predict(x).tolist()) == {2}


def test_strongest_of_equal_penalties_is_chosen() -> None:
    assert linear.choose_penalty(np.array([0.5, 0.8, 0.8, 0.7]), (0.01, 0.1, 1.0, 10.0), fallback=1.0) == 0.1


def test_probe_refusals(rng: np.random.Generator) -> None:
    x, y = clusters(rng, 20, 3, 2)
    with pytest.raises(UserError, match="as many labels as samples"):
        linear.fit(x, y[:5])
    with pytest.raises(UserError, match="C above 0"):
        linear.fit(x, y, penalties=(0.0, 1.0))


def test_cosine_neighbours_are_those_of_a_loop(rng: np.random.Generator) -> None:
    train, test = rng.normal(size=(50, 6)).astype(np.float32), rng.normal(size=(9, 6)).astype(np.float32)
    rows, weights = knn.find_similar(train, test, k=7)
    for query, found, weight in zip(test, rows, weights, strict=True):
        cosine = [float(query @ one / np.linalg.norm(query) / np.linalg.norm(one)) for one in train]
        order = np.argsort(cosine)[::-1][:7]
        assert found.tolist() == order.tolist()
        expected = np.exp(np.array(cosine)[order] / 0.07)
        np.testing.assert_allclose(weight / weight.sum(), expected / expected.sum(), rtol=1e-4)


def test_weighted_votes_outvote_more_but_farther_neighbours() -> None:
    labels, weights = np.array([[2, 1, 1], [0, 1, 1]]), np.array([[5.0, 2.0, 2.0], [3.0, 2.0, 2.0]])
    assert knn.vote(labels, weights).tolist() == [2, 1]
    assert knn.mean_of(np.array([[0.0, 1.0, 2.0]]), np.array([[1.0, 1.0, 2.0]])).tolist() == [1.25]
    shares = knn.mean_of(np.array([[[1, 0], [1, 1], [0, 1]]]))
    np.testing.assert_allclose(shares, [[2 / 3, 2 / 3]])


def test_labels_are_fitted_one_by_one_as_scikit_learn_does(rng: np.random.Generator) -> None:
    x = rng.normal(size=(150, 5)).astype(np.float32)
    y = np.stack([x[:, 0] > 0.3, x[:, 1] + rng.normal(size=150) > 0, np.ones(150, bool), np.zeros(150, bool)], axis=1)
    (scorer,) = linear.fit_labels(x, y.astype(np.uint8), penalties=(0.5,))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    found = scorer.predict(x)
    for label in (0, 1):
        oracle = LogisticRegression(C=0.5, tol=1e-8, max_iter=1000).fit(standard, y[:, label])
        np.testing.assert_allclose(found[:, label], oracle.decision_function(standard), atol=5e-3)
    assert found[:, 2].min() > 100 and found[:, 3].max() < -100  # what every sample carried, and what none did


def test_values_are_fitted_as_the_normal_equations_say(rng: np.random.Generator) -> None:
    x, y = rng.normal(2, 3, size=(80, 4)).astype(np.float32), rng.normal(size=80).astype(np.float32)
    (scorer,) = linear.fit_values(x, y, penalties=(0.1,))
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    solved = np.linalg.solve(standard.T @ standard + 10 * np.eye(4), standard.T @ (y - y.mean()))
    np.testing.assert_allclose(scorer.predict(x)[:, 0], standard @ solved + y.mean(), atol=1e-4)


def test_descent_reaches_least_squares(rng: np.random.Generator) -> None:
    x = rng.normal(size=(200, 3)).astype(np.float32)
    y = (x @ [1.0, -2.0, 0.5] + 7 + 0.1 * rng.normal(size=200)).astype(np.float32)
    (scorer,) = sgd.fit(x, y, sgd.Problem("regression", 1), rates=(0.1,), seed=0)  # 200 samples: one batch, no noise
    solved = np.linalg.lstsq(np.c_[x, np.ones(200)], y, rcond=None)[0]
    np.testing.assert_allclose(scorer.predict(x)[:, 0], np.c_[x, np.ones(200)] @ solved, atol=1e-3)


def test_descent_finds_the_logistic_solution(rng: np.random.Generator) -> None:
    x = rng.normal(size=(240, 4)).astype(np.float32)
    y = (x[:, :3] + 0.8 * rng.normal(size=(240, 3))).argmax(axis=1)
    (scorer,) = sgd.fit(x, y, sgd.Problem("classification", 3), rates=(1.0,), seed=0)
    standard = (x - x.mean(axis=0)) / x.std(axis=0)
    oracle = LogisticRegression(C=1e6, tol=1e-8, max_iter=5000).fit(standard, y)
    scores = scorer.predict(x)
    scores -= scores.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(scores, oracle.decision_function(standard), atol=0.02)
    labels = np.eye(3, dtype=np.uint8)[y]
    (multi,) = sgd.fit(x, labels, sgd.Problem("multilabel", 3), rates=(1.0,), seed=0)
    one = LogisticRegression(C=1e6, tol=1e-8, max_iter=5000).fit(standard, labels[:, 1])
    np.testing.assert_allclose(multi.predict(x)[:, 1], one.decision_function(standard), atol=0.02)


def test_descent_is_seeded_and_heads_do_not_see_each_other(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(600, 4)).astype(np.float32), rng.integers(0, 3, 600)
    problem = sgd.Problem("classification", 3)
    alone = sgd.fit(x, y, problem, rates=(0.01,), seed=3)[0]
    among = sgd.fit(x, y, problem, rates=(0.1, 0.01, 1.0), seed=3)[1]
    other = sgd.fit(x, y, problem, rates=(0.01,), seed=4)[0]
    np.testing.assert_allclose(alone.weight, among.weight, rtol=1e-4, atol=1e-6)
    assert np.abs(alone.weight - other.weight).max() > 1e-4
