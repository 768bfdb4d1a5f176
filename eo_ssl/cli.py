"""The command line: ``eo-ssl <command>`` is the typed ``main`` function of the workflow of that name, nothing else.

Only the module of the command that runs is imported, so that ``eo-ssl --help`` answers at once.
"""

from __future__ import annotations

import os
import sys
import warnings

if __name__ == "__main__" and not sys.flags.safe_path:
    del sys.path[0]  # the working folder, from which `python -m` takes modules; the console script has none there

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast, get_args, get_origin, get_type_hints

from eo_ssl import __version__
from eo_ssl.commands import COMMANDS
from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.printable import show_bidi_in_terminal, show_sentence
from eo_ssl.stop_signals import GRACE_S, Stopped, handle_signals, is_stopping, stop_process

if TYPE_CHECKING:  # what is imported before signals are watched is kept small
    from argparse import Namespace
    from collections.abc import Callable, Sequence

    from eo_ssl.registered import Choices

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
    """Run the command line and leave the process with its exit status.

    It is that of `main`, 128 + n where signal n stopped the command, and 141 where nobody reads what it prints.
    """
    command = " ".join(["eo-ssl", *(name for name in sys.argv[1:2] if name in COMMANDS)])
    os.environ["PYTHONSAFEPATH"] = "1"  # no process that this one starts takes modules from the working folder
    sys.argv[0] = str(Path(sys.argv[0]).with_name("eo-ssl")) if Path(sys.argv[0]).suffix == ".py" else sys.argv[0]
    try:
        handle_signals(command, grace_s=GRACE_S + 5 if command == "eo-ssl run" else GRACE_S)  # a stage has its own
        try:
            status = main(sys.argv[1:])
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except Stopped as stop:
        stop_process(stop.number)
    except BaseException:
        if is_stopping():  # whatever the signal became on its way up
            stop_process()
        raise
    if is_stopping():
        stop_process()
    sys.exit(status)


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
    except KeyboardInterrupt:  # where nobody watches signals
        print("\nstopped; the same command goes on from there", file=sys.stderr)
        return 130
    except UserError as error:
        if debug or is_stopping():
            raise
        print(f"eo-ssl {command}: {show_sentence(error)}", file=sys.stderr)
        return 2
    except OSError as error:
        from eo_ssl.commits import TOO_MANY, explain_read_error

        if debug or is_stopping() or error.errno not in TOO_MANY:
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
    from argparse import ArgumentError

    from eo_ssl.option_ranges import check_ranges
    from eo_ssl.registered import find_choices, spell_names

    choices = find_choices(workflow)
    parser = _make_parser(command, workflow, choices)
    try:
        with warnings.catch_warnings():
            # Of a printed configuration: classes make tuples of its lists again.
            warnings.filterwarnings("ignore", message=r"\s*Dump of a value that does not round-trip: a tuple")
            options = parser.parse_args(spell_names(_spell(arguments, workflow), choices))
    except ArgumentError as error:
        raise UserError(_sentence(parser, str(error))) from error
    check_ranges(options.as_dict())
    try:
        ready = parser.instantiate(options)
    except (TypeError, OverflowError, ValueError) as error:  # what a class says itself is a UserError, or its cause
        said = error if isinstance(error, UserError) else error.__cause__
        if isinstance(said, UserError):
            raise said from error
        raise UserError(_sentence(parser, f"expected values of the types of the options, got {error}")) from error
    named = {key.lstrip(_ESCAPE): _make_plain(value) for key, value in vars(ready).items()}
    values = {key: value for key, value in named.items() if key not in ("config", "__default_config__")}
    return options, lambda: workflow(**values)


def _make_plain(value: Any) -> Any:
    """What stages of `run` hold, without the parser's own containers."""
    from jsonargparse import Namespace

    if isinstance(value, list):
        return [_make_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _make_plain(item) for key, item in value.items()}
    return value.as_dict() if isinstance(value, Namespace) else value


