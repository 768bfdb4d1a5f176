"""`adapt/*`: a step and the memory of an encoder that is trained in part, against the same one trained whole.

ViT-B/16 on 96 px and 13 bands, batch 8, one thread, AdamW. Seconds are those of the processor, which other work on the machine does not
change much; memory is the peak of a process of its own, less what it had before the network was built.
"""

from __future__ import annotations

import gc
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import torch

from bench.memory import peak_bytes
from eo_ssl.models import View, Vit
from eo_ssl.objectives import Batch, Dino, Mae, Step
from eo_ssl.objectives.base import Method
from eo_ssl.pretraining import Adaptation, Frozen, Lora, OptimizerConfig, Whole, count_trained
from eo_ssl.pretraining.module import group_parameters, make_optimizer
from eo_ssl.sensors import sensor

METHODS: dict[str, Method] = {"mae": Mae(), "dino": Dino(prototypes=1024)}
ADAPTATIONS: dict[str, Adaptation] = {
    "whole": Whole(),
    "lora": Lora(),
    "lora-qv": Lora(targets=("q", "v")),
    "explora": Lora(rank=64, alpha=64.0, targets=("q", "v"), blocks=1, norms=True),
    "frozen": Frozen(),
}
SIZE_PX, BATCH, STEPS = 96, 8, 5
BANDS = sensor("sentinel2_l1c").band_names


def run() -> Iterator[dict[str, Any]]:
    """One row for each method and adaptation: processor seconds of a step, and the peak of memory."""
    for method in METHODS:
        whole: dict[str, Any] = {}
        for adapt in ADAPTATIONS:
            command = [sys.executable, "-m", "bench.adaptation", method, adapt]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            whole = whole or found
            yield {
                "name": f"adapt/{method}-{adapt}",
                "value": found["seconds"],
                "unit": "CPU s/step",
                "reference": "the same encoder trained whole",
                "reference_value": whole["seconds"],
                "ratio": found["seconds"] / whole["seconds"],
                "memory_ratio": found["bytes"] / whole["bytes"],
                "note": f"{found['trained']:,} of {found['parameters']:,} parameters, {found['bytes'] / 1e6:.0f} MB",
            }


def measure(method: str, adapt: str) -> dict[str, Any]:
    """Seconds of a step, bytes and parameters of one adaptation, in this process."""
    torch.set_num_threads(1)
    before = peak_bytes()
    encoder = Vit("vit_base_patch16_224", patch_size=16).build(BANDS, SIZE_PX, 0)
    ADAPTATIONS[adapt].apply(encoder, seed=2)
    objective = METHODS[method].build({"tile": encoder}, 1)
    groups = group_parameters(objective, weight_decay=0.05)
    optimizer = make_optimizer(groups, lr=1e-4, config=OptimizerConfig())
    images = torch.randn(2, BATCH, len(BANDS), SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
    views = [View(image, torch.ones_like(image, dtype=torch.bool), BANDS) for image in images]
    group = {"tile": views[:1]} if method == "mae" else {"global": views}
    seconds = []
    for number in range(STEPS + 1):
        started = time.process_time()
        loss = objective(Batch(group, torch.arange(BATCH), Step(number, STEPS + 1, 0)))["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        objective.after_step(Step(number + 1, STEPS + 1, 0))
        seconds.append(time.process_time() - started)
        gc.collect()
    parameters = sum(part.numel() for part in encoder.parameters())
    return {
        "seconds": statistics.median(seconds[1:]),
        "bytes": peak_bytes() - before,
        "trained": count_trained(encoder),
        "parameters": parameters,
    }


if __name__ == "__main__":
    print(json.dumps(measure(*sys.argv[1:])))
