"""Ingests whose process group is killed again and again: nothing may be lost, nothing may come twice.

Everything is imported once, in a process that forks for each order; the fork has a process group of its own, which dies as a whole.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from eo_ssl import commits
from eo_ssl.cards import Card, load_card
from eo_ssl.corpus import Corpus, IngestConfig, ingest, shards
from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from worlds.safe import S1GrdSpec, S1WvSpec, S2SafeSpec, make_s1_grd_safe, make_s1_wv_safe, make_s2_safe

SIZE_PX = 32
POINTS = (
    "after-temp-write",
    "before-fsync",
    "after-link",
    "between-index-and-statistics",
    "inside-task",
    "before-snapshot",
    "before-put",
    "after-put",
    "inside-upload",
)
OF_STORE = ("before-put", "after-put", "inside-upload")
CONFIG = IngestConfig(size_px=SIZE_PX, edge="pad", min_valid=0.0)


def make_archives(folder: Path, *, seed: int) -> None:
    """Sentinel-2 of both levels and two baselines each, Sentinel-1 ground range and wave mode."""
    kinds = (("L1C", "02.04"), ("L1C", "05.09"), ("L2A", "03.01"), ("L2A", "04.00"))
    for number, (level, baseline) in enumerate(kinds):
        spec = S2SafeSpec(
            level=level,
            baseline=baseline,
            seed=seed + number,
            size_px=120,
            complete=False,
            tile=("32TQM", "32TPM")[number % 2],
        )  # type: ignore[arg-type]
        make_s2_safe(folder, spec, zipped=number % 2 == 0)
    make_s1_grd_safe(folder, S1GrdSpec(lines=120, samples=140, border_px=4, seed=seed))
    make_s1_wv_safe(folder, S1WvSpec(vignettes=4, extent_m=2000.0, seed=seed), zipped=True)


def _cards() -> list[Card]:
    wave = load_card("s1_safe_wv")
    if wave.vignettes is None:
        raise ValueError("the card of wave mode has no vignettes")
    wave = replace(wave, vignettes=replace(wave.vignettes, crop_px=SIZE_PX))
    return [load_card("s2_safe_l1c"), load_card("s2_safe_l2a"), load_card("s1_safe_grd"), wave]


def ingest_all(archive: str, out: str, client: str) -> str:
    """Ingest all archives, in small shards; return the fingerprint."""
    shards.MAX_TILES = 16
    found = [product for card in _cards() for product in list_products(card, Path(archive)).products]
    return ingest(found, out=out, config=CONFIG, client=client).fingerprint


def serve() -> None:
    """Read orders from standard input; each runs in a fork."""
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setsid()
            os.environ.update(order["environment"])
            os.write(1, (json.dumps({"pid": os.getpid()}) + "\n").encode())
            try:
                answer = {"fingerprint": ingest_all(*order["arguments"]), "hits": commits._hits}
            except Exception as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            Path(order["answer"]).write_text(json.dumps(answer))
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        os.write(1, (json.dumps({"code": os.waitstatus_to_exitcode(status)}) + "\n").encode())


class Victims:
    """Runs of the ingest that are meant to die."""

    def __init__(self, folder: Path, archive: Path) -> None:
        self._answer, self._archive = folder / "answer.json", archive
        self._server = subprocess.Popen(
            [sys.executable, "-m", "bench.kills"],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def run(
        self, out: str, client: str, *, point: str = "", log: Path | None = None, after_s: float | None = None
    ) -> dict[str, Any]:
        """Run once, to be killed at a named point or after some seconds; return the answer, empty when it was killed."""
        self._answer.unlink(missing_ok=True)
        held = {key: value for key, value in os.environ.items() if key.startswith("AWS_")}
        environment = {**held, "EO_SSL_FAULT": point or "none", **({"EO_SSL_FAULT_LOG": str(log)} if log else {})}
        order = {
            "arguments": [str(self._archive), out, client],
            "answer": str(self._answer),
            "environment": environment,
        }
        group = self._exchange(json.dumps(order))["pid"]
        if after_s is not None:
            time.sleep(after_s)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(group, signal.SIGKILL)
        code = self._exchange()["code"]
        _await_end(group)
        if code == -signal.SIGKILL:
            return {}
        answer: dict[str, Any] = json.loads(self._answer.read_text())
        if "fingerprint" not in answer:
            raise RuntimeError(f"an ingest failed: {answer}")
        return answer

    def _exchange(self, line: str = "") -> dict[str, int]:
        if self._server.stdin is None or self._server.stdout is None:
            raise RuntimeError("the server has no pipes")
        if line:
            self._server.stdin.write(f"{line}\n")
            self._server.stdin.flush()
        answer: dict[str, int] = json.loads(self._server.stdout.readline())
        return answer

    def close(self) -> None:
        self._server.communicate(timeout=20)


def _await_end(group: int) -> None:
    for _ in range(200):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise RuntimeError(f"process group {group} outlived its kill")


@dataclass
class Tally:
    """What came of the kills of one scheduler."""

    kills: int = 0
    at_points: Counter[str] = field(default_factory=Counter)
    at_random: int = 0
    again: int = 0
    "of runs that resumed a killed one"
    corpora: int = 0
    "completed and compared"
    lost: int = 0
    doubled: int = 0
    changed: int = 0
    "corpora with another fingerprint"
    unreadable: int = 0
    "states after a kill that a reader could open and that did not verify"


def campaign(
    victims: Victims, folder: Path, client: str, *, kills: int, points: tuple[str, ...], seed: int, place: str
) -> Tally:
    """Kill ingests into fresh corpora ``place/n`` until there were ``kills`` kills; each point first once, then points and moments at random."""
    rng, tally = np.random.default_rng(seed), Tally()
    begun = time.monotonic()
    whole = victims.run(f"{place}/whole", client)
    lasting = time.monotonic() - begun
    expected, hits = _tiles(f"{place}/whole"), whole["hits"]
    waiting, number, resumed = list(points), 0, False
    while tally.kills < kills or waiting or resumed:
        out, log = f"{place}/{number}", folder / "fault.log"
        log.unlink(missing_ok=True)
        answer: dict[str, Any] = {}
        if (tally.kills < kills or waiting) and (not resumed or rng.random() < 0.5):
            if (waiting and not resumed) or rng.random() < 0.3:
                point = waiting[0] if waiting and not resumed else str(rng.choice(points))
                most = (
                    hits.get(point, 1) if client != "processes" else 1
                )  # points that workers pass are counted in them
                nth = 1 if waiting and not resumed else int(rng.integers(1, most + 1))
                answer = victims.run(out, client, point=f"{point}:{nth}", log=log)
                if answer and not resumed and point in waiting:
                    raise RuntimeError(f"expected a whole run to pass {point}, got one that did not")
                if not answer:
                    tally.at_points[log.read_text().strip()] += 1
                    waiting = [name for name in waiting if name != point]
            else:
                answer = victims.run(out, client, after_s=float(rng.uniform(0, lasting)))
                tally.at_random += not answer
        else:
            answer = victims.run(out, client)
        if not answer:
            tally.kills += 1
            tally.again += resumed
            tally.unreadable += not _readers_are_safe(out)
            resumed = True
            continue
        found = _tiles(out)
        tally.corpora += 1
        tally.lost += len(set(expected) - set(found))
        tally.doubled += len(found) - len(set(found))
        tally.changed += (
            answer["fingerprint"] != whole["fingerprint"] or found != expected or Corpus.open(out).verify() != []
        )
        if "://" not in out:
            shutil.rmtree(out)
        number, resumed = number + 1, False
    return tally


def _tiles(out: str) -> list[bytes]:
    """The ids of all tiles of a corpus, sorted, as often as they are there."""
    corpus = Corpus.open(out)
    return sorted(tile for name in corpus.streams for tile in corpus.index(name).column("tile_id").to_pylist())


def _readers_are_safe(out: str) -> bool:
    """Whether there is no corpus yet, or a whole one."""
    try:
        corpus = Corpus.open(out)
    except UserError:
        return True
    return corpus.verify() == []


def run(folder: Path, *, kills: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yield a line for threads, processes and an object store (a mock on this machine)."""
    from tests.object_store import BUCKET, mock_store

    archive = folder / "archive"
    make_archives(archive, seed=seed)
    victims = Victims(folder, archive)
    on_disk = tuple(point for point in POINTS if point not in OF_STORE)
    of_store = (*OF_STORE, "between-index-and-statistics", "inside-task", "before-snapshot")
    processes, store = max(kills // 10, 1), max(kills // 5, 1)
    disk = (("threads", kills - processes - store, on_disk), ("processes", processes, ("inside-task",)))
    try:
        for number, (client, share, points) in enumerate(disk):
            tally = campaign(
                victims, folder, client, kills=share, points=points, seed=seed + number, place=f"{folder}/{client}"
            )
            yield _line(client, seed + number, tally)
        with mock_store() as mock:
            os.environ.update(mock.environment())
            address = f"s3://{BUCKET}/robustness"
            tally = campaign(victims, folder, "threads", kills=store, points=of_store, seed=seed + 2, place=address)
            yield _line("object store, threads", seed + 2, tally)
    finally:
        victims.close()


def _line(client: str, seed: int, tally: Tally) -> dict[str, Any]:
    return {
        "name": f"kills/{client}",
        "seed": seed,
        "kills": tally.kills,
        "points": dict(sorted(tally.at_points.items())),
        "random": tally.at_random,
        "of resumed runs": tally.again,
        "corpora": tally.corpora,
        "lost": tally.lost,
        "doubled": tally.doubled,
        "changed": tally.changed,
        "unreadable": tally.unreadable,
    }


if __name__ == "__main__":
    serve()
