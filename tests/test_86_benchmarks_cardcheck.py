"""What the files say of a card: planted permutations, scales and statistics are found and the remedy is the planted truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eo_ssl.cards import Card, Statistics, load_card
from eo_ssl.diagnosis.cardcheck import check_card, check_statistics, is_generated, sample_images
from eo_ssl.diagnosis.examination import examine
from eo_ssl.diagnosis.findings import Finding
from eo_ssl.errors import UserError
from eo_ssl.evaluation.benchmarks import load_benchmark
from eo_ssl.evaluation.tasks import Task
from worlds.benchmarks import EUROSAT_BANDS, make_eurosat, make_sat6, make_so2sat

SPECTRAL = (*EUROSAT_BANDS[:8], "B8A", *EUROSAT_BANDS[8:12])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eurosat(tmp_path_factory.mktemp("cards") / "eurosat", seed=5, per_class=8)


@pytest.fixture(scope="module")
def card(root: Path) -> Card:
    """The shipped card with the statistics of the generated training images, computed here from the stored numbers."""
    plain = replace(load_card("eurosat"), statistics=None)
    task = load_benchmark("eurosat", root, card=plain)
    stored = pixels(task, task.folds[0].train) * 10_000
    mean, std = stored.mean(axis=(0, 2, 3)), stored.std(axis=(0, 2, 3))
    return replace(
        plain, statistics=Statistics(mean=tuple(mean.tolist()), std=tuple(std.tolist()), unit="dn", source="here")
    )


def pixels(task: Task, rows: np.ndarray) -> np.ndarray:
    out = np.empty((len(rows), *task.sources[0].shape), dtype=np.float32)
    task.sources[0].read(rows, out)
    return out.astype(np.float64)


def found(root: Path, card: Card) -> list[Finding]:
    task = load_benchmark("eurosat", root, card=card)
    return [
        item
        for item in check_card(card, task.sources[0], positions=task.folds[0].train)
        if item.outcome in ("wrong", "suspect")
    ]


def test_a_right_card_raises_nothing(root: Path, card: Card) -> None:
    assert found(root, card) == []
    findings = check_card(card, load_benchmark("eurosat", root, card=card).sources[0])
    assert {item.kind: item.outcome for item in findings} | {"offset": ""} == {
        "nodata": "fine",
        "constant": "fine",
        "duplicate": "fine",
        "scale": "fine",
        "order": "fine",
        "offset": "",
        "metadata": "fine",
    }


def test_permuted_bands_are_found_and_put_right(root: Path, card: Card) -> None:
    assert card.statistics is not None
    order = [EUROSAT_BANDS.index(band) for band in SPECTRAL]
    turned = replace(
        card.statistics,
        mean=tuple(card.statistics.mean[k] for k in order),
        std=tuple(card.statistics.std[k] for k in order),
    )
    (order_found,) = found(root, replace(card, bands=SPECTRAL, statistics=turned))
    assert order_found.kind == "order" and "B8A last" in order_found.sentence
    assert (
        tuple(order_found.remedy["bands"]) == EUROSAT_BANDS
    )  # one mistake, said once: the statistics are right by name


@pytest.mark.parametrize(
    ("scale", "says"), [(1.0, "10,000 times too large"), (1 / 2750, "times too large"), (1e-8, "too small")]
)
def test_wrong_scale_is_found_and_put_right(root: Path, card: Card, scale: float, says: str) -> None:
    (finding,) = found(root, replace(card, scale=scale))
    assert finding.kind == "scale" and says in finding.sentence
    assert finding.remedy["scale"] == pytest.approx(1e-4, rel=0.01)


def statistics(card: Card, **change: Any) -> Card:
    assert card.statistics is not None
    return replace(card, statistics=replace(card.statistics, **change))


def test_wrong_statistics_are_found_and_put_right(root: Path, card: Card) -> None:
    assert card.statistics is not None
    mean, std = card.statistics.mean, card.statistics.std
    order = [EUROSAT_BANDS.index(band) for band in SPECTRAL]
    task = load_benchmark("eurosat", root, card=card)
    within = (pixels(task, task.folds[0].train) * 10_000).std(axis=(2, 3)).mean(axis=0)
    planted = {
        "stand in another order than the bands: B01, B02, B03, B04, B05, B06, B07, B08, B8A, B09": statistics(
            card, mean=tuple(mean[k] for k in order), std=tuple(std[k] for k in order)
        ),
        "0.0001 times those of the images: another unit than dn": statistics(
            card, mean=tuple(m / 1e4 for m in mean), std=tuple(s / 1e4 for s in std)
        ),
        "means of those inside single images": statistics(card, std=tuple(within.tolist())),
        "statistics of B04 are not": statistics(card, mean=(*mean[:3], mean[3] + 2 * std[3], *mean[4:])),
        "statistics of B11 are not": statistics(card, std=(*std[:10], 2 * std[10], *std[11:])),
    }
    sample = sample_images(card, task.sources[0], positions=task.folds[0].train)
    findings = examine(sample).findings
    for says, wrong in planted.items():
        finding = check_statistics(wrong, sample, findings)
        assert finding is not None and finding.outcome == ("suspect" if "are not" in says else "wrong")
        assert finding.kind == "metadata" and says in finding.sentence, finding.sentence
        if not finding.remedy:  # it takes all images to know
            assert "inside" in says or "of the 40 images looked at: so few prove nothing" in finding.sentence
            continue
        put = finding.remedy["statistics"]
        np.testing.assert_allclose(put["mean"], mean, rtol=1e-9)  # the quoted numbers put right, not those of a sample
        np.testing.assert_allclose(put["std"], std, rtol=1e-9)
        assert put["unit"] == "dn" and set(put) == {"mean", "std", "unit", "source"}
        repaired = replace(wrong, statistics=Statistics(**put))
        again = check_statistics(repaired, sample, findings)
        assert again is not None and again.outcome == "fine"
    assert [item.sentence for item in found(root, wrong)] == [finding.sentence]


def test_some_bands_of_a_card_are_checked_alone(root: Path, card: Card) -> None:
    assert card.statistics is not None
    mean, std = list(card.statistics.mean), card.statistics.std
    rgb = load_benchmark("eurosat", root, variant="rgb", card=card).sources[0]
    assert [item.outcome for item in check_card(card, rgb) if item.kind == "metadata"] == ["fine"]
    mean[EUROSAT_BANDS.index("B03")] += 2 * std[EUROSAT_BANDS.index("B03")]
    (finding,) = [item for item in check_card(statistics(card, mean=tuple(mean)), rgb) if item.outcome == "suspect"]
    assert finding.bands == ("B03",) and finding.remedy == {}  # ten bands were not read


def test_a_white_roof_is_no_fill(tmp_path: Path) -> None:
    root = make_sat6(tmp_path / "sat6", seed=5, per_class=5)
    card = load_card("sat6")
    source = load_benchmark("sat6", root).sources[0]
    source.files.parts[0][:12, :12, :, :] = 255  # type: ignore[attr-defined]
    assert not [item for item in check_card(card, source) if item.outcome in ("wrong", "suspect")]


def test_statistics_that_cannot_be_judged_say_why(root: Path, card: Card) -> None:
    task = load_benchmark("eurosat", root, card=card)
    few = check_card(card, task.sources[0], positions=task.folds[0].train[:5])
    assert [item.sentence for item in few if item.kind == "metadata"] == [
        "5 images say too little about the statistics of a set"
    ]
    odd = check_card(statistics(card, unit="gamma0"), task.sources[0])
    assert odd[-1].outcome == "cannot tell" and "neither dn nor toa_reflectance" in odd[-1].sentence
    with pytest.raises(UserError, match="expected images to look at, got 0"):
        check_card(card, task.sources[0], positions=np.empty(0, dtype=np.int64))


def test_files_that_the_card_does_not_describe_are_a_finding(root: Path, card: Card) -> None:
    task = load_benchmark("eurosat", root, card=card)
    source = replace(
        task.sources[0], card=replace(card, bands=EUROSAT_BANDS[:12]), bands=EUROSAT_BANDS[:12], shape=(12, 64, 64)
    )  # type: ignore[type-var]
    (finding,) = check_card(card, source)
    assert finding.outcome == "wrong" and "got [13, 64, 64]" in finding.sentence


def test_so2sat_divided_again_and_its_polarisations_exchanged(tmp_path: Path) -> None:
    root = make_so2sat(tmp_path / "so2sat", seed=5, per_class=3)
    # The statistics in the cards are those of the real set, not of a generated one.
    optical, radar = (replace(load_card(name), statistics=None) for name in ("so2sat_s2", "so2sat_s1"))

    def wrong(card: Card, variant: str) -> dict[str, Finding]:
        source = load_benchmark("so2sat", root, variant=variant, card=card).sources[0]
        return {item.kind: item for item in check_card(card, source) if item.outcome in ("wrong", "suspect")}

    assert wrong(optical, "random") == {} and wrong(radar, "random-s1") == {}
    divided = wrong(replace(optical, scale=1e-4), "random")
    assert list(divided) == ["scale"] and divided["scale"].remedy["scale"] == pytest.approx(1.0, rel=0.01)
    exchanged = wrong(replace(radar, bands=("VV", "VH")), "random-s1")
    assert list(exchanged) == ["polarisation"] and exchanged["polarisation"].remedy["bands"] == ["VH", "VV"]


def test_statistics_of_a_published_set_are_not_overwritten_by_those_of_a_few_images(root: Path, card: Card) -> None:
    shipped = load_card("eurosat")
    task = load_benchmark("eurosat", root)
    (finding,) = [item for item in check_card(shipped, task.sources[0], count=20) if item.kind == "metadata"]
    assert finding.outcome == "suspect" and finding.remedy == {}
    assert "are not those of the 20 of 80 images looked at: so few prove nothing" in finding.sentence


def test_generated_images_are_compared_with_bands_and_units_but_not_with_published_statistics(root: Path) -> None:
    assert is_generated(root) and not is_generated(root / "ds")
    shipped, source = load_card("eurosat"), load_benchmark("eurosat", root).sources[0]
    findings = {item.kind: item for item in check_card(shipped, source, generated=True)}
    assert findings["metadata"].outcome == "cannot tell" and "generated images" in findings["metadata"].sentence
    assert {findings[kind].outcome for kind in ("scale", "order", "nodata")} == {"fine"}
    wrong = replace(shipped, scale=1.0)
    found = {
        item.kind: item.outcome
        for item in check_card(wrong, load_benchmark("eurosat", root, card=wrong).sources[0], generated=True)
    }
    assert found["scale"] == "wrong"  # what does not need a satellite is still found
    assert [item.kind for item in check_card(replace(shipped, statistics=None), source, generated=True)].count(
        "metadata"
    ) == 0
