"""`train/*`: one optimizer step of ours against lightly's or TorchGeo's, same network, data and threads, in alternating pairs."""

from __future__ import annotations

import dataclasses
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torchgeo.trainers import MoCoTask, SimCLRTask

from bench import feeding, race
from bench.contract import make_contract
from bench.peers import LightlyDino, LightlyIJepa, LightlyMae, TorchGeoByol, make_augmentation, make_stepper
from eo_ssl.models import ResNet, View, Vit
from eo_ssl.objectives import Batch, Byol, Dino, IJepa, Mae, MocoV2, Objective, SimClr, Step
from eo_ssl.objectives.base import Method
from eo_ssl.pretraining import ItemBatch, OptimizerConfig, ViewMaker
from eo_ssl.pretraining.module import group_parameters, make_optimizer
from eo_ssl.sensors import sensor

SIZE_PX = 64
BANDS = sensor("sentinel2_l1c").band_names
VIT = Vit("vit_tiny_patch16_224", patch_size=8)
RESNET = ResNet("resnet18")
BATCH, PAIRS, STEPS = 32, 15, 1000  # fewer pairs cannot tell a few per cent from noise

Stepper = Callable[[], None]


def run() -> Iterator[dict[str, Any]]:
    """One row a comparison: median seconds per step of both; then what a step costs beside its network, and data2vec's two versions."""
    warnings.filterwarnings("ignore", message=".*self.*log.*trainer.*")
    for name, compare in COMPARISONS.items():
        torch.manual_seed(0)
        ours, theirs, reference, note = compare()
        yield measure_pairs(f"train/{name}", ours, theirs, reference=reference, note=note)
    yield from feeding.run()
    yield from race.run()


def measure_pairs(name: str, ours: Stepper, theirs: Stepper, *, reference: str, note: str) -> dict[str, Any]:
    """The row of two steppers that take turns, each first every other time."""
    ours(), theirs()  # warm up: memory, oneDNN
    times: list[tuple[float, float]] = []
    for number in range(PAIRS):
        order = (ours, theirs) if number % 2 == 0 else (theirs, ours)
        seconds = [_seconds(step) for step in order]
        times.append((seconds[0], seconds[1]) if number % 2 == 0 else (seconds[1], seconds[0]))
    value, other = (statistics.median(column) for column in zip(*times, strict=True))
    ratios = [mine / theirs for mine, theirs in times]
    return {
        "name": name,
        "value": value,
        "unit": "s/step",
        "reference": reference,
        "reference_value": other,
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "pairs": PAIRS,
        "note": f"{note}, {SIZE_PX} px, {len(BANDS)} bands, batch {BATCH}, {BATCH / value:.1f} images/s, {torch.get_num_threads()} threads",
    }


def mae_vs_lightly() -> tuple[Stepper, Stepper, str, str]:
    return _mae_beside_lightly("ViT-Ti/8, mask 0.75")


def mae_cross_vs_lightly() -> tuple[Stepper, Stepper, str, str]:
    note = "ViT-Ti/8, mask 0.75, decoder of CrossMAE for a third of the hidden patches beside lightly's for all"
    return _mae_beside_lightly(note, decoder="cross", predicted=1 / 3)


def _mae_beside_lightly(note: str, **options: Any) -> tuple[Stepper, Stepper, str, str]:
    method = Mae(mask_ratio=0.75, norm="patch", decoder_dim=256, decoder_depth=4, decoder_heads=8)
    images, theirs = draw_images(), LightlyMae(VIT, method, bands=len(BANDS), size_px=SIZE_PX)
    reference = "lightly MaskedVisionTransformerTIMM, same ViT, batch, size of the decoder and fused AdamW"
    ours = step_on_views(dataclasses.replace(method, **options), [images])
    return ours, make_stepper(lambda: theirs(images), make_adamw(theirs)), reference, note


def ijepa_vs_lightly() -> tuple[Stepper, Stepper, str, str]:
    method = IJepa()
    images, theirs = draw_images(), LightlyIJepa(VIT, method, bands=len(BANDS), size_px=SIZE_PX)
    rng = torch.Generator().manual_seed(0)
    step = make_stepper(lambda: theirs(images, rng), make_adamw(theirs))
    reference = (
        "lightly IJEPAPredictorTIMM and MaskedVisionTransformerTIMM, same ViT, predictor, blocks and fused AdamW"
    )
    return step_on_views(method, [images]), lambda: (step(), theirs.after_step())[0], reference, "ViT-Ti/8"


