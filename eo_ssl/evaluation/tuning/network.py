"""Networks to train: a copy of an encoder with a head for vectors or a decoder for masks."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from eo_ssl.encoder import Encoder, FusedEncoder
from eo_ssl.errors import expect
from eo_ssl.evaluation.tuning.decoders import make_decoder
from eo_ssl.evaluation.tuning.feature_maps import (
    Maps,
    check_maps,
    compute_four_maps,
    compute_last_map,
    prepare_network_input,
)
from eo_ssl.evaluation.tuning.optimisation import Group, add_stochastic_depth, group_head, group_layers
from eo_ssl.evaluation.tuning.stacked_encoder import StackedEncoder
from eo_ssl.evaluation.tuning.task_loader import TaskBatch
from eo_ssl.evaluation.tuning.tuning_config import Decoder, TunedProtocol, Tuning
from eo_ssl.models import insert_lora


class Network(nn.Module):
    """A copy of an encoder, and the head that `make_network` puts on it."""

    def __init__(self, encoder: Encoder | StackedEncoder, protocol: TunedProtocol, *, decoder: Decoder | None) -> None:
        super().__init__()
        copied: Any = copy.deepcopy(encoder)
        self.encoder: Any = copied
        self.encoder.requires_grad_(False)
        self.protocol = protocol
        self.decoder = decoder
        self.head: nn.Module = nn.Identity()

    @property
    def tuned(self) -> bool:
        """Whether all weights of the encoder are trained."""
        return self.protocol.adapts == "all"

    def train(self, mode: bool = True) -> Network:
        """Set training mode; a frozen encoder stays in evaluation mode, its batch statistics with it."""
        super().train(mode)
        self.encoder.train(mode and self.tuned)
        return self

    def forward(self, image: Tensor, valid: Tensor) -> Tensor:
        """Input of the contract [B, C, H, W] and its validity -> [B, K], or logits of masks [B, K, h, w]."""
        trained_inside = self.protocol.adapts != "head"
        with nullcontext() if trained_inside else torch.no_grad():
            seen = self.seen(image, valid)
        answered: Tensor = self.head(seen)
        return answered

    def seen(self, image: Tensor, valid: Tensor) -> Tensor | Maps:
        """Return what the head is given: features [B, D], the last map, or four."""
        if self.decoder is None:
            features: Tensor = self.encoder.features(image, valid=valid)
            return features
        maps = compute_last_map if self.decoder == "linear" else compute_four_maps
        prepared, options = prepare_network_input(self.encoder, image, valid)
        return maps(self.encoder.model, prepared, **options)

    def groups(self, config: Tuning) -> list[Group]:
        """Return the parameters that are trained, with their share of the rate."""
        found = group_head(self.head, weight_decay=config.weight_decay)
        if self.tuned:
            decay = {"weight_decay": config.weight_decay, "layer_decay": config.layer_decay}
            return found + group_layers(self.encoder.model, **decay)
        return found + group_head(self.encoder, weight_decay=config.weight_decay)  # none but those of LoRA

    def changing(self) -> set[str]:
        """Return the names in the state of everything that training changes: trained parameters and statistics."""
        frozen = {name for name, parameter in self.named_parameters() if not parameter.requires_grad}
        return set(self.state_dict()) - frozen


def make_network(
    encoder: Encoder | StackedEncoder, example: TaskBatch, *, protocol: TunedProtocol, config: Tuning, outputs: int
) -> Network:
    """Return a network to train, its new weights drawn from torch's global generator.

    Args:
        encoder: stays as it is; a copy is trained.
        example: a batch, whose first image tells the sizes of features and maps.
        protocol: decides what is trained.
        config: rank, decoder and skipped blocks.
        outputs: number of classes or labels; 1 for a regression.

    Raises:
        UserError: an encoder without a network, or a network that the protocol cannot use.
    """
    check_network(encoder)
    decoder = protocol.choose_decoder(config)
    network = Network(encoder, protocol, decoder=decoder).to(example.image.device).eval()
    model = network.encoder.model
    if decoder is not None and not isinstance(encoder, StackedEncoder):
        check_maps(encoder, model)
    image, valid = example.image[:1], example.valid[:1]
    with torch.no_grad():
        features: Tensor = network.encoder.features(image, valid=valid)  # refuses an input of another size in words
        seen = network.seen(image, valid)
    if decoder is not None and isinstance(seen, Maps):
        network.head = make_decoder(decoder, seen, classes=outputs, width=config.decoder_width)
    else:
        network.head = _linear_head(features.shape[1], outputs, of_batch=protocol.adapts == "lora")
    if protocol.adapts == "lora":
        insert_lora(model, rank=config.lora_rank, alpha=config.lora_alpha)
    if network.tuned:
        given: Any = encoder
        for name, parameter in given.model.named_parameters():
            model.get_parameter(name).requires_grad_(parameter.requires_grad)  # fixed position codes stay as they are
        for trunk in model.trunks if isinstance(model, FusedEncoder) else (model,):
            add_stochastic_depth(trunk, rate=config.drop_path)
    return network.to(image.device)


def check_network(encoder: Encoder | StackedEncoder) -> None:
    """Refuse an encoder without a network to train.

    Raises:
        UserError: features that are computed without one.
    """
    expect(
        isinstance(encoder, nn.Module) and isinstance(getattr(encoder, "model", None), nn.Module),
        expected="an encoder with a network to train",
        got=f"{encoder.name}, whose features are computed without one",
        remedy="judge it with knn5 or linear, or train random_init or random_resnet50",
    )


def _linear_head(width: int, outputs: int, *, of_batch: bool) -> nn.Module:
    """A norm and a linear map with small initial weights.

    The norm is over each image's vector where all weights are tuned, and over the batch where most are frozen and what
    tells images apart may be small beside what they share (He et al. 2022, code of fine-tuning and appendix A.1 on
    linear probing).
    """
    linear = nn.Linear(width, outputs)
    nn.init.trunc_normal_(linear.weight, std=0.01)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(nn.BatchNorm1d(width, affine=False, eps=1e-6) if of_batch else nn.LayerNorm(width), linear)
