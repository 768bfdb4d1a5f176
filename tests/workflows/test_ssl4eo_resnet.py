"""MoCo v2 of a ResNet-50 on the layout of SSL4EO-S12: folders of bands, two seasons of a place as the views, an encoder that embeds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from eo_ssl.cards import find_card_folder
from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.encoder import load_encoder
from eo_ssl.manifest import require
from eo_ssl.pretraining import DataSelection, open_training_data
from worlds.ssl4eo import make_ssl4eo

SIDE = 48
PLACES = [(1000 * east, 1000 * north) for east in range(4) for north in range(2)] + [
    (300, 300)
]  # the last near the first


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of nine places in four seasons, and a ResNet-50 that learned from two seasons of each."""
    root = tmp_path_factory.mktemp("ssl4eo")
    make_ssl4eo(root / "archive", PLACES, side_px=SIDE)
    card = yaml.safe_load((find_card_folder() / "ssl4eo_v10_s2c.yaml").read_text())
    card["samples"]["crop_px"] = SIDE
    (root / "small.yaml").write_text(yaml.safe_dump(card))
    ingest = ["--card", str(root / "small.yaml"), "--data", str(root / "archive"), "--out", str(root / "corpus")]
    assert main(["ingest", *ingest, "--size_px", str(SIDE), "--dask", "synchronous"]) == 0
    options = ["--objective", "MocoV2", "--model", "ResNet", "--model.name", "resnet50", "--optimizer.algorithm", "sgd"]
    options += [
        "--items",
        "places",
        "--dates",
        "2",
        "--split",
        "all",
        "--steps",
        "2",
        "--batch_size",
        "4",
        "--lr",
        "0.03",
    ]
    options += ["--training.log_every", "1", "--training.monitor_tiles", "8", "--loggers", "[]"]
    assert main(["pretrain", "--corpus", str(root / "corpus"), "--out", str(root / "encoder"), *options]) == 0
    return root


def test_seasons_of_a_place_are_its_views_and_neighbours_are_other_places(run: Path) -> None:
    corpus = Corpus.open(run / "corpus")
    (stream,) = corpus.streams
    rows = corpus.index(stream, columns=["source", "month", "location_id"]).to_pylist()
    assert len(rows) == 4 * len(PLACES) and len({row["location_id"] for row in rows}) < len(PLACES)
    data = open_training_data(DataSelection((run / "corpus",), kind="places", dates=2, split="all"))
    members = data.items.members("tile", np.arange(len(data.items)))
    assert len(members) == 2 * len(PLACES)
    for first, second in members:
        assert rows[first]["source"].split("/")[0] == rows[second]["source"].split("/")[0]
        assert (rows[first]["month"], rows[second]["month"]) in ((12, 6), (3, 9))
    log = [json.loads(line) for line in (run / "encoder" / "log.jsonl").read_text().splitlines()]
    assert {row["queue"] for row in log} == {len(members) // 4} and np.isfinite([row["loss"] for row in log]).all()


def test_the_encoder_is_timms_of_13_bands_and_embeds_the_corpus(run: Path) -> None:
    encoder = load_encoder(run / "encoder")
    assert (encoder.architecture.model.name, encoder.dim, len(encoder.preprocessing.bands)) == ("resnet50", 2048, 13)
    assert require(run / "encoder", "pretrain").config["items"] == "places"
    assert main(["embed", str(run / "encoder"), str(run / "corpus"), "--out", str(run / "vectors")]) == 0
    vectors = np.stack(pq.read_table(run / "vectors" / "embeddings.parquet")["embedding"].to_pylist())
    assert vectors.shape == (4 * len(PLACES), 2048) and np.isfinite(vectors).all() and vectors.std(axis=0).max() > 0


def test_the_encoder_takes_the_real_patch_of_the_set(run: Path, real_data: Path, tmp_path: Path) -> None:
    arguments = ["--card", "ssl4eo_patch_l1c", "--data", str(real_data), "--out", str(tmp_path / "patch")]
    assert main(["ingest", *arguments, "--size_px", "264", "--dask", "synchronous"]) == 0
    corpus, encoder = Corpus.open(tmp_path / "patch"), load_encoder(run / "encoder")
    (stream,) = corpus.streams
    tag = corpus.stream(stream).stream
    said = {"bands": tag.bands, "quantity": tag.quantity, "sensor": tag.sensor}
    patch = torch.from_numpy(corpus.stream(stream).read(np.array([0])))
    features = encoder(patch, **said)
    assert features.shape == (1, 2048) and torch.isfinite(features).all()
    assert torch.equal(encoder(patch.flip(1), **{**said, "bands": tag.bands[::-1]}), features)
