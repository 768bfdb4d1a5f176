"""Ours against independent implementations, from files to predictions: rasterio and NumPy, TorchGeo's RCF, scikit-learn's neighbours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import torch
from sklearn.neighbors import KNeighborsClassifier
from torchgeo.models import RCF

from eo_ssl.encoder.weight_free import FilterFeatures
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.protocols import predict_frozen
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.tasks import Task
from worlds.benchmarks import make_eurosat
from worlds.benchmarks.eurosat import EUROSAT_BANDS, EUROSAT_CLASSES, EUROSAT_FOLDER

Split = tuple[np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eurosat(tmp_path_factory.mktemp("agreement"), per_class=10)


@pytest.fixture(scope="module")
def task(root: Path) -> Task:
    return load_benchmark("eurosat", root)


@pytest.fixture(scope="module")
def splits(root: Path) -> dict[str, Split]:
    """Reflectance [n, 13, 64, 64] and classes of each list, read from the files, normalised by the training images, bands in file order."""
    found = {}
    for split in ("train", "test"):
        names = sorted(Path(line).stem for line in (root / f"eurosat-{split}.txt").read_text().split())
        images = []
        for name in names:
            with rasterio.open(root / EUROSAT_FOLDER / name.split("_")[0] / f"{name}.tif") as file:
                images.append(file.read().astype(np.float64) / 10_000)
        found[split] = np.stack(images), np.array([EUROSAT_CLASSES.index(name.split("_")[0]) for name in names])
    mean, std = (f(found["train"][0], axis=(0, 2, 3))[None, :, None, None] for f in (np.mean, np.std))
    return {split: (((x - mean) / std).astype(np.float32), y) for split, (x, y) in found.items()}


def independent(features: dict[str, np.ndarray], splits: dict[str, Split], task: Task) -> np.ndarray:
    """Predictions of scikit-learn's five nearest neighbours, in the order of our test items."""
    model = KNeighborsClassifier(5, algorithm="brute").fit(features["train"], splits["train"][1])
    assert np.array_equal(np.sort(splits["test"][1]), np.sort(task.labels[task.tested]))
    return model.predict(features["test"])


def ours(task: Task, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predictions of ours, and features of training and test images."""
    x = load_candidates([name], seed=3)[0].features(task)
    drawn = draw(task, Amount(), draws=1, seed=0)
    fold = task.folds[0]
    return (
        predict_frozen(task, x, drawn, protocol="knn5", amount=Amount(), seed=0)[0],
        x[0][fold.train],
        x[0][fold.test],
    )


def check(
    task: Task, splits: dict[str, Split], name: str, theirs: dict[str, np.ndarray], *, share: float = 1.0
) -> None:
    predicted, train, test = ours(task, name)
    assert np.array_equal(task.labels[task.folds[0].train], splits["train"][1])  # the same images in the same order
    np.testing.assert_allclose(train, theirs["train"], rtol=2e-3, atol=2e-4)
    np.testing.assert_allclose(test, theirs["test"], rtol=2e-3, atol=2e-4)
    assert (predicted == independent(theirs, splits, task)).mean() >= share


def responses(model: RCF, x: np.ndarray) -> np.ndarray:
    """Features of TorchGeo's model, [n, 512]."""
    return np.concatenate([model(torch.from_numpy(part)).reshape(-1, 512).numpy() for part in np.array_split(x, 8)])


def test_image_statistics(task: Task, splits: dict[str, Split]) -> None:
    flat = {split: x.reshape(len(x), 13, -1) for split, (x, _) in splits.items()}
    theirs = {
        split: np.concatenate([x.mean(2), x.std(2, ddof=1), x.max(2), x.min(2)], axis=1) for split, x in flat.items()
    }
    check(task, splits, "imagestats", theirs)


@pytest.mark.parametrize("name", ["rcf", "rcf_zca"])
def test_random_convolutional_features(task: Task, splits: dict[str, Split], name: str) -> None:
    """Filters are ours (`test_75_encoder_empirical` derives them anew), responses and neighbours are others'."""
    model = RCF(in_channels=13, features=512, kernel_size=3, bias=-1.0, seed=3)
    encoder = load_candidates([name], seed=3)[0].encoder(task, task.folds[0])
    assert isinstance(encoder, FilterFeatures)
    order = [encoder.preprocessing.bands.index(band) for band in EUROSAT_BANDS]
    model.weights.copy_(encoder.weights[:, order])  # theirs takes the bands as the files have them
    check(task, splits, name, {split: responses(model, x) for split, (x, _) in splits.items()})
