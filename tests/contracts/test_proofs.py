"""Every method has its five proofs: from image to loss, poisoned pixels, some steps that learn, two processes, state."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import test_82_processes as processes
from eo_ssl.objectives import list_methods

NODATA, BY_COMMAND = "nodata_never_enters", "80_pretrain_workflow: methods_of_one_stream_train"
VALUES = "values_under_nodata_change_nothing"
PROOFS = {  # file, its tests of the path, of poison and of learning, and the file and test of a run by the command
    "BarlowTwins": ("71_two_views", "barlow_twins_brings", NODATA, "forty_steps", BY_COMMAND),
    "Byol": ("71_two_views", "byol_sums", NODATA, "forty_steps", BY_COMMAND),
    "Croma": (
        "74_croma",
        "the_loss_is_that_of_the_parts",
        "pixels_that_are_not_valid",
        "training_lets_sensors_find",
        "83_items: two_sensors_train_an_encoder_each_and_one_of_both",
    ),
    "Data2Vec": ("73_data2vec", "the_loss_of_a_batch", VALUES, "25_steps", BY_COMMAND),
    "Data2Vec2": ("73_data2vec2", "the_loss_of_a_batch", VALUES, "thirty_steps", BY_COMMAND),
    "Dcl": ("71_two_views", "dcl_leaves_the_pair", NODATA, "forty_steps", BY_COMMAND),
    "Dino": ("72_dino", "each_global_crop", NODATA, "sixty_steps", BY_COMMAND),
    "DinoV2": ("73_dino_v2", "the_three_terms_add_up", NODATA, "forty_steps", BY_COMMAND),
    "Distill": (
        "74_distill",
        "the_loss_is_that_of_a_loop",
        NODATA,
        "twenty_steps",
        "80_pretrain_init: a_foreign_teacher",
    ),
    "IJepa": ("70_ijepa", "the_loss_of_a_batch", VALUES, "thirty_steps", "80_pretrain_workflow: an_encoder_is_trained"),
    "ISogClr": ("73_isogclr", "means_and_temperatures", NODATA, "thirty_steps", BY_COMMAND),
    "LeJepa": ("73_lejepa", "both_terms_are_lightlys", NODATA, "thirty_steps", BY_COMMAND),
    "Mae": (
        "70_mae",
        "the_loss_of_a_batch",
        VALUES,
        "thirty_steps",
        "workflows/real_samples: two_processes_train_an_encoder",
    ),
    "MaskFeat": ("74_mask_feat", "the_loss_of_a_batch", NODATA, "thirty_steps", BY_COMMAND),
    "MixedBarlowTwins": ("71_two_views", "mixtures_are_made_of_one_view", NODATA, "forty_steps", BY_COMMAND),
    "MocoV2": ("71_two_views", "moco_v2_tells_its_key", NODATA, "forty_steps", BY_COMMAND),
    "MocoV3": ("71_two_views", "moco_v3_asks_both_ways", NODATA, "forty_steps", BY_COMMAND),
    "MultiMae": (
        "74_multi_mae",
        "the_loss_is_that_of_every_token",
        "pixels_that_are_not_valid",
        "training_fills_in_one_sensor",
        "83_items: one_transformer_of_two_sensors_encodes_each_alone_and_both",
    ),
    "Pmsn": ("73_pmsn", "anchors_get_the_sharpened_class", NODATA, "thirty_steps", BY_COMMAND),
    "SarIJepa": (
        "74_sar_ijepa",
        "the_loss_of_a_batch",
        "missing_pixels_are_no_edges",
        "some_tens_of_steps",
        BY_COMMAND,
    ),
    "SarJepa": (
        "74_sar_jepa",
        "the_loss_of_a_batch",
        NODATA,
        "some_tens_of_steps",
        "74_sar_jepa: the_command_trains_a_radar_encoder",
    ),
    "SatMae": (
        "74_satmae",
        "the_loss_of_a_batch",
        VALUES,
        "a_hidden_group_is_told",
        "80_pretrain_workflow: satmae_trains_encoders",
    ),
    "SatMaePp": (
        "74_satmae",
        "finer_scales_are_made_from_all_predictions",
        "finer_scales_leave_out_what_is_missing_and_learn",
        "finer_scales_leave_out_what_is_missing_and_learn",
        "80_pretrain_workflow: satmae_trains_encoders",
    ),
    "SimClr": (
        "70_simclr",
        "the_loss_of_a_batch",
        "views_are_compared_tile_by_tile",
        "thirty_steps",
        "83_items: two_seasons",
    ),
    "Swav": ("73_swav", "every_other_crop_predicts", NODATA, "thirty_steps", BY_COMMAND),
    "VicReg": ("71_two_views", "vicreg_adds_up", NODATA, "forty_steps", BY_COMMAND),
}


@cache
def list_tests(path: Path) -> list[str]:
    found = [node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)]
    return [name.removeprefix("test_") for name in found if name.startswith("test_")]


def test_every_method_has_its_proofs(project_root: Path) -> None:
    methods = {name: method for name, method in list_methods().items() if method.__module__.startswith("eo_ssl.")}
    assert set(PROOFS) == set(methods)
    folder = project_root / "tests"
    for method, (own, *proofs, command) in PROOFS.items():
        where, _, run = command.partition(": ")
        places = [(folder / f"test_{own}.py", proof) for proof in proofs]
        at, _, stem = where.rpartition("/")
        for path, name in (*places, (folder / at / f"test_{stem}.py", run)):
            (found,) = [test for test in list_tests(path) if test.startswith(name)]
            assert found and method in path.read_text(), (method, path)


def test_every_method_runs_in_two_processes_and_its_state_is_in_a_checkpoint() -> None:
    """`test_82_processes` compares those of its table with one process, `test_80_pretrain_resume` their checkpoints."""
    methods = {name for name, method in list_methods().items() if method.__module__.startswith("eo_ssl.")}
    assert {type(method).__name__ for method in processes.METHODS.values()} == methods