def dino_vs_lightly() -> tuple[Stepper, Stepper, str, str]:
    method = Dino()
    crops = [draw_images() for _ in range(2)] + [draw_images(SIZE_PX // 2) for _ in range(4)]
    theirs = LightlyDino(VIT, method, bands=len(BANDS), size_px=SIZE_PX)
    reference = "lightly DINOProjectionHead and DINOLoss, same ViT, crops, widths and fused AdamW"
    return (
        step_on_views(method, crops[:2], local=crops[2:]),
        make_stepper(lambda: theirs(crops), make_adamw(theirs)),
        reference,
        "ViT-Ti/8, 2 crops of 64 px and 4 of 32 px",
    )


def moco_vs_torchgeo() -> tuple[Stepper, Stepper, str, str]:
    method, queue = MocoV2(), 4096
    augmentation = make_augmentation(SIZE_PX, gain=0.2)
    task = MoCoTask(
        RESNET.name,
        in_channels=len(BANDS),
        version=2,
        layers=2,
        hidden_dim=method.hidden_dim,
        output_dim=method.output_dim,
        temperature=method.temperature,
        memory_bank_size=queue,
        moco_momentum=method.momentum,
        size=SIZE_PX,
        augmentation1=augmentation,
        augmentation2=augmentation,
    )
    images = draw_images()
    optimizer = torch.optim.SGD(task.parameters(), lr=1e-3, momentum=0.9, weight_decay=1e-4)
    theirs = make_stepper(lambda: task.training_step({"image": images}, 0), optimizer)
    ours = step_on_items(method, images, OptimizerConfig(algorithm="sgd", weight_decay=1e-4), items=4 * queue)
    return ours, theirs, "TorchGeo MoCoTask, version 2, same queue, widths and SGD; " + AUGMENTED, "ResNet-18"


def simclr_vs_torchgeo() -> tuple[Stepper, Stepper, str, str]:
    method = SimClr()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # version 1 with a shallow head says so
        task = SimCLRTask(
            RESNET.name,
            in_channels=len(BANDS),
            version=1,
            layers=2,
            hidden_dim=method.hidden_dim,
            output_dim=method.output_dim,
            temperature=method.temperature,
            memory_bank_size=0,
            size=SIZE_PX,
            augmentations=make_augmentation(SIZE_PX, gain=0.2),
        )
    images = draw_images()
    theirs = make_stepper(lambda: task.training_step({"image": images}, 0), make_adamw(task))
    ours = step_on_items(method, images, OptimizerConfig())
    return ours, theirs, "TorchGeo SimCLRTask, version 1, same widths and fused AdamW; " + AUGMENTED, "ResNet-18"


def byol_vs_torchgeo() -> tuple[Stepper, Stepper, str, str]:
    method, images = Byol(), draw_images()
    theirs = TorchGeoByol(
        RESNET.name,
        bands=len(BANDS),
        size_px=SIZE_PX,
        hidden_dim=method.hidden_dim,
        output_dim=method.output_dim,
    )
    step = make_stepper(lambda: theirs(images), make_adamw(theirs))
    reference = "TorchGeo BYOL and the step of its task, same widths and fused AdamW; " + AUGMENTED
    return (
        step_on_items(method, images, OptimizerConfig()),
        lambda: (step(), theirs.byol.update_target())[0],
        reference,
        "ResNet-18",
    )


AUGMENTED = "crops, flips and gain on both sides (Kornia there), views made in the step"
COMPARISONS = {
    "mae-vs-lightly": mae_vs_lightly,
    "mae-cross-vs-lightly": mae_cross_vs_lightly,
    "ijepa-vs-lightly": ijepa_vs_lightly,
    "dino-vs-lightly": dino_vs_lightly,
    "moco-vs-torchgeo": moco_vs_torchgeo,
    "simclr-vs-torchgeo": simclr_vs_torchgeo,
    "byol-vs-torchgeo": byol_vs_torchgeo,
}


def draw_images(size_px: int = SIZE_PX) -> Tensor:
    """Normalised images [BATCH, bands, size_px, size_px] of noise."""
    return torch.randn(BATCH, len(BANDS), size_px, size_px, generator=torch.Generator().manual_seed(size_px))


def make_adamw(module: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of our defaults."""
    config = OptimizerConfig()
    return make_optimizer(group_parameters(module, weight_decay=config.weight_decay), lr=1e-4, config=config)


def step_on_views(method: Method, images: list[Tensor], *, local: list[Tensor] | None = None) -> Stepper:
    """A step of ours on views that are made already."""
    objective = method.build({"tile": VIT.build(BANDS, SIZE_PX, 0)}, 1)
    views = [
        [View(image, torch.ones_like(image, dtype=torch.bool), BANDS) for image in group]
        for group in (images, local or [])
    ]
    names = ("global", "local") if local else ("tile",)
    batch = Batch(dict(zip(names, views, strict=False)), torch.arange(BATCH), Step(STEPS // 2, STEPS, 0))
    return _finish(objective, lambda: batch, make_adamw(objective))


def step_on_items(method: Method, images: Tensor, config: OptimizerConfig, *, items: int = 2048) -> Stepper:
    """A step of ours that makes the views of the items first."""
    contract = make_contract(BANDS, size_px=SIZE_PX)
    objective = method.build({"tile": RESNET.build(BANDS, SIZE_PX, 0)}, 1)
    objective.prepare(items)
    spec = dataclasses.replace(method.views["tile"], noise=0.0)  # Kornia's table has none
    make_views = ViewMaker({"tile": spec}, {"tile": contract})
    image = images[:, None]  # one date
    batch = ItemBatch(
        {"tile": (image, torch.ones_like(image, dtype=torch.bool))}, torch.arange(BATCH), Step(STEPS // 2, STEPS, 0)
    )
    groups = group_parameters(objective, weight_decay=config.weight_decay)
    return _finish(objective, lambda: make_views(batch), make_optimizer(groups, lr=1e-4, config=config))


def _finish(objective: Objective, batch: Callable[[], Batch], optimizer: torch.optim.Optimizer) -> Stepper:
    step = make_stepper(lambda: objective(batch())["loss"], optimizer)
    return lambda: (step(), objective.after_step(Step(STEPS // 2, STEPS, 0)))[0]


def _seconds(step: Stepper) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
