"""``eo-ssl pretrain``: corpora in, an encoder with its preprocessing contract out."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from eo_ssl.curation import DynamicConfig
from eo_ssl.models import Architecture, Vit
from eo_ssl.objectives import Location, Mae, Method, override_views
from eo_ssl.pretraining import (
    Adaptation,
    DataSelection,
    FitConfig,
    GuardConfig,
    LoggerName,
    OptimizerConfig,
    Precision,
    PretrainConfig,
    Processes,
    Whole,
    count_steps,
    open_start,
    parse_limit,
    train_encoder,
)


def main(
    corpus: list[Path] | Path,
    out: Path,
    streams: list[str] | None = None,
    items: Literal["tiles", "pairs", "places", "drawn_places"] = "tiles",
    pairs: Path | None = None,
    dates: int = 2,
    objective: Method = Mae(),  # noqa: B008  (frozen, as are all below)
    model: Architecture = Vit(),  # noqa: B008
    init: str | Path | None = None,
    adapt: Adaptation = Whole(),  # noqa: B008
    branch: Path | None = None,
    bands: list[str] | None = None,
    subset: list[Path] | Path | None = None,
    split: Literal["train", "all"] = "train",
    steps: int | None = None,
    epochs: float | None = None,
    batch_size: int = 64,
    lr: float = 5e-4,
    seed: int = 0,
    views: dict[str, dict[str, Any]] | None = None,
    optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008
    prune: DynamicConfig | None = None,
    location: Location | None = None,
    training: FitConfig = FitConfig(),  # noqa: B008
    guard: GuardConfig = GuardConfig(),  # noqa: B008
    device: Literal["auto", "cpu", "cuda"] = "auto",
    devices: int = 1,
    num_nodes: int = 1,
    strategy: Literal["auto", "ddp", "fsdp"] = "auto",
    precision: Precision = "auto",
    accumulate: int = 1,
    compile: bool = False,
    num_workers: Literal[0, 1] = 1,
    loggers: list[LoggerName] = ["csv"],  # noqa: B006  (never changed)
    max_time: str | None = None,
    overwrite: bool = False,
) -> None:
    """Train an encoder without labels on the tiles of one or more corpora; killed, the same command resumes.

    Writes encoder.safetensors (weights, contract, provenance), log.jsonl, checkpoints/ and, with pruning, pruning/.
    Trained on pairs of two streams, the folder holds one encoder for each stream, in a folder of its name.

    Args:
        corpus: folder, or list of folders, that `eo-ssl ingest` made.
        out: folder that receives the encoder.
        streams: names of the streams, of one sensor, quantity and tile size; all of the corpora when left out.
        items: what a batch is drawn from: tiles; pairs of tiles on the same ground; places with several dates, an item
            always of the same ones; drawn_places with dates drawn anew each time.
        pairs: folder that `eo-ssl pair` made, for items pairs.
        dates: dates of an item, for items places and drawn_places.
        objective: name of the method, such as Mae, IJepa or SimClr; --objective.OPTION sets its options,
            --objective.help NAME lists them.
        model: name of the architecture: Vit, ChannelVit for any subset of its bands, SpectralVit for groups of bands,
            or ResNet; its bands and image size come from the data.
        init: encoder to go on from, with its architecture, bands and normalisation: a folder that `eo-ssl pretrain`
            wrote, or weights of others by the names that `eo-ssl evaluate` takes; random weights when left out.
        adapt: what of it is trained: Whole, Frozen (last blocks and norms beside a frozen trunk) or Lora (changes of
            low rank); --adapt.OPTION sets its options.
        branch: folder of an earlier run, finished or not, whose newest checkpoint this one goes on from with the same
            settings: for more steps, on newer snapshots of its corpora, or to anneal; steps count from its first one.
        bands: bands in the encoder's input order, held by every stream; those of the first stream when left out.
        subset: folder, or list of folders, that `eo-ssl curate` made; a stream without a subset is used whole.
        split: rows to train on; test items of a benchmark are always left out.
        steps: optimizer steps; 1000 when neither steps nor epochs are given.
        epochs: passes over the pool instead of steps; what is recorded are presentations of items.
        batch_size: items per optimizer step, over all processes.
        lr: peak learning rate.
        seed: of weights, order, views and masks.
        views: changes of the objective's views, by group: {tile: {crop: [0.5, 1], gain: 0.1}}; its own when left out.
        optimizer: the optimiser and its schedules, in optimizer steps.
        prune: dynamic pruning of the pool while training, in item presentations; none when left out.
        location: contrast of images with their places beside the objective, whose network of places is saved too; none
            when left out.
        training: how often to log, look and save.
        guard: when a run counts as collapsing, and whether to warn or to stop then.
        device: where to train; auto takes GPUs where there are some.
        devices: processes on each node, one device each; the batch is divided among them.
        num_nodes: nodes, each of which runs this command under Slurm or torchrun.
        strategy: auto for one process or data parallel; fsdp shards weights and optimizer state and needs GPUs.
        precision: auto takes bfloat16 on a GPU that has it, else float32.
        accumulate: parts of a process's share of a batch that are computed one after another, to save memory.
        compile: have torch compile the blocks of all networks, where it finds a compiler; equal up to rounding.
        num_workers: 1 reads the next batch in a thread during the step, 0 in the step itself; neither changes a bit.
        loggers: listeners beside log.jsonl, in logs/: csv, tensorboard, mlflow, wandb or trackio, where installed.
        max_time: DD:HH:MM:SS after which to stop with a checkpoint; the same command goes on from there.
        overwrite: replace an encoder made with another configuration.
    """
    selection = DataSelection.of(corpus, streams, bands, subset, prune, split, items, pairs, dates)
    data, start = open_start(selection, init=init, branch=branch, model=model, adapt=adapt)
    processes = Processes(device, devices, num_nodes, strategy, precision, accumulate)
    config = PretrainConfig(
        objective=objective,
        views=override_views(objective.views, views),
        model=model,
        optimizer=optimizer,
        prune=prune,
        location=location,
        training=training,
        **selection.describe(),
        steps=count_steps(steps, epochs, pool=len(data.pool), batch_size=batch_size),
        batch_size=batch_size,
        lr=lr,
        seed=seed,
        **processes.describe(),
        compiled=compile,
        **start,
    )
    running = {"processes": processes, "loggers": tuple(loggers), "max_time": parse_limit(max_time), "guard": guard}
    train_encoder(data, config, out, ahead=num_workers > 0, running=running, overwrite=overwrite)
