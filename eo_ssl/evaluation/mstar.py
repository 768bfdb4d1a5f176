"""MSTAR, standard operating conditions: ten vehicles, few shots, centre crops, the controls that the data demand.

The size of a chip tells its class (61 % of the test chips by a rule on width and height alone) and so does the clutter
around the target, so what those reach stands beside every result.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from eo_ssl.errors import UserError
from eo_ssl.evaluation.sources import ImageSource, Matrix, Rows, open_corpus_source, read_images
from eo_ssl.evaluation.splits import Fold
from eo_ssl.evaluation.tasks import (
    Control,
    CorpusStream,
    Task,
    find_labelled_rows,
    rank_names,
    read_numbers,
    read_texts,
)

SHOTS = (1, 5, 10, 20)
CLUTTER_PX = 128  # side of the crops that hold the clutter
TARGET_PX = 80  # side of the centre that is zeroed: no vehicle reaches beyond it
CONTROL_PX = 32  # side of the image the clutter is compared at


def make_mstar_task(chips: CorpusStream, *, clutter: CorpusStream, name: str = "mstar_soc") -> Task:
    """Return the few-shot task on centre crops with the controls `size only` and `clutter only`.

    Args:
        chips: corpus and stream of the centre crops (64 px) with labels, ``benchmark_split`` train and test, and the
            size of the chip.
        clutter: corpus and stream of 128-px crops of the same chips.
        name: of the task.

    Raises:
        UserError: no labels or split, no chip sizes, another crop size, or chips without their 128-px crop.
    """
    corpus, stream = chips
    rows, table = find_labelled_rows(chips)
    declared = read_texts(table, "benchmark_split")
    chosen = np.flatnonzero((declared == "train") | (declared == "test"))
    rows, table, declared = rows[chosen], table.take(chosen), declared[chosen]
    if not (declared == "train").any() or not (declared == "test").any():
        raise UserError(
            f"expected labelled chips with benchmark_split train and test in stream {stream}, got none of one; ingest "
            "with the card mstar_soc"
        )
    classes = read_texts(table, "label_name")
    names, labels = np.unique(classes, return_inverse=True)
    files = read_texts(table, "source")
    sizes = read_numbers(table, ("source_width_px", "source_height_px"))
    if not np.isfinite(sizes).all():
        raise UserError(
            f"expected the size of the whole chip for every row of {stream}, got some without; ingest the chips again"
        )
    folds = (
        Fold(np.flatnonzero(declared == "train"), np.flatnonzero(declared == "test"), np.empty(0, dtype=np.int64)),
    )
    controls = (
        Control("control: chip size only", sizes.astype(np.float32), "width and height of the whole chip, no pixel"),
        Control(
            "control: clutter only",
            _clutter(clutter, files),
            f"{CLUTTER_PX}-px crop, centre {TARGET_PX} px zeroed, at {CONTROL_PX} px",
        ),
    )
    # Chips are separate images of separate targets and depressions (17 degrees train, 15 test): each is its own block.
    return Task(
        name,
        (open_corpus_source(corpus, stream, rows=rows),),
        labels.astype(np.int64),
        tuple(names.tolist()),
        np.arange(len(rows), dtype=np.int64),
        folds,
        "SOC: train at 17 degrees depression, test at 15; blocks are chips",
        "accuracy",
        controls=controls,
        rank=rank_names(files.tolist()),
    )


def _clutter(crops: CorpusStream, chips: np.ndarray[tuple[int, ...], np.dtype[np.str_]]) -> Matrix:
    """Pixels of the 128-px crop of each chip without its centre, resized: [n, 1024] float32."""
    corpus, stream = crops
    rows, table = find_labelled_rows(crops)
    of = {chip: int(row) for chip, row in zip(table["source"].to_pylist(), rows, strict=True)}
    absent = [chip for chip in chips.tolist() if chip not in of]
    if absent:
        raise UserError(
            f"expected a {CLUTTER_PX}-px crop of every chip in stream {stream}, got none of {len(absent)}, e.g. "
            f"{absent[0]}; ingest the same chips"
        )
    wanted = np.array([of[chip] for chip in chips.tolist()], dtype=np.int64)
    order = np.argsort(wanted)
    source = open_corpus_source(corpus, stream, rows=wanted[order])
    if source.shape[1:] != (CLUTTER_PX, CLUTTER_PX):
        raise UserError(
            f"expected crops of {CLUTTER_PX} px for the clutter control, got {source.shape[2]} px in {stream}; ingest "
            f"with size_px={CLUTTER_PX}"
        )
    x = np.empty((len(wanted), source.shape[0] * CONTROL_PX**2), dtype=np.float32)
    x[order] = compute_clutter_features(source)
    return x


def compute_clutter_features(source: ImageSource, *, batch_size: int = 256) -> Matrix:
    """Return the images of ``source`` without their centre, at 32 px, as one row each: [n, C * 1024] float32."""
    size = source.shape[2]
    low, high = (size - TARGET_PX) // 2, (size + TARGET_PX) // 2
    parts = []
    for start in range(0, len(source), batch_size):
        positions: Rows = np.arange(start, min(start + batch_size, len(source)), dtype=np.int64)
        image = torch.nan_to_num(read_images(source, positions), nan=0.0)
        image[:, :, low:high, low:high] = 0.0
        small = functional.interpolate(
            image, size=(CONTROL_PX, CONTROL_PX), mode="bilinear", align_corners=False, antialias=True
        )
        parts.append(small.flatten(1).numpy())
    return np.concatenate(parts)
