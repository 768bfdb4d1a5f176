"""Where tasks run: the same Dask graph on threads, processes, one thread, or a cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import resource_tracker
from typing import Any

import dask
import dask.callbacks

from eo_ssl.errors import UserError

_dask: Any = dask  # not typed
_LOOK_S, _ALONE_S = 15.0, 180.0  # how often a waiting run looks for workers, and how long it waits without any
LOCAL = ("threads", "processes", "synchronous")
Progress = Callable[[str, int, int], None]
"""Called with (step, done, total)."""


@dataclass(frozen=True, slots=True)
class WorkersLost:
    """The result of a task that none of several workers survived."""

    reason: str


def check_client(client: str) -> None:
    """Refuse a scheduler that is neither local nor an address.

    Raises:
        UserError: naming the choices.
    """
    if client not in LOCAL and "://" not in client:
        raise UserError(
            f"expected dask to be {', '.join(LOCAL)} or an address such as tcp://scheduler:8786, got {client!r}; "
            "choose one"
        )


def make_task(function: Callable[..., Any]) -> Any:
    """Return ``function`` as a maker of tasks.

    Called with arguments (also other tasks) it returns a task, not a result.
    """
    return _dask.delayed(function, pure=False)


def rank_tasks(priority: float) -> Any:
    """Return a context that gives the tasks made in it a priority on a cluster.

    The greatest first, 0 where nothing is said.
    """
    return _dask.annotate(priority=priority)


def count_steps(step: str, total: int, progress: Progress | None) -> Callable[[], None]:
    """Return what is to be called after each of ``total`` tasks, so that ``progress`` learns how many are done."""
    done = 0

    def count() -> None:
        nonlocal done
        done = min(done + 1, total)
        if progress:
            progress(step, done, total)

    return count


def compute(
    tasks: Sequence[Any], *, client: str, done: Callable[[], None] | None = None, inner: Sequence[Any] = ()
) -> list[Any]:
    """Return the results of delayed ``tasks`` in order.

    Args:
        tasks: made with :func:`make_task`, that return small values and may be run twice: a cluster repeats those of a
            worker that died, and after its ``distributed.scheduler.allowed-failures`` deaths (3) the result of a task
            is a :class:`WorkersLost`.
        client: ``threads``, ``processes``, ``synchronous`` or the address of a scheduler.
        done: called after each finished task of the graph (of ``tasks`` themselves on a cluster).
        inner: tasks that those wait for and that begin by priority: a cluster begins tasks that nobody asked for in any
            order.

    Raises:
        UserError: the scheduler is unknown or does not answer, or a worker process of this machine was killed.
    """
    check_client(client)
    if not tasks:
        return []
    if "://" in client:
        return _on_cluster(tasks, inner, client, done)
    callback = _dask.callbacks.Callback(posttask=lambda *_: done() if done else None)
    with callback, _open_pool(client) as workers:
        try:
            return list(_dask.compute(*tasks, scheduler=client, **workers))
        except BrokenProcessPool as error:
            raise UserError(
                "expected the worker processes to live, got one that was killed (most often for want of memory); "
                "run the same command again, with --dask synchronous if it happens again"
            ) from error


@contextmanager
def _open_pool(client: str) -> Iterator[dict[str, Any]]:
    """Yield what Dask is told of its workers; those that are processes never see the SIGINT of a terminal.

    It would leave a stack trace of each of them. They inherit that it is blocked, and end when this process says so.
    """
    count = len(os.sched_getaffinity(0))
    if client != "processes":
        yield {} if client == "synchronous" else {"num_workers": count}
        return
    os.environ.setdefault("PYTHONHASHSEED", "6640")  # as Dask does for a pool of its own: equal hashes in all workers
    resource_tracker.ensure_running()  # it unblocks signals as it begins
    with ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn")) as pool:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            for _ in range(count):  # a worker begins with a task that no idle one is there for
                pool.submit(int)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        yield {"pool": pool}


def _on_cluster(tasks: Sequence[Any], inner: Sequence[Any], address: str, done: Callable[[], None] | None) -> list[Any]:
    import distributed  # seconds to import, and only clusters need it

    library: Any = distributed
    try:
        client = library.Client(address, timeout="20s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"expected a Dask scheduler at {address}, got {type(error).__name__}; start one or use --dask threads"
        ) from error
    with client:
        # The inner ones are let go at once, so that nothing is kept.
        futures = client.compute([*tasks, *inner])[: len(tasks)]
        results = []
        # In order: `as_completed` can wait for ever for a result that died with its worker and was made again.
        for future in futures:
            results.append(_result(client, future, library.KilledWorker))
            if done:
                done()
        lost = [number for number, result in enumerate(results) if isinstance(result, WorkersLost)]
        for number in lost if len(lost) > 1 else ():  # alone, for it may only have shared the worker of another one
            client.retry([futures[number]])
            results[number] = _result(client, futures[number], library.KilledWorker)
        return results


def _result(client: Any, future: Any, killed: type[Exception]) -> Any:
    """Return what a task gave, or :class:`WorkersLost` for one that took its workers with it time and again.

    Raises:
        UserError: the scheduler has had no worker for minutes.
    """
    alone = 0.0
    while True:
        try:
            return future.result(timeout=_LOOK_S)
        except killed as error:
            return WorkersLost(str(error).split(". ")[0])
        except TimeoutError:
            alone = 0.0 if client.nthreads() else alone + _LOOK_S
            if alone >= _ALONE_S:
                raise UserError(
                    f"expected workers at the scheduler {client.scheduler.address}, got none for {_ALONE_S / 60:.0f} "
                    "minutes; "
                    "start some and run the same command again"
                ) from None
