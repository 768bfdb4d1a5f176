"""The items of the next batch: a function of seed, epoch and step alone, sharded by rank, on a pool that may change."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from eo_ssl.curation import check_weights, draw_systematically
from eo_ssl.errors import UserError, expect

BLOCK_ROWS = 64  # neighbouring rows that stay together until the buffer mixes them, so that reads stay local
BUFFER_ROWS = 16_384  # rows mixed completely; a pool up to this size is shuffled uniformly

Rows = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


def shuffle_blocks(n: int, rng: np.random.Generator, *, block: int = BLOCK_ROWS, buffer: int = BUFFER_ROWS) -> Rows:
    """A permutation of 0..n-1: blocks of neighbours in random order, then all rows of each buffer mixed.

    Args:
        n: number of rows.
        rng: source of randomness.
        block: rows of a block.
        buffer: rows mixed completely; each buffer touches about buffer / block places of the store.

    Returns:
        int64 [n], each of 0..n-1 once.
    """
    if n <= buffer:
        return rng.permutation(n)
    starts = rng.permutation(-(-n // block)) * block
    order = (starts[:, None] + np.arange(block)).reshape(-1)
    order = order[order < n]
    for start in range(0, n, buffer):
        order[start : start + buffer] = rng.permutation(order[start : start + buffer])
    return order


def count_steps(steps: int | None, epochs: float | None, *, pool: int, batch_size: int) -> int:
    """Optimizer steps of a run, which may be given as passes over its pool instead; 1000 when neither is given.

    Raises:
        UserError: both are given, or epochs that are no step.
    """
    if epochs is None:
        return 1000 if steps is None else steps
    expect(steps is None, expected="steps or epochs", got=f"{steps} steps and {epochs} epochs", remedy="leave one out")
    counted = round(epochs * (pool // batch_size))
    expect(
        counted >= 1,
        expected="epochs that make a step",
        got=f"{epochs} epochs of {pool} items in batches of {batch_size}",
        remedy="raise epochs or lower batch_size",
    )
    return counted


def spread_copies(
    counts: Rows, rng: np.random.Generator, *, block: int = BLOCK_ROWS, buffer: int = BUFFER_ROWS
) -> Rows:
    """A pass in which row i of 0..n-1 comes up `counts[i]` times, its copies as far from each other as can be.

    Two views of one image are what contrastive methods call equal; a batch that holds the image twice would call it
    different from itself. So the copies of a row stand at equal distances, from a random first place.

    Args:
        counts: int64 [n], how often each row comes up.
        rng: source of randomness.
        block: rows of a block, as for `shuffle_blocks`.
        buffer: draws mixed completely.

    Returns:
        int64 [sum of counts].
    """
    order = shuffle_blocks(len(counts), rng, block=block, buffer=buffer)
    drawn = np.repeat(order, counts[order])
    total = counts[drawn]
    first = np.concatenate([[True], drawn[1:] != drawn[:-1]])
    starts = np.flatnonzero(first)
    copy = np.arange(len(drawn)) - np.repeat(starts, np.diff(starts, append=len(drawn)))
    place = (copy + np.repeat(rng.random(len(starts)), np.diff(starts, append=len(drawn)))) / total
    for start in range(0, len(drawn), buffer):
        part = slice(start, start + buffer)
        drawn[part] = drawn[part][np.argsort(place[part], kind="stable")]
    return drawn


class ItemSampler:
    """Rows of the current batch; its state is seed, epoch and step, and the pool with its weights.

    Every rank draws the same order and takes its own part of each global batch, so all ranks do equally many steps;
    what is left over at the end of an epoch is dropped and comes up in the next one's order. An epoch draws as many
    rows as the pool has: each once, or with weights each within one of its expected number of times.
    """

    def __init__(
        self,
        pool: Rows,
        *,
        batch_size: int,
        seed: int,
        weights: Weights | None = None,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        """Start at epoch 0, step 0 of `pool`.

        Args:
            pool: int64 [n], rows of the source, ascending.
            weights: float32 [n] above 0, how often each is to come up in times the mean; None for equally often.
            batch_size: rows per rank and step.
            seed: of the order.
            rank: of this process.
            world: number of processes.

        Raises:
            UserError: if the pool holds less than one global batch.
        """
        if not 0 <= rank < world or batch_size < 1:
            raise UserError(f"expected batch_size >= 1 and 0 <= rank < world, got {batch_size}, {rank} and {world}")
        self.batch_size, self.rank, self.world = batch_size, rank, world
        self.seed, self.epoch, self.step = seed, 0, 0
        self.pool, self.weights = self._checked(pool, weights)
        self._order: tuple[int, Rows] | None = None  # epoch and its order, dropped when the pool changes

    @property
    def global_batch(self) -> int:
        """Rows of all ranks per step."""
        return self.batch_size * self.world

    @property
    def steps_per_epoch(self) -> int:
        """Full global batches of the pool."""
        return len(self.pool) // self.global_batch

    def rows(self) -> Rows:
        """Rows of this rank's current batch: int64 [batch_size]; asking twice gives the same."""
        if self._order is None or self._order[0] != self.epoch:
            rng = np.random.default_rng([self.seed, self.epoch])
            self._order = self.epoch, self.pool[self._draw_pass(rng)]
        start = self.step * self.global_batch + self.rank * self.batch_size
        return self._order[1][start : start + self.batch_size]

    def take_rank(self, rank: int) -> None:
        """Serve the part of process `rank` from now on; processes learn their rank when the run begins."""
        if not 0 <= rank < self.world:
            raise UserError(f"expected a rank below the number of processes {self.world}, got {rank}; start that many")
        self.rank = rank

    def advance(self) -> None:
        """Go to the next batch, into the next epoch where this one has no full batch left."""
        self.step += 1
        if self.step >= self.steps_per_epoch:
            self.epoch, self.step = self.epoch + 1, 0

    def replace_pool(self, pool: Rows, weights: Weights | None = None) -> bool:
        """Draw from `pool` by `weights` from now on, in a new epoch; the same ones change nothing.

        Returns:
            Whether they changed.
        """
        pool, weights = self._checked(pool, weights)
        if np.array_equal(pool, self.pool) and _equal(weights, self.weights):
            return False
        self.pool, self.weights, self._order = pool, weights, None
        self.epoch, self.step = self.epoch + 1, 0
        return True

    def state_dict(self) -> dict[str, Any]:
        """Three integers, the pool, and its weights where it has some."""
        state = {"seed": self.seed, "epoch": self.epoch, "step": self.step, "pool": torch.from_numpy(self.pool)}
        return state if self.weights is None else {**state, "weights": torch.from_numpy(self.weights)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken."""
        self.seed, self.epoch, self.step = int(state["seed"]), int(state["epoch"]), int(state["step"])
        weights = state["weights"].numpy() if "weights" in state else None
        (self.pool, self.weights), self._order = self._checked(state["pool"].numpy(), weights), None

    def _draw_pass(self, rng: np.random.Generator) -> Rows:
        """Places in the pool of all draws of an epoch: int64 [n]."""
        if self.weights is None:
            return shuffle_blocks(len(self.pool), rng)
        order = rng.permutation(len(self.pool))  # lest rows beside each other exclude each other
        counts = np.empty(len(order), dtype=np.int64)
        counts[order] = draw_systematically(self.weights[order], len(order), rng)
        return spread_copies(counts, rng)

    def _checked(self, pool: Rows, weights: Weights | None) -> tuple[Rows, Weights | None]:
        rows = np.asarray(pool, dtype=np.int64)
        repeated = len(rows) - len(np.unique(rows))
        if repeated:
            raise UserError(f"expected each row once in the pool, got {repeated} repeated: remove them")
        if len(rows) < self.global_batch:
            raise UserError(
                f"expected at least one batch of {self.global_batch} tiles, got {len(rows)}: choose a batch_size of at"
                f" most {len(rows) // self.world}, or more data"
            )
        order = np.argsort(rows)
        if weights is None:
            return rows[order], None
        expect(
            len(weights) == len(rows),
            expected=f"a weight for each of {len(rows)} rows",
            got=len(weights),
            remedy="curate again",
        )
        scaled = check_weights(weights)[order]
        # Equal weights are none: what follows must not differ by a bit from a run without any.
        return rows[order], None if (scaled == scaled[0]).all() else scaled


def _equal(left: Weights | None, right: Weights | None) -> bool:
    return left is right or (left is not None and right is not None and np.array_equal(left, right))
