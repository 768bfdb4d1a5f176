"""The command line: one sentence and status 2 for a user's mistake, no stack trace, nothing half done."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from rich.table import Table

from eo_ssl.cli import _item, _spell, find_config, main
from eo_ssl.commands import COMMANDS
from eo_ssl.errors import UserError
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one line that a refused command prints."""
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert len(printed.err.strip().splitlines()) == 1, printed.err
    return printed.err


def test_unknown_commands_options_and_keys_name_the_nearest(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "did you mean 'ingest'" in refused(capsys, "injest")
    assert "did you mean 'format'" in refused(capsys, "doctor", "--formt", "json")
    config = tmp_path / "config.yaml"
    config.write_text("formt: json\n")
    assert "did you mean 'format'" in refused(capsys, "doctor", "--config", str(config))


def test_a_wrong_value_says_what_was_expected(capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refused(capsys, "doctor", "--format", "xml")
    assert "json" in sentence
    assert "xml" in sentence


def test_lists_are_typed_as_words() -> None:
    def workflow(
        names: list[str],
        inputs: list[Path] | None = None,
        shots: list[int] | None = None,
        out: Path = Path(),
        quiet: bool = False,
    ) -> None: ...

    expected = ["--names", "a b", "torchgeo:X?size=64"], ["--shots", "1", "5"], ["--out", "o"], ["--quiet"]
    assert _spell([word for part in expected for word in part], workflow) == [
        '--names=["a b", "torchgeo:X?size=64"]',
        "--shots=[1, 5]",
        "--out",
        "o",
        "--quiet=true",
    ]
    assert _spell(["--names", "one"], workflow) == ['--names=["one"]']
    assert _spell(["--inputs", "a/b", "c"], workflow) == ['--inputs=["a/b", "c"]']
    assert _spell(["--names", "[a, b]", "--shots=5"], workflow) == ["--names=[a, b]", "--shots=[5]"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_list_that_is_given_twice_is_refused_and_not_overwritten(command: str) -> None:
    workflow = import_module(f"eo_ssl.workflows.{command}").main
    lists = [name for name, hint in get_type_hints(workflow).items() if _item(hint)]
    for name in lists:
        with pytest.raises(
            UserError, match=f"expected --{name} once with all its values, got it again; write `--{name} O"
        ):
            _spell([f"--{name}", "1", f"--{name.replace('_', '-')}=2"], workflow)
    with pytest.raises(UserError, match=r"expected --method\.levels once"):  # of an option's option
        _spell(["--method.levels", "[4]", "--method.levels=[5, 6]"], workflow)
    assert _spell(["--seed", "1", "--seed", "2", "--config", "a", "--config", "b"], workflow)


def test_text_of_people_and_files_is_printed_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], project_root: Path
) -> None:
    """It used to vanish as a style, or to end in a stack trace where it closes one that is not open."""
    names = ("[/red]", "[bold]x", ":smile:", "\\[dim]")
    (tmp_path / "[").mkdir()
    folder = tmp_path / "[" / "red] [bold]"
    with open_product(folder, stage="curate", config={name: name for name in names}, inputs={"a": "b"}) as product:
        product.sign("f00d", summary={name: [{name: name}] for name in names})
    assert main(["inspect", str(folder)]) == 0
    shown = capsys.readouterr().out
    assert str(folder) in shown.replace("\n", "") and all(shown.count(name) >= 4 for name in names)
    console = make_console(width=200)
    console.print(f"{names}")
    table = Table(names[0], title=names[1], caption=names[2])
    table.add_row(names[3])
    console.print(table)
    console.rule(names[0])
    shown = capsys.readouterr().out
    assert all(name in shown for name in names)
    sources = [path for room in ("eo_ssl", "workflows") for path in (project_root / room).rglob("*.py")]
    assert [
        path.name for path in sources if re.search(r"(?<!make_)\bConsole\(|rich import print", path.read_text())
    ] == ["printable.py"]


def test_debug_shows_the_stack_trace() -> None:
    with pytest.raises(UserError):
        main(["inspect", "nowhere", "--debug"])


def test_an_option_overrides_the_configuration(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text("format: json\n")
    assert main(["doctor", "--config", str(config)]) == 0
    assert capsys.readouterr().out.startswith("{")
    assert main(["doctor", "--config", str(config), "--format", "table"]) == 0
    assert not capsys.readouterr().out.startswith("{")


def test_a_missing_configuration_lists_the_shipped_ones() -> None:
    with pytest.raises(UserError, match="did you mean 'demo'"):
        find_config("run", "dmo")


def test_inspect_shows_a_card(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "s2_29rkh_l2a", "--format", "json"]) == 0
    assert '"sentinel2_l2a"' in capsys.readouterr().out
    assert "did you mean 's2_29rkh_l2a'" in refused(capsys, "inspect", "s2_29rkh_l2")


def test_dashes_and_switches_are_understood() -> None:
    def workflow(out_folder: Path, dry_run: bool = False, seed: int = 0) -> None: ...

    spelled = _spell(["--out-folder", "a-b", "--dry-run", "--seed=3", "--dry_run", "false"], workflow)
    assert spelled == ["--out_folder", "a-b", "--dry_run=true", "--seed=3", "--dry_run", "false"]


def test_what_an_optional_group_of_options_refuses_is_its_own_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    """It was a stack: the parser had wrapped it in an error of its own."""
    said = refused(capsys, "pretrain", "--corpus", "c", "--out", "o", "--prune.warmup", "-1", "--prune.interval", "5")
    assert said == (
        "eo-ssl pretrain: expected warmup >= 0 and interval >= 1 sample presentations, got -1 and 5; count presentations\n"
    )


def test_a_name_of_thousands_of_letters_is_not_printed_whole(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "doctor", f"--{'x' * 10_000}", "1")
    assert len(said) < 1000 and "xxx [...] " in said and said.endswith("(see `eo-ssl doctor --help`)\n")
