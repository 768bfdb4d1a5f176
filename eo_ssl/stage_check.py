"""Whether commands know the options that a run is to give them, asked of their parsers in a process of its own.

Parsers import what their commands run, torch included, which the process of a run does without.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import yaml

from eo_ssl.errors import UserError
from eo_ssl.stage_plan import PlannedStage


def check_stages(planned: Sequence[PlannedStage]) -> None:
    """Refuse options that a command would refuse, before the first of them runs; what depends on data is left to them.

    Raises:
        UserError: what the command says, and of which cell.
    """
    asked = json.dumps([[stage.command, stage.options] for stage in planned])
    done = subprocess.run(
        [sys.executable, "-P", "-m", "eo_ssl.stage_check"],
        env={**os.environ, "PYTHONSAFEPATH": "1"},
        input=asked.encode(),
        stdout=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        raise UserError(
            f"expected to check the options of all stages, got exit status {done.returncode}; mend what it says above"
        )
    found = json.loads(done.stdout.splitlines()[-1])  # whatever a library prints when it is imported
    if found is not None:
        number, problem = found
        stage = planned[number]
        raise UserError(f"{problem}, in `{stage.command}`{f' of {stage.label}' if stage.label else ''} of the run")


def _find_problem(asked: Sequence[tuple[str, object]]) -> tuple[int, str] | None:
    """Number of the first command that refuses its options, and what it says."""
    from eo_ssl.cli import parse

    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "options.yaml"
        for number, (command, options) in enumerate(asked):
            config.write_text(yaml.safe_dump(options, sort_keys=False))
            try:
                parse(command, import_module(f"eo_ssl.workflows.{command}").main, ["--config", str(config)])
            except UserError as error:
                return number, str(error)
    return None


if __name__ == "__main__":
    print(json.dumps(_find_problem(json.load(sys.stdin))))
