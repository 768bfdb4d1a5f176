"""A scene as a map of embeddings: the encoder's windows slid over it, their tokens blended on a grid of patches."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from math import isqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
import xarray as xr
from dask.delayed import Delayed
from torch import nn

from eo_ssl.commits import commit, write_beside
from eo_ssl.corpus import compute
from eo_ssl.embedding.cog_writer import Canvas, Georeference, optimise
from eo_ssl.embedding.table import Matrix, Stored
from eo_ssl.embedding.windows import Range, WindowAxis, plan_windows
from eo_ssl.encoder import Encoder
from eo_ssl.errors import expect
from eo_ssl.sensors import Quantity, convert

Flags = npt.NDArray[np.bool_]
_Delayed: Any = Delayed  # not typed
Scheduler = Literal["threads", "synchronous"]


@dataclass(frozen=True, slots=True)
class SceneSettings:
    """Settings of a scene's embedding."""

    overlap: float = 0.5
    "share of a window that the next one covers again"
    group: int = 8
    "windows along a side of the block that one task encodes"
    batch_size: int = 64
    "windows per forward pass"
    min_valid: float = 0.5
    "least share of a cell's pixels with all bands for the cell to have an embedding"
    stored: Stored = "float32"
    dask: Scheduler = "threads"
    device: str = "cpu"

    def __post_init__(self) -> None:
        """Refuse an empty batch."""
        expect(
            self.batch_size >= 1,
            expected="at least one window per forward pass",
            got=self.batch_size,
            remedy="give --batch_size 64",
        )

    def to_json(self) -> dict[str, Any]:
        """Return what decides the values of a map, as plain values."""
        return {key: value for key, value in asdict(self).items() if key not in ("dask", "device")}


@dataclass(frozen=True, slots=True)
class Mapped:
    """Size and validity of an embedded scene."""

    shape: tuple[int, int]
    "cells"
    windows: int
    blocks: int
    "tasks of the graph that encode, as many write"
    valid: float
    "share of the cells that have an embedding"


@dataclass(frozen=True, slots=True)
class TokenGrid:
    """Cells of an encoder's input."""

    side: int
    "along a side of the input"
    patch_px: int

    @property
    def window_px(self) -> int:
        """Side of the input."""
        return self.side * self.patch_px


