"""Every benchmark is read alike by its task, by the reader that its card names, and by an encoder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.cards import load_card
from eo_ssl.diagnosis.sampled_windows import list_products
from eo_ssl.errors import UserError
from eo_ssl.evaluation import TaskOptions, open_task
from eo_ssl.evaluation.benchmarks import BENCHMARKS, load_benchmark
from eo_ssl.evaluation.seeds import load_candidates
from worlds import benchmarks as made
from worlds.benchmarks import make_eurosat

MAKE: dict[str, Callable[[Path], Path]] = {
    "eurosat": lambda root: made.add_spatial_lists(make_eurosat(root, seed=9, per_class=5)),
    "so2sat": lambda root: made.make_so2sat(root, seed=9, per_class=3),
    "bigearthnet_v2": lambda root: made.make_bigearthnet_v2(root, seed=9, patches=5),
    "sen1floods11": lambda root: made.make_sen1floods11(root, seed=9, per_event=3, size_px=48),
    "treesatai": lambda root: made.make_treesatai(root, seed=9, plots=10),
    "sat6": lambda root: made.make_sat6(root, seed=9, per_class=5),
    "resisc45": lambda root: made.make_resisc45(root, seed=9, per_class=3),
    "ucmerced": lambda root: made.make_ucmerced(root, seed=9, per_class=3),
    "bigearthnet_v1": lambda root: made.make_bigearthnet_v1(root, seed=9, patches=5),
    "eurosat_sar": lambda root: made.make_eurosat_sar(root, seed=9, per_class=5),
    "m_eurosat": lambda root: made.make_m_eurosat(root, seed=9, per_class=3),
}


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    base, ready = tmp_path_factory.mktemp("all"), dict[str, Path]()

    def root(name: str) -> Path:
        if name not in ready:
            ready[name] = MAKE[name](base / name)
        return ready[name]

    return root


def test_every_benchmark_can_be_generated_and_asked_for() -> None:
    assert set(MAKE) == set(BENCHMARKS)
    with pytest.raises(
        UserError, match=r"out of corpus, mstar_soc, .*m_eurosat, got 'eurosatt'; did you mean 'eurosat'"
    ):
        open_task("eurosatt", Path(), TaskOptions())


@pytest.mark.parametrize("name", list(BENCHMARKS))
def test_every_variant_can_be_evaluated(name: str, roots: Callable[[str], Path]) -> None:
    prints = set()
    for variant in BENCHMARKS[name].variants:
        task = load_benchmark(name, roots(name), variant=variant)
        assert task.name == f"{name}-{variant}" and len(task.split) > 20
        prints.add(task.fingerprint)
        (fold,) = task.folds
        every = np.concatenate([fold.train, fold.validation, fold.test])
        assert np.array_equal(np.sort(every), np.arange(len(task.labels)))  # each image in one part
        assert load_benchmark(name, roots(name), variant=variant).fingerprint == task.fingerprint
        for partner in task.partners:
            assert len(partner) == len(task.labels)
    assert len(prints) == len(BENCHMARKS[name].variants)  # no two share their cached results


READ_BY_CORPUS = [
    ("bigearthnet_v2", "s2", ("B02", "B03", "B04", "B08")),
    ("bigearthnet_v2", "s1", ("VV", "VH")),
    ("bigearthnet_v1", "s2", ("B02", "B03", "B04", "B08")),
    ("bigearthnet_v1", "s1", ("VV", "VH")),
    ("sen1floods11", "s2", ("B01", "B04", "B8A", "B10", "B12")),
    ("sen1floods11", "s1", ("VV", "VH")),
    ("treesatai", "s2", ("B01", "B04", "B8A", "B09")),
    ("treesatai", "aerial", ("R", "G", "B", "NIR")),
    ("eurosat_sar", "s1", ("VV", "VH")),
]


@pytest.mark.parametrize(("name", "variant", "bands"), READ_BY_CORPUS)
def test_cards_that_name_a_reader_of_products_are_read_by_it_to_the_same_pixels(
    name: str, variant: str, bands: tuple[str, ...], roots: Callable[[str], Path]
) -> None:
    card = load_card(BENCHMARKS[name].cards[variant][0])
    assert card.reader in ("raster", "band_folder")
    (source,) = load_benchmark(name, roots(name), variant=variant).sources
    files = source.files  # type: ignore[attr-defined]
    path = (getattr(files, "folders", ()) or files.paths)[0]
    products = [item for item in list_products(card, roots(name)) if item.product_id.endswith(path.stem)]
    (product,) = products
    cube = product.open(plausible=False)
    ours = np.empty((1, *source.shape), dtype=np.float32)
    source.read(np.array([0]), ours)
    for band in bands:
        plane = cube["image"].values[product.bands.index(band)]
        np.testing.assert_allclose(ours[0, source.bands.index(band)], plane, rtol=1e-5, err_msg=band)


@pytest.mark.parametrize(
    ("name", "variant", "least"), [("so2sat", "random", 0.3), ("m_eurosat", "ms", 0.4), ("sat6", "all", 0.6)]
)
def test_statistics_of_pixels_tell_the_classes(
    name: str, variant: str, least: float, roots: Callable[[str], Path]
) -> None:
    # The label of an image is that image's: nearest neighbours in the statistics of its own pixels find it far above chance.
    task = load_benchmark(name, roots(name), variant=variant)
    x = load_candidates(["imagestats"])[0].features(task)[0]
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-9)
    (fold,) = task.folds
    near = ((x[fold.test][:, None] - x[fold.train][None]) ** 2).sum(axis=2).argmin(axis=1)
    accuracy = (task.labels[fold.train][near] == task.labels[fold.test]).mean()
    assert accuracy > least > 2 / len(task.class_names)
