"""Linear probes: logistic regression by L-BFGS for classes and labels, ridge regression for values (scikit-learn's)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from eo_ssl.errors import UserError

Labels = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

PENALTIES = tuple(10.0**power for power in range(-4, 3))  # C: larger is weaker
_CERTAIN = 1e3  # score of a label that every training sample carries
_ITERATIONS = 5000
_TOLERANCE = 1e-4  # largest gradient of the mean loss, scikit-learn's own
_SMALL = 4_000_000  # numbers in a matrix below which threads wait for each other longer than they work


@dataclass(frozen=True, slots=True)
class Linear:
    """Fitted linear scores."""

    weight: Floats
    "[K, D], on standardised features"
    bias: Floats
    "[K]"
    shift: Floats
    "[D], subtracted from a feature vector first"
    scale: Floats
    "[D], then divided by"
    penalty: float
    "C it was fitted with"

    def scores(self, x: Matrix) -> Floats:
        """Return the scores of each row of [m, D]: [m, K] float64."""
        scored: Floats = ((x - self.shift) / self.scale) @ self.weight.T + self.bias
        return scored


@dataclass(frozen=True, slots=True)
class Scorer(Linear):
    """One score per label, or the one value of a regression."""

    def predict(self, x: Matrix) -> Matrix:
        """Return the scores of each row of [m, D]: [m, K] float32."""
        return self.scores(x).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Probe(Linear):
    """A classifier."""

    classes: Labels
    "[K], ascending: the classes that had a sample"

    def predict(self, x: Matrix) -> Labels:
        """Return the class of each row of [m, D]: the largest score, the lowest class when tied."""
        predicted: Labels = self.classes[self.scores(x).argmax(axis=1)]
        return predicted


def fit_standardiser(x: Matrix) -> tuple[Floats, Floats]:
    """Return mean and standard deviation per column, float64 [D]; a column that is constant is divided by 1."""
    wide = x.astype(np.float64)
    scale = wide.std(axis=0)
    # A constant column has a std of rounding errors, not of 0.
    constant = scale <= 1e-7 * np.abs(wide).max(axis=0, initial=0.0)
    return wide.mean(axis=0), np.where(constant, 1.0, scale)


def fit(x: Matrix, y: Labels, *, penalties: Sequence[float] = (1.0,), standardise: bool = True) -> list[Probe]:
    """Return one probe per penalty, in the order given.

    Each minimises ``C * sum_i cross_entropy_i + |W|^2 / 2`` over weights and free biases (two classes: the binomial
    form). Penalties are visited from strong to weak, each from the solution before it.

    Args:
        x: [n, D] float32.
        y: [n] int64 classes.
        penalties: values of C.
        standardise: whether each column is first brought to mean 0 and standard deviation 1 of these samples.

    Raises:
        UserError: no sample, a penalty that is not positive, or no convergence.
    """
    if not len(x) or len(x) != len(y):
        raise UserError(
            f"expected as many labels as samples and at least one, got {len(x)} samples and {len(y)} labels; check "
            "the task's split"
        )
    if min(penalties) <= 0:
        raise UserError(f"expected penalties C above 0, got {tuple(penalties)}; remove the others")
    shift, scale = fit_standardiser(x) if standardise else (np.zeros(x.shape[1]), np.ones(x.shape[1]))
    classes = np.unique(y)
    if len(classes) == 1:
        return [Probe(np.zeros((1, x.shape[1])), np.zeros(1), shift, scale, c, classes) for c in penalties]
    with threadpool_limits(1 if x.size < _SMALL else None):
        data, basis = _compact((x - shift) / scale)
    model: Any = LogisticRegression(tol=_TOLERANCE, max_iter=_ITERATIONS, warm_start=True)
    fitted = {}
    for penalty in sorted(set(penalties)):
        model.set_params(C=penalty)
        with warnings.catch_warnings():
            warnings.simplefilter("error", ConvergenceWarning)
            try:
                with threadpool_limits(1 if data.size < _SMALL else None):
                    model.fit(data, y)
            except ConvergenceWarning as error:
                raise UserError(
                    f"expected the linear probe to converge at C = {penalty:g}, got none in {_ITERATIONS} steps; "
                    "standardise"
                ) from error
        weight, bias = model.coef_ @ basis if basis is not None else model.coef_.copy(), model.intercept_.copy()
        if len(classes) == 2:  # one row of scores for the second class
            weight, bias = np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])
        fitted[penalty] = Probe(weight, bias, shift, scale, penalty, classes)
    return [fitted[penalty] for penalty in penalties]


def _compact(data: Floats) -> tuple[Floats, Floats | None]:
    """Coordinates of few samples in the space they span, [n, r], and its basis [r, D]; None where that saves nothing.

    |W|^2 is the same in any orthonormal basis and directions without data get no weight, so the minimum does not move.
    """
    count, dim = data.shape
    if count >= dim:
        return data, None
    basis: Floats = np.linalg.qr(data.T)[0].T
    return data @ basis.T, basis


def fit_labels(x: Matrix, y: npt.NDArray[np.uint8], *, penalties: Sequence[float] = (1.0,)) -> list[Scorer]:
    """Return one scorer per penalty: a logistic regression for each label (`fit`), scores before the sigmoid.

    Args:
        x: [n, D] float32.
        y: [n, K] 0 or 1; a label that all samples or none of them carry is scored by that alone.
        penalties: values of C.

    Raises:
        UserError: as `fit`.
    """
    weight = np.zeros((len(penalties), y.shape[1], x.shape[1]))
    bias = np.zeros((len(penalties), y.shape[1]))
    for label in range(y.shape[1]):
        for index, probe in enumerate(fit(x, y[:, label].astype(np.int64), penalties=penalties)):
            if len(probe.classes) == 2:
                weight[index, label], bias[index, label] = probe.weight[1], probe.bias[1]
            else:
                bias[index, label] = _CERTAIN if probe.classes[0] else -_CERTAIN
    shift, scale = fit_standardiser(x)
    return [Scorer(weight[i], bias[i], shift, scale, penalty) for i, penalty in enumerate(penalties)]


def fit_values(x: Matrix, y: Matrix, *, penalties: Sequence[float] = (1.0,)) -> list[Scorer]:
    """Return one ridge regression per penalty, minimising ``C * sum_i (error_i)^2 + |w|^2`` with a free bias.

    Args:
        x: [n, D] float32.
        y: [n] float32.
        penalties: values of C.
    """
    shift, scale = fit_standardiser(x)
    data = (x - shift) / scale
    fitted = []
    for penalty in penalties:
        model: Any = Ridge(alpha=1 / penalty).fit(data, y.astype(np.float64))
        fitted.append(Scorer(model.coef_[None], np.array([model.intercept_]), shift, scale, penalty))
    return fitted


def choose_penalty(accuracies: Floats, penalties: Sequence[float], *, fallback: float) -> float:
    """Return the penalty of the best validation accuracy [P], the strongest (smallest C) among equals.

    Where all are equal nothing was chosen, and it is ``fallback``.
    """
    best = np.flatnonzero(accuracies >= accuracies.max() - 1e-12).tolist()
    return fallback if len(best) == len(penalties) else min(penalties[i] for i in best)
