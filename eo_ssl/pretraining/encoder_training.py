"""One pretraining from its settings to a signed encoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from eo_ssl.curation import DynamicSchedule
from eo_ssl.manifest import OpenProduct, open_product
from eo_ssl.objectives import Objective
from eo_ssl.pretraining.branching import RECORD
from eo_ssl.pretraining.compilation import compile_blocks, require_compiler
from eo_ssl.pretraining.fit import fit
from eo_ssl.pretraining.items import require_places
from eo_ssl.pretraining.kept_encoders import Keep, check_steps_kept
from eo_ssl.pretraining.loader import ItemLoader
from eo_ssl.pretraining.module import Pretraining
from eo_ssl.pretraining.monitors import make_probe
from eo_ssl.pretraining.pretrain_config import PretrainConfig
from eo_ssl.pretraining.pruning import Pruning
from eo_ssl.pretraining.run_cost import RunCost, describe_cost
from eo_ssl.pretraining.sampler import ItemSampler
from eo_ssl.pretraining.saving import save_encoders
from eo_ssl.pretraining.training_data import TrainingData
from eo_ssl.pretraining.view_maker import ViewMaker
from eo_ssl.printable import make_console


def train_encoder(
    data: TrainingData, config: PretrainConfig, out: Path, *, ahead: bool, running: dict[str, Any], overwrite: bool
) -> None:
    """Check everything, then train, save and sign the encoder.

    Args:
        data: what is learned from.
        config: what was asked for.
        out: folder of the product.
        ahead: read the next batch during the step.
        running: further arguments of `fit`, such as its processes.
        overwrite: replace an encoder made otherwise.

    Raises:
        UserError: settings that do not fit each other or the data, or whatever `fit` refuses.
    """
    console, contracts, processes = make_console(), data.items.contracts, running["processes"]
    if config.location is not None:
        require_places(data.items, data.pool)
    maker = ViewMaker(config.views, contracts, dates=data.items.dates)
    objective = config.build_task(contracts)
    module = Pretraining(objective, lr=config.lr, steps=config.steps, optimizer=config.optimizer)
    if config.compiled:
        require_compiler(on_cuda=processes.trainer_options()["accelerator"] == "cuda")
        compile_blocks(objective)
    share, world = processes.share(config.batch_size), processes.world
    sampler = ItemSampler(data.pool, weights=data.weights, batch_size=share, seed=config.seed, world=world)
    lengths = {"steps": config.steps, "horizon": module.horizon, "accumulate": processes.accumulate}
    loader = ItemLoader(data.items, sampler, **lengths, ahead=ahead)
    begun = 0 if config.branch is None else config.branch.step
    sharded = processes.strategy == "fsdp"
    check_steps_kept(config.training.encoders_at, begun=begun, steps=config.steps, sharded=sharded)
    asked: dict[str, Any] = {"config": config.resolved(data), "inputs": data.inputs | objective.inputs}
    if config.branch is not None and (overwrite or not (out / RECORD).exists()):
        config.branch.check(asked["config"], data, by_row=objective.by_row)
    with open_product(out, stage="pretrain", overwrite=overwrite, **asked) as product:
        if product.done:
            console.print(product.nothing_to_do, soft_wrap=True)
            return
        if config.branch is not None:
            config.branch.plant(out, asked["config"], data)
        done = fit(
            module,
            loader,
            views=maker,
            folder=out,
            config=config.training,
            pruning=None if config.prune is None else Pruning.over(data, DynamicSchedule(config.prune)),
            probe=make_probe(data.pool, data.held_out, data.classes),
            keep=_make_keep(objective, data, config, product),
            **running,
        )
        if done is None:
            product.leave()
            return
        facts = config.summarise(data, objective) | done.results
        facts |= {} if config.prune is None else {"clustering_s": round(done.clustering_s, 3)}
        save_encoders(objective, data, product, seed=config.seed, cost=done.cost.to_json(), summary=facts)
    loss = f"loss {done.results['loss_first']:.4g} -> {done.results['loss_last']:.4g}"
    console.print(f"{config.method} encoder, {loss}: {out.resolve()}", soft_wrap=True)
    console.print(describe_cost(done.cost, clustering_s=done.clustering_s), soft_wrap=True)


def _make_keep(objective: Objective, data: TrainingData, config: PretrainConfig, product: OpenProduct) -> Keep:
    """Write the encoder of the moment as a product of its own, whose configuration says its step."""

    def keep(folder: Path, cost: RunCost) -> None:
        told = {**product.config, "step": cost.step}
        with open_product(folder, stage="pretrain", config=told, inputs=product.inputs) as part:
            if not part.done:
                part.started = product.started
                facts = config.summarise(data, objective)
                save_encoders(objective, data, part, seed=config.seed, cost=cost.to_json(), summary=facts)

    return keep
