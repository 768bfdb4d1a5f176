"""Do the tests bite? Forty seeded one-line mutants of the learning half and of curation; each must fail one of its room's tests."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mutants import mutants

ROOT = Path(__file__).resolve().parents[1]
SEED, COUNT, SHARE = 20261129, 40, 0.85
TESTS = {
    "objectives": "test_79_options test_70_mae test_70_ijepa test_70_simclr test_82_processes test_81_choices",
    "models": "test_65_vit test_66_resnet test_70_mae test_70_ijepa test_70_simclr test_75_encoder",
    "pretraining": "test_79_options test_80_pretrain test_83_items test_80_pretrain_workflow test_80_pretrain_resume test_82_processes",
    "curation": "test_79_options test_50_curation_clusters test_50_curation_select test_50_curation_schedule test_50_curation_workflow test_51_repeat_pixels test_51_repeats",
}


def sampled() -> list[tuple[str, Path, int, str, str]]:
    """(room, file, line, change, source) of mutants drawn evenly over the rooms."""
    drawn, rng = [], random.Random(SEED)
    for room in TESTS:
        every = [
            (room, path, *mutant) for path in sorted((ROOT / "eo_ssl" / room).glob("*.py")) for mutant in mutants(path)
        ]
        drawn += rng.sample(every, COUNT // len(TESTS))
    return drawn


@pytest.mark.slow
def test_most_mutants_are_killed(tmp_path: Path) -> None:
    for name in ("eo_ssl", "workflows", "tests", "configs", "datasets"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    survivors = []
    for room, path, line, change, source in sampled():
        copied = tmp_path / path.relative_to(ROOT)
        original = copied.read_text()
        copied.write_text(source)
        files = [f"tests/{name}.py" for name in TESTS[room].split()]
        command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        try:
            killed = (
                subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=1200).returncode
                == 1
            )
        except subprocess.TimeoutExpired:
            killed = True
        copied.write_text(original)
        print(f"{'killed' if killed else 'SURVIVED'} {path.relative_to(ROOT)}:{line} {change}", flush=True)
        survivors += [] if killed else [f"{path.relative_to(ROOT)}:{line} {change}"]
    assert len(survivors) <= COUNT * (1 - SHARE), survivors
