"""Features of two augmented looks at some items, by which an event of curation tells how far to trust the features."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from eo_ssl.objectives import Step, ViewSpec, derive_seed
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.module import Pretraining
from eo_ssl.pretraining.sampler import Rows
from eo_ssl.pretraining.view_maker import ItemBatch, ViewMaker

LOOK = ViewSpec(count=2, crop=(0.4, 1.0), gain=0.2)
"""Another part of the tile in another light, the same for all objectives, so that their figures compare; ours"""
Looks = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]


def embed_two_looks(module: Pretraining, loader: ItemLoader, rows: Rows, *, seed: int) -> Looks:
    """Features of two looks at the first tile of items, in evaluation mode: float32 [n, D] each, on every process.

    Args:
        module: whose embedder looks.
        loader: of the items.
        rows: int64 [n], items.
        seed: of the looks; the same seed gives the same bits.
    """
    stream = next(iter(loader.items.contracts))
    maker = ViewMaker({"look": LOOK}, {stream: loader.items.contracts[stream]})
    found: list[list[npt.NDArray[np.float32]]] = [[], []]
    size = loader.sampler.batch_size
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        image, valid = (values[:, :1].to(module.device) for values in loader.normalised(part)[stream])
        own = derive_seed(seed, at)
        batch = ItemBatch({stream: (image, valid)}, torch.from_numpy(part), Step(0, 1, own, common_seed=own))
        for features, view in zip(found, maker(batch).views["look"], strict=True):
            features.append(module.embed([view]).numpy())
    first, second = (np.concatenate(features) for features in found)
    return first, second
