"""Two processes on the CPU: the loss and the gradient of one with the whole batch, and runs that end and resume as one does."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml

from eo_ssl.errors import UserError
from eo_ssl.manifest import require
from eo_ssl.models import ChannelVit, LocationModel, SpectralVit, View, Vit
from eo_ssl.models.channel_vit import draw_bands
from eo_ssl.objectives import (
    BarlowTwins,
    Batch,
    Byol,
    Croma,
    Data2Vec,
    Data2Vec2,
    Dcl,
    Dino,
    DinoV2,
    Distill,
    IJepa,
    ISogClr,
    LeJepa,
    Location,
    Mae,
    MaskFeat,
    Method,
    MixedBarlowTwins,
    MocoV2,
    MocoV3,
    MultiMae,
    Objective,
    Pmsn,
    SarIJepa,
    SarJepa,
    SatMae,
    SatMaePp,
    SimClr,
    Step,
    Swav,
    VicReg,
    dino_v2,
    ijepa,
)
from eo_ssl.objectives.block_masks import BlockMaskConfig, draw_blocks, draw_masks
from eo_ssl.objectives.data2vec import Data2VecObjective
from eo_ssl.objectives.hard_patches import HardPatches
from eo_ssl.objectives.hog import Hog
from eo_ssl.objectives.masked_targets import MaskedTargets
from eo_ssl.objectives.multi_mae import MultiMaeObjective
from eo_ssl.objectives.parts import find_seen
from eo_ssl.objectives.ratio_gradients import RatioGradients
from eo_ssl.objectives.satmae import Masks, SatMaeObjective
from eo_ssl.objectives.window_masks import WindowMasks
from eo_ssl.pretraining import Processes
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows import ingest
from test_74_distill import TEACHER, contract
from tiles import BANDS, holes, place_images, radar_contract, training_tiles

WORLD, ITEMS = 2, 8
HEADS = {"hidden_dim": 16, "output_dim": 8}
NEAR, WINDOWS = RatioGradients(scales=(1,)), WindowMasks(count=2)
METHODS: dict[str, Method] = {
    "Mae": Mae(norm="patch"),
    "MaeAnyBands": Mae(norm="patch"),
    "MaeCross": Mae(decoder="cross", predicted=0.5, decoder_dim=32, hard=HardPatches(share=0.5)),
    "IJepa": IJepa(),
    "MaskFeat": MaskFeat(hog=Hog(cell_px=2)),
    "SarJepa": SarJepa(gradients=NEAR, masks=WINDOWS),
    "SarIJepa": SarIJepa(gradients=NEAR),
    "Data2Vec": Data2Vec(layers=1),
    "Data2Vec2": Data2Vec2(masks=2, layers=1, decoder_dim=32, decoder_depth=1, mask_noise=0.0, cls_weight=0.1),
    "SimClr": SimClr(temperature=0.2),
    "ISogClr": ISogClr(**HEADS),
    "Located": SimClr(**HEADS),
    "Croma": Croma(fusion_heads=3, fusion_depth=1, decoder_dim=32),
    "MultiMae": MultiMae(decoder_dim=32),
    "LeJepa": LeJepa(**HEADS, directions=8),
    "Dcl": Dcl(**HEADS),
    "BarlowTwins": BarlowTwins(**HEADS),
    "MixedBarlowTwins": MixedBarlowTwins(**HEADS),
    "VicReg": VicReg(**HEADS),
    "Byol": Byol(**HEADS),
    "MocoV2": MocoV2(**HEADS, queue=32),
    "MocoV3": MocoV3(**HEADS),
    "Dino": Dino(prototypes=32, hidden_dim=16, bottleneck_dim=8),
    "SatMae": SatMae(decoder_dim=32),
    "SatMaePp": SatMaePp(decoder_dim=32, scales=1, upsampling_width=1),
    "Distill": Distill(teacher=TEACHER, hidden_dim=16),
    "DinoV2": DinoV2(prototypes=32, hidden_dim=16, bottleneck_dim=8),
    "DinoV2 balanced": DinoV2(prototypes=32, hidden_dim=16, bottleneck_dim=8, centering="sinkhorn"),
    "Swav": Swav(**HEADS, prototypes=16),
    "Pmsn": Pmsn(**HEADS, prototypes=16, sinkhorn_iterations=2),
}
SINGLE = ("Distill",)  # whose targets a network of single precision makes, not the same bits for another batch
STATE = ("queue", "center", "running_var", "running_std", "means", "temperatures", "velocities")
MEANS = ("Dino", "MocoV2")  # whose loss is a mean over items that do not see each other


SPECTRAL = SpectralVit("test_vit", groups=(("B02", "B08"), ("B03", "B04")), depth=1)
MODELS = {"SatMae": SPECTRAL, "SatMaePp": SPECTRAL, "MaeAnyBands": ChannelVit("test_vit", patch_size=8, depth=1)}


def build(name: str) -> Objective:
    model = MODELS.get(name, Vit(patch_size=8, depth=1))
    streams = ("s1", "s2") if name in ("Croma", "MultiMae") else ("tile",)
    objective = METHODS[name].build(
        {stream: model.build(BANDS[:4], 32, 0, sensor="sentinel2_l2a") for stream in streams}, 1
    )
    objective.accept({"tile": contract() if name == "Distill" else radar_contract()})
    if name == "ISogClr":
        objective.prepare(ITEMS)
    if name == "Located":
        objective = Location(model=LocationModel(**HEADS)).wrap(objective, 2)
    return objective.double()


def items() -> tuple[torch.Tensor, torch.Tensor]:
    """Tiles with holes, far more of them in the second half: a mean of the halves' means is not the mean of the whole."""
    image, _ = training_tiles(n=ITEMS)
    valid = holes(image.shape, patch=8)
    valid[ITEMS // 2 :] &= holes(image.shape, patch=16, seed=1)[ITEMS // 2 :]
    return image.double(), valid


def loss_of(objective: Objective, rows: slice) -> torch.Tensor:
    """Loss of some items, under masks that are planted for all of them."""
    image, valid = items()
    if isinstance(objective.encoder.config.model, ChannelVit):  # each item with bands of its own
        rng = torch.Generator().manual_seed(7)
        valid = valid & torch.stack([draw_bands(4, fewest=1, rng=rng) for _ in range(ITEMS)])[..., None, None]
    order = torch.rand(ITEMS, 16, generator=torch.Generator().manual_seed(3)).argsort(dim=1)
    objective.draw_kept = lambda *args: order[rows, :12]
    objective.draw_mask = lambda batch, rng: (order[rows, :4], order[rows, 4:])
    if isinstance(objective, SatMaeObjective):
        present = objective.encoder.present_tokens(View(image, valid, BANDS[:4]))
        split = SatMaeObjective.draw_tokens(objective, present, torch.Generator().manual_seed(3))
        objective.draw_tokens = lambda present, rng: Masks(*(part[rows] for part in split))
    if isinstance(objective, MultiMaeObjective):
        present = find_seen(View(image, valid, BANDS[:4]), 8).repeat(1, 2)
        both = MultiMaeObjective.draw_tokens(objective, present, torch.Generator().manual_seed(3))
        objective.draw_tokens = lambda present, rng: Masks(*(part[rows] for part in both))
    if isinstance(objective, Data2VecObjective):
        objective.draw_hidden = lambda batch, rng: order[rows].argsort(dim=1) < 9
    several = torch.stack([order, order.flip(1)], dim=1)  # two masks of each item
    objective.draw_masks = lambda batch, rng: (several[rows, :, :4], several[rows, :, 4:])
    partners = torch.tensor([2, 0, 3, 1, 5, 7, 4, 6])[rows] - (rows.start or 0)  # in the half of the item
    objective.draw_mixtures = lambda batch, rng: (torch.full((batch,), 0.3), partners)
    objective.draw_splits = lambda batch, rng: tuple((one[rows, :4], one[rows, 4:]) for one in (order, order.flip(1)))
    blocks = draw_blocks((4, 4), ITEMS, config=BlockMaskConfig(), rng=torch.Generator().manual_seed(4))
    ijepa.draw_blocks = lambda *args, **options: tuple(part[rows] for part in blocks)
    if isinstance(objective, MaskedTargets):
        drawn = type(objective).draw_parts(objective, ITEMS, torch.Generator().manual_seed(5))
        objective.draw_parts = lambda batch, rng: tuple(part[rows] for part in drawn)
    masks = draw_masks((4, 4), 2 * ITEMS, share=0.5, ratio=(0.1, 0.5), rng=torch.Generator().manual_seed(5))
    masks = masks.reshape(2, ITEMS, -1)
    dino_v2.draw_masks = lambda *args, **options: masks[:, rows].flatten(0, 1)
    places = torch.rand(ITEMS, 2, generator=torch.Generator().manual_seed(6)) * 90
    places[2] = torch.nan
    views = [View(x[rows], valid[rows], BANDS[:4], metadata=place_images(places[rows])) for x in (image, image.flip(3))]
    large = View(*(x[rows].repeat_interleave(2, 2).repeat_interleave(2, 3) for x in (image, valid)), BANDS[:4])
    small = [View(view.image[..., :16, :16], view.valid[..., :16, :16], view.bands) for view in views]
    sensors = {name: [replace(view, stream=name)] for view, name in zip(views, ("s1", "s2"), strict=True)}
    groups = {
        "Croma": sensors,
        "MultiMae": sensors,
        "Mae": {"tile": views[:1]},
        "IJepa": {"tile": views[:1]},
        "SatMae": {"tile": views[:1]},
        "SatMaePp": {"tile": [large]},
        "SarIJepa": {"tile": views[:1]},
        "MaskFeat": {"tile": views[:1]},
        "SarJepa": {"tile": views[:1]},
        "Data2Vec": {"tile": views[:1]},
        "Data2Vec2": {"tile": views[:1]},
        "Dino": {"global": views, "local": small},
        "DinoV2": {"global": views, "local": small},
        "Swav": {"global": views, "local": small},
        "LeJepa": {"global": views, "local": small},
        "Pmsn": {"target": views[:1], "anchor": views[1:], "focal": small},
    }
    name = type(objective).__name__.removesuffix("Objective")
    return objective(Batch(groups.get(name, {"tile": views}), torch.arange(ITEMS)[rows], Step(0, 1, 0)))["loss"]


def gradient(objective: Objective) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in objective.parameters() if p.requires_grad])


