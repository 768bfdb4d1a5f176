"""``eo-ssl pretrain``: corpora in, an encoder with its preprocessing contract out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from rich.console import Console

from eo_ssl.curation import DynamicConfig, DynamicSchedule, to_plain
from eo_ssl.encoder import save_encoder
from eo_ssl.manifest import Clock, finish, plan
from eo_ssl.models import VitChoice, VitConfig
from eo_ssl.objectives import IJepaConfig, MaeConfig, ObjectiveConfig, SimClrConfig, make_objective
from eo_ssl.pretraining import (
    DEFAULT_AUGMENT,
    Augmentation,
    AugmentConfig,
    Choice,
    FitConfig,
    Material,
    OptimizerConfig,
    Pretraining,
    Pruning,
    TileLoader,
    TileSampler,
    fit,
    gather,
    make_probe,
)


def main(
    corpus: list[Path] | Path,
    out: Path,
    streams: list[str] | None = None,
    objective: Literal["mae", "ijepa", "simclr"] = "mae",
    bands: list[str] | None = None,
    subset: list[Path] | Path | None = None,
    split: Literal["train", "all"] = "train",
    steps: int = 1000,
    batch_size: int = 64,
    lr: float = 5e-4,
    seed: int = 0,
    model: VitChoice = VitChoice(),  # noqa: B008  (frozen, as are all below)
    mae: MaeConfig = MaeConfig(),  # noqa: B008
    ijepa: IJepaConfig = IJepaConfig(),  # noqa: B008
    simclr: SimClrConfig = SimClrConfig(),  # noqa: B008
    augment: AugmentConfig | None = None,
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    prune: DynamicConfig | None = None,
    training: FitConfig = FitConfig(),  # noqa: B008
    overwrite: bool = False,
) -> None:
    """Train a vision transformer without labels on the tiles of one or more corpora; killed, the same command resumes.

    Writes encoder.safetensors (weights, contract, provenance), log.jsonl, checkpoints/ and, with pruning, pruning/.

    Args:
        corpus: folder, or list of folders, that `eo-ssl ingest` made.
        out: folder that receives the encoder.
        streams: names of the streams, of one sensor, quantity and tile size; all of the corpora when left out.
        objective: masked autoencoder, I-JEPA or SimCLR; its options stand under its own name.
        bands: bands in the encoder's input order, held by every stream; those of the first stream when left out.
        subset: folder, or list of folders, that `eo-ssl curate` made; a stream without a subset is used whole.
        split: rows to train on; test items of a benchmark are always left out.
        steps: optimizer steps.
        batch_size: tiles per step.
        lr: peak learning rate.
        seed: of weights, order, augmentations and masks.
        model: the vision transformer; its image size and bands come from the data.
        mae: options of the masked autoencoder.
        ijepa: options of I-JEPA.
        simclr: options of SimCLR.
        augment: augmentations; those usual for the objective when left out.
        optimizer: AdamW and its schedules, in optimizer steps.
        prune: dynamic pruning of the pool while training, in sample presentations; none when left out.
        training: how often to log, look and save, and the precision.
        overwrite: replace an encoder made with another configuration.
    """
    options: dict[str, ObjectiveConfig] = {"mae": mae, "ijepa": ijepa, "simclr": simclr}
    views = augment or DEFAULT_AUGMENT[objective]
    recipe = Recipe(
        objective, options[objective], views, optimizer, prune, training, split, steps, batch_size, lr, seed
    )
    choice = Choice(_tuple(corpus), _tuple(streams) or None, _tuple(bands) or None, _tuple(subset), split)
    _train(gather(choice), recipe, model, out, overwrite)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Everything that was asked, beside the data and the architecture."""

    objective: str
    options: ObjectiveConfig
    augment: AugmentConfig
    optimizer: OptimizerConfig
    prune: DynamicConfig | None
    training: FitConfig
    split: str
    steps: int
    batch_size: int
    lr: float
    seed: int

    def resolved(self, material: Material, architecture: VitConfig) -> dict[str, Any]:
        """The configuration as the manifest records it."""
        plain: dict[str, Any] = to_plain(asdict(self))
        plain["streams"] = [reader.stream.name for reader in material.source.readers]
        return plain | {"architecture": architecture.to_json(), "preprocessing": material.preprocessing.to_json()}


def _train(material: Material, recipe: Recipe, model: VitChoice, out: Path, overwrite: bool) -> None:
    """Check everything, then train, save and sign the encoder."""
    console, clock, contract = Console(), Clock(), material.preprocessing
    architecture = model.fit(img_size=contract.size_px, in_chans=len(contract.bands))
    trained = make_objective(recipe.options, architecture, seed=recipe.seed)
    module = Pretraining(trained, lr=recipe.lr, steps=recipe.steps, optimizer=recipe.optimizer)
    sampler = TileSampler(material.pool, batch_size=recipe.batch_size, seed=recipe.seed)
    loader = TileLoader(material.source, contract, sampler, steps=recipe.steps, ahead=recipe.training.read_ahead)
    config = recipe.resolved(material, architecture)
    made: dict[str, Any] = {"stage": "pretrain", "config": config, "inputs": material.inputs}
    if plan(out, **made, overwrite=overwrite) == "done":
        console.print(f"nothing to do: {out} is trained with this configuration already", soft_wrap=True)
        return
    results = fit(
        module,
        loader,
        augmentation=Augmentation(recipe.augment, contract, views=trained.views),
        folder=out,
        config=recipe.training,
        pruning=None if recipe.prune is None else Pruning.over(material, DynamicSchedule(recipe.prune)),
        probe=make_probe(material.pool, material.held_out, material.classes),
    )
    origin = {"inputs": material.inputs, "config": config, "licences": material.licences}
    product = save_encoder(
        out,
        trained.embedder,
        architecture=architecture,
        preprocessing=contract,
        pooling=trained.pooling,
        provenance=origin,
    )
    facts: dict[str, Any] = {"tiles": len(material.pool), "benchmark_tiles_left_out": material.left_out, **results}
    facts |= {"objective": recipe.objective, "steps": recipe.steps, "presentations": recipe.steps * recipe.batch_size}
    facts |= {"parameters": sum(parameter.numel() for parameter in trained.embedder.parameters())}
    finish(out, **made, product=product, started=clock, seed=recipe.seed, summary=facts)
    loss = f"loss {results['loss_first']:.4g} -> {results['loss_last']:.4g}"
    console.print(f"{recipe.objective} encoder, {loss}: {out.resolve()}", soft_wrap=True)


def _tuple(value: Any) -> tuple[Any, ...]:
    return () if value is None else tuple(value) if isinstance(value, list) else (value,)
