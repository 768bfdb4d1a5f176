"""What people write, and all that is checked of it before anything begins: cards, and configurations of `pretrain` and `run`."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from bench.damage_trials import Kind
from bench.damaged_products import OPTICAL
from bench.damages import MARK
from eo_ssl.cards import load_card
from eo_ssl.cli import main as command_line
from eo_ssl.cli import parse
from eo_ssl.commits import replace
from eo_ssl.errors import UserError
from eo_ssl.pretraining import encoder_training
from eo_ssl.scene import list_products
from eo_ssl.workflows import run


def _make_card(made: Path) -> None:
    (made / "card").mkdir()
    (made / "card" / "mine.yaml").write_text(
        yaml.safe_dump(_without_name(load_card("sample_s2_l2a").to_json()), sort_keys=False)
    )


def _without_name(value: dict[str, Any]) -> dict[str, Any]:
    return {
        key: item
        for key, item in json.loads(json.dumps(value)).items()
        if item not in (None, "", {}, []) and key != "name"
    }


def _read_card(folder: Path) -> Iterator[Any]:
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # of odc-geo with affine 3
    path = folder / "mine.yaml"
    sys.path.insert(0, str(_write_hostile(folder)))
    yield _call("inspect", str(path), "--format", "json")
    card = load_card(path)
    yield card.to_json()
    listed = list_products(card, Path("archive"))
    yield [one.product_id for one in listed.products]
    cube = listed.products[0].open()
    yield [dict(cube.sizes), {key: str(value) for key, value in cube.attrs.items()}]
    yield np.ascontiguousarray(cube["image"].values).tobytes()


def _write_hostile(folder: Path) -> Path:
    """A module that leaves a mark when it is imported."""
    (folder.parent / "hostile.py").write_text(f"open({MARK!r}, 'w').close()\n\n\nclass Hostile:\n    pass\n")
    return folder.parent


def _call(*arguments: str) -> str:
    """What a command prints; its refusal as an error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            status = command_line(list(arguments))
        except SystemExit as end:
            status = int(end.code or 0)
    if status == 2:
        raise UserError(err.getvalue().strip().partition(": ")[2])
    if status:
        raise AssertionError(f"status {status}: {err.getvalue()}")
    return out.getvalue()


def _make_pretrain_config(made: Path) -> None:
    (made / "pretrain config").mkdir()
    value = {
        "corpus": ["corpus"],
        "out": "out",
        "streams": [OPTICAL],
        "objective": {"Mae": {"norm": "patch", "mask_ratio": 0.75}},
        "model": {"Vit": {"name": "vit_tiny_patch16_224", "patch_size": 8, "depth": 1}},
        "steps": 4,
        "batch_size": 8,
        "lr": 1e-3,
        "seed": 0,
        "views": {"tile": {"crop": [0.5, 1.0], "gain": 0.1}},
        "optimizer": {"warmup_steps": 1, "betas": [0.9, 0.95]},
        "prune": {"warmup": 16, "interval": 16, "keep": 0.6, "method": {"levels": [4], "n_resample": 1}},
        "training": {"log_every": 1},
        "loggers": ["csv"],
        "max_time": "00:00:10:00",
    }
    (made / "pretrain config" / "mine.yaml").write_text(yaml.safe_dump(value, sort_keys=False))


class _EnoughError(Exception):
    """Everything was checked."""


def _read_pretrain_config(folder: Path) -> Iterator[Any]:
    """All that a run checks before its first step."""
    sys.path.insert(0, str(_write_hostile(folder)))
    warnings.simplefilter("ignore")
    with mock.patch.object(encoder_training, "fit", side_effect=_EnoughError), contextlib.suppress(_EnoughError):
        yield _call("pretrain", "--config", str(folder / "mine.yaml"))
    for path in sorted(folder.parent.glob("**/unfinished.json")):
        yield path.relative_to(folder.parent).as_posix()
        yield json.loads(path.read_text())


def _make_run_config(made: Path) -> None:
    (made / "run config").mkdir()
    value = {
        "out": "runs/mine",
        "data": "archive",
        "stages": [
            {"ingest": {"card": "sample_s2_l2a", "data": "{data}", "out": "{out}/corpus", "min_valid": 0.9}},
            {
                "pretrain": {
                    "corpus": "{out}/corpus",
                    "out": "{out}/encoder",
                    "objective": {"Mae": {"norm": "patch"}},
                    "steps": 20,
                }
            },
            {"report": {"inputs": ["{out}"], "out": "{out}/report", "title": "mine"}},
        ],
    }
    (made / "run config" / "mine.yaml").write_text(yaml.safe_dump(value, sort_keys=False))


def _read_run_config(folder: Path) -> Iterator[Any]:
    """All that `run` does but for starting processes: what each would read is parsed here."""
    sys.path.insert(0, str(_write_hostile(folder)))
    stages: list[Any] = []

    def parse_stage(command: str, options: dict[str, Any], config: Path) -> dict[str, Any]:
        replace(config, yaml.safe_dump(options, sort_keys=False).encode())
        parsed, _ = parse(command, import_module(f"eo_ssl.workflows.{command}").main, ["--config", str(config)])
        stages.append([command, config.as_posix(), str(parsed)])
        return {"command": command, "out": str(options.get("out", "")), "wall_s": 0.0, "cpu_s": 0.0, "peak_mb": 0}

    with mock.patch.object(run, "_stage", parse_stage):
        _call("run", "--config", str(folder / "mine.yaml"))
    yield stages


_WRITTEN: dict[str, Any] = {"signs": False, "beside": ("corpus", "archive")}
KINDS = {
    "card": Kind(_read_card, _make_card, **_WRITTEN),
    "pretrain config": Kind(_read_pretrain_config, _make_pretrain_config, **_WRITTEN),
    "run config": Kind(_read_run_config, _make_run_config, **_WRITTEN),
}