def state_after(objective: Objective) -> torch.Tensor:
    """What no gradient moves after a step: queues, centres, running statistics and numbers of items."""
    objective.after_step(Step(1, 2, 0))
    kept = [buffer for name, buffer in objective.named_buffers() if name.endswith(STATE)]
    return torch.cat([torch.zeros(1), *(buffer.flatten() for buffer in kept)])


def compare(rank: int, port: int, folder: str) -> None:
    """In each process: half of the batch, gradients averaged as distributed training does; written by the first."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=WORLD)
    half = ITEMS // WORLD
    results = {}
    for name in METHODS:
        objective = build(name)
        loss = loss_of(objective, slice(rank * half, (rank + 1) * half))
        loss.backward()
        mean, shared = loss.detach().clone(), gradient(objective)
        for value in (mean, shared):
            dist.all_reduce(value)
            value /= WORLD
        results[name] = {"loss": mean, "gradient": shared, "state": state_after(objective)}
    if rank == 0:
        torch.save(results, Path(folder) / "halves.pt")
    dist.destroy_process_group()


def test_two_halves_give_the_loss_and_the_gradient_of_the_whole(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(compare, (port, str(tmp_path)), nprocs=WORLD)
    halves = torch.load(tmp_path / "halves.pt", weights_only=True)
    originals = ijepa.draw_blocks, dino_v2.draw_masks
    try:
        for name in METHODS:
            objective = build(name)
            loss = loss_of(objective, slice(0, ITEMS))
            loss.backward()
            coarse = 1e4 if name in SINGLE else 1
            torch.testing.assert_close(halves[name]["loss"], loss.detach(), rtol=1e-9 * coarse, atol=1e-12)
            torch.testing.assert_close(
                halves[name]["gradient"], gradient(objective), rtol=1e-6 * coarse, atol=1e-10 * coarse
            )
            torch.testing.assert_close(halves[name]["state"], state_after(objective), rtol=1e-6 * coarse, atol=1e-10)
            # and the state matters: the mean of two separate halves is something else
            apart = sum(float(loss_of(objective, slice(at, at + 4)).detach()) for at in (0, 4)) / 2
            assert name in MEANS or abs(apart - float(loss.detach())) > 1e-5, name
    finally:
        ijepa.draw_blocks, dino_v2.draw_masks = originals


def test_a_batch_is_divided_evenly_or_refused() -> None:
    assert Processes(devices=2, num_nodes=2, accumulate=4).share(64) == 4
    with pytest.raises(
        UserError, match="batch_size that 2 processes x 2 parts divide evenly, got 30; choose a multiple of 4"
    ):
        Processes(devices=2, accumulate=2).share(30)
    with pytest.raises(UserError, match="devices of at least 1, got 0"):
        Processes(devices=0)


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration of a small run of two processes on a tiny corpus, pruned while it trains."""
    root = tmp_path_factory.mktemp("processes")
    spec = ArchiveSpec(sites=2, dates=1, size_px=192, exact_duplicates=0, near_duplicates=0, reprocessed=0)
    make_archive(root / "archive", seed=1, spec=spec)
    ingest.main("sample_s2_l2a", data=root / "archive", out=root / "s2", size_px=32, dask="synchronous")
    options = {
        "corpus": str(root / "s2"),
        "objective": "SimClr",
        "model": {"Vit": {"depth": 1}},
        "steps": 60,
        "batch_size": 8,
        "devices": 2,
        "device": "cpu",
        "prune": {
            "warmup": 80,
            "interval": 160,
            "keep": 0.6,
            "method": {"levels": [4], "n_resample": 1},
            "readiness": {"full": 0.0},
        },
        "training": {"checkpoint_every": 5, "log_every": 1, "monitor_every": 20, "monitor_tiles": 16},
    }
    (root / "c.yaml").write_text(yaml.safe_dump(options))
    return root / "c.yaml"


