"""What version 0.1 wrote still opens: a corpus, a subset, an encoder and results, made by its commands on its sample archive."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.corpus import Corpus
from eo_ssl.encoder import load_encoder
from eo_ssl.models import View, Vit
from eo_ssl.objectives import Batch, IJepa, Mae, Method, SimClr, Step
from eo_ssl.pretraining import DataSelection, open_training_data

FIXTURES = Path(__file__).parent / "fixtures" / "version_0_1"
EXPECTED = json.loads((FIXTURES / "expected.json").read_text())
OPTICAL = "s2_boa_b02b03b04b08_10m_16px"


def test_its_corpus_opens_with_equal_pixels() -> None:
    corpus = Corpus.open(FIXTURES / "corpus")
    assert (corpus.fingerprint, corpus.snapshot) == (EXPECTED["corpus"], EXPECTED["snapshot"])
    assert corpus.verify() == []
    for name, wanted in EXPECTED["streams"].items():
        tiles = corpus.stream(name)
        assert len(tiles) == wanted["tiles"]
        np.testing.assert_allclose(
            np.nanmean(tiles.read(np.arange(4)), axis=(0, 2, 3)), wanted["mean_of_first"], rtol=1e-6
        )


def test_its_encoder_opens_with_equal_features() -> None:
    encoder, tiles = load_encoder(FIXTURES / "encoder"), Corpus.open(FIXTURES / "corpus").stream(OPTICAL)
    assert encoder.fingerprint == EXPECTED["encoder"]["fingerprint"]
    image, _ = encoder.preprocessing(
        torch.from_numpy(tiles.read(np.arange(3))),
        bands=tiles.stream.bands,
        quantity=tiles.stream.quantity,
        sensor=tiles.stream.sensor,
    )
    with torch.no_grad():
        features = encoder.features(image)[:, :4]
    torch.testing.assert_close(features, torch.tensor(EXPECTED["encoder"]["features"]), rtol=1e-4, atol=1e-5)


def test_its_subset_limits_a_run() -> None:
    selection = DataSelection((FIXTURES / "corpus",), streams=(OPTICAL,), subsets=(FIXTURES / "subset",))
    data = open_training_data(selection)
    kept = json.loads((FIXTURES / "subset" / "manifest.json").read_text())["summary"]["kept"]
    assert 0 < len(data.pool) == kept < len(data.items)


def test_its_results_grow_and_its_products_are_reported_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(FIXTURES, tmp_path / "old")
    monkeypatch.chdir(tmp_path / "old")
    before = {path.name: path.read_bytes() for path in Path("results/rows").glob("*.json")}
    assert before
    options = ["--task", "corpus", "--data", "corpus", "--streams", OPTICAL, "--protocols", "knn5", "--draws", "2"]
    assert main(["evaluate", "--encoders", "encoder", "imagestats", "rcf", *options, "--out", "results"]) == 0
    after = {path.name: path.read_bytes() for path in Path("results/rows").glob("*.json")}
    assert len(after) == len(before) + 1 and before.items() <= after.items()
    assert main(["report", "--inputs", "corpus", "subset", "encoder", "results", "--out", "report"]) == 0
    page = Path("report/index.html").read_text()
    assert "imagestats" in page and "rcf" in page and EXPECTED["corpus"][:8] in page


def _images(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Eight tiles of noise with pixels and, in some, whole patches missing."""
    rng = torch.Generator().manual_seed(1000 + step)
    image = torch.randn(8, 4, 32, 32, generator=rng)
    valid = torch.rand(8, 4, 32, 32, generator=rng) > 0.1
    valid[:, :, 8:16, 16:24] &= (torch.arange(8) % 3 != 0)[:, None, None, None]
    return torch.where(valid, image, torch.zeros(())), valid


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("mae", Mae()),
        ("mae_patch", Mae(norm="patch", mask_ratio=0.6)),
        ("ijepa", IJepa()),
        ("simclr", SimClr()),
    ],
)
def test_ten_steps_cost_what_they_cost(name: str, method: Method) -> None:
    """Equal views, masks and initial weights; the figures are of version 0.1 (bit-equal on the machine that wrote them)."""
    bands = ("B02", "B03", "B04", "B08")
    objective = method.build({"tile": Vit(patch_size=4, depth=2).build(bands, 32, 5)}, 6).train()
    trained = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    optimizer, losses = torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.05), []
    for step in range(10):
        image, valid = _images(step)
        views = [View(image, valid, bands)]
        if name == "simclr":
            views.append(View(_images(100 + step)[0], valid, bands))
        loss = objective(Batch({"tile": views}, torch.arange(8), Step(step, 10, 10_000 + 7 * step)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(Step(step + 1, 10, 0))
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(losses, json.loads((FIXTURES / "ten_steps.json").read_text())[name], rtol=1e-4)
