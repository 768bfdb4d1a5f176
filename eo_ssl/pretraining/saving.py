"""The encoders of a finished run, each with the contract of its stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_ssl.encoder import save_encoder
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import OpenProduct, open_product
from eo_ssl.models import Backbone
from eo_ssl.objectives import Objective
from eo_ssl.pretraining.training_data import TrainingData
from eo_ssl.product_files import KEY, hash_files

_MAY_GO = ("checkpoints", "logs")


def save_encoders(
    objective: Objective, data: TrainingData, product: OpenProduct, *, seed: int, summary: Mapping[str, Any]
) -> None:
    """Write the encoder, or one per stream, each in a signed folder of its own, and sign the product with its files."""
    embedders = objective.embedders
    if len(embedders) == 1:
        ((stream, embedder),) = embedders.items()
        made = _save_one(product.folder, embedder, data, product, stream)
    else:
        made = fingerprint(_save_each(embedders, data, product))
    product.sign(made, seed=seed, summary={**summary, **record_files(product.folder)})


def _save_each(embedders: Mapping[str, Backbone], data: TrainingData, product: OpenProduct) -> dict[str, str]:
    """Write the encoder of each stream to a folder of its own and return their fingerprints."""
    saved = {}
    for stream, embedder in embedders.items():
        config = {**product.config, "stream": stream}
        with open_product(product.folder / stream, stage="pretrain", config=config, inputs=product.inputs) as part:
            saved[stream] = _save_one(part.folder, embedder, data, product, stream)
            if not part.done:
                part.sign(saved[stream], summary=record_files(part.folder))
    return saved


def record_files(folder: Path) -> dict[str, Any]:
    """Return the part of a summary that names what a run leaves for good; checkpoints and loggers' files may go."""
    return {KEY: hash_files(folder, without=_MAY_GO)}


def _save_one(folder: Path, embedder: Backbone, data: TrainingData, product: OpenProduct, stream: str) -> str:
    """Write the encoder of `stream` to `folder` and return its fingerprint."""
    origin = {"inputs": dict(data.inputs), "config": dict(product.config), "licences": data.licences}
    return save_encoder(folder, embedder, preprocessing=data.items.contracts[stream], provenance=origin)
