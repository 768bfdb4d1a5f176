"""The table of benchmarks: variants, cards, origin and layout of each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from eo_ssl.cards import Card, load_card
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.evaluation.benchmarks.request import Request

if TYPE_CHECKING:  # TorchGeo takes seconds to import, which a list of names need not pay
    from eo_ssl.evaluation.tasks import Task


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One data set with its variants: band sets, sensors and splits, each of which is a task of its own."""

    name: str
    module: str
    "of the loader, in this room"
    cards: Mapping[str, tuple[str, ...]]
    "variant (the first is the default) -> card of the images, and of the partner sensor where the variant has one"
    origin: str
    "where the data set is to be had"
    layout: str
    "files below the root, in words"

    @property
    def variants(self) -> tuple[str, ...]:
        """Names of the variants, the default first."""
        return tuple(self.cards)

    @property
    def card(self) -> str:
        """Name of the card of the default variant."""
        return self.cards[self.variants[0]][0]


_EUROSAT = (
    "eurosat-train.txt, eurosat-val.txt, eurosat-test.txt (for spatial: eurosat-spatial-*.txt) and "
    "ds/images/remote_sensing/otherDatasets/sentinel_2/tif/<class>/<class>_<n>.tif"
)
_SO2SAT = (
    "random/, block/ and culture_10/ with training.h5 and testing.h5, or training.h5, validation.h5 and testing.h5 of "
    "version 2, each with the keys sen1, sen2, label"
)
_BEN1 = (
    "bigearthnet-train.csv, bigearthnet-val.csv, bigearthnet-test.csv, BigEarthNet-v1.0/<patch>/<patch>_B02.tif ... "
    "and BigEarthNet-S1-v1.0/<patch>/<patch>_VV.tif, _VH.tif, each folder with a JSON file of labels"
)
_BEN2 = (
    "metadata.parquet, BigEarthNet-S2/<product>/<patch>/<patch>_B02.tif ... and "
    "BigEarthNet-S1/<product>/<patch>/<patch>_VV.tif, _VH.tif"
)
_FLOODS = (
    "v1.1/splits/flood_handlabeled/flood_{train,valid,test,bolivia}_data.csv and "
    "v1.1/data/flood_events/HandLabeled/{S1Hand,S2Hand,LabelHand}/<event>_<n>_*.tif"
)
_SO2SAT_CARDS = {"": ("so2sat_s2",), "-s1": ("so2sat_s1",), "-both": ("so2sat_s2", "so2sat_s1")}

