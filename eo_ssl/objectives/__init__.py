"""Self-supervised objectives: one file per method, a loss out of a batch and no trainer inside."""

from __future__ import annotations

from eo_ssl.models import VitConfig
from eo_ssl.objectives.base import Batch, Objective
from eo_ssl.objectives.block_masks import BlockMaskConfig
from eo_ssl.objectives.ijepa import IJepa, IJepaConfig
from eo_ssl.objectives.mae import Mae, MaeConfig
from eo_ssl.objectives.simclr import SimClr, SimClrConfig

ObjectiveConfig = MaeConfig | IJepaConfig | SimClrConfig


def make_objective(config: ObjectiveConfig, architecture: VitConfig, *, seed: int = 0) -> Objective:
    """The objective that `config` belongs to, around a fresh encoder.

    Args:
        config: options of the method; their type names it.
        architecture: the encoder.
        seed: of the initial weights.
    """
    if isinstance(config, MaeConfig):
        return Mae(architecture, config, seed=seed)
    if isinstance(config, IJepaConfig):
        return IJepa(architecture, config, seed=seed)
    return SimClr(architecture, config, seed=seed)


__all__ = [
    "Batch",
    "BlockMaskConfig",
    "IJepa",
    "IJepaConfig",
    "Mae",
    "MaeConfig",
    "Objective",
    "ObjectiveConfig",
    "SimClr",
    "SimClrConfig",
    "make_objective",
]
