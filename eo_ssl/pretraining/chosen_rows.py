"""What subsets say of the tiles of joined streams: which of them are kept, and how often each is to come up."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from eo_ssl.corpus import Corpus
from eo_ssl.curation import read_subset
from eo_ssl.errors import UserError
from eo_ssl.manifest import Manifest

Named = list[tuple[Corpus, str]]
"""Streams of corpora by name, in the order in which their tiles are joined."""


def keep_within_subsets(
    usable: npt.NDArray[np.bool_], named: Named, offsets: npt.NDArray[np.int64], subsets: dict[Path, Manifest]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
    """`usable` [N], less the rows that the subset of their stream does not keep, and the weights [N] of the others."""
    kept, weights = usable.copy(), np.ones(len(usable), dtype=np.float32)
    for path, manifest in subsets.items():
        stream = manifest.config["stream"]
        origin = (manifest.inputs["corpus"], stream)
        place = next(i for i, (corpus, name) in enumerate(named) if (corpus.fingerprint, name) == origin)
        begin, end = offsets[place], offsets[place + 1]
        chosen = np.zeros(end - begin, dtype=bool)
        rows, weighed = read_subset(path, manifest)
        chosen[rows] = True
        weights[begin + rows] = weighed
        beyond = int((chosen & ~usable[begin:end]).sum())
        if beyond:
            raise UserError(
                f"expected rows of the training split in the subset {path}, got {beyond} others:"
                " curate with --split train"
            )
        kept[begin:end] &= chosen
    return kept, weights


def weigh_items(parts: list[npt.NDArray[np.float32]]) -> npt.NDArray[np.float32] | None:
    """Mean weight of the tiles [n, dates] of each stream of every item: float32 [n]; None where all weigh 1."""
    tiles = np.concatenate(parts, axis=1)
    return None if (tiles == 1).all() else tiles.mean(axis=1, dtype=np.float32)
