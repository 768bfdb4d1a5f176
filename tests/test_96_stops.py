"""Stopping from outside: every command says so in one sentence, with the status of the signal, and the same command ends with the same product."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from eo_ssl.manifest import require
from eo_ssl.sample import ArchiveSpec, make_archive
from stops import Server

STREAM = "s2_boa_12b_10m_32px"


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("stops")
    spec = ArchiveSpec(sites=1, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    return root


@pytest.fixture(scope="module")
def server(world: Path) -> Iterator[Server]:
    (world / "ended").mkdir()
    server = Server(world / "ended")
    yield server
    server.close()


def commands(root: Path) -> dict[str, list[str]]:
    """A command line for each stage, without its output; each takes what the earlier ones made in `root/whole`."""
    corpus, encoder = str(root / "whole" / "ingest"), str(root / "whole" / "pretrain")
    ingest = [
        "ingest",
        "--card",
        "sample_s2_l2a",
        "--data",
        str(root / "archive"),
        "--size_px",
        "32",
        "--min_valid",
        "0.2",
    ]
    pretrain = ["pretrain", "--corpus", corpus, "--steps", "8", "--batch_size", "4", "--model.depth", "1"]
    evaluate = ["evaluate", "--encoders", encoder, "imagestats", "--task", "corpus", "--data", corpus]
    return {
        "ingest": ingest,
        "curate": ["curate", "--corpus", corpus, "--stream", STREAM, "--keep", "0.5"],
        "pretrain": [*pretrain, "--training.checkpoint_every", "3", "--training.log_every", "1"],
        "evaluate": [*evaluate, "--streams", STREAM, "--protocols", "knn5"],
        "export": ["export", encoder],
        "embed": ["embed", encoder, corpus, "--stream", STREAM],
        "report": ["report", "--inputs", corpus, encoder],
    }


def test_every_command_that_is_stopped_says_so_and_ends_with_the_same_product(world: Path, server: Server) -> None:
    moments = random.Random(time.time_ns())  # others each time: the claim is about all of them
    for command, words in commands(world).items():
        whole = server.run([*words, "--out", str(world / "whole" / command)])
        assert whole.status == 0 and whole.syncs > 0, (command, whole.err)
        for stop in (signal.SIGTERM, signal.SIGINT):
            out, nth = world / stop.name / command, moments.randint(1, whole.syncs)
            ended = server.run([*words, "--out", str(out)], stop=stop, nth=nth)
            sentence = f"eo-ssl {command}: stopped by {stop.name}; the same command goes on from there"
            assert (ended.status, ended.err.strip(), ended.left) == (128 + stop, sentence, False), (command, nth, ended)
            again = server.run([*words, "--out", str(out)])
            assert (again.status, "Traceback" in again.err) == (0, False), (command, nth, again)
            prints = [require(world / name / command, command).fingerprint for name in ("whole", stop.name)]
            assert prints[0] == prints[1], (command, nth)
