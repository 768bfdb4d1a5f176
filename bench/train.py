"""`train/mae-vs-lightly`: one optimizer step of our masked autoencoder against lightly's parts around the same transformer."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import timm
import torch
from lightly.models import utils
from lightly.models.modules import MaskedVisionTransformerTIMM
from lightly.models.modules.masked_vision_transformer_decoder_timm import MaskedVisionTransformerDecoderTIMM
from torch import Tensor, nn

from eo_ssl.models import View, Vit
from eo_ssl.objectives import Batch, Mae, Step
from eo_ssl.pretraining import OptimizerConfig
from eo_ssl.pretraining.module import group_parameters
from eo_ssl.sensors import sensor

SIZE_PX = 64
BANDS = sensor("sentinel2_l1c").band_names
ARCHITECTURE = Vit("vit_tiny_patch16_224", patch_size=8)
CONFIG = Mae(mask_ratio=0.75, norm="patch", decoder_dim=256, decoder_depth=4, decoder_heads=8)
BATCH, PAIRS = 32, 7


class LightlyMae(nn.Module):
    """lightly's modules put together as its own example does: same encoder, decoder, mask ratio, target and optimiser."""

    def __init__(self) -> None:
        super().__init__()
        a = ARCHITECTURE
        vit = timm.create_model(a.name, img_size=SIZE_PX, patch_size=a.patch_size, in_chans=len(BANDS), num_classes=0)
        self.backbone = MaskedVisionTransformerTIMM(vit=vit)
        self.length = self.backbone.sequence_length
        width = CONFIG.decoder_dim
        self.embed = nn.Linear(vit.embed_dim, width)
        self.decoder = MaskedVisionTransformerDecoderTIMM(
            num_patches=vit.patch_embed.num_patches,
            embed_dim=width,
            depth=CONFIG.decoder_depth,
            num_heads=CONFIG.decoder_heads,
        )
        self.head = nn.Linear(width, len(BANDS) * a.patch_size**2)

    def forward(self, image: Tensor) -> Tensor:
        keep, mask = utils.random_token_mask(
            (len(image), self.length), mask_ratio=CONFIG.mask_ratio, device=image.device
        )
        encoded = self.backbone.encode(images=image, idx_keep=keep)
        tokens = utils.repeat_token(self.decoder.mask_token, (len(image), self.length))
        tokens = utils.set_at_index(tokens, keep, self.embed(encoded).type_as(tokens))
        decoded = self.decoder.decode(self.decoder.add_pos_embed(tokens))
        predicted = self.head(utils.get_at_index(decoded, mask))
        target = utils.get_at_index(utils.patchify(image, ARCHITECTURE.patch_size), mask - 1)
        return nn.functional.mse_loss(predicted, utils.normalize_mean_var(target, dim=-1))


def run() -> Iterator[dict[str, Any]]:
    """One row: median seconds per step of both, measured alternately in this process."""
    image = torch.randn(BATCH, len(BANDS), SIZE_PX, SIZE_PX, generator=torch.Generator().manual_seed(0))
    ours, theirs = CONFIG.build({"tile": ARCHITECTURE.build(BANDS, SIZE_PX, 0)}, 1), LightlyMae()
    view = View(image, torch.ones_like(image, dtype=torch.bool), BANDS)
    batch = Batch({"tile": [view]}, torch.arange(BATCH), Step(0, 1, 0))
    first = _stepper(ours, lambda: ours(batch)["loss"])
    second = _stepper(theirs, lambda: theirs(image))
    first(), second()  # warm up: memory, oneDNN
    times: list[tuple[float, float]] = []
    for number in range(PAIRS):
        order = (first, second) if number % 2 == 0 else (second, first)
        seconds = [_seconds(step) for step in order]
        times.append((seconds[0], seconds[1]) if number % 2 == 0 else (seconds[1], seconds[0]))
    value, reference = (statistics.median(column) for column in zip(*times, strict=True))
    yield {
        "name": "train/mae-vs-lightly",
        "value": value,
        "unit": "s/step",
        "reference": "lightly MaskedVisionTransformerTIMM, same ViT, batch, decoder and fused AdamW",
        "reference_value": reference,
        "ratio": statistics.median(a / b for a, b in times),
        "pairs": PAIRS,
        "note": f"ViT-Ti/8, 64 px, 13 bands, batch {BATCH}, mask 0.75, {BATCH / value:.1f} images/s, {torch.get_num_threads()} threads",
    }


def _stepper(model: nn.Module, loss: Callable[[], Tensor]) -> Callable[[], None]:
    config = OptimizerConfig()
    optimizer = torch.optim.AdamW(
        group_parameters(model, weight_decay=config.weight_decay), lr=1e-4, betas=config.betas, fused=True
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    return step


def _seconds(step: Callable[[], None]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
