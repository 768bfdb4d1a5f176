"""k nearest neighbours, exact to float64: L2, uniform votes, ties to the lowest class (Corley et al. 2024)."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from eo_ssl.errors import UserError

Labels = npt.NDArray[np.int64]
Matrix = npt.NDArray[np.float32]
Floats = npt.NDArray[np.float64]

TEMPERATURE = 0.07  # Wu et al. 2018, of the weights of cosine neighbours
_TINY = 1e-12  # a feature vector of zeros is similar to nothing
_SPARE = 8  # candidates beyond k that a float32 search proposes and float64 distances then rank
_QUERIES = 1024  # whose cosines are computed at once
_RANKED = 64  # queries ranked at once: their candidates' vectors stay in the cache


def predict(train_x: Matrix, train_y: Labels, test_x: Matrix, *, k: int = 5) -> Labels:
    """Return the class of each test row, int64 [m]: most votes of the ``k`` nearest training rows, lowest when tied.

    Args:
        train_x: [n, D] float32.
        train_y: [n] int64, classes >= 0.
        test_x: [m, D] float32.
        k: neighbours, at most n.

    Raises:
        UserError: k outside 1 ... n.
    """
    return vote(train_y[find_neighbours(train_x, test_x, k=k)])


def vote(labels: Labels, weights: Floats | None = None) -> Labels:
    """Return the class of most votes of ``labels`` [m, k], lowest when tied: int64 [m]; ``weights`` [m, k]."""
    if not len(labels):
        return np.empty(0, dtype=np.int64)
    classes = int(labels.max()) + 1
    flat = (np.arange(len(labels))[:, None] * classes + labels).ravel()
    counts = np.bincount(flat, weights=None if weights is None else weights.ravel(), minlength=len(labels) * classes)
    winner: Labels = counts.reshape(len(labels), classes).argmax(axis=1).astype(np.int64)
    return winner


def mean_of(values: npt.NDArray[Any], weights: Floats | None = None) -> Floats:
    """Return the mean of the neighbours' values [m, k, ...], float64 [m, ...]: vote shares of labels, or a value."""
    wide = values.astype(np.float64)
    if weights is None:
        averaged: Floats = wide.mean(axis=1)
        return averaged
    share = weights / weights.sum(axis=1, keepdims=True)
    weighted: Floats = np.einsum("mk...,mk->m...", wide, share)
    return weighted


def find_similar(train_x: Matrix, test_x: Matrix, *, k: int) -> tuple[Labels, Floats]:
    """Return the ``k`` training rows of greatest cosine similarity and their weights exp(cosine / 0.07), both [m, k].

    The weighted neighbour classifier of Wu et al. 2018 (arXiv 1805.01978, section 3.4), which DINO and MoCo are
    reported with at k = 20.
    """
    train, test = (x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), _TINY) for x in (train_x, test_x))
    rows = find_neighbours(
        train.astype(np.float32), test.astype(np.float32), k=k
    )  # on the sphere the nearest is the most similar
    parts = range(0, len(test), _QUERIES)  # [m, k, D] is never in memory at once
    cosine = [np.einsum("mkd,md->mk", train[rows[at : at + _QUERIES]], test[at : at + _QUERIES]) for at in parts]
    return rows, np.exp((np.concatenate(cosine).astype(np.float64) - 1) / TEMPERATURE)


def find_neighbours(train_x: Matrix, test_x: Matrix, *, k: int) -> Labels:
    """Return the rows of the ``k`` nearest training vectors of each test vector, nearest first: int64 [m, k].

    A float32 search (faiss IndexFlatL2) proposes a few more than k; float64 distances rank them; a query whose
    answer the rounding bound of float32 does not prove is searched again in float64.
    """
    if not 1 <= k <= len(train_x):
        raise UserError(f"expected k within 1 ... {len(train_x)} training rows, got {k}; choose a smaller k")
    train, test = (torch.from_numpy(np.ascontiguousarray(x, dtype=np.float32)) for x in (train_x, test_x))
    centre = train.mean(dim=0)  # distances do not change, the rounding errors of the expanded square shrink
    base, query = train - centre, test - centre
    wide = min(k + _SPARE, len(base))
    distance, candidates = _propose(base, query, wide)
    candidates = candidates.sort(dim=1).values  # by row, so that the stable sort below breaks ties by row
    exact = torch.cat(
        [
            _exact(train, test[at : at + _RANKED], candidates[at : at + _RANKED])
            for at in range(0, max(1, len(test)), _RANKED)
        ]
    )
    ranked, order = exact.sort(dim=1, stable=True)
    rows = candidates.gather(1, order[:, :k])
    if wide < len(base):
        # What was not proposed is as far as the last proposal, up to the rounding of a float32 product of D terms:
        # |error| <= (D + 4) 2^-23 (|a| + |b|)^2 (Higham 2002, section 3.1, with a factor of 2 to spare).
        longest = base.square().sum(dim=1).max().sqrt()
        bound = (base.shape[1] + 4) * 2.0**-23 * (query.square().sum(dim=1).sqrt() + longest).square()
        unproven = (ranked[:, k - 1] >= (distance - bound).double()).nonzero().squeeze(1).tolist()
        everything = train.double() if unproven else train
        for row in unproven:  # near-ties and repeated vectors only
            rows[row] = (everything - test[row].double()).square().sum(dim=1).sort(stable=True).indices[:k]
    found: Labels = rows.numpy()
    return found


def _exact(train: Tensor, test: Tensor, candidates: Tensor) -> Tensor:
    """Squared distances of each query to its candidates, float64 [q, c]."""
    difference = train[candidates].double().sub_(test[:, None].double())
    return torch.einsum("qcd,qcd->qc", difference, difference)


def _propose(base: Tensor, query: Tensor, wide: int) -> tuple[Tensor, Tensor]:
    """Distance of the last proposal [q] and the proposals [q, wide]."""
    index: Any = faiss.IndexFlatL2(base.shape[1])
    index.add(base.numpy())
    distances, rows = index.search(query.numpy(), wide)
    return torch.from_numpy(distances[:, -1]), torch.from_numpy(rows)
