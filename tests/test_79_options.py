"""Options of objectives, views and runs: every bound is allowed, and what lies beyond it is refused with the value."""

from __future__ import annotations

import pytest

from eo_ssl.curation import Readiness
from eo_ssl.errors import UserError
from eo_ssl.objectives import BarlowTwins, Byol, Dino, IJepa, Mae, MixedBarlowTwins, MocoV2, SimClr, VicReg, ViewSpec
from eo_ssl.objectives.block_masks import BlockMaskConfig
from eo_ssl.pretraining import FitConfig, OptimizerConfig, Processes


@pytest.mark.parametrize(
    ("config", "smallest"),
    [
        (Mae, {"decoder_dim": 4, "decoder_depth": 1, "decoder_heads": 1, "mask_ratio": 0.01}),
        (IJepa, {"predictor_dim": 4, "predictor_depth": 1, "predictor_heads": 1, "momentum": 0.0}),
        (IJepa, {"momentum": 1.0}),
        (SimClr, {"hidden_dim": 1, "output_dim": 1, "temperature": 0.01}),
        (BarlowTwins, {"hidden_dim": 1, "output_dim": 1, "redundancy": 0.0}),
        (MixedBarlowTwins, {"mixture": 0.0}),
        (VicReg, {"invariance": 0.0, "variance": 0.0, "covariance": 0.0}),
        (Byol, {"hidden_dim": 1, "output_dim": 1, "momentum": 0.0}),
        (MocoV2, {"queue": 1, "momentum": 1.0}),
        (Dino, {"prototypes": 1, "bottleneck_dim": 1, "teacher_warmup": 0.0, "frozen_prototypes": 1.0}),
        (BlockMaskConfig, {"n_targets": 1, "target_scale": (0.2, 0.2), "context_scale": (1.0, 1.0)}),
        (ViewSpec, {"count": 1, "size": 1.0, "crop": (1.0, 1.0), "gain": 0.0, "noise": 0.0}),
        (
            OptimizerConfig,
            {"warmup_steps": 0, "weight_decay": 0.0, "weight_decay_end": 0.0, "lr_start": 0.0, "lr_end": 1.0},
        ),
        (OptimizerConfig, {"lr_start": 1.0, "lr_end": 0.0}),
        (FitConfig, {"log_every": 1, "monitor_every": 1, "monitor_tiles": 1, "checkpoint_every": 1}),
        (Processes, {"devices": 1, "num_nodes": 1, "accumulate": 1}),
        (Readiness, {"none": 0.99, "full": 1.0, "rows": 4, "retry": 1}),
    ],
)
def test_the_bounds_of_every_option_are_allowed(config: type, smallest: dict[str, object]) -> None:
    made = config(**smallest)
    assert {name: getattr(made, name) for name in smallest} == smallest


@pytest.mark.parametrize(
    ("config", "beyond"),
    [
        (Mae, {"mask_ratio": 0.0}),
        (Mae, {"mask_ratio": 1.0}),
        (Mae, {"decoder_depth": 0}),
        (IJepa, {"predictor_heads": 0}),
        (IJepa, {"momentum": -0.01}),
        (SimClr, {"hidden_dim": 0}),
        (SimClr, {"output_dim": 0}),
        (BlockMaskConfig, {"n_targets": 0}),
        (BlockMaskConfig, {"target_scale": (0.0, 0.2)}),
        (BlockMaskConfig, {"context_scale": (0.9, 1.01)}),
        (BlockMaskConfig, {"target_aspect": (0.0, 1.0)}),
        (BlockMaskConfig, {"target_aspect": (1.5, 1.0)}),
        (ViewSpec, {"count": 0}),
        (ViewSpec, {"size": 0.0}),
        (ViewSpec, {"size": 8.01}),
        (ViewSpec, {"crop": (0.0, 1.0)}),
        (ViewSpec, {"gain": 1.0}),
        (ViewSpec, {"noise": -0.1}),
        (OptimizerConfig, {"warmup_steps": -1}),
        (OptimizerConfig, {"weight_decay": -0.1}),
        (OptimizerConfig, {"weight_decay_end": -0.1}),
        (OptimizerConfig, {"lr_start": 1.1}),
        (FitConfig, {"monitor_tiles": 0}),
        (Processes, {"num_nodes": 0}),
        (Readiness, {"full": 1.01}),
        (Readiness, {"none": 0.3}),
        (Readiness, {"rows": 3}),
        (Readiness, {"retry": 0}),
        (Processes, {"accumulate": 0}),
    ],
)
def test_what_lies_beyond_them_is_refused(config: type, beyond: dict[str, object]) -> None:
    with pytest.raises(UserError) as refused:
        config(**beyond)
    assert all(str(value).strip("()") in str(refused.value) for value in beyond.values())
