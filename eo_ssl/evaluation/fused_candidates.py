"""Encoders of two sensors as candidates: one vector of joint tokens for the optical and the radar image of a place."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch

from eo_ssl.encoder import FusedEncoder, load_fused_encoder
from eo_ssl.errors import UserError, expect
from eo_ssl.evaluation.candidates import Description, SensorPair, Wrap
from eo_ssl.evaluation.encoder_candidates import TrainedCandidate
from eo_ssl.evaluation.features import ON_CPU, Computing
from eo_ssl.evaluation.npz_files import ArrayFile
from eo_ssl.evaluation.sources import ImageSource, Matrix, SourceSubset, read_metadata
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import Task
from eo_ssl.evaluation.tuning import VECTOR_KINDS, StackedEncoder
from eo_ssl.fingerprints import fingerprint
from eo_ssl.preprocessing import describe_input

_NOTE = "joint tokens of two sensors"


@dataclass(frozen=True)
class FusedPair(SensorPair):
    """The optical and the radar encoder of one run, whose tokens are joined by what was trained with them."""

    fused: FusedEncoder

    def identity(self, task: Task) -> str:
        """Return a fingerprint of both encoders and of what joins them."""
        return self.fused.fingerprint

    @property
    def weights(self) -> dict[str, str]:
        """Fingerprint of all of it, which the manifest of its run has too."""
        return {self.name: self.fused.fingerprint}

    @property
    def cost(self) -> Mapping[str, int] | None:
        """Of the run that trained both."""
        return self.first.cost

    def describe(self, task: Task) -> Description:
        """Return what stands beside a number of the joint tokens."""
        plain = super().describe(task)
        notes = (*plain.notes[:-1], _NOTE)
        return replace(plain, fingerprint=self.fused.fingerprint, notes=notes)

    def _tasks(self, task: Task) -> tuple[Task, Task]:
        """The task of each sensor alone."""
        expect(
            task.partners,
            expected=f"images of two sensors for {self.name}",
            got=f"those of {task.sources[0].sensor} in {task.name}",
            remedy=f"name the encoder of one sensor, {self.first.origin} or {self.second.origin}, or take the variant "
            "of the benchmark with both",
        )
        return task.sensor_tasks

    def features(self, task: Task, computing: Computing = ON_CPU) -> tuple[Matrix, ...]:
        """Return the means of the joint tokens, one pass for all folds."""
        self.describe(task)
        one, two = self._tasks(task)
        x = np.full((len(task.labels), self.fused.dim), np.nan, dtype=np.float32)  # NaN: nobody may ask for them
        (used,) = self.first._passes(one)
        for optical, radar, (first, positions) in zip(one.sources, two.sources, used, strict=True):
            found = extract_joint(
                self.fused, SourceSubset(radar, positions), SourceSubset(optical, positions), computing
            )
            x[first + positions] = found
        return (x,) * len(task.folds)

    def network(self, task: Task, fold: Fold) -> StackedEncoder:
        """Return what is trained: the whole encoder, which takes images of both sensors as one."""
        return StackedEncoder(self.fused)

    def has_network(self, task: Task) -> bool:
        """Whether there is one to train on such a task: none for masks, whose decoders take maps of one sensor."""
        return task.kind in VECTOR_KINDS

    def fingerprint_inputs(self, task: Task) -> str:
        """Return a fingerprint of the encoder: its contracts are never changed."""
        return self.fused.fingerprint

    def vary(self, label: str, wrap: Wrap) -> NoReturn:
        """Refuse: the contracts of two encoders are not changed together."""
        raise UserError(f"expected an encoder of one sensor for a study of its input, got {self.name}; leave it out")


def load_fused_pair(name: str) -> FusedPair:
    """Return the candidate of the encoder of two sensors in the folder `name`.

    Raises:
        UserError: as `load_fused_encoder`.
    """
    fused = load_fused_encoder(name)
    optical, radar = (
        TrainedCandidate(f"{fused.name}/{encoder.name}", encoder, origin=str(Path(name) / encoder.name))
        for encoder in (fused.optical, fused.radar)
    )
    return FusedPair(fused.name, optical, radar, fused)


def extract_joint(fused: FusedEncoder, radar: ImageSource, optical: ImageSource, computing: Computing) -> Matrix:
    """Return the features of pairs of images, [n, D] float32: row i of both sources is the same ground.

    Raises:
        UserError: a contract refuses a source, the encoder gives values that are not finite, or a cached file is
            damaged.
    """
    if computing.cache is None:
        return _compute_joint(fused, radar, optical, computing)
    key = fingerprint({"fused": fused.fingerprint, "sources": [radar.fingerprint, optical.fingerprint], "format": 1})
    file = ArrayFile(computing.cache / f"{key}.npz", ("x",), "cached features", "remove the file and run again")
    there = file.path.is_file()
    x = file.read_or_compute(lambda: {"x": _compute_joint(fused, radar, optical, computing)}, compress=False)["x"]
    if there and computing.progress is not None:
        computing.progress(2 * len(radar))
    return x


def _compute_joint(fused: FusedEncoder, radar: ImageSource, optical: ImageSource, computing: Computing) -> Matrix:
    """Features [n, D] float32 by one forward pass per batch."""
    x = np.empty((len(radar), fused.dim), dtype=np.float32)
    fused.to(computing.device)
    for start in range(0, len(radar), computing.batch_size):
        positions = np.arange(start, min(start + computing.batch_size, len(radar)), dtype=np.int64)
        prepared: list[dict[str, torch.Tensor]] = []
        for source, encoder in ((radar, fused.radar), (optical, fused.optical)):
            contract = encoder.preprocessing
            known = read_metadata(source, positions) if contract.metadata else None
            told = describe_input(contract, known, side_px=source.shape[-1])
            image = np.empty((len(positions), *source.shape), dtype=np.float32)
            source.read(positions, image)
            values = torch.from_numpy(image).to(computing.device)
            prepared_image, valid = contract(values, bands=source.bands, quantity=source.quantity, sensor=source.sensor)
            prepared.append({"image": prepared_image, "valid": valid, **told})
        first, second = prepared
        with torch.inference_mode():
            vectors = fused.features(
                first["image"],
                second["image"],
                radar_valid=first["valid"],
                optical_valid=second["valid"],
                radar_metadata=first.get("metadata"),
                optical_metadata=second.get("metadata"),
            )
        x[positions] = vectors.to("cpu", torch.float32).numpy()
        if computing.progress is not None:
            computing.progress(2 * len(positions))
    if not np.isfinite(x).all():
        raise UserError(f"expected finite features of {fused.name}, got NaN or infinity; train the encoder again")
    return x
