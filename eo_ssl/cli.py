"""The command line: ``eo-ssl <command>`` is the typed ``main`` function of the workflow of that name, nothing else.

Only the module of the command that runs is imported, so that ``eo-ssl --help`` answers at once.
"""

from __future__ import annotations

import json
import re
import sys
from argparse import ArgumentError, Namespace
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, cast, get_args, get_origin, get_type_hints

from eo_ssl import __version__
from eo_ssl.commits import TOO_MANY, explain_read_error
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.printable import show_bidi, show_bidi_in_terminal
from eo_ssl.registered import find_choices, name_classes, shorten, spell_classes, spell_names

COMMANDS = {
    "ingest": "read an archive, calibrate it to physical units, tile it and add it to a corpus",
    "pair": "pair the tiles of two streams on the same ground (radar and optical, seasons)"
    " and measure how well they fit",
    "curate": "choose a balanced, diverse subset of a corpus and say what was left out and why",
    "pretrain": "train an encoder on a corpus with MAE, I-JEPA or SimCLR, pruning while it trains if asked to",
    "evaluate": "judge encoders on a task with kNN, probes and fine-tuning, with intervals and paired comparisons",
    "export": "write an encoder as a bundle that timm, TorchGeo and onnxruntime open,"
    " check one, or push one to the hub",
    "embed": "write the embeddings of a corpus as GeoParquet, or of scenes as Cloud-Optimized GeoTIFF",
    "search": "find the tiles most like a tile, a place or an image, and draw a page of them",
    "report": "turn products into one self-contained HTML page",
    "run": "run a list of the commands above from one configuration and report on all of it",
    "inspect": "say what a product, a card or a configuration holds",
    "doctor": "say what this machine has or, given data, what is wrong with their numbers:"
    " offsets, units, band order, nodata",
}
_POSITIONAL = {"inspect"}
_FIRST = {"doctor": ("path",), "export": ("encoder",), "embed": ("encoder", "source"), "search": ("embeddings",)}
"""Commands whose first arguments may stand without their names."""
_ESCAPE = "\u200b"  # the parser puts it before options that are called like a method of its namespace, such as items

_HELP = """usage: eo-ssl [--version] <command> [options]

From raw Sentinel archives to a curated corpus, an encoder and a benchmark number one can believe.

commands, in the order of the flow:
{commands}

`eo-ssl <command> --help` lists the options of a command; `--print_config` prints them as YAML, `--config` reads them
from a file or a shipped configuration by name, and any option given beside it overrides it. `--debug` shows the stack
trace of an error.

a first result in minutes:
  eo-ssl run --config demo
"""


def entry() -> None:
    """Run the command line and leave the process with its exit status."""
    sys.argv[0] = str(Path(sys.argv[0]).with_name("eo-ssl")) if Path(sys.argv[0]).suffix == ".py" else sys.argv[0]
    sys.exit(main(sys.argv[1:]))


