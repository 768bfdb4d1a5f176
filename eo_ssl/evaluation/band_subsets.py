"""Encoders that are given some of the bands alone, in training images as in test images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from eo_ssl.encoder import Encoder
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.candidates import Description
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.input_variants import WrappedCandidate
from eo_ssl.evaluation.sources import DerivedSource, ImageSource, Matrix, Rows, read_images
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.fingerprints import fingerprint
from eo_ssl.sensors import sensor as sensor_named

ALL_BUT = "all-"
COLOURS = ("red", "green", "blue")
NARROW_NIR = "nir08"


@dataclass(frozen=True, slots=True)
class BandSubset:
    """Some bands of a sensor."""

    name: str
    "for a table"
    bands: tuple[str, ...]
    "canonical names"

    @classmethod
    def parse(cls, text: str, source: ImageSource) -> BandSubset:
        """Read ``B04,B03,B02`` or ``all-B8A`` (all but that band), of the bands of ``source``.

        Raises:
            UserError: a band that the source does not have, or nothing or everything left.
        """
        known = sensor_named(source.sensor)
        have = known.resolve_all(source.bands)
        named = known.resolve_all(text.removeprefix(ALL_BUT).split(","))
        absent = [band for band in named if band not in have]
        bands = tuple(band for band in have if band not in named) if text.startswith(ALL_BUT) else named
        if absent or not 0 < len(bands) < len(have):
            raise UserError(
                f"expected some of the bands {', '.join(have)} of the task, or {ALL_BUT}BAND, got {text!r}; name fewer"
                " than all"
            )
        return cls(f"without {', '.join(named)}" if text.startswith(ALL_BUT) else " ".join(bands), bands)


def list_band_subsets(source: ImageSource, wanted: Sequence[str] | None) -> tuple[BandSubset, ...]:
    """Return what is tried on images like those of ``source``, each once.

    Of an optical sensor: red, green and blue; the bands of the finest pixels of its products; all but the narrow near
    infrared. Of a radar: each polarisation alone. Where that is what there is, and no less.

    Args:
        source: of the task.
        wanted: subsets as `BandSubset.parse` reads them, instead.

    Raises:
        UserError: as `BandSubset.parse`, or no subset to try.
    """
    known = sensor_named(source.sensor)
    bands = [known.band(name) for name in source.bands]
    if wanted is None:
        common = {band.common: band.name for band in bands}
        finest = min(band.gsd_m for band in bands)
        tried = [[common[colour] for colour in COLOURS if colour in common]]
        tried += [[band.name for band in bands if band.gsd_m == finest]]
        if all(band.wavelength_um is None for band in bands):
            tried += [[band.name] for band in bands]
        texts = [",".join(names) for names in tried if 0 < len(names) < len(bands)]
        texts += [f"{ALL_BUT}{common[NARROW_NIR]}"] if NARROW_NIR in common and len(bands) > 1 else []
    else:
        texts = list(wanted)
    expect(
        texts,
        expected="bands to leave out for the study bands",
        got=", ".join(source.bands),
        remedy="name subsets with --subsets",
    )
    return tuple({subset.bands: subset for subset in (BandSubset.parse(text, source) for text in texts)}.values())


@dataclass(frozen=True, slots=True)
class GivenBands(DerivedSource):
    """Images of another source with some of their bands."""

    given: tuple[str, ...]
    "canonical names"

    @property
    def bands(self) -> tuple[str, ...]:
        """Those that are given, in the order of the source."""
        return tuple(self.source.bands[channel] for channel in self._channels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Bands, height, width of each image."""
        return (len(self._channels), *self.source.shape[1:])

    @property
    def fingerprint(self) -> str:
        """Of the source and the bands."""
        return fingerprint([self.source.fingerprint, "given", self.bands])

    @property
    def _channels(self) -> list[int]:
        resolved = sensor_named(self.source.sensor).resolve_all(self.source.bands)
        return [channel for channel, band in enumerate(resolved) if band in self.given]

    def __len__(self) -> int:
        return len(self.source)

    def read(self, positions: Rows, out: Matrix) -> None:
        """Fill ``out`` [n, C, H, W] with the given bands of the images at ``positions``."""
        np.copyto(out, read_images(self.source, positions).numpy()[:, self._channels])


@dataclass(frozen=True)
class SubsetCandidate(WrappedCandidate):
    """An encoder that is taught and tested with some of the bands alone.

    One that takes any subset leaves the others out; one that refuses is given the training mean of each. One that is
    made for the task is made for these bands.
    """

    subset: BandSubset

    @property
    def note(self) -> str:
        """What it is given."""
        return f"given {self.subset.name} alone, in training and test images"

    @property
    def input_variant(self) -> dict[str, Any] | None:
        """Name and bands of the subset."""
        return {"perturbation": self.subset.name, "about": self.note, "bands": list(asdict(self.subset)["bands"])}

    def encoder(self, task: Task, fold: Fold) -> Encoder:
        """Return the encoder, which takes images of these bands."""
        encoder = self.base.encoder(self._narrow(task), fold)
        contract = encoder.preprocessing
        there = [band for band in contract.bands if band in self.subset.bands]
        fewest = contract.fewest_bands if contract.missing == "any_subset" else 1
        expect(
            len(there) >= fewest,
            expected=f"at least {fewest} of the bands {', '.join(contract.bands)} for {self.base.name}",
            got=", ".join(self.subset.bands),
            remedy="leave that subset out",
        )
        if contract.missing != "refuse" or len(there) == len(contract.bands):
            return encoder
        return encoder.with_preprocessing(replace(contract, missing="fill_mean"))

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of the encoder with these bands."""
        whole = super().describe(self._narrow(task))
        filled = self.base.encoder(self._narrow(task), task.folds[0]).preprocessing.missing == "refuse"
        how = "the others filled with their training mean" if filled and not self.made_for_task else "no others"
        described = whole.relabel(f"{self.note}, {how}", [whole.fingerprint, self.subset.name])
        return replace(described, bands=tuple(band for band in whole.bands if band in self.subset.bands))

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the features of images with these bands alone."""
        return super().features(self._narrow(task), computing)

    def _narrow(self, task: Task) -> Task:
        """The task of these bands; itself where it is that already."""
        if all(isinstance(source, GivenBands) for source in task.sources):
            return task
        return replace(task, sources=tuple(GivenBands(source, self.subset.bands) for source in task.sources))
