"""What the three layouts share: settings of the card, void ids, the centre crop and the corners of a chip."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pyproj import Transformer

from eo_ssl.cards import Card, SampleSelection
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import identify_file
from eo_ssl.scene.chip import UNLABELLED, Chip
from eo_ssl.scene.radiometry import Radiometry

BATCH = 64  # places per product: with four seasons as many chips as a shard holds, and what a file of v1.1 has


def get_settings(card: Card) -> SampleSelection:
    """Return the card's part about samples.

    Raises:
        UserError: there is none.
    """
    if card.samples is None:
        raise UserError(f"expected card {card.name} to have `samples`, got none; add it")
    return card.samples


def make_radiometry(card: Card) -> Radiometry:
    """Return the card's radiometry; the offset of a release is declared there and nowhere else."""
    nodata = () if card.nodata is None else (card.nodata,)
    return Radiometry(card.quantity, card.scale, card.offset, nodata)


def read_void_ids(card: Card, root: Path) -> frozenset[str]:
    """Return the ids to leave out: the first column of the card's ``void_ids`` file, with or without a heading.

    Raises:
        UserError: the card names a file that does not exist.
    """
    name = get_settings(card).void_ids
    if not name:
        return frozenset()
    identify_file(root / name)
    with (root / name).open(newline="", encoding="utf-8") as file:
        return frozenset(row[0].strip().zfill(7) for row in csv.reader(file) if row and row[0].strip().isdigit())


def group_ids(names: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield (name of the batch, its ids): those that share ``id // 64``, so that no batch depends on the others.

    Raises:
        UserError: an id is no number.
    """
    groups: dict[int, list[str]] = {}
    for name in sorted(names):
        if not name.isdigit():
            raise UserError(
                f"expected ids of digits such as 0012345 as folder names, got {name!r}; correct `files` of the card"
            )
        groups.setdefault(int(name) // BATCH, []).append(name)
    for number, members in sorted(groups.items()):
        yield f"{number * BATCH:07d}", tuple(members)


def crop_sample(
    stored: npt.NDArray[Any] | npt.NDArray[np.float32], card: Card, name: str, *, physical: bool = False, **facts: Any
) -> Chip:
    """Return the centre crop of a sample as a chip.

    Args:
        stored: [C, H, W] in the card's band order, as stored (or in physical units when ``physical``).
        card: what the numbers are.
        name: of the chip within the set.
        physical: whether offset and scale were applied already.
        facts: further fields of :class:`Chip`; ``sha256`` is that of the stored bytes unless given, ``masks`` are
            cropped too.

    Raises:
        UserError: the sample has another number of bands than the card, or is smaller than the crop.
    """
    size = get_settings(card).crop_px
    if stored.ndim != 3 or len(stored) != len(card.bands) or min(stored.shape[1:]) < size:
        raise UserError(
            f"expected {len(card.bands)} bands of at least {size} x {size} pixels in {name}, got {stored.shape}; "
            f"correct card {card.name}"
        )
    height, width = stored.shape[1:]
    top, left = (height - size) // 2, (width - size) // 2
    cut = np.s_[..., top : top + size, left : left + size]
    image = (
        np.ascontiguousarray(stored[cut], dtype=np.float32) if physical else make_radiometry(card).physical(stored[cut])
    )
    masks = {key: mask[cut] for key, mask in facts.pop("masks", {}).items()}
    image[:, masks.pop("nodata", np.zeros(image.shape[1:], dtype=bool))] = np.nan
    digest = facts.pop("sha256", "") or hashlib.sha256(np.ascontiguousarray(stored).data).hexdigest()
    return Chip(
        image=image,
        valid=np.asarray(np.isfinite(image).all(axis=0)),
        name=name,
        sha256=digest,
        label=UNLABELLED,
        label_name="",
        split="",
        width_px=width,
        height_px=height,
        row_off=top,
        col_off=left,
        masks=masks,
        **facts,
    )


def locate_corners(epsg: int, x: tuple[float, float], y: tuple[float, float]) -> tuple[tuple[float, float], ...]:
    """Return the corners (longitude, latitude) of a rectangle given by its sides in metres of a projected system."""
    lon, lat = Transformer.from_crs(epsg, 4326, always_xy=True).transform(
        [x[0], x[1], x[1], x[0]], [y[0], y[0], y[1], y[1]]
    )
    return tuple(zip(map(float, lon), map(float, lat), strict=True))


def choose_seasons(card: Card, times: Iterable[Any]) -> list[int]:
    """Return positions of ``times`` that the card wants, in the order of time: folders are in no order."""
    known = list(times)
    order = sorted(range(len(known)), key=lambda position: known[position])
    return [order[season] for season in get_settings(card).seasons if season < len(order)]