BENCHMARKS: dict[str, Benchmark] = {
    item.name: item
    for item in (
        Benchmark(
            "eurosat",
            "eurosat",
            {
                "ms": ("eurosat",),
                "rgb": ("eurosat",),
                "spatial": ("eurosat_spatial",),
                "spatial-rgb": ("eurosat_spatial",),
            },
            "torchgeo.datasets.EuroSAT(root, download=True) or EuroSATSpatial, or github.com/phelber/EuroSAT",
            _EUROSAT,
        ),
        Benchmark(
            "so2sat",
            "so2sat",
            {
                f"{split}{part}": cards
                for split in ("random", "culture10", "block", "v2")
                for part, cards in _SO2SAT_CARDS.items()
            },
            "mediatum.ub.tum.de/1613658 (version 3) or mediatum.ub.tum.de/1483140 (version 2); see "
            "torchgeo.datasets.So2Sat",
            _SO2SAT,
        ),
        Benchmark(
            "bigearthnet_v2",
            "bigearthnet_v2",
            {
                "s2": ("bigearthnet_v2_s2",),
                "s1": ("bigearthnet_v2_s1",),
                "both": ("bigearthnet_v2_s2", "bigearthnet_v2_s1"),
            },
            "torchgeo.datasets.BigEarthNetV2(root, download=True) or bigearth.net",
            _BEN2,
        ),
        Benchmark(
            "sen1floods11",
            "sen1floods11",
            {
                "s2": ("sen1floods11_s2",),
                "s1": ("sen1floods11_s1",),
                "both": ("sen1floods11_s2", "sen1floods11_s1"),
                "bolivia": ("sen1floods11_s2",),
                "bolivia-s1": ("sen1floods11_s1",),
                "bolivia-both": ("sen1floods11_s2", "sen1floods11_s1"),
            },
            "github.com/cloudtostreet/Sen1Floods11 (bucket sen1floods11, folder v1.1)",
            _FLOODS,
        ),
        Benchmark(
            "treesatai",
            "treesatai",
            {"s2": ("treesatai_s2",), "aerial": ("treesatai_aerial",)},
            "torchgeo.datasets.TreeSatAI(root, download=True) or zenodo.org/records/6780578",
            "train_filenames.lst, test_filenames.lst, labels/TreeSatBA_v9_60m_multi_labels.json, s2/60m/*.tif and "
            "aerial/60m/*.tif",
        ),
        Benchmark(
            "sat6", "sat6", {"all": ("sat6",)}, "the authors' page of SAT-4 and SAT-6 (DeepSat)", "sat-6-full.mat"
        ),
        Benchmark(
            "resisc45",
            "image_folders",
            {"rgb": ("resisc45",)},
            "torchgeo.datasets.RESISC45(root, download=True)",
            "resisc45-train.txt, resisc45-val.txt, resisc45-test.txt and NWPU-RESISC45/<class>/<class>_<n>.jpg",
        ),
        Benchmark(
            "ucmerced",
            "image_folders",
            {"rgb": ("ucmerced",)},
            "torchgeo.datasets.UCMerced(root, download=True)",
            "uc_merced-train.txt, uc_merced-val.txt, uc_merced-test.txt and "
            "UCMerced_LandUse/Images/<class>/<class><n>.tif",
        ),
        Benchmark(
            "bigearthnet_v1",
            "bigearthnet_v1",
            {
                "s2": ("bigearthnet_v1_s2",),
                "s1": ("bigearthnet_v1_s1",),
                "both": ("bigearthnet_v1_s2", "bigearthnet_v1_s1"),
            },
            "torchgeo.datasets.BigEarthNet(root, download=True) or bigearth.net",
            _BEN1,
        ),
        Benchmark(
            "eurosat_sar",
            "eurosat_sar",
            {"s1": ("eurosat_sar",)},
            "torchgeo.datasets.CopernicusBenchEuroSATS1(root, download=True)",
            "eurosat_s1/eurosat-train.txt, eurosat-val.txt, eurosat-test.txt and "
            "eurosat_s1/all_imgs/<class>/<class>_<n>.tif",
        ),
        Benchmark(
            "m_eurosat",
            "geobench",
            {"ms": ("m_eurosat",)},
            "github.com/ServiceNow/geo-bench (geobench-download, classification_v1.0)",
            "classification_v1.0/m-eurosat/ with label_map.json, default_partition.json and <sample>.hdf5",
        ),
    )
}


def load_benchmark(name: str, root: Path, *, variant: str | None = None, card: Card | None = None) -> Task:
    """Return a published benchmark as a task.

    Args:
        name: out of `BENCHMARKS`.
        root: folder of the data set in its own layout.
        variant: band set, sensor or split; None for the first of the benchmark.
        card: says what the bands of the images are, in file order, and their scale; None for the shipped one. The
            partner sensor of a variant with two keeps the shipped card.

    Raises:
        UserError: no such benchmark or variant, a card of another data set, no such data at ``root`` (the sentence says
            where it comes from and which layout it has), or files in another layout.
    """
    if name not in BENCHMARKS:
        raise UserError(
            f"expected a benchmark out of {', '.join(BENCHMARKS)}, got {name!r}{suggest_nearest(name, BENCHMARKS)}"
        )
    known = BENCHMARKS[name]
    chosen = known.variants[0] if variant is None else variant
    if chosen not in known.cards:
        raise UserError(
            f"expected a variant of {name} out of {', '.join(known.variants)}, got "
            f"{chosen!r}{suggest_nearest(chosen, known.variants)}"
        )
    cards = [load_card(one) for one in known.cards[chosen]]
    if card is not None:
        shipped = cards[0]
        same = (card.reader, card.loader, card.sensor) == (shipped.reader, shipped.loader, shipped.sensor)
        if not same or sorted(card.bands) != sorted(shipped.bands):
            raise UserError(
                f"expected a card of {name}-{chosen} (sensor {shipped.sensor}, loader "
                f"{shipped.loader or shipped.reader}, bands {', '.join(shipped.bands)}), "
                f"got {card.name} ({card.sensor}, {card.loader or card.reader}, {', '.join(card.bands)}); use the "
                f"card {shipped.name}"
            )
        cards[0] = card
    request = Request(f"{name}-{chosen}", Path(root), chosen, tuple(cards), known.origin, known.layout)
    task: Task = import_module(f"eo_ssl.evaluation.benchmarks.{known.module}").load(request)
    return task