def start(config: Path, out: Path, **options: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "eo_ssl.cli", "pretrain", "--config", str(config), "--out", str(out)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=environment, text=True, **pipes, **options)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def log(out: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_s"} for row in rows]


@pytest.fixture(autouse=True, scope="module")
def _interrupts() -> Iterator[None]:
    """Children begin with the SIGINT of a terminal, also where a shell runs the tests in the background and ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def whole(config: Path) -> Path:
    """The run that nobody disturbed."""
    out = config.parent / "whole"
    process = start(config, out)
    _, errors = process.communicate(timeout=500)
    assert process.returncode == 0, errors
    return out


def test_both_processes_of_a_stopped_run_end_and_the_next_start_ends_with_the_same_bits(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "stopped"
    for stop, to_all in ((signal.SIGTERM, False), (signal.SIGINT, True)):
        saved = list(out.glob("checkpoints/step_*.ckpt"))
        process = start(config, out, process_group=0)
        while len(list(out.glob("checkpoints/step_*.ckpt"))) < 2 or saved == list(out.glob("checkpoints/step_*.ckpt")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.005)
        both = [process.pid, *children(process.pid)]
        os.killpg(process.pid, stop) if to_all else process.send_signal(stop)
        _, errors = process.communicate(timeout=120)
        sentence = f"eo-ssl pretrain: stopped by {stop.name}; the same command goes on from there\n"
        assert process.returncode == 128 + stop and errors.endswith(sentence), errors
        assert "Traceback" not in errors and errors.count("stopped") == 1, errors
        assert len(both) > 1 and not any(Path(f"/proc/{pid}/cmdline").exists() for pid in both)
    resumed = start(config, out)
    _, errors = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, errors
    assert require(out, "pretrain").fingerprint == require(whole, "pretrain").fingerprint
    assert log(out) == log(whole)


def test_a_killed_process_ends_the_run_with_a_sentence_and_the_next_start_ends_with_the_same_bits(
    config: Path, whole: Path, tmp_path: Path
) -> None:
    broken = start(config, tmp_path / "broken")
    while not list((tmp_path / "broken").glob("checkpoints/step_*.ckpt")):
        assert broken.poll() is None, broken.stderr.read()
        time.sleep(0.005)
    (second,) = [child for child in children(broken.pid) if b"pretrain" in Path(f"/proc/{child}/cmdline").read_bytes()]
    os.kill(second, signal.SIGKILL)
    _, errors = broken.communicate(timeout=120)
    assert broken.returncode == 2
    assert "expected all 2 processes of the run to go on, got the end of one" in errors and "Traceback" not in errors
    assert "the same command resumes" in errors
    resumed = start(config, tmp_path / "broken")
    _, errors = resumed.communicate(timeout=500)
    assert resumed.returncode == 0, errors
    first, second_run = require(whole, "pretrain"), require(tmp_path / "broken", "pretrain")
    assert first.fingerprint == second_run.fingerprint
    assert log(whole) == log(tmp_path / "broken")
    assert (first.config["world"], first.summary["presentations"]) == (2, 480)
    pools = [row["pool"] for row in log(whole)]
    assert pools[-1] < pools[0]  # pruned by both processes alike
    assert [row["rankme"] for row in log(whole) if "rankme" in row]