def main(arguments: Sequence[str]) -> int:
    """Run one command and return its exit status.

    It is 0, 1 (doctor or inspect found something), or 2 for a mistake the user can repair.
    """
    listing = "\n".join(f"  {name:<9} {what}" for name, what in COMMANDS.items())
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_HELP.format(commands=listing))
        return 0
    if arguments[0] == "--version":
        print(f"eo-ssl {__version__}")
        return 0
    debug = "--debug" in arguments
    command, rest = arguments[0], [argument for argument in arguments[1:] if argument != "--debug"]
    try:
        if command not in COMMANDS:
            raise UserError(
                f"expected a command out of {', '.join(COMMANDS)}, got {command!r}{suggest_nearest(command, COMMANDS)}"
            )
        with show_bidi_in_terminal():
            status = run_command(command, rest)
    except KeyboardInterrupt:
        print("\nstopped; the same command resumes", file=sys.stderr)
        return 130
    except UserError as error:
        if debug:
            raise
        print(f"eo-ssl {command}: {show_bidi(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        if debug or error.errno not in TOO_MANY:
            raise
        print(f"eo-ssl {command}: {explain_read_error(error, error.filename or 'a file', remedy='')}", file=sys.stderr)
        return 2
    return int(status or 0)


def run_command(command: str, arguments: Sequence[str]) -> int | None:
    """Parse ``arguments`` by the signature of the workflow ``command`` and call it.

    Raises:
        UserError: an unknown option or configuration key (naming the nearest), a value of the wrong type, a missing
            option.
    """
    workflow = import_module(f"eo_ssl.workflows.{command}").main
    for place, name in enumerate(_FIRST.get(command, ())):
        if len(arguments) <= 2 * place or arguments[2 * place].startswith("-"):
            break
        arguments = [*arguments[: 2 * place], f"--{name}", *arguments[2 * place :]]
    _, call = parse(command, workflow, arguments)
    result = call()
    return result if isinstance(result, int) else None


def parse(command: str, workflow: Callable[..., Any], arguments: Sequence[str]) -> tuple[Namespace, Callable[[], Any]]:
    """Return the parsed options and a function that calls ``workflow`` with them."""
    from jsonargparse import ActionConfigFile, ArgumentParser  # type: ignore[attr-defined]

    choices = find_choices(workflow)

    class ShippedConfig(ActionConfigFile):
        """``--config``: a YAML file, or the name of a shipped configuration of this command."""

        def __call__(self, parser: Any, config: Any, values: Any, option_string: Any = None) -> None:
            text = spell_classes(find_config(command, str(values)).read_text(), choices)
            super().__call__(parser, config, text, option_string)  # type: ignore[no-untyped-call]

    class NamingParser(ArgumentParser):
        """Writes registered classes by their short names, in configurations and in the help."""

        def dump(self, *arguments: Any, **options: Any) -> str:
            return name_classes(super().dump(*arguments, **options), choices)

        def format_help(self, *arguments: Any, **options: Any) -> str:
            return shorten(super().format_help(*arguments, **options), choices)

    parser = NamingParser(
        prog=f"eo-ssl {command}", exit_on_error=False, allow_abbrev=False, description=COMMANDS[command]
    )
    parser.add_argument(
        "--config",
        action=ShippedConfig,
        help="YAML file or shipped name: " + (", ".join(list_shipped_configs(command)) or "none yet"),
    )
    positional = command in _POSITIONAL
    parser.add_function_arguments(workflow, as_positional=positional, fail_untyped=True)
    try:
        options = parser.parse_args(spell_names(_spell(arguments, workflow), choices))
    except ArgumentError as error:
        raise UserError(_sentence(parser, str(error))) from error
    ready = parser.instantiate(options)
    named = {key.lstrip(_ESCAPE): value for key, value in vars(ready).items()}
    values = {key: value for key, value in named.items() if key not in ("config", "__default_config__")}
    return options, lambda: workflow(**values)


def _spell(arguments: Sequence[str], workflow: Callable[..., Any]) -> list[str]:
    """Accept dashes, switches and lists as one types them.

    ``--dry-run`` stands for ``--dry_run true``, and ``--shots 1 5`` for ``--shots '[1, 5]'``.
    """
    hints = get_type_hints(workflow)
    spelled: list[str] = []
    waiting = list(arguments)
    while waiting:
        argument = waiting.pop(0)
        if not argument.startswith("--"):
            spelled.append(argument)
            continue
        name, equals, value = argument.partition("=")
        name = "--" + name[2:].replace("-", "_")
        if hints.get(name[2:]) is bool and not equals and (not waiting or waiting[0].lower() not in ("true", "false")):
            equals, value = "=", "true"
        item = _item(hints.get(name[2:]))
        if item is not None:
            values = [value] if equals else []
            while waiting and not waiting[0].startswith("--"):
                values.append(waiting.pop(0))
            if values and not (len(values) == 1 and values[0].startswith("[")):
                equals, value = (
                    "=",
                    f"[{', '.join(one if item in (int, float) else json.dumps(one) for one in values)}]",
                )
            elif values:
                equals, value = "=", values[0]
        spelled.append(name + equals + value)
    return spelled


def _item(hint: Any) -> type | None:
    """What a list option holds, None for other options and for lists of anything but words and numbers."""
    for one in (hint, *get_args(hint)):
        if get_origin(one) is list:
            held = get_args(one)[0]
            if held in (str, Path, int, float):
                return cast(type, held)
            if get_origin(held) is Literal and all(isinstance(word, str) for word in get_args(held)):
                return str
    return None


def _sentence(parser: Any, message: str) -> str:
    """Make one sentence, with the nearest known key, of what the parser says."""
    known = [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    stranger = re.search(
        r"(?:Unrecognized arguments?:\s*--|unrecognized arguments?:\s*--|Key '|key '|No action for key \"|Option ')"
        r"([\w.\-]+)",
        text,
    )
    if stranger and stranger[1].split("=")[0] not in known:
        name = stranger[1].split("=")[0]
        return f"expected a known option, got {name!r}{suggest_nearest(name, known)} (see `{parser.prog} --help`)"
    return f"{text.rstrip('.')} (see `{parser.prog} --help`)"


def find_config_folder() -> Path:
    """Return the folder of the shipped configurations."""
    from eo_ssl.cards import find_shipped_folder

    return find_shipped_folder("configs")


def list_shipped_configs(command: str) -> tuple[str, ...]:
    """Return the names of the configurations shipped for ``command``."""
    return tuple(sorted(path.stem for path in (find_config_folder() / command).glob("*.yaml")))


def find_config(command: str, name: str) -> Path:
    """Return the YAML file that ``--config NAME`` means.

    Raises:
        UserError: neither a file nor a shipped name of this command.
    """
    path = Path(name)
    if path.is_file():
        return path
    shipped = find_config_folder() / command / f"{name}.yaml"
    if shipped.is_file():
        return shipped
    names = list_shipped_configs(command)
    raise UserError(
        f"expected a YAML file or one of the shipped configurations of {command}"
        f" ({', '.join(names) or 'none'}), got {name!r}{suggest_nearest(name, names)}"
    )


if __name__ == "__main__":
    entry()
