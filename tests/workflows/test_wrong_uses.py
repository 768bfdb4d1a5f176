"""Ten ways to get a number that means nothing, each refused in a sentence that says what to do instead."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.cli import main
from eo_ssl.encoder import load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.training_statistics import compute_train_stats
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity, sensor
from worlds.benchmarks import make_eurosat

TOA = Quantity.TOA_REFLECTANCE
BANDS = sensor("sentinel2_l1c").band_names


@pytest.fixture(scope="module")
def eurosat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eurosat(tmp_path_factory.mktemp("wrong") / "eurosat", per_class=5)


@pytest.fixture(scope="module")
def contract() -> Preprocessing:
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=TOA,
        bands=BANDS,
        convert=(),
        range=TOA.plausible,
        clip=None,
        mean=(0.2,) * 13,
        std=(0.1,) * 13,
        size_px=64,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


@pytest.fixture(scope="module")
def ours(contract: Preprocessing, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wrong") / "vit"
    backbone = Vit(patch_size=16, depth=1).build(contract.bands, 64, 0)
    save_encoder(folder, backbone, preprocessing=contract, provenance={})
    return folder / "encoder.safetensors"


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run a command that must be refused and return its sentence."""

    def run(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 2
        said = capsys.readouterr().err
        assert "Traceback" not in said
        return said

    return run


def image(value: float = 0.2) -> torch.Tensor:
    return torch.full((2, 13, 64, 64), value) + 0.01 * torch.randn(
        2, 13, 64, 64, generator=torch.Generator().manual_seed(0)
    )


def test_a_quantity_that_the_encoder_does_not_know(contract: Preprocessing) -> None:
    with pytest.raises(UserError, match=r"expected toa_reflectance, got boa_reflectance; convert the values first"):
        contract(image(), bands=BANDS, quantity="boa_reflectance", sensor="sentinel2_l1c")


def test_input_that_was_scaled_already(contract: Preprocessing) -> None:
    with pytest.raises(UserError, match=r"scaled twice, so leave out one division"):
        contract(image() / 10_000, bands=BANDS, quantity=None, sensor="sentinel2_l1c")
    with pytest.raises(UserError, match=r"within .* above it .*apply the product's scale and offset once"):
        contract(image() * 10_000, bands=BANDS, quantity=TOA, sensor="sentinel2_l1c")


def test_a_data_set_that_a_card_divides_again(
    refused: Callable[..., str], eurosat: Path, ours: Path, project_root: Path, tmp_path: Path
) -> None:
    card = tmp_path / "again.yaml"
    text = (project_root / "datasets" / "eurosat.yaml").read_text()
    assert "scale: 1.0e-4\n" in text
    card.write_text(text.replace("scale: 1.0e-4\n", "scale: 1.0e-8\n"))
    options = ("--task", "eurosat", "--data", eurosat, "--card", card, "--out", tmp_path / "o")
    said = refused("evaluate", "--encoders", ours, *options)
    assert "scaled twice, so leave out one division" in said


def test_a_band_that_is_missing_without_a_policy(contract: Preprocessing) -> None:
    with pytest.raises(UserError, match=r"without B10; add them, or choose missing = fill_mean or zero"):
        contract(image()[:, :12], bands=[b for b in BANDS if b != "B10"], quantity=TOA, sensor="sentinel2_l1c")


def test_bands_without_names(contract: Preprocessing) -> None:
    with pytest.raises(UserError, match=r"one name per channel.*give physical values and all names in channel order"):
        contract(image(), bands=(), quantity=TOA, sensor="sentinel2_l1c")
    with pytest.raises(UserError, match=r"got channel 0.*name the channels"):
        contract(image(), bands=[f"channel {i}" for i in range(13)], quantity=TOA, sensor="sentinel2_l1c")


def test_statistics_of_the_test_split(eurosat: Path) -> None:
    task = load_benchmark("eurosat", eurosat)
    with pytest.raises(UserError, match="statistics of test or validation images never enter"):
        compute_train_stats(task, np.arange(len(task.labels)), BANDS)


def test_an_encoder_without_a_contract(refused: Callable[..., str], eurosat: Path, ours: Path, tmp_path: Path) -> None:
    import safetensors.torch

    bare = tmp_path / "bare.safetensors"
    safetensors.torch.save_file(safetensors.torch.load_file(ours), bare)  # the tensors alone, as others hand them over
    said = refused("evaluate", "--encoders", bare, "--task", "eurosat", "--data", eurosat, "--out", tmp_path / "o")
    assert "expected an encoder of this library" in said and "give the file that `save_encoder` wrote" in said
    with pytest.raises(UserError, match="expected a preprocessing contract for the weight-free encoder rcf"):
        load_encoder("rcf")


def test_a_size_that_patches_do_not_tile(
    refused: Callable[..., str], eurosat: Path, ours: Path, tmp_path: Path
) -> None:
    options = ("--encoders", ours, "--task", "eurosat", "--data", eurosat, "--out", tmp_path / "o")
    said = refused("evaluate", *options, "--study", "grid", "--sizes", "100")
    assert "multiple of the patch of 16 px" in said and "choose 96 or 112" in said


def test_foreign_weights_without_metadata(refused: Callable[..., str], eurosat: Path, tmp_path: Path) -> None:
    options = ("--task", "eurosat", "--data", eurosat, "--out", tmp_path / "o")
    said = refused("evaluate", "--encoders", "timm:resnet18@random", *options)
    assert "contract" in said and "timm:resnet18" in said and "expected" in said


def test_a_data_set_in_another_layout(refused: Callable[..., str], eurosat: Path, tmp_path: Path) -> None:
    options = ("--data", eurosat, "--out", tmp_path / "o")
    said = refused("evaluate", "--encoders", "imagestats", "--task", "so2sat", *options)
    assert "training.h5" in said and "get it from" in said


def test_results_of_another_split(refused: Callable[..., str], eurosat: Path, tmp_path: Path) -> None:
    root = tmp_path / "eurosat"
    make_eurosat(root, per_class=5)
    options = ("--encoders", "imagestats", "--task", "eurosat", "--out", tmp_path / "o", "--protocols", "knn5")
    assert main(["evaluate", *map(str, options), "--data", str(root)]) == 0
    lists = sorted(root.glob("eurosat-*.txt"))
    lines = [path.read_text() for path in lists]
    lists[0].write_text(lines[2])  # test and validation change places
    lists[2].write_text(lines[0])
    said = refused("evaluate", *options, "--data", root)
    assert "--overwrite" in said and str(tmp_path / "o") in said


def test_the_right_use_of_all_of_them_goes_through(contract: Preprocessing, ours: Path) -> None:
    x, valid = contract(image(), bands=BANDS[::-1], quantity=TOA, sensor="sentinel2_l1c")
    assert valid.all() and torch.isfinite(load_encoder(ours).features(x)).all()
    kept, _ = replace(contract, missing="fill_mean")(
        image()[:, :12], bands=BANDS[:12], quantity=TOA, sensor="sentinel2_l1c"
    )
    assert (kept[:, 12] == 0).all()
