"""``eo-ssl run``: several commands in one go, each in its own process, with every stage's wall time and peak memory."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eo_ssl.commands import COMMANDS
from eo_ssl.commits import discard_leftovers, replace
from eo_ssl.diagnosis import find_data
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.manifest import MANIFEST, Clock
from eo_ssl.printable import make_console
from eo_ssl.sample import make_archive
from eo_ssl.stage_check import check_stages
from eo_ssl.stage_plan import plan_stages
from eo_ssl.stop_signals import SIGNALS, STAGE, HeldSignals, Stopped

STAGES = tuple(command for command in COMMANDS if command != "run")


def main(
    stages: list[dict[str, dict[str, Any]]],
    out: Path,
    data: Path | None = None,
    only: list[str] | None = None,
    sample_seed: int | None = None,
    matrix: dict[str, Any] | None = None,
) -> None:
    """Run the listed commands in order; each resumes or does nothing when its product is there already.

    Args:
        stages: list of {command: {option: value}}; in text values, {out} stands for the output folder and {data} for
            the data folder, {AXIS} for the value of an axis of the matrix; `with: AXIS` takes the options of an arm,
            and {matrix} in a list is the encoders of all cells, joined over their seeds.
        out: folder that receives every product.
        data: folder of the input data; the one that the environment variable EO_SSL_DATA names when left out.
        sample_seed: make the embedded sample archive with this seed in {out}/archive first; it then is the data folder.
        only: run just these commands of the list (their inputs must be there already).
        matrix: {AXIS: [VALUE, VALUE]} or {AXIS: {ARM: {option: value}}}: a stage that uses axes runs once for each
            combination of their values, seed by seed.
    """
    for command in [*(command for stage in stages for command in stage), *(only or ())]:  # before anything is written
        expect(
            command in STAGES,
            expected=f"stages out of {', '.join(STAGES)}",
            got=f"{command!r}{suggest_nearest(command, STAGES)}",
            remedy="correct the list of stages",
        )
    folder = out / "archive" if sample_seed is not None else find_data(data)
    joined_unfinished = not only or "pretrain" in only  # they are trained before they are joined
    planned = plan_stages(
        stages,
        matrix,
        names={"out": str(out), "data": str(folder)},
        is_there=lambda product: joined_unfinished or (Path(product) / MANIFEST).is_file(),
    )
    if matrix:
        check_stages(planned)
    console, started, rows = make_console(), Clock(), []
    discard_leftovers(out, depth=2)  # of a run that was killed
    if sample_seed is not None:
        console.rule(Text("sample archive", "bold"))
        make_archive(out / "archive", seed=sample_seed)
    if "{data}" in dump_canonical_json([stages, matrix]):
        expect(
            folder is not None and folder.is_dir(),
            expected="a folder of input data" if folder is None else f"the input data in {folder}",
            got="none" if folder is None else "no such folder",
            remedy="set EO_SSL_DATA or give --data FOLDER",
        )
    for number, stage in enumerate(planned, 1):
        if only and stage.command not in only:
            continue
        name = Path(str(stage.options.get("out", ""))).name
        title = Text.assemble((f"{number}/{len(planned)} {stage.command}", "bold"), f" {name}")
        console.rule(title.append(f"  {stage.label}" if stage.label else ""))
        log = out / "logs" / f"{number:02d}-{stage.command}.yaml"
        rows.append(_stage(stage.command, stage.options, log) | ({"cell": stage.cell} if stage.cell else {}))
        replace(out / "stages.json", dump_canonical_json(rows).encode())
    _print(console, rows, started)
    report = next((row for row in reversed(rows) if row["command"] == "report"), None)
    if report:
        console.print(f"report: {Path(str(report['out'])).resolve() / 'index.html'}", soft_wrap=True)


def _stage(command: str, options: dict[str, Any], config: Path) -> dict[str, Any]:
    """Run one command in a fresh process and return its wall time, CPU time and peak memory."""
    replace(config, yaml.safe_dump(options, sort_keys=False).encode())
    clock = Clock()
    with HeldSignals() as held:
        its, ours = os.pipe()  # closes when this process ends, however that comes: then the stage stops too
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "eo_ssl.cli", command, "--config", str(config)],  # -P: nothing of this folder
            env={**os.environ, "PYTHONSAFEPATH": "1", STAGE: str(its)},
            stdin=subprocess.DEVNULL,
            pass_fds=(its,),
        )
        os.close(its)
        held.pass_on(process.pid)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        held.pass_on(0)
        os.close(ours)
    number = -process.returncode if process.returncode < 0 else process.returncode - 128
    if number in SIGNALS:
        raise Stopped(number)
    if process.returncode:
        raise UserError(
            f"expected `eo-ssl {command} --config {config}` to succeed,"
            f" got {_describe_exit(process.returncode)}; mend what it says above and run again"
        )
    return {
        "command": command,
        "out": str(options.get("out", "")),
        "wall_s": round(clock.wall_s, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "peak_mb": round(usage.ru_maxrss * 1024 / 1e6),
    }


def _describe_exit(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    return f"its end by {signal.Signals(-status).name}, which is most often for want of memory"


def _print(console: Console, rows: list[dict[str, Any]], started: Clock) -> None:
    table = Table(title="stages")
    for name in ("command", "product", "wall s", "CPU s", "peak MB"):
        table.add_column(name, justify="left" if name in ("command", "product") else "right")
    for row in rows:
        table.add_row(
            row["command"], Path(row["out"]).name, f"{row['wall_s']:.1f}", f"{row['cpu_s']:.1f}", f"{row['peak_mb']:,}"
        )
    console.print(table)
    console.print(f"{len(rows)} stages in {started.wall_s:.0f} s")
