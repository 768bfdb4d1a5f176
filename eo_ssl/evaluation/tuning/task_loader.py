"""Batches of a task: images through the encoder's contract with their targets, read a batch ahead by a thread."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from torch import Tensor

from eo_ssl.errors import expect
from eo_ssl.evaluation.sources import ImageSource, Rows, locate_rows, read_ahead, read_images
from eo_ssl.evaluation.tasks import IGNORED, MaskedSource, Task
from eo_ssl.evaluation.tuning.tuning_config import Augmentation
from eo_ssl.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class TaskBatch:
    """Some images of a task as the encoder takes them."""

    image: Tensor
    "[b, C, H, W] float32, output of the contract, or of both with the bands of the first sensor first"
    valid: Tensor
    "[b, C, H, W] bool, where the image was measured"
    target: Tensor
    """classification: int64 [b]; multilabel: float32 [b, K]; regression: float32 [b]; segmentation: int64 [b, H', W']
    of the source's own size"""

    def __len__(self) -> int:
        return len(self.image)


@dataclass(frozen=True, slots=True)
class SourceBatch:
    """The images of a batch that one source holds."""

    source: ImageSource
    places: Rows
    "in the batch"
    image: Tensor
    "[p, C, H, W] float32, physical values"
    mask: Tensor | None


@dataclass(frozen=True, slots=True)
class TaskLoader:
    """Loader of batches of a task through the contract of each sensor that the encoder is given."""

    task: Task
    contracts: tuple[Preprocessing, ...]
    "of the task's sources, and of their partners where both sensors are read"
    device: str

    def batches(self, groups: Iterable[Rows]) -> Iterator[TaskBatch]:
        """Yield a batch for each group of positions in the task, in that order; the next one is read meanwhile.

        Raises:
            UserError: the contract refuses the images, sources give inputs or masks of different sizes, or a mask holds
                a class that the task does not have.
        """
        sensors = (self.task.sources, self.task.partners)[: len(self.contracts)]
        for rows, read in read_ahead(lambda rows: (rows, [self._read(one, rows) for one in sensors]), groups):
            ready = [self._prepare(contract, parts) for contract, parts in zip(self.contracts, read, strict=True)]
            image, valid = (torch.cat(tensors, dim=1) for tensors in zip(*ready, strict=True))
            yield TaskBatch(image, valid, self._target(rows, read[0]))

    def masks(self, groups: Iterable[Rows]) -> Iterator[Tensor]:
        """Yield the masks of each group of positions alone, int64 [b, H', W'] in the order of their sources."""
        for rows in groups:
            for number, _, positions in locate_rows(self.task.sizes, rows):
                yield self._mask(self.task.sources[number], positions)

    def _read(self, sources: Sequence[ImageSource], rows: Rows) -> list[SourceBatch]:
        parts = []
        for number, places, positions in locate_rows(self.task.sizes, rows):
            source = sources[number]
            mask = self._mask(source, positions) if self.task.kind == "segmentation" else None
            parts.append(SourceBatch(source, places, read_images(source, positions), mask))
        return parts

    def _mask(self, source: ImageSource, positions: Rows) -> Tensor:
        mask = torch.full((len(positions), *source.shape[1:]), IGNORED, dtype=torch.int64)
        cast(MaskedSource, source).read_masks(positions, mask.numpy())
        classes = len(self.task.class_names)
        low, high = (int(mask.min()), int(mask.max())) if mask.numel() else (IGNORED, IGNORED)
        expect(
            low >= IGNORED and high < classes,
            expected=f"classes 0 ... {classes - 1} or {IGNORED} (ignored) in the masks of {self.task.name}",
            got=f"{low} ... {high}",
            remedy="check the dataset's class table",
        )
        return mask

    def _prepare(self, contract: Preprocessing, parts: list[SourceBatch]) -> tuple[Tensor, Tensor]:
        """Input and validity of one sensor, in the order of the batch."""
        given = []
        for part in parts:
            source = part.source
            image = part.image.to(self.device)
            given.append(contract(image, bands=source.bands, quantity=source.quantity, sensor=source.sensor))
        sizes = {tuple(image.shape[1:]) for image, _ in given}
        mask_sizes = {tuple(part.mask.shape[1:]) for part in parts if part.mask is not None}
        expect(
            len(sizes) <= 1 and len(mask_sizes) <= 1,
            expected=f"inputs and masks of one size in {self.task.name}",
            got=f"{sorted(sizes)} and {sorted(mask_sizes)}",
            remedy="use a contract with resize = to_size, or one task per size",
        )
        order = _restore_order(parts).to(self.device)
        image, valid = (torch.cat(tensors)[order] for tensors in zip(*given, strict=True))
        return image, valid

    def _target(self, rows: Rows, parts: list[SourceBatch]) -> Tensor:
        if self.task.kind == "segmentation":
            target = torch.cat([part.mask for part in parts if part.mask is not None])[_restore_order(parts)]
        else:
            target = torch.from_numpy(self.task.labels[rows])
            target = target if self.task.kind == "classification" else target.to(torch.float32)
        return target.to(self.device)


def _restore_order(parts: Sequence[SourceBatch]) -> Tensor:
    """Where each image of the batch stands among those of its sources, one source after the other."""
    return torch.from_numpy(np.argsort(np.concatenate([part.places for part in parts])))


def split_in_order(rows: Rows, *, size: int) -> list[Rows]:
    """Return ``rows`` cut into groups of ``size``, the last one smaller."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def shuffle_batches(rows: Rows, *, size: int, steps: int, generator: torch.Generator) -> Iterator[Rows]:
    """Yield ``steps`` groups of ``size`` positions: permutations of ``rows``, so that all come equally often."""
    order = np.empty(0, dtype=np.int64)
    for _ in range(steps):
        while len(order) < size:
            order = np.concatenate([order, rows[torch.randperm(len(rows), generator=generator).numpy()]])
        group, order = order[:size], order[size:]
        yield group


def augment_batch(batch: TaskBatch, how: Augmentation, *, masked: bool, generator: torch.Generator) -> TaskBatch:
    """Return ``batch`` with each image under a symmetry drawn anew, its validity and mask with it.

    Images that are not square keep their sides: they are flipped only.
    """
    if how == "none":
        return batch
    square = batch.image.shape[-1] == batch.image.shape[-2] and (
        not masked or batch.target.shape[-1] == batch.target.shape[-2]
    )
    choices = _DIHEDRAL if how == "dihedral" and square else _FLIPS
    drawn = torch.randint(len(choices), (len(batch),), generator=generator)
    moved = [choices[number] for number in drawn.tolist()]
    target = _moved(batch.target, moved) if masked else batch.target
    return TaskBatch(_moved(batch.image, moved), _moved(batch.valid, moved), target)


_Symmetry = tuple[int, bool]  # quarter turns, then a mirror
_DIHEDRAL: tuple[_Symmetry, ...] = tuple((turns, mirrored) for turns in range(4) for mirrored in (False, True))
_FLIPS: tuple[_Symmetry, ...] = ((0, False), (0, True), (2, False), (2, True))


def _moved(x: Tensor, symmetries: list[_Symmetry]) -> Tensor:
    """Each of [b, ..., H, W] under its own symmetry."""
    turned = [torch.rot90(one, turns, (-2, -1)) for one, (turns, _) in zip(x, symmetries, strict=True)]
    return torch.stack(
        [one.flip(-1) if mirrored else one for one, (_, mirrored) in zip(turned, symmetries, strict=True)]
    )
