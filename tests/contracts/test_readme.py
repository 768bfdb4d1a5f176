"""The README promises nothing that does not work: its card loads, its commands parse, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

from eo_ssl.cards import load_card
from eo_ssl.cli import COMMANDS, parse


def blocks(root: Path, language: str) -> list[str]:
    """The fenced blocks of one language, in order."""
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", (root / "README.md").read_text(), flags=re.DOTALL | re.MULTILINE)
    return [text for found, text in fences if found == language]


def test_the_card_loads(project_root: Path, tmp_path: Path) -> None:
    (text,) = blocks(project_root, "yaml")
    (tmp_path / "my.yaml").write_text(text)
    card = load_card(tmp_path / "my.yaml")
    assert (card.bands[0], card.offset, card.scale) == ("B02", -1000, 1e-4)


def test_commands_and_their_options_exist(project_root: Path) -> None:
    lines = [shlex.split(line, comments=True) for block in blocks(project_root, "") for line in block.splitlines()]
    commands = [line[1:] for line in lines if line and line[0] == "eo-ssl"]
    assert {line[0] for line in commands} >= {"ingest", "curate", "pretrain", "evaluate", "report"}
    for command, *arguments in commands:
        assert command in COMMANDS
        known = {"config", *get_type_hints(import_module(f"eo_ssl.workflows.{command}").main)}
        options = {word[2:].replace("-", "_") for word in arguments if word.startswith("--")}
        assert options <= known, (command, options - known)
        named = arguments if arguments and arguments[0].startswith("--") else []
        if named and "--verify" not in named:
            parse(command, import_module(f"eo_ssl.workflows.{command}").main, named)  # values of the right type


def test_make_targets_exist(project_root: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (project_root / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", "\n".join(blocks(project_root, "")), flags=re.MULTILINE)) <= targets


def test_links_lead_somewhere(project_root: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (project_root / "README.md").read_text())
    assert links
    assert [link for link in links if not (project_root / link).exists()] == []
