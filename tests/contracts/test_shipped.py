"""What is shipped works where it is shipped to: every card, every configuration, the wheel."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import yaml

from eo_ssl.cards import list_cards, load_card
from eo_ssl.cli import COMMANDS, main, parse

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = sorted(ROOT.glob("configs/*/*.yaml"))


@pytest.mark.parametrize("name", list_cards())
def test_every_card_reads_and_names_its_terms(name: str) -> None:
    card = load_card(name)
    assert card.name == name
    assert card.licence
    assert card.attribution
    assert card.source


def test_benchmark_cards_agree_with_torchgeo() -> None:
    for card in map(load_card, list_cards()):
        if card.reader != "torchgeo" or card.loader is None:
            continue
        module, _, cls = card.loader.rpartition(".")
        theirs = getattr(importlib.import_module(module), cls)
        assert card.bands == tuple(theirs.all_band_names), card.name
        if card.name == "eurosat" and card.statistics is not None:
            datamodule = importlib.import_module("torchgeo.datamodules.eurosat")
            index = [theirs.all_band_names.index(band) for band in card.bands]
            np.testing.assert_allclose(
                card.statistics.mean, [float(datamodule.MEAN[theirs.all_band_names[i]]) for i in index], rtol=1e-4
            )


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_every_configuration_parses_against_its_workflow(path: Path) -> None:
    command = path.parent.name
    options, call = parse(command, import_module(f"eo_ssl.workflows.{command}").main, ["--config", str(path)])
    assert callable(call)
    assert set(yaml.safe_load(path.read_text())) <= set(options.as_dict())


def test_every_command_has_help_and_print_config(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        with pytest.raises(SystemExit) as stop:
            main([command, "--help"])
        assert stop.value.code == 0
        assert "--config" in capsys.readouterr().out


def test_stages_of_a_run_parse_against_their_workflows() -> None:
    for path in ROOT.glob("configs/run/*.yaml"):
        for stage in yaml.safe_load(path.read_text())["stages"]:
            for command, options in stage.items():
                known = set(import_module(f"eo_ssl.workflows.{command}").main.__annotations__)
                assert set(options) - {"with"} <= known, (path.name, command, set(options) - known)


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--quiet", "--target", str(site)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True)
    assert not (site / "datasets").exists(), "a top-level `datasets` would shadow another library"
    assert not [*site.rglob("worlds"), *site.rglob("*.xml.j2")], "generators of the tests are not shipped"
    # The dependencies come from the running interpreter's site-packages; the wheel stands before the checkout.
    environment = {**os.environ, "PYTHONPATH": str(site)}
    shown = subprocess.run(
        [sys.executable, str(site / "bin" / "eo-ssl"), "--help"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "eo-ssl <command>" in shown.stdout
    code = """
import eo_ssl, eo_ssl.workflows.doctor as doctor
from eo_ssl.cards import find_card_folder, list_cards, load_card
from eo_ssl.cli import list_shipped_configs
from eo_ssl.sample import make_archive
print(eo_ssl.__file__, doctor.__file__, find_card_folder(), sep="\\n")
assert [load_card(name).name for name in list_cards()] == list(list_cards()) and len(list_cards()) > 10
assert {"demo", "real-sample"} <= set(list_shipped_configs("run"))
"""
    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert all(line.startswith(str(site)) for line in found.stdout.split()), found.stdout