def measure_token_grid(encoder: Encoder) -> TokenGrid:
    """Return how the tokens of ``encoder`` lie on its input: a square of equal patches.

    Raises:
        UserError: the contract has no size of its own, or the tokens are no such square.
    """
    contract = encoder.preprocessing
    expect(
        contract.resize != "native",
        expected="an encoder with an input size",
        got=f"{encoder.name}, whose contract takes images as they are",
        remedy="choose one with --window_px",
    )
    size = contract.size_px
    with torch.inference_mode():
        where = next((p.device for p in encoder.parameters()), None) if isinstance(encoder, nn.Module) else None
        count = int(encoder.tokens(torch.zeros(1, len(contract.bands), size, size, device=where)).shape[1])
    side = isqrt(count)
    expect(
        side * side == count and size % side == 0,
        expected=f"tokens on a square grid of equal patches of {size} px",
        got=f"{count} tokens of {encoder.name}",
        remedy="embed a corpus with it, one vector per tile",
    )
    return TokenGrid(side, size // side)


def embed_scene(
    encoder: Encoder,
    cube: xr.Dataset,
    path: Path,
    *,
    settings: SceneSettings,
    tags: Mapping[str, str],
    progress: Callable[[], None] | None = None,
) -> Mapped:
    """Write the embeddings of a scene to the Cloud-Optimized GeoTIFF ``path``, a band per dimension, a pixel per patch.

    A Dask graph of two tasks per block: one reads and encodes the block's windows, one adds up what its neighbours give
    and writes. The graph grows with the number of blocks; memory holds two rows of blocks, one batch of windows per
    worker and GDAL's bounded cache.

    Args:
        encoder: any whose tokens are a square grid of patches.
        cube: a product as ``Product.open`` gives it: named bands, tagged, NaN where invalid.
        path: of the file; one that is there already stays.
        settings: overlap, block, batch, type.
        tags: written into the file beside what is known of encoder and scene.
        progress: called after each task of the graph.

    Raises:
        UserError: the contract refuses the scene, a number is not finite, or the disk is full.
    """
    scene = SceneEmbedder(encoder, cube, settings)
    where = Georeference.of_cells(
        str(cube.attrs["crs"]), tuple(cube.attrs["transform"]), patch_px=scene.lattice.patch_px
    )
    down, right = scene.axes
    known = {**scene.tags, **tags}
    with write_beside(path) as temporary, write_beside(path.with_name(f"{path.name}.work")) as work:
        shape = (down.length, right.length)
        with Canvas(work, bands=encoder.dim, shape=shape, where=where, tags=known) as canvas:
            (valid,) = compute([scene.graph(canvas)], client=settings.dask, done=progress)
        optimise(work, temporary, bands=encoder.dim, stored=settings.stored)
        commit(path, temporary)
    windows = len(down.starts) * len(right.starts)
    return Mapped(shape, windows, down.groups * right.groups, valid / (shape[0] * shape[1]))


def check_scene(encoder: Encoder, cube: xr.Dataset, *, settings: SceneSettings) -> None:
    """Embed an empty window of a scene, so that what cannot be embedded is refused before a product is begun.

    Raises:
        UserError: another sensor, quantity or bands than the encoder's, or an overlap or a size that cannot be.
    """
    wanted, given = encoder.preprocessing.sensor, str(cube.attrs["sensor"])
    expect(
        wanted == given,
        expected=f"a scene of {wanted} for {encoder.name}",
        got=f"one of {given}",
        remedy="give another scene, or another encoder",
    )
    scene = SceneEmbedder(encoder, cube, settings)
    side = scene.lattice.window_px
    scene.tokens(np.full((1, len(scene.bands), side, side), np.nan, dtype=np.float32))


class SceneEmbedder:
    """One scene under one encoder: what each task does."""

    def __init__(self, encoder: Encoder, cube: xr.Dataset, settings: SceneSettings) -> None:
        if isinstance(encoder, nn.Module):
            encoder.to(settings.device)
        self.encoder, self.cube, self.settings, self.lattice = encoder, cube, settings, measure_token_grid(encoder)
        self._forward = (
            threading.Lock()
        )  # one pass at a time uses all cores; the other workers read and blend meanwhile
        sizes = {"patch_px": self.lattice.patch_px, "side": self.lattice.side}
        cut = {"overlap": settings.overlap, "group": settings.group}
        self.axes: tuple[WindowAxis, WindowAxis] = (
            plan_windows(int(cube.sizes["y"]), **sizes, **cut),  # type: ignore[arg-type]
            plan_windows(int(cube.sizes["x"]), **sizes, **cut),  # type: ignore[arg-type]
        )
        self.bands = tuple(str(name) for name in cube["band"].values)
        self.quantity = _choose_quantity(Quantity(str(cube.attrs["quantity"])), encoder.preprocessing.quantity)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of the file: encoder, contract, grid and provenance."""
        contract, attrs = self.encoder.preprocessing, self.cube.attrs
        own = {key: str(attrs[key]) for key in ("product_id", "datetime", "sensor", "licence", "attribution", "source")}
        return {
            "EO_SSL_ENCODER": self.encoder.name,
            "EO_SSL_ENCODER_FINGERPRINT": self.encoder.fingerprint,
            "EO_SSL_CONTRACT_FINGERPRINT": contract.fingerprint,
            "EO_SSL_QUANTITY": self.quantity.value,
            "EO_SSL_BANDS": " ".join(contract.bands),
            "EO_SSL_PATCH_PX": str(self.lattice.patch_px),
            "EO_SSL_WINDOW_PX": str(self.lattice.window_px),
            "EO_SSL_STRIDE_PX": str(self.axes[0].stride * self.lattice.patch_px),
            "EO_SSL_BLENDING": "raised cosine, weights sum to one",
            **{f"EO_SSL_{key.upper()}": value for key, value in own.items()},
        }

    def graph(self, canvas: Canvas) -> Any:
        """Return the Dask graph that writes the blocks to ``canvas``; its result is the number of valid cells.

        It is written out as one mapping, since tasks made one by one each merge the graphs of all before them. A row
        begins when the one before it is written: left to itself Dask walks down a tall scene and keeps all it meets
        there.
        """
        down, right = self.axes
        name = f"embed-{uuid.uuid4().hex}"
        tasks: dict[Any, Any] = {}
        before: Any = 0
        across = [right.contributors(j) for j in range(right.groups)]
        for i in range(down.groups):
            above = down.contributors(i)
            for j in range(right.groups):
                tasks[name, "encode", i, j] = (self.encode, i, j, before)
                near = [(name, "encode", m, n) for m in above for n in across[j]]
                tasks[name, "write", i, j] = (self.finish, canvas, i, j, near)
            before = (name, "row", i)
            tasks[before] = (sum, [(name, "write", i, j) for j in range(right.groups)])
        tasks[name] = (sum, [(name, "row", i) for i in range(down.groups)])
        return _Delayed(name, tasks)

    def encode(self, i: int, j: int, after: int = 0) -> tuple[tuple[int, int], Matrix, Flags]:
        """Return first cell, weighted sum of tokens [h, w, D] and validity [h, w] of the windows of group (i, j).

        ``after`` is what the graph waits for: the row before.
        """
        down, right = self.axes
        rows, columns = down.footprint(i), right.footprint(j)
        pixels = self._read(rows, columns)  # [C, h * patch, w * patch]
        side, patch, size = self.lattice.side, self.lattice.patch_px, self.lattice.window_px
        height, width = rows[1] - rows[0], columns[1] - columns[0]
        finite = np.isfinite(pixels).all(axis=0)
        cells = finite.reshape(height, patch, width, patch).mean(axis=(1, 3), dtype=np.float64)
        total = np.zeros((height, width, self.encoder.dim), dtype=np.float32)
        corners = [
            (m, n, down.starts[m] - rows[0], right.starts[n] - columns[0])
            for m in down.windows(i)
            for n in right.windows(j)
        ]
        measured: Flags = np.asarray(np.isfinite(pixels).any(axis=0))
        corners = [c for c in corners if measured[_span(c[2] * patch, size), _span(c[3] * patch, size)].any()]
        for first in range(0, len(corners), self.settings.batch_size):
            batch = corners[first : first + self.settings.batch_size]
            images = [pixels[:, _span(y * patch, size), _span(x * patch, size)] for _, _, y, x in batch]
            for (m, n, y, x), tokens in zip(batch, self.tokens(np.stack(images)), strict=True):
                weight = (down.weights[m][:, None] * right.weights[n]).astype(np.float32)
                total[_span(y, side), _span(x, side)] += weight[..., None] * tokens
        return (rows[0], columns[0]), total, cells >= self.settings.min_valid

    def finish(self, canvas: Canvas, i: int, j: int, parts: list[tuple[tuple[int, int], Matrix, Flags]]) -> int:
        """Add up what the groups give to block (i, j), write it, and return its number of valid cells."""
        down, right = self.axes
        rows, columns = down.block(i), right.block(j)
        total = np.zeros((rows[1] - rows[0], columns[1] - columns[0], self.encoder.dim), dtype=np.float32)
        valid = np.zeros(total.shape[:2], dtype=bool)
        for (top, left), values, flags in parts:  # in one order, whatever the order they were made in
            ours, theirs = zip(
                _intersect(rows, (top, top + len(values))),
                _intersect(columns, (left, left + values.shape[1])),
                strict=True,
            )
            total[ours] += values[theirs]
            valid[ours] |= flags[theirs]
        total[~valid] = np.nan
        canvas.write(np.ascontiguousarray(total.transpose(2, 0, 1)), rows=rows, columns=columns)
        return int(valid.sum())

    def _read(self, rows: Range, columns: Range) -> Matrix:
        """Physical values of the cells' pixels in the contract's quantity, NaN beyond the scene."""
        patch = self.lattice.patch_px
        (top, bottom), (left, end) = ((first * patch, last * patch) for first, last in (rows, columns))
        out = np.full((len(self.bands), bottom - top, end - left), np.nan, dtype=np.float32)
        part = self.cube["image"].isel(y=slice(top, bottom), x=slice(left, end)).values
        source = Quantity(str(self.cube.attrs["quantity"]))
        out[:, : part.shape[1], : part.shape[2]] = convert(part, source=source, target=self.quantity)
        return out

    def tokens(self, images: Matrix) -> Matrix:
        """Tokens of windows [n, C, size, size] as [n, side, side, D] float32."""
        contract, side = self.encoder.preprocessing, self.lattice.side
        with self._forward, torch.inference_mode():
            x, valid = contract(
                torch.from_numpy(images).to(self.settings.device),
                bands=self.bands,
                quantity=self.quantity,
                sensor=str(self.cube.attrs["sensor"]),
            )
            tokens: Matrix = self.encoder.tokens(x, valid=valid).to("cpu", torch.float32).numpy()
        expect(
            np.isfinite(tokens).all(),
            expected=f"finite tokens of {self.encoder.name}",
            got=f"NaN or infinity in {self.cube.attrs['product_id']}",
            remedy="train the encoder again",
        )
        return tokens.reshape(len(images), side, side, -1)


def _choose_quantity(given: Quantity, wanted: Quantity) -> Quantity:
    """Quantity that the scene is handed over in: a power and its own decibels become each other, as at ingestion."""
    same_power = (given.is_db and given.in_power == wanted) or (given.is_power and given.in_db == wanted)
    return wanted if same_power else given


def _span(start: int, size: int) -> slice:
    return slice(start, start + size)


def _intersect(ours: Range, theirs: Range) -> tuple[slice, slice]:
    """Return the cells that two ranges share, as a slice of each."""
    low, high = max(ours[0], theirs[0]), min(ours[1], theirs[1])
    return slice(low - ours[0], high - ours[0]), slice(low - theirs[0], high - theirs[0])
