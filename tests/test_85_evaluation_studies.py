"""Departures from a contract do what their names say, are told from it by the same test images, and cost no forward pass twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import kornia.augmentation
import numpy as np
import pytest
import torch
import torchvision.transforms.v2
from torch import Tensor

from eo_ssl.encoder import ImageStats, RandomFeatures, TrainedEncoder
from eo_ssl.errors import UserError
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import Computing, extract_features
from eo_ssl.evaluation.perturbations import PerturbedSource, list_perturbations
from eo_ssl.evaluation.predictions import Settings
from eo_ssl.evaluation.preprocessing_variants import NORMALISATIONS, PreprocessingVariant
from eo_ssl.evaluation.result_rows import judge
from eo_ssl.evaluation.revisits import Revisit
from eo_ssl.evaluation.seeds import load_candidates
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.studies import VariantGrid, expand_study
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.training_statistics import TrainStats, compute_train_stats
from eo_ssl.reporting.leaderboard import format_csv, format_markdown, render_leaderboard_page
from eo_ssl.reporting.published_scores import find_published_score
from planted import BANDS, GAMMA0, TOA, Images, contract, planted, vit


def prepared(variant: PreprocessingVariant, stats: TrainStats, x: np.ndarray, **changes: object) -> np.ndarray:
    made = variant.apply(contract(**changes), stats)
    return made(torch.from_numpy(x), bands=BANDS, quantity=TOA, sensor="sentinel2_l1c")[0].numpy()


def test_normalisations_are_their_formulae(rng: np.random.Generator) -> None:
    task = planted(rng)
    train = task.sources[0].x[:60]  # type: ignore[attr-defined]
    stats = compute_train_stats(task, task.folds[0].train, BANDS, percentiles=True)
    x = task.sources[0].x[60:64]  # type: ignore[attr-defined]

    def per_band(function) -> np.ndarray:  # type: ignore[no-untyped-def]
        return np.array([function(train[:, band]) for band in range(4)]).reshape(1, 4, 1, 1)

    low, high = per_band(np.min), per_band(np.max)
    p02, p98 = (per_band(lambda values, q=q: np.percentile(values, q)) for q in (2, 98))
    rgb = np.array([0.406, 0.456, 0.485, np.mean([0.406, 0.456, 0.485])]).reshape(
        1, 4, 1, 1
    )  # blue, green, red, no colour
    std = np.array([0.225, 0.224, 0.229, np.mean([0.225, 0.224, 0.229])]).reshape(1, 4, 1, 1)
    expected = {
        "contract": (x - 0.2) / 0.1,
        "zscore": (x - per_band(np.mean)) / per_band(np.std),
        "divide": x,
        "minmax": (x - low) / (high - low),
        "percentile": np.clip((x - p02) / (p98 - p02), 0, 1),
        "imagenet": (x - rgb) / std,
    }
    assert set(expected) == set(NORMALISATIONS)
    for name, values in expected.items():
        atol = 2e-3 if name == "percentile" else 2e-5  # percentiles are read off a histogram
        np.testing.assert_allclose(prepared(PreprocessingVariant(normalisation=name), stats, x), values, atol=atol)  # type: ignore[arg-type]


def test_statistics_are_of_training_images_in_the_final_quantity(rng: np.random.Generator) -> None:
    power = rng.gamma(4.0, 0.02, size=(40, 2, 8, 8)).astype(np.float32)
    power[3, :, :2] = np.nan
    rows = np.arange(40)
    fold = Fold(rows[:20], rows[20:], rows[:0])
    source = Images(power, ("VV", "VH"), "sentinel1_rtc", GAMMA0)
    task = Task("sar", (source,), rows % 2, ("a", "b"), rows, (fold,), "halves", "accuracy")
    found = compute_train_stats(task, fold.train, ("VH", "VV"), convert=("gamma0->gamma0_db",), percentiles=True)
    decibel = 10 * np.log10(power[:20, ::-1].astype(np.float64))
    for name, oracle in (("mean", np.nanmean), ("std", np.nanstd), ("low", np.nanmin), ("high", np.nanmax)):
        np.testing.assert_allclose(getattr(found, name), oracle(decibel, axis=(0, 2, 3)), rtol=1e-5)
    width = (found.high - found.low) / 4096
    for name, q in (("p02", 2), ("p98", 98)):
        assert (np.abs(getattr(found, name) - np.nanpercentile(decibel, q, axis=(0, 2, 3))) <= 3 * width).all()
    assert found.count.tolist() == [19 * 64 + 48] * 2


def test_statistics_of_test_images_are_refused(rng: np.random.Generator) -> None:
    task = planted(rng)
    with pytest.raises(UserError, match="statistics of test or validation images never enter"):
        compute_train_stats(task, np.concatenate([task.folds[0].train, task.folds[0].test[:1]]), BANDS)


@pytest.mark.parametrize("size", [24, 8])
def test_resizers_are_those_of_the_libraries(rng: np.random.Generator, size: int) -> None:
    task = planted(rng)
    stats = compute_train_stats(task, task.folds[0].train, BANDS)
    x = task.sources[0].x[:3]  # type: ignore[attr-defined]
    image = torch.from_numpy(x)
    library: dict[str, Tensor] = {
        "torchvision": torchvision.transforms.v2.Resize((size, size))(image),
        "torchvision-no-antialias": torchvision.transforms.v2.Resize((size, size), antialias=False)(image),
        "kornia": kornia.augmentation.Resize((size, size))(image),
    }
    for name, expected in library.items():
        found = prepared(PreprocessingVariant(size, "divide", name), stats, x)  # type: ignore[arg-type]
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-6)
    assert not torch.allclose(library["kornia"], library["torchvision"], atol=1e-3)  # they are not the same thing


def test_equal_inputs_have_equal_contracts() -> None:
    one = contract(size_px=16, resize="to_size", interpolation="bicubic")
    two = contract(size_px=16, resize="to_size", interpolation="nearest", antialias=False)
    native = contract(size_px=99, resize="native")
    assert one.effective(16, 16) == two.effective(16, 16) == native.effective(16, 16)
    assert one.effective(20, 20) == one != two.effective(20, 20)


def test_the_grid_finds_what_was_planted_and_runs_each_distinct_input_once(
    rng: np.random.Generator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, ours = planted(rng), vit()
    passes: list[int] = []
    forward = TrainedEncoder.features
    monkeypatch.setattr(
        TrainedEncoder, "features", lambda self, x, valid=None: passes.append(len(x)) or forward(self, x, valid=valid)
    )
    plain = TrainedCandidate("ours", ours)
    grid = VariantGrid.of([16, 24], ["contract", "divide", "zscore"], None)
    compared = expand_study((plain,), task, "grid", grid=grid, seed=0)
    assert len(compared) == 9  # the contract itself, and 3 sizes x 3 normalisations but the contract's own
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    rows, comparisons = judge(task, compared, settings, tmp_path, computing=Computing(cache=tmp_path / "f"))
    distinct = 2 * 3  # 16 px is the contract's own size
    assert sum(passes) == distinct * len(task.labels)
    values = {row["encoder"]: row["value"] for row in rows}
    assert values["ours"] == values["ours | 16 px, contract"] > 0.9
    assert {c["a"] for c in comparisons} == {"ours"} and len(comparisons) == 8
    assert {c["family"] for c in comparisons} == {distinct - 1}  # what nobody can tell apart is no comparison
    alike = next(c for c in comparisons if c["b"] == "ours | 16 px, contract")
    assert (alike["difference"], alike["verdict"]) == (0.0, "not separable")
    table = format_markdown(rows, comparisons)
    assert table.count("| contract's = 16 px | contract |") == 3 and table.count("| 24 px | contract |") == 3
    assert "corrected for 5 distinct comparisons (Holm), 5 of them here, since of 8 departures 3 have the same" in table


def test_perturbations_are_what_they_say(rng: np.random.Generator) -> None:
    source = Images(rng.uniform(0.1, 0.4, size=(6, 4, 8, 8)).astype(np.float32))
    tried = {one.name: one for one in list_perturbations(source, contract())}

    def image(name: str, positions: list[int]) -> np.ndarray:
        out = np.empty((len(positions), 4, 8, 8), np.float32)
        PerturbedSource(source, tried[name]).read(np.array(positions), out)
        return out

    np.testing.assert_allclose(image("offset +0.1", [2]), source.x[[2]] + 0.1, atol=1e-6)
    np.testing.assert_allclose(image("offset -0.1", [2]), source.x[[2]] - 0.1, atol=1e-6)
    np.testing.assert_allclose(image("gain", [2]), source.x[[2]] * 1.1, rtol=1e-6)
    noisy = image("noise", [1, 4])
    assert np.std(noisy - source.x[[1, 4]]) == pytest.approx(0.01, rel=0.15)
    assert np.array_equal(noisy[1:], image("noise", [4]))  # whatever else is in the batch
    half = image("half resolution", [0])[0, 0]
    np.testing.assert_allclose(half[:2, :2], source.x[0, 0, :2, :2].mean(), rtol=1e-6)
    assert np.unique(half).size == 16
    centre = PerturbedSource(source, tried["centre half"])
    out = np.empty((1, *centre.shape), np.float32)
    centre.read(np.array([3]), out)
    assert np.array_equal(out, source.x[[3], :, 2:6, 2:6])
    assert PerturbedSource(source, tried["without B08"]).bands == ("B02", "B03", "B04", "no B08")
    prints = {PerturbedSource(source, one).fingerprint for one in tried.values()}
    assert len(prints) == len(tried) and source.fingerprint not in prints
    sar = {
        one.name: one
        for one in list_perturbations(Images(source.x[:, :2], ("VV", "VH"), "sentinel1_rtc", GAMMA0), contract())
    }
    assert "offset +0.1" not in sar and "speckle" in sar
    out = np.ones((1, 2, 64, 64), np.float32)
    sar["speckle"].pixels(out, np.array([0]))  # type: ignore[misc]
    assert (out.mean(), out.var()) == (pytest.approx(1, abs=0.05), pytest.approx(1 / 5, rel=0.1))
    sar["gain"].pixels(out := np.ones((1, 2, 4, 4), np.float32), np.array([0]))  # type: ignore[misc]
    assert 10 * np.log10(out[0, 0, 0, 0]) == pytest.approx(1.0)


def test_robustness_sees_what_hurts_and_what_does_not(rng: np.random.Generator, tmp_path: Path) -> None:
    task = planted(rng)
    compared = expand_study(load_candidates(["imagestats"]), task, "robustness", grid=VariantGrid(), seed=0)
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    rows, comparisons = judge(task, compared, settings, tmp_path, computing=Computing(cache=tmp_path / "f"))
    values = {row["encoder"].partition(" | ")[2] or "untouched": row["value"] for row in rows}
    assert values["untouched"] > 0.9
    assert values["without B02"] > 0.9 and values["without B08"] < 0.7  # the class is in the near infrared
    assert values["offset +0.1"] < 0.7  # as large as the difference of the classes
    lost = {c["b"].partition(" | ")[2]: c["verdict"] for c in comparisons}
    assert (lost["without B08"], lost["without B02"]) == ("a", "not separable")
    table = format_markdown(rows, comparisons)
    assert "| without B08 |" in table and "| worse |" in table and "Holm" in table
    assert render_leaderboard_page(rows, comparisons).count("<table>") == 2
    lines = format_csv(rows, comparisons).splitlines()
    assert len(lines) == 1 + len(rows) and lines[1].startswith("planted,imagestats")


def test_the_same_ground_again_stands_among_the_perturbations(rng: np.random.Generator) -> None:
    task = planted(rng)
    other = Images(task.sources[0].x[::-1].copy())  # type: ignore[attr-defined]
    revisit = Revisit("season", "the same ground, of all tiles", other, 1.0)  # type: ignore[arg-type]
    plain, *tried = expand_study(
        load_candidates(["imagestats"]), replace(task, revisits=((revisit,),)), "robustness", grid=VariantGrid(), seed=0
    )
    (season,) = [one for one in tried if one.name == "imagestats | other season"]
    fold, clean = task.folds[0], plain.features(task)[0]
    seen = season.features(replace(task, revisits=((revisit,),)))[0]
    encoder = plain.encoder(task, fold)
    assert np.array_equal(seen[fold.train], clean[fold.train])
    np.testing.assert_allclose(seen[fold.test], extract_features(encoder, other).x[fold.test], rtol=1e-6)
    assert not [
        one
        for one in expand_study(load_candidates(["imagestats"]), task, "robustness", grid=VariantGrid(), seed=0)
        if "other" in one.name
    ]


def test_only_test_images_are_perturbed(rng: np.random.Generator) -> None:
    task = planted(rng)
    plain, *others = expand_study(load_candidates(["imagestats"]), task, "robustness", grid=VariantGrid(), seed=0)
    clean = plain.features(task)[0]
    fold = task.folds[0]
    for one in others:
        x = one.features(task)[0]
        assert np.array_equal(x[fold.train], clean[fold.train]), one.name
        assert not np.array_equal(x[fold.test], clean[fold.test]), one.name
    assert others[0].note.startswith("test images perturbed: reflectance + 0.1")


def test_the_bar_ends_where_it_was_said_to_end(rng: np.random.Generator) -> None:
    task, done = planted(rng, 40), list[int]()
    rows = np.arange(40)
    folds = (Fold(rows[:20], rows[20:], rows[:0]), Fold(rows[20:], rows[:20], rows[:0]))
    both = replace(task, partners=task.sources)
    compared = load_candidates(["imagestats", "timm:resnet18@random?contract=imagenet&sensor=sentinel2_l1c&white=0.36"])
    for of in (task, replace(task, folds=folds), both, replace(both, folds=folds)):
        tried = compared if not of.partners else load_candidates(["imagestats", "imagestats+rcf"])
        study = "compare" if of.partners else "robustness"
        for one in expand_study(tried, of, study, grid=VariantGrid(), seed=0):  # type: ignore[arg-type]
            done.clear()
            one.features(of, Computing(progress=done.append))
            assert sum(done) == one.count_images(of), one.name


def test_a_foreign_network_may_take_the_training_images_statistics(rng: np.random.Generator, tmp_path: Path) -> None:
    task = planted(rng, 60)
    name = "timm:resnet18@random?contract=training"
    (one,) = load_candidates([name], seed=4)
    encoder = one.encoder(task, task.folds[0])
    stats = compute_train_stats(task, task.folds[0].train, BANDS)
    np.testing.assert_allclose(encoder.preprocessing.mean, stats.mean)
    assert encoder.preprocessing.bands == BANDS and (one.pretraining_seeds, one.parts[0].per_fold) == (0, True)
    settings = Settings.of(["knn5"], shots=[0], draws=1, seed=0)
    compared = expand_study((one,), task, "grid", grid=VariantGrid.of([32], ["divide"], None), seed=0)
    rows, _ = judge(task, compared, settings, tmp_path, computing=Computing())
    assert [row["reference"] for row in rows] == ["", name, name] and "training images" in rows[0]["notes"][0]
    with pytest.raises(UserError, match=r"or that of a task's training images by \?contract=training"):
        load_candidates(["timm:resnet18@random"])


def test_departures_of_weight_free_encoders_follow_the_fold(rng: np.random.Generator) -> None:
    task = planted(rng)
    for made in (ImageStats, RandomFeatures):
        stats = compute_train_stats(task, task.folds[0].train, BANDS)
        treated = PreprocessingVariant(normalisation="zscore").apply(contract(), stats)
        found = extract_features(made(treated), task.sources[0]).x
        name = {"ImageStats": "imagestats", "RandomFeatures": "rcf"}[made.__name__]
        _, one = VariantGrid.of(None, ["zscore"], None).expand(load_candidates([name])[0])
        np.testing.assert_allclose(one.features(task)[0], found, rtol=1e-5, atol=1e-6)


def test_published_values_stand_beside_the_rows_they_belong_to() -> None:
    # Corley et al. 2024: image statistics on all bands at 64 px: 89.6 standardised; ZCA filters on RGB at 224 px, divided: 46.4 raw.
    row = {"n_test": 5400, "task": "eurosat-ms", "encoder": "imagestats | 64 px, divide", "reference": "imagestats"}
    row |= {"amount": "all", "protocol": "knn5-standardised"}
    row |= {"departure": {"size_px": 64, "normalisation": "divide", "resizer": "kornia"}}
    assert find_published_score(row) == 0.896
    other = {
        "task": "eurosat-rgb",
        "reference": "rcf_zca",
        "protocol": "knn5",
        "departure": {"size_px": 224, "normalisation": "divide", "resizer": "kornia"},
    }
    assert find_published_score({**row, **other}) == 0.464
    for change in (
        {"n_test": 80},
        {"task": "eurosat-spatial"},
        {"amount": "5 per class"},
        {"protocol": "linear"},
        {"reference": "ours"},
    ):
        assert find_published_score({**row, **change}) is None
    bilinear = {"size_px": 224, "normalisation": "divide", "resizer": "torchvision"}
    assert find_published_score({**row, "departure": bilinear}) is None  # another resizing than theirs


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UserError, match="did you mean 'zscore'"):
        PreprocessingVariant(normalisation="zscor")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="did you mean 'kornia'"):
        VariantGrid.of(None, None, ["korna"])
    with pytest.raises(UserError, match="at least 1 px"):
        VariantGrid.of([0], None, None)
