"""Views of a batch of items as a method declares them, made on its device from (seed, step, view name, index)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from eo_ssl.errors import UserError, expect
from eo_ssl.models import View
from eo_ssl.objectives import Batch, Step, ViewSpec, derive_seed
from eo_ssl.preprocessing import Preprocessing, scale_gsd
from eo_ssl.pretraining.augmentation import (
    apply_gain,
    cut_windows,
    draw_windows,
    measure_enlargement,
    span_whole,
    turn_randomly,
    turn_windows,
)
from eo_ssl.pretraining.physical_changes import Chance, augment_tiles, drop_bands, refuse_misplaced_changes


@dataclass(frozen=True, slots=True)
class ItemBatch:
    """Items as they were read and normalised, before any view is made of them."""

    streams: Mapping[str, tuple[Tensor, Tensor]]
    """By stream: image [B, D, C, S, S] float32, normalised, and valid, bool; D dates."""
    rows: Tensor
    """[B] int64, items of the source."""
    step: Step
    """Where the run stands."""
    metadata: Mapping[str, Tensor] = field(default_factory=dict)
    """By stream: what is known of tiles beside their pixels, [B, D, 5] float32 as `image_metadata` has it."""

    def to(self, device: torch.device | str, **options: Any) -> ItemBatch:
        """The batch on another device; Lightning calls this."""
        moved = {
            name: (image.to(device, **options), valid.to(device, **options))
            for name, (image, valid) in self.streams.items()
        }
        metadata = {name: known.to(device, **options) for name, known in self.metadata.items()}
        return ItemBatch(moved, self.rows.to(device, **options), self.step, metadata)


class ViewMaker:
    """Makes the views of a method's table; adding a view moves no other's random numbers."""

    def __init__(
        self, specs: Mapping[str, ViewSpec], contracts: Mapping[str, Preprocessing], *, dates: int = 1
    ) -> None:
        """Prepare for items of the streams `contracts`, each with `dates` dates.

        Raises:
            UserError: a view of a stream that the items do not hold, or a stream or date that no view is made of.
        """
        self.specs, self.contracts, self.dates = dict(specs), dict(contracts), dates
        self.sources = {name: self._sources(spec) for name, spec in self.specs.items()}
        used = {self.sources[name][i % len(self.sources[name])] for name, i, _ in self._all_views()}
        for name, spec in self.specs.items():
            made_of = [self.contracts[stream] for stream, _ in self.sources[name][: spec.count]]
            refuse_misplaced_changes(name, spec, made_of)
        unused = [stream for stream in self.contracts if all(stream != other for other, _ in used)]
        if unused:
            raise UserError(
                f"expected views of every stream of the items, got none of {', '.join(unused)};"
                " choose an objective that compares streams, such as SimClr, or train on tiles"
            )
        shown = len({date for _, date in used})
        expect(
            shown == dates,
            expected=f"views of all {dates} dates of an item",
            got=f"views of {shown}",
            remedy="lower --dates, raise the count of a view, or train on tiles, each date an item of its own",
        )

    def __call__(self, batch: ItemBatch) -> Batch:
        """The views of the batch, by the name of their group."""
        views: dict[str, list[View]] = {name: [] for name in self.specs}
        for name, index, spec in self._all_views():
            views[name].append(self._view(batch, name, index, spec))
        return Batch(views, batch.rows, batch.step)

    def _all_views(self) -> Iterator[tuple[str, int, ViewSpec]]:
        return ((name, index, spec) for name, spec in self.specs.items() for index in range(spec.count))

    def _sources(self, spec: ViewSpec) -> list[tuple[str, int]]:
        """Streams and dates that the views of a group are made of, in turn."""
        if spec.stream == "season" and (len(self.contracts) > 1 or self.dates < 2):
            raise UserError(
                "expected items with several dates for views of stream season, got one date; train with --items places"
            )
        wanted = list(self.contracts) if spec.stream in ("tile", "season") else [spec.stream]
        if wanted[0] not in self.contracts:
            raise UserError(
                f"expected views of the streams {', '.join(self.contracts)} of the items, or of tile,"
                f" got {spec.stream}; train on pairs with --items pairs, or change the stream of the view"
            )
        return [(stream, date) for stream in wanted for date in range(self.dates)]

    def _view(self, batch: ItemBatch, name: str, index: int, spec: ViewSpec) -> View:
        stream, date = self.sources[name][index % len(self.sources[name])]
        contract = self.contracts[stream]
        image, valid = (values[:, date] for values in batch.streams[stream])  # [B, C, S, S]
        draw = partial(_generator, batch.step, name, index)
        image = augment_tiles(image, valid, spec, contract, draw)  # on the sensor's own pixels, before the crop
        geometry = _generator(batch.step, "aligned" if spec.aligned else name, index, Chance.GEOMETRY)
        side, crop = spec.size_px(contract.size_px), spec.crop
        window = span_whole(len(image)) if crop is None else draw_windows(len(image), scale=crop, rng=geometry)
        if crop is not None or side != contract.size_px:
            turned = turn_windows(window, rng=geometry) if spec.flips else window
            image, valid = cut_windows(image, valid, turned, size_px=side)
        elif spec.flips:
            image, valid = turn_randomly(image, valid, rng=geometry)
        image = _change_radiometry(image, spec, contract, draw(Chance.RADIOMETRY))
        if spec.drop_bands:
            valid = drop_bands(valid, share=spec.drop_bands, rng=draw(Chance.BANDS))
        image = torch.where(valid, image, image.new_zeros(()))
        metadata = batch.metadata[stream][:, date] if stream in batch.metadata else None  # [B, 5]
        if metadata is not None:
            larger = measure_enlargement(window, tile_px=contract.size_px, size_px=side)
            metadata = scale_gsd(metadata, larger.to(metadata.device))
        return View(
            image,
            valid,
            contract.bands,
            stream,
            metadata=metadata,
            seed=_seed_of(batch.step, name, index, Chance.NETWORK),
            bands_seed=derive_seed(batch.step.common_seed, Chance.NETWORK),
        )


def _generator(step: Step, name: str, index: int, kind: Chance) -> torch.Generator:
    """Random numbers of one view: the objective's own come from the step's seed itself, so none repeats another's."""
    return torch.Generator().manual_seed(_seed_of(step, name, index, kind))


def _seed_of(step: Step, name: str, index: int, kind: int) -> int:
    return derive_seed(step.seed, zlib.crc32(name.encode()), index, kind)


def _change_radiometry(image: Tensor, spec: ViewSpec, contract: Preprocessing, rng: torch.Generator) -> Tensor:
    """The normalised image [B, C, H, W] with a random gain of each band and noise."""
    if spec.gain:
        draw = 1 + spec.gain * (2 * torch.rand(*image.shape[:2], 1, 1, generator=rng) - 1)  # [B, C, 1, 1]
        image = apply_gain(image, draw.to(image.device), contract)
    if spec.noise:
        image = image + spec.noise * torch.randn(image.shape, generator=rng).to(image.device)
    return image
