"""Sampled windows: a few of a product in physical units, with what its card declares."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.cards import Card
from eo_ssl.corpus import Corpus
from eo_ssl.errors import UserError
from eo_ssl.scene import Product, assign_offsets
from eo_ssl.scene import list_products as list_scenes
from eo_ssl.sensors import Quantity

Floats = npt.NDArray[np.float32]
WINDOW_PX = 256
WINDOWS = 16
_TILES = 4  # of a corpus, per product
_PARENTS = 6  # folders above a file that may be the root of its set


@dataclass(frozen=True, slots=True)
class Sample:
    """Windows of one product. Holding them is the memory that an examination costs: 55 MB for 13 bands."""

    product_id: str
    sensor: str
    quantity: Quantity
    bands: tuple[str, ...]
    windows: tuple[Floats, ...]
    "each [band, y, x] in physical units as declared, NaN where declared invalid"
    borders: tuple[tuple[bool, bool, bool, bool], ...] = ()
    "per window: whether its top, bottom, left and right side is a side of the product"
    scale: float = 1.0
    offset: float = 0.0
    "declared: physical = (stored + offset) * scale; 1 and 0 for products that describe themselves"
    baseline: str = ""
    "processing baseline that the metadata state"
    listed_as: str = ""
    "path of the product below the root, its key in `offset_by_file`; empty where the card cannot say an offset"
    declared: bool = True
    "whether anybody says what the offset is; a file that `offset_by_file` does not list is read as if it had none"
    file_bands: tuple[str, ...] = ()
    "bands in the order of the file, as the card lists them; empty where no card says what the pixels mean"

    @property
    def size(self) -> int:
        """Pixels of one band."""
        return sum(window[0].size for window in self.windows)

    def pixels(self) -> Floats:
        """Return [band, pixel] of the pixels that are valid in all bands."""
        flat = np.concatenate([window.reshape(len(self.bands), -1) for window in self.windows], axis=1)
        return flat[:, np.isfinite(flat).all(axis=0)]

    def times(self, factor: float) -> Sample:
        """Return what a card with ``factor`` times the scale would read."""
        windows = tuple(window * np.float32(factor) for window in self.windows)
        return replace(self, windows=windows, scale=self.scale * factor)

    def named(self, bands: tuple[str, ...]) -> Sample:
        """Return the same planes under other names."""
        return replace(self, bands=bands)


def list_products(card: Card, root: Path, *, allow_outside: bool = False) -> tuple[Product, ...]:
    """Return all products of a card, those that its ``offset_by_file`` does not list with the offset None.

    Args:
        card: of the set.
        root: folder that the card's patterns are relative to.
        allow_outside: let a STAC catalogue in files name files outside ``root``.

    Raises:
        UserError: nothing matches, or a product's metadata is absent.
    """
    listed = list_scenes(replace(card, offset_by_file={}), root, allow_outside=allow_outside).products
    return tuple(assign_offsets(card, listed)) if card.offset_by_file else listed


def find_products(card: Card, place: Path, *, allow_outside: bool = False) -> tuple[Product, ...]:
    """Return the products of a card at ``place``: the root of the set, a folder below it, or one file.

    ``allow_outside`` as in `list_products`.

    Raises:
        UserError: ``place`` does not exist, or no folder above it is a root of such products.
    """
    if not place.exists():
        raise UserError(f"expected data at {place}, found nothing; give the folder or file to examine")
    here = place.absolute()
    failure: UserError | None = None
    for root in (here, *here.parents)[:_PARENTS]:
        if not root.is_dir():
            continue
        try:
            listed = list_products(card, root, allow_outside=allow_outside)
        except UserError as error:
            failure = failure or error
            continue
        inside = tuple(item for item in listed if root == here or any(path.is_relative_to(here) for path in item.paths))
        if inside:
            return inside
    raise failure or UserError(
        f"expected products of card {card.name} at {place}, found none; give another folder or card"
    )


def sample_product(product: Product) -> Sample:
    """Return up to 16 windows of at most 256 x 256 pixels, spread evenly from border to border.

    Raises:
        UserError: the product is a batch of chips, or a file is absent or damaged.
    """
    cube = product.open(plausible=False)
    height, width = cube.sizes["y"], cube.sizes["x"]
    spans = [(rows, columns) for rows in _spread_spans(height) for columns in _spread_spans(width)]
    windows, borders = [], []
    for (top, bottom), (left, right) in spans:
        windows.append(cube["image"].isel(y=slice(top, bottom), x=slice(left, right)).values.astype(np.float32))
        borders.append((top == 0, bottom == height, left == 0, right == width))
    card = product.card
    by_card = product.is_described_by_card
    return Sample(
        product.product_id,
        card.sensor,
        card.quantity,
        product.bands,
        tuple(windows),
        tuple(borders),
        card.scale if by_card else 1.0,
        product.offset if by_card else 0.0,
        product.acquisition.processing_baseline,
        product.place,
        product.acquisition.offset is not None,
        card.bands if by_card else (),
    )


def sample_corpus(corpus: Corpus, stream: str) -> Iterator[Sample]:
    """Yield a sample of each product of a stream: up to 4 of its tiles, evenly spaced in the index."""
    table = corpus.index(stream, columns=["product_id", "processing_baseline"])
    ids = table["product_id"].to_numpy(zero_copy_only=False).astype(str)
    baselines = table["processing_baseline"].to_numpy(zero_copy_only=False)
    reader = corpus.stream(stream)
    kind = corpus.streams[stream]
    order = np.argsort(ids, kind="stable")
    names, first = np.unique(ids[order], return_index=True)
    for product_id, rows in zip(names.tolist(), np.split(order, first[1:]), strict=True):
        chosen = rows[np.unique(np.linspace(0, len(rows) - 1, _TILES).round().astype(np.int64))]
        tiles = reader.read(chosen)
        yield Sample(
            str(product_id),
            kind.sensor,
            kind.quantity,
            kind.bands,
            tuple(tiles),
            tuple((False, False, False, False) for _ in tiles),
            baseline=str(baselines[rows[0]]),
        )


def _spread_spans(size: int) -> list[tuple[int, int]]:
    """Return up to 4 ranges of at most 256, from the first pixel to the last."""
    count = min(round(WINDOWS**0.5), -(-size // WINDOW_PX))
    length = min(size, WINDOW_PX)
    starts = np.linspace(0, size - length, count).round().astype(int).tolist()
    return [(start, start + length) for start in starts]
