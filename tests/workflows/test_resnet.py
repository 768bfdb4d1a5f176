"""A residual network through every command: trained, judged, embedded, exported and opened elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import TrainedEncoder, load_encoder
from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.synthetic import ArchiveSpec, make_archive

SPEC = ArchiveSpec(sites=2, dates=2, size_px=192, edge_share=0.0, exact_duplicates=0, near_duplicates=0, reprocessed=0)
MODEL = ["--model", "ResNet", "--model.name", "resnet18"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus and an encoder trained on it by SimCLR."""
    folder = tmp_path_factory.mktemp("resnet")
    make_archive(folder / "archive", seed=1, spec=SPEC)
    ingest = ["--card", "sample_s2_l2a", "--data", str(folder / "archive"), "--out", str(folder / "corpus")]
    assert main(["ingest", *ingest, "--size_px", "32", "--dask", "synchronous"]) == 0
    options = ["--objective", "SimClr", *MODEL, "--steps", "4", "--batch_size", "8", "--loggers", "[]"]
    assert main(["pretrain", "--corpus", str(folder / "corpus"), "--out", str(folder / "encoder"), *options]) == 0
    return folder


def test_it_is_trained_saved_and_loaded(run: Path) -> None:
    encoder, manifest = load_encoder(run / "encoder"), require(run / "encoder", "pretrain")
    assert isinstance(encoder, TrainedEncoder) and encoder.fingerprint == manifest.fingerprint
    assert (encoder.architecture.model.name, encoder.pooling, encoder.dim) == ("resnet18", "avg", 512)
    statistics = encoder.model.state_dict()["layer4.1.bn2.running_mean"]
    assert float(statistics.abs().max()) > 0  # of batches: training reached them and the file holds them


def test_it_is_judged_beside_random_weights_of_its_own_architecture(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    forward = TrainedEncoder.features

    def features(self: TrainedEncoder, x: torch.Tensor, *, valid: torch.Tensor | None = None) -> torch.Tensor:
        made.append(f"{self.name} {self.architecture.model.name}")
        return forward(self, x, valid=valid)

    monkeypatch.setattr(TrainedEncoder, "features", features)
    config = {
        "encoders": [str(run / "encoder"), "random_init"],
        "task": "corpus",
        "data": str(run / "corpus"),
        "protocols": ["knn5", "linear"],
        "out": str(run / "results"),
    }
    (run / "evaluate.json").write_text(json.dumps(config))
    assert main(["evaluate", "--config", str(run / "evaluate.json")]) == 0
    rows = [json.loads(path.read_text()) for path in (run / "results" / "rows").glob("*.json")]
    assert {(row["encoder"], row["protocol"]) for row in rows} == {
        (name, protocol) for name in ("encoder", "random_init") for protocol in ("knn5", "linear")
    }
    assert set(made) == {"encoder resnet18", "random_init resnet18"}


def test_it_embeds_a_corpus(run: Path) -> None:
    assert main(["embed", str(run / "encoder"), str(run / "corpus"), "--out", str(run / "embeddings")]) == 0
    (file,) = (run / "embeddings").glob("*.parquet")
    table = pq.read_table(file)
    manifest = require(run / "embeddings", "embed")
    assert manifest.summary["dim"] == 512 and table.num_rows == manifest.summary["tiles"] > 0


def test_it_is_exported_and_every_route_gives_its_features(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["export", str(run / "encoder"), "--out", str(run / "bundle"), "--onnx", "false"]
    assert main([*arguments, "--corpus", str(run / "corpus")]) == 0
    assert "TorchGeo routes as resnet18, as it was trained" in capsys.readouterr().out
    assert main(["export", "--verify", str(run / "bundle")]) == 0
    said = capsys.readouterr().out
    assert "FAILED" not in said and "torchgeo SemanticSegmentationTask (unet)" in said


def test_an_objective_that_hides_patches_is_refused_before_anything_is_written(run: Path) -> None:
    out = run / "mae"
    with pytest.raises(UserError, match="expected a transformer for Mae, which hides patches, got ResNetBackbone"):
        main(["pretrain", "--corpus", str(run / "corpus"), "--out", str(out), "--objective", "Mae", *MODEL, "--debug"])
    assert not out.exists()
