"""Features come in order, whole, once, and identical whatever the file order of the bands; statistics of test images never enter."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from eo_ssl.cards import load_card
from eo_ssl.encoder import TrainedEncoder, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation import linear
from eo_ssl.evaluation.draws import Amount, draw
from eo_ssl.evaluation.features import extract_features
from eo_ssl.evaluation.protocols import predict_frozen
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_statistics import make_train_contract
from eo_ssl.models import Vit
from eo_ssl.preprocessing import Preprocessing
from eo_ssl.sensors import Quantity
from worlds.benchmarks import make_eurosat
from worlds.benchmarks.eurosat import EUROSAT_BANDS

TOA = Quantity.TOA_REFLECTANCE


@dataclass
class Images:
    """Images in memory that count how often they are read."""

    x: np.ndarray
    bands: tuple[str, ...] = ("B02", "B03", "B04")
    sensor: str = "sentinel2_l1c"
    quantity: Quantity = TOA
    gsd_m: float = 10.0
    fingerprint: str = "images"
    reads: list[list[int]] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape[1:]

    def __len__(self) -> int:
        return len(self.x)

    def read(self, positions: np.ndarray, out: np.ndarray) -> None:
        self.reads.append(positions.tolist())
        out[...] = self.x[positions]


def contract(size_px: int = 16) -> Preprocessing:
    return Preprocessing(
        sensor="sentinel2_l1c",
        quantity=TOA,
        bands=("B02", "B03", "B04"),
        convert=(),
        range=TOA.plausible,
        clip=None,
        mean=(0.1, 0.2, 0.3),
        std=(0.05, 0.05, 0.05),
        size_px=size_px,
        gsd_m=(10.0, 10.0),
        resize="to_size",
        interpolation="bilinear",
        antialias=True,
        missing="refuse",
    )


def images(rng: np.random.Generator, n: int = 23, size: int = 16) -> Images:
    return Images(np.abs(0.2 + 0.05 * rng.normal(size=(n, 3, size, size))).astype(np.float32))


def two_classes(rng: np.random.Generator, n: int = 80) -> Task:
    """A task whose classes differ by the red band."""
    source, labels = images(rng, n), np.arange(n) % 2
    source.x[labels == 1, 2] += 0.02
    half = np.arange(n // 2)
    folds = (Fold(half, half + n // 2, np.empty(0, np.int64)),)
    return Task("two", (source,), labels, ("a", "b"), np.arange(n), folds, "first half, second half", "accuracy")


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_features_are_the_bare_forward_pass_in_order(rng: np.random.Generator, batch_size: int) -> None:
    encoder, source = load_encoder("imagestats", preprocessing=contract()), images(rng)
    found = extract_features(encoder, source, batch_size=batch_size)
    prepared, _ = contract()(torch.from_numpy(source.x), bands=source.bands, quantity=TOA, sensor=source.sensor)
    np.testing.assert_allclose(found.x, encoder.features(prepared).numpy(), rtol=1e-6)
    assert [i for part in source.reads for i in part] == list(range(23))


def test_what_was_not_measured_does_not_enter_the_statistics(rng: np.random.Generator) -> None:
    source = images(rng, 6)
    source.x[2:, :, :, 10:] = np.nan
    source.x[4, 1] = np.nan
    p = contract()
    found = extract_features(load_encoder("imagestats", preprocessing=p), source).x
    scaled = (source.x - np.reshape(p.mean, (1, 3, 1, 1))) / np.reshape(p.std, (1, 3, 1, 1))
    v = np.ma.masked_invalid(scaled.reshape(6, 3, -1))
    oracle = np.ma.concatenate([v.mean(axis=2), v.std(axis=2, ddof=1), v.max(axis=2), v.min(axis=2)], axis=1)
    np.testing.assert_allclose(found, oracle.filled(0.0), rtol=1e-4, atol=1e-5)


def test_cache_answers_for_the_same_encoder_and_images_only(rng: np.random.Generator, tmp_path: Path) -> None:
    source = images(rng)
    encoder = load_encoder("rcf", preprocessing=contract())
    first = extract_features(encoder, source, cache=tmp_path)
    reads = len(source.reads)
    again = extract_features(encoder, source, cache=tmp_path)
    assert np.array_equal(first.x, again.x) and len(source.reads) == reads
    extract_features(load_encoder("rcf", preprocessing=contract(), seed=1), source, cache=tmp_path)
    assert len(source.reads) > reads
    (tmp_path / f"{first.fingerprint}.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(UserError, match="remove the file and run again"):
        extract_features(encoder, source, cache=tmp_path)


def test_collapsed_to_nan_is_refused(rng: np.random.Generator) -> None:
    made = contract()
    backbone = Vit(patch_size=8, depth=1, pooling="cls").build(made.bands, 16, 0)
    backbone.network.norm.weight.data[0] = torch.nan
    with pytest.raises(UserError, match="got NaN or infinity in 23 of 23 images"):
        extract_features(TrainedEncoder(backbone, made), images(rng))


def test_a_refusal_in_the_middle_stops_the_reader(rng: np.random.Generator) -> None:
    source = images(rng)
    source.x[10:] *= 10000
    with pytest.raises(UserError, match="scale and offset once"):
        extract_features(load_encoder("imagestats", preprocessing=contract()), source, batch_size=4)


def test_normalisation_sees_training_images_only(rng: np.random.Generator) -> None:
    task = two_classes(rng)
    source = task.sources[0]
    before = make_train_contract(task, task.folds[0])
    train = source.x[task.folds[0].train].astype(np.float64)  # type: ignore[attr-defined]
    np.testing.assert_allclose(before.mean, train.mean(axis=(0, 2, 3)), rtol=1e-6)
    np.testing.assert_allclose(before.std, train.std(axis=(0, 2, 3)), rtol=1e-5)
    source.x[task.folds[0].test] += 1.0  # type: ignore[attr-defined]
    assert make_train_contract(task, task.folds[0]) == before


def test_a_fold_looks_at_its_own_images_only(rng: np.random.Generator) -> None:
    first, second = images(rng, 12), images(rng, 8)
    rows, none = np.arange(20), np.empty(0, np.int64)
    folds = (Fold(rows[2:9], rows[[10, 14, 19]], none), Fold(rows[11:18], rows[[0, 3]], rows[[1]]))
    task = Task("two sources", (first, second), rows % 2, ("a", "b"), rows, folds, "two folds", "accuracy")
    one = load_candidates(["imagestats"])[0]
    for fold, found in zip(folds, one.features(task), strict=True):
        every = np.concatenate([extract_features(one.encoder(task, fold), source).x for source in (first, second)])
        used = np.unique(np.concatenate([fold.train, fold.test, fold.validation]))
        np.testing.assert_array_equal(found[used], every[used])
        assert np.isnan(np.delete(found, used, axis=0)).all()


def test_power_is_normalised_in_decibel(rng: np.random.Generator) -> None:
    power = rng.gamma(4.0, 0.02, size=(40, 2, 8, 8)).astype(np.float32)
    power[3, :, :2] = np.nan
    source = Images(power, ("VV", "VH"), "sentinel1_rtc", Quantity.GAMMA0)
    rows = np.arange(40)
    task = Task(
        "sar", (source,), rows % 2, ("a", "b"), rows, (Fold(rows[:20], rows[20:], rows[:0]),), "halves", "accuracy"
    )
    found = make_train_contract(task, task.folds[0])
    decibel = 10 * np.log10(power[:20].astype(np.float64))
    np.testing.assert_allclose(found.mean, np.nanmean(decibel, axis=(0, 2, 3)), rtol=1e-5)
    assert found.convert == ("gamma0->gamma0_db",) and found.quantity is Quantity.GAMMA0


def test_standardised_statistics_do_not_care_about_units_and_raw_ones_do(rng: np.random.Generator) -> None:
    # Any positive affine map per band leaves kNN on standardised image statistics alone.
    task = two_classes(rng, 120)
    base = load_candidates(["imagestats"])[0].features(task)[0]
    gain, offset = np.tile([9.0, 0.1, 1.0], 4), np.tile([2.0, -1.0, 0.0], 4)
    gain_only = np.arange(12) // 3 == 1  # a standard deviation has a gain but no offset
    other = (base * gain + np.where(gain_only, 0.0, offset)).astype(np.float32)
    drawn = draw(task, Amount(shots=10), draws=3, seed=0)
    same, different = (
        [predict_frozen(task, [x], drawn, protocol=protocol, amount=Amount(shots=10), seed=0) for x in (base, other)]
        for protocol in ("knn5-standardised", "knn5")
    )  # type: ignore[misc]
    assert np.array_equal(*same) and not np.array_equal(*different)
    assert (same[0] == task.labels[task.tested]).mean() > 0.75  # the planted class is seen


@pytest.fixture(scope="module")
def eurosats(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, tuple[str, ...]]]:
    orders = {
        "as published": EUROSAT_BANDS,
        "canonical": (*EUROSAT_BANDS[:8], "B8A", *EUROSAT_BANDS[8:12]),
        "reversed": EUROSAT_BANDS[::-1],
    }
    root = tmp_path_factory.mktemp("eurosat")
    return {
        name: (make_eurosat(root / str(i), per_class=5, bands_order=order), order)
        for i, (name, order) in enumerate(orders.items())
    }


def test_eurosat_in_three_band_orders_gives_the_same_bits(
    eurosats: dict[str, tuple[Path, tuple[str, ...]]], tmp_path: Path
) -> None:
    from eo_ssl.evaluation.benchmarks import load_benchmark

    bands = ("B02", "B03", "B04", "B08", "B8A", "B11", "B12")
    wanted = replace(contract(64), bands=bands, mean=(0.1,) * 7, std=(0.05,) * 7)
    backbone = Vit(patch_size=16, depth=1).build(bands, 64, 0)
    save_encoder(tmp_path / "vit", backbone, preprocessing=wanted, provenance={})
    encoders = [load_encoder(name, preprocessing=wanted) for name in ("imagestats", "rcf")]
    encoders.append(load_encoder(tmp_path / "vit" / "encoder.safetensors"))
    card = load_card("eurosat")
    tasks = {
        name: load_benchmark("eurosat", root, card=replace(card, bands=order))
        for name, (root, order) in eurosats.items()
    }
    for encoder in encoders:
        found = {name: extract_features(encoder, task.sources[0]).x for name, task in tasks.items()}
        for x in found.values():
            assert np.array_equal(x, found["as published"]), encoder.name
    # And the names matter: read by position, the shuffled files give other features.
    wrong = load_benchmark("eurosat", eurosats["reversed"][0], card=card)
    assert not np.array_equal(extract_features(encoders[0], wrong.sources[0]).x, found["as published"])
    reflectance = np.empty((2, 13, 64, 64), np.float32)
    tasks["as published"].sources[0].read(np.array([0, 44]), reflectance)
    assert 0 < np.median(reflectance) < 1  # DN / 10,000


def test_eurosat_keeps_torchgeos_splits_and_learns(eurosats: dict[str, tuple[Path, tuple[str, ...]]]) -> None:
    from eo_ssl.evaluation.benchmarks import load_benchmark

    root, _ = eurosats["as published"]
    task = load_benchmark("eurosat", root)
    fold = task.folds[0]
    assert (len(fold.train), len(fold.validation), len(fold.test)) == (30, 10, 10) and len(task.class_names) == 10
    assert "60/20/20" in task.split
    x = load_candidates(["imagestats"])[0].features(task)
    drawn = draw(task, Amount(), draws=5, seed=0)
    answers = predict_frozen(task, x, drawn, protocol="linear", amount=Amount(), seed=0)
    assert answers.shape == (1, 10) and (answers == task.labels[fold.test]).mean() > 0.3  # ten classes
    assert linear.PENALTIES[0] < 1 < linear.PENALTIES[-1]


def test_eurosat_absent_says_where_it_comes_from(tmp_path: Path) -> None:
    from eo_ssl.evaluation.benchmarks import load_benchmark

    with pytest.raises(UserError, match=r"eurosat-train\.txt.*sentinel_2/tif.*get it from torchgeo\.datasets\.EuroSAT"):
        load_benchmark("eurosat", tmp_path)
    with pytest.raises(UserError, match="use the card eurosat"):
        load_benchmark("eurosat", tmp_path, card=load_card("mstar_soc"))


def test_an_array_that_is_given_is_filled_and_holds_what_its_type_can(tmp_path: Path) -> None:
    images = Images(np.random.default_rng(0).uniform(0, 0.4, (7, 3, 16, 16)).astype(np.float32))
    encoder = load_encoder("imagestats", preprocessing=contract())
    whole = extract_features(encoder, images, batch_size=3)
    out = np.memmap(tmp_path / "x", np.float16, mode="w+", shape=(7, encoder.dim))
    filled = extract_features(encoder, images, batch_size=3, out=out)
    assert filled.x is out and filled.fingerprint == whole.fingerprint
    np.testing.assert_array_equal(out, whole.x.astype(np.float16))
    with pytest.raises(ValueError, match="without a cache"):
        extract_features(encoder, images, out=out, cache=tmp_path)
    with pytest.raises(ValueError, match=r"an array \[7, 12\] is filled"):
        extract_features(encoder, images, out=out[:6])
    bright = load_encoder("imagestats", preprocessing=replace(contract(), std=(1e-6,) * 3))
    assert np.isfinite(extract_features(bright, images).x).all()
    with pytest.raises(UserError, match=r"of at most 65504 \(float16\), got larger ones in 7 of 7 images"):
        extract_features(bright, images, out=out)
