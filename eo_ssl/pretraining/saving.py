"""The encoders of a finished run, each with the contract of its stream."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from eo_ssl.encoder import save_encoder, save_fusion, save_location_encoder
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import MANIFEST, UNFINISHED, OpenProduct, open_product
from eo_ssl.models import Backbone, copy_merged
from eo_ssl.objectives import LocatedObjective, Objective
from eo_ssl.pretraining.initial_encoder import add_sources
from eo_ssl.pretraining.training_data import TrainingData

_MAY_GO = ("checkpoints", "logs")


def save_encoders(
    objective: Objective,
    data: TrainingData,
    product: OpenProduct,
    *,
    seed: int,
    cost: Mapping[str, int],
    summary: Mapping[str, Any],
) -> None:
    """Write the encoder, or one per stream, each in a signed folder of its own, and sign the product with its files.

    Beside them that of places, and what joins the tokens of two sensors, where they were trained.

    Args:
        objective: that was trained.
        data: that it was trained on.
        product: whose folder receives them.
        seed: of the run.
        cost: of the run so far, as `RunCost` says it; each encoder carries it.
        summary: what the manifest says beside it.
    """
    if isinstance(objective, LocatedObjective):
        save_location_encoder(product.folder, objective.places)
    data = add_sources(data, objective.inputs, objective.licences)
    embedders = objective.embedders
    if len(embedders) == 1:
        ((stream, embedder),) = embedders.items()
        made = _save_one(product.folder, embedder, data, product, stream, cost)
    else:
        saved = _save_each(embedders, data, product, cost)
        if objective.fused is not None:
            saved["fusion"] = save_fusion(product.folder, objective.fused)
        made = fingerprint(saved)
    product.sign(made, seed=seed, summary={**summary, **cost}, files=list_files(product.folder))


def _save_each(
    embedders: Mapping[str, Backbone], data: TrainingData, product: OpenProduct, cost: Mapping[str, int]
) -> dict[str, str]:
    """Write the encoder of each stream to a folder of its own and return their fingerprints."""
    saved = {}
    for stream, embedder in embedders.items():
        config = {**product.config, "stream": stream}
        with open_product(product.folder / stream, stage="pretrain", config=config, inputs=product.inputs) as part:
            saved[stream] = _save_one(part.folder, embedder, data, product, stream, cost)
            if not part.done:
                part.sign(saved[stream], files=list_files(part.folder))
    return saved


def list_files(folder: Path) -> list[str]:
    """Return what a run leaves for good, by path; checkpoints and loggers' files may go."""
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [
        path.as_posix()
        for path in paths
        if path.name not in (MANIFEST, UNFINISHED)
        and not any(part in _MAY_GO or part.startswith(".") for part in path.parts)
    ]


def _save_one(
    folder: Path, embedder: Backbone, data: TrainingData, product: OpenProduct, stream: str, cost: Mapping[str, int]
) -> str:
    """Write the encoder of `stream` to `folder` and return its fingerprint."""
    origin = {"inputs": dict(data.inputs), "config": dict(product.config), "licences": data.licences}
    origin |= {"cost": dict(cost)} if cost else {}
    return save_encoder(folder, copy_merged(embedder), preprocessing=data.items.contracts[stream], provenance=origin)
