"""Options that are registered classes (objectives, architectures): short names, on the command line and in YAML.

``--objective Mae --objective.norm patch`` and ``objective: {Mae: {norm: patch}}`` are the only forms. A dotted path or
an unknown name is refused before the parser sees it, so that nothing is imported because a configuration names it.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, get_type_hints

import yaml

from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.plain_yaml import load_yaml

Choices = Mapping[str, Mapping[str, type]]
"""By option: the registered classes by their short names."""

MOVED = {
    "--mae.": "--objective Mae --objective.",
    "--ijepa.": "--objective IJepa --objective.",
    "--simclr.": "--objective SimClr --objective.",
    "--augment.": "--views '{tile: {OPTION: VALUE}}'",
    "--model.timm_name": "--model.name",
    "--hierarchical.": "--method.",
    "--training.precision": "--precision",
    "--training.read_ahead": "--num_workers",
}
"""Spellings of earlier versions, and today's."""


def find_choices(workflow: Callable[..., Any]) -> Choices:
    """Registered classes for each option of ``workflow`` whose type is an abstract class, by their short names.

    So too for options of such a type inside an option, such as `prune.method`.
    """
    return {
        name: {subclass.__name__: subclass for subclass in _subclasses(base)}
        for option, hint in get_type_hints(workflow).items()
        for name, base in _list_abstract(option, hint)
    }


def _list_abstract(option: str, hint: Any) -> list[tuple[str, type]]:
    """An option, or those inside it, with the abstract class that each is to be one of."""
    if inspect.isclass(hint) and inspect.isabstract(hint):
        return [(option, hint)]
    groups = [part for part in (hint, *get_args(hint)) if inspect.isclass(part) and dataclasses.is_dataclass(part)]
    inner = [(f"{option}.{name}", base) for group in groups for name, base in get_type_hints(group).items()]
    return [(name, base) for name, base in inner if inspect.isclass(base) and inspect.isabstract(base)]


def _subclasses(base: type) -> list[type]:
    below: list[type] = []
    children: list[type] = base.__subclasses__()
    for child in children:
        below += [child, *_subclasses(child)]
    return sorted({each for each in below if not inspect.isabstract(each)}, key=lambda each: each.__name__)


def require_name(option: str, name: object, choices: Choices) -> type:
    """The registered class that ``name`` means.

    Raises:
        UserError: a dotted path, or a name that is not registered; the sentence lists those that are.
    """
    known = choices[option]
    if not isinstance(name, str) or name not in known:
        raise UserError(f"expected {option} out of {', '.join(known)}, got {name!r}{suggest_nearest(str(name), known)}")
    return known[name]


def spell_names(arguments: Sequence[str], choices: Choices) -> list[str]:
    """Command-line arguments with the short names of registered classes in the parser's form."""
    spelled, waiting = [], list(arguments)
    while waiting:
        argument = waiting.pop(0)
        key, equals, value = argument.partition("=")
        _refuse_moved(key, choices)
        option = key.removeprefix("--").removesuffix(".help") if key.startswith("--") else ""
        if option.split(".")[0] in choices and {"class_path", "init_args"} & set(option.split(".")):
            raise UserError(
                f"expected an option of {option.split('.')[0]} such as --{option.split('.')[0]}.OPTION, got {key}"
            )
        if (
            option in choices
            and (equals or waiting)
            and not (key.endswith(".help") and not equals and waiting[0].startswith("--"))
        ):
            name = value if equals else waiting.pop(0)
            chosen = require_name(option, name, choices)
            argument = f"{key}={_path(chosen) if key.endswith('.help') else json.dumps(_written(chosen, {}))}"
        spelled.append(argument)
    return spelled


def _refuse_moved(key: str, choices: Choices) -> None:
    for old, new in MOVED.items():
        if choices and key.startswith(old):
            raise UserError(
                f"expected {new}{key.removeprefix(old) if new.endswith('.') else ''}, got the earlier spelling {key}"
            )


def spell_classes(values: dict[str, Any], choices: Choices) -> dict[str, Any]:
    """A configuration with ``objective: Mae`` and ``objective: {Mae: {norm: patch}}`` in the parser's form."""
    values = dict(values)
    for old in ("mae", "ijepa", "simclr", "augment", "hierarchical"):
        if choices and old in values:
            _refuse_moved(f"--{old}.", choices)
    for option in choices:
        *outer, last = option.split(".")
        holder = _open_holder(values, outer)
        if last not in holder or (outer and not _names_class(holder[last], choices[option])):
            continue
        value = holder[last]
        single = isinstance(value, dict) and len(value) == 1
        name, options = next(iter(value.items())) if single else (value, {})
        if isinstance(name, dict) or not (options is None or isinstance(options, dict)):
            example = next(iter(choices[option]))
            raise UserError(
                f"expected `{option}: {example}` or `{option}: {{{example}: {{OPTION: VALUE}}}}`"
                f" with one of {', '.join(choices[option])}, got {value}"
            )
        holder[last] = _written(require_name(option, name, choices), options or {})
    return values


def _open_holder(values: dict[str, Any], outer: Sequence[str]) -> dict[str, Any]:
    """The mapping under the keys ``outer``, copied on the way down; an empty one where there is none."""
    for key in outer:
        if not isinstance(values.get(key), dict):
            return {}
        values[key] = dict(values[key])
        values = values[key]
    return values


def _names_class(value: Any, known: Mapping[str, type]) -> bool:
    """Whether a value inside an option chooses a class: else it holds options of the one that is the default."""
    if isinstance(value, dict) and "class_path" in value:
        return True  # which is refused, as outside
    single = next(iter(value)) if isinstance(value, dict) and len(value) == 1 else value
    return isinstance(single, str) and (single in known or single[:1].isupper())


def name_classes(text: str, choices: Choices) -> str:
    """A dumped configuration in the form that a person writes: short names in place of paths."""
    values = load_yaml(text) if choices else None
    if not isinstance(values, dict):
        return text
    for option in choices:
        *outer, last = option.split(".")
        holder = _open_holder(values, outer)
        value = holder.get(last)
        if isinstance(value, dict) and "class_path" in value:
            holder[last] = {value["class_path"].rpartition(".")[2]: value.get("init_args", {})}
    return yaml.safe_dump(values, sort_keys=False)


def shorten(text: str, choices: Choices) -> str:
    """Help with short names in place of paths."""
    for classes in choices.values():
        for name, registered in classes.items():
            text = re.sub(rf"\b{registered.__module__.partition('.')[0]}\.[\w.]*\b{name}\b", name, text)
    return text


def _written(registered: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """A choice in the parser's form, every option written out: else the parser keeps those of the choice before."""
    defaults = dataclasses.asdict(registered()) if dataclasses.is_dataclass(registered) else {}
    return {"class_path": _path(registered), "init_args": _merged(defaults, options)}


def _merged(defaults: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    nested = {
        key: _merged(defaults[key], value)
        for key, value in options.items()
        if isinstance(value, dict) and isinstance(defaults.get(key), dict)
    }
    return {**defaults, **options, **nested}


def _path(registered: type) -> str:
    return f"{registered.__module__}.{registered.__qualname__}"