def _make_parser(command: str, workflow: Callable[..., Any], choices: Choices) -> Any:
    """Return the parser of a command, which reads plain YAML and imports nothing that a value names."""
    import yaml
    from jsonargparse import (  # type: ignore[attr-defined]
        ActionConfigFile,
        ArgumentParser,
        set_loader,
        set_parsing_settings,
    )

    from eo_ssl.plain_yaml import load_yaml, read_yaml
    from eo_ssl.registered import name_classes, shorten, spell_classes

    class ShippedConfig(ActionConfigFile):
        """``--config``: a YAML file, or the name of a shipped configuration of this command."""

        def __call__(self, parser: Any, config: Any, values: Any, option_string: Any = None) -> None:
            path = find_config(command, str(values))
            read = read_yaml(path)
            if not isinstance(read, dict):
                raise UserError(f"expected options and values in {path}, got {type(read).__name__}; correct the file")
            if "config" in read:
                raise UserError(f"expected options in {path}, got another configuration; give --config once for each")
            text = yaml.safe_dump(spell_classes(read, choices), sort_keys=False)
            super().__call__(parser, config, text, option_string)  # type: ignore[no-untyped-call]

    class NamingParser(ArgumentParser):
        """Writes registered classes by their short names, in configurations and in the help."""

        def dump(self, *arguments: Any, **options: Any) -> str:
            return name_classes(super().dump(*arguments, **options), choices)

        def format_help(self, *arguments: Any, **options: Any) -> str:
            return shorten(super().format_help(*arguments, **options), choices)

    def load_value(text: str) -> Any:
        """The value of an option; a name in braces stays the text that `run` fills in, as in the parser's own mode."""
        value = load_yaml(text)
        is_named = isinstance(value, dict) and value and all(item is None for item in value.values())
        return text if is_named and ":" not in text.strip()[:-1] else value

    set_loader("plain_yaml", load_value, (yaml.YAMLError,))
    registered = [f"{each.__module__}.{each.__qualname__}" for classes in choices.values() for each in classes.values()]
    set_parsing_settings(
        import_path_denylist=["*"],
        import_path_allowlist=["eo_ssl", *registered],
        instantiate_subclass_spec_in_any=False,  # what stages of `run` hold is for their own commands
    )
    parser = NamingParser(
        prog=f"eo-ssl {command}",
        exit_on_error=False,
        allow_abbrev=False,
        description=COMMANDS[command],
        parser_mode="plain_yaml",
    )
    configs = ", ".join(list_shipped_configs(command)) or "none yet"
    parser.add_argument("--config", action=ShippedConfig, help=f"YAML file or shipped name: {configs}")
    parser.add_function_arguments(workflow, as_positional=command in _POSITIONAL, fail_untyped=True)
    return parser


def _spell(arguments: Sequence[str], workflow: Callable[..., Any]) -> list[str]:
    """Accept dashes, switches and lists as one types them.

    ``--dry-run`` stands for ``--dry_run true``, and ``--shots 1 5`` for ``--shots '[1, 5]'``.
    """
    import json

    hints = get_type_hints(workflow)
    spelled: list[str] = []
    given: set[str] = set()
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
        elif name in given and (value or "".join(waiting[:1])).startswith("["):
            item = list  # of the options of an option, whose types are not known here
        if item is not None and name in given:
            raise UserError(f"expected {name} once with all its values, got it again; write `{name} ONE TWO`")
        given.add(name)
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
    import re

    known = [action.dest for action in parser._actions if action.dest not in ("help", "config", "print_config")]
    text = " ".join(line.strip() for line in message.splitlines() if line.strip())
    denied = re.search(r"Importing '([^']*)' is not allowed", text)
    if denied:
        return (
            f"expected names and values of options, got the import path {denied[1]!r};"
            f" nothing is imported for it (see `{parser.prog} --help`)"
        )
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
