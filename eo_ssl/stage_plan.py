"""The stages of a run in order: commands with their options, some of them once for each cell of a matrix."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from eo_ssl.errors import UserError, expect, suggest_nearest

Value = int | float | str
Cell = dict[str, Value]
"""The value of each axis that a stage uses; of an axis with options, the name of its arm."""
SEED = "seed"
"""The axis over which encoders are joined, and by which cells are ordered."""
JOINED = "matrix"
"""Placeholder that stands for the encoders of all cells."""
WITH = "with"
"""Key by which a stage takes the options of an axis: a word of Python's own, so that no command has such an option."""
_NAME = re.compile(r"[A-Za-z_]\w*")
_VALUE = re.compile(r"[\w][\w. -]*")  # in names of folders and of encoders in results
_PLACEHOLDER = re.compile(r"\{([A-Za-z_]\w*)(?:\.([^{}]+))?\}")


@dataclass(frozen=True, slots=True)
class PlannedStage:
    """A command to run."""

    command: str
    options: dict[str, Any]
    "every placeholder filled in"
    cell: Cell
    "of the matrix; empty for a stage that runs once"
    place: int
    "of the stage in the list, which its cells share"
    joins: str = ""
    "how many encoders of the matrix it takes, in words"

    @property
    def label(self) -> str:
        """The cell, or what is joined, in words."""
        return " ".join(f"{axis}={value}" for axis, value in self.cell.items()) or self.joins


@dataclass(frozen=True, slots=True)
class Axis:
    """One side of the matrix."""

    name: str
    options: Mapping[Value, Mapping[str, Any]]
    "of `pretrain` or another command, by value"
    is_named: bool
    "whether its values are names of options, which a stage takes by `with`"

    @classmethod
    def read(cls, name: Any, values: Any, *, taken: Sequence[str]) -> Axis:
        """Read a list of numbers and names, or a mapping of names to options.

        Raises:
            UserError: anything else, a value twice, or a name that means something else.
        """
        expect(
            isinstance(name, str) and _NAME.fullmatch(name) and name not in taken,
            expected=f"the name of an axis of the matrix, other than {', '.join(taken)}",
            got=repr(name),
            remedy="choose a word of letters, digits and _",
        )
        listed = list(values) if isinstance(values, dict | list) else []
        plain = [value for value in listed if isinstance(value, int | float | str) and not isinstance(value, bool)]
        expect(
            listed and len(plain) == len(listed) == len({str(value) for value in plain}),
            expected=f"different numbers or names on the axis {name}, or names with options each",
            got=repr(values)[:80],
            remedy=f"write {name}: [0, 1] or {name}: {{plain: {{}}, other: {{OPTION: VALUE}}}}",
        )
        strange = [value for value in plain if not _VALUE.fullmatch(str(value))]
        expect(
            not strange,
            expected=f"values of the axis {name} that can name folders and encoders",
            got=", ".join(map(repr, strange)),
            remedy="use letters, digits, _, ., - and spaces",
        )
        given = values if isinstance(values, dict) else dict.fromkeys(plain)
        bad = [value for value, options in given.items() if not isinstance(options or {}, dict)]
        expect(
            not bad,
            expected=f"a mapping of options for each name of the axis {name}",
            got=f"{given[bad[0]]!r} for {bad[0]}" if bad else "",
            remedy="write {} for none",
        )
        return cls(name, {value: options or {} for value, options in given.items()}, isinstance(values, dict))


def plan_stages(
    stages: Sequence[Mapping[str, Mapping[str, Any] | None]],
    matrix: Mapping[str, Any] | None,
    *,
    names: Mapping[str, str],
    is_there: Callable[[str], bool] = lambda folder: True,
) -> list[PlannedStage]:
    """Return the commands of a run, in order, with their options.

    A stage that uses an axis, by ``{axis}`` in a text or by ``with: axis``, runs once for each of its values; one that
    uses several, for each combination. Stages that follow each other so are run seed by seed, so that a study which is
    stopped has the same seeds of all arms. ``with`` puts the options of the arm in the place of those of the stage,
    each as a whole. The list item ``{matrix}`` is one entry for each arm, `arm=folder,folder` over its seeds, of what
    the nearest `pretrain` before it makes; ``{matrix.arm}`` is that of an arm, and what follows the brace, such as an
    option of an encoder, is put behind each folder.

    Args:
        stages: {command: options}.
        matrix: values, or names with options, by axis; None for a plain list of stages.
        names: what other placeholders stand for.
        is_there: whether a folder may be joined.

    Raises:
        UserError: an axis that no stage uses, options that none takes, a placeholder or axis that is unknown, two cells
            of a stage with one folder, or nothing to join.
    """
    taken = [*names, JOINED, WITH]
    axes = {name: Axis.read(name, values, taken=taken) for name, values in (matrix or {}).items()}
    written = [item for stage in stages for item in stage.items()]
    listed = [_Template.read(place, *item, axes, names) for place, item in enumerate(written)]
    used = {axis for template in listed for axis in template.axes}
    idle = [axis for axis in axes if axis not in used]
    expect(
        not idle,
        expected="a stage for each axis of the matrix",
        got=f"none that uses {', '.join(idle)}",
        remedy=f"write {{{idle[0] if idle else ''}}} into its options, or leave the axis out",
    )
    for axis in axes.values():
        expect(
            not any(axis.options.values()) or any(axis.name in template.arms for template in listed),
            expected=f"a stage that takes the options of the axis {axis.name}",
            got="none",
            remedy=f"write `{WITH}: {axis.name}` into the stage that they are for",
        )
    planned: list[PlannedStage] = []
    while listed:
        if not listed[0].axes:
            planned.append(listed.pop(0).fill({}, names, planned, is_there))
            continue
        count = next((at for at, template in enumerate(listed) if not template.axes or template.joins), len(listed))
        group, listed = listed[: count or 1], listed[count or 1 :]
        planned += _run_by_seed(group, axes, names, planned, is_there)
    return planned


def _run_by_seed(
    group: Sequence[_Template],
    axes: Mapping[str, Axis],
    names: Mapping[str, str],
    before: Sequence[PlannedStage],
    is_there: Callable[[str], bool],
) -> list[PlannedStage]:
    """Stages that follow each other, once for each cell: all of the first seed, then all of the second."""
    made: list[PlannedStage] = []
    for seed in axes[SEED].options if SEED in axes else (None,):
        for template in group:
            own = [name for name in axes if name in template.axes]
            values = [[seed] if name == SEED else list(axes[name].options) for name in own]
            for chosen in product(*values):
                cell: Cell = dict(zip(own, chosen, strict=True))  # type: ignore[arg-type]
                if not any(stage.place == template.place and stage.cell == cell for stage in made):
                    made.append(template.fill(cell, names, before, is_there))
    _check_folders(made)
    return made


def _check_folders(cells: Sequence[PlannedStage]) -> None:
    """Refuse two cells of a stage that would write to one folder."""
    first: dict[tuple[int, str], PlannedStage] = {}
    for stage in cells:
        out = str(stage.options.get("out", ""))
        other = first.setdefault((stage.place, out), stage)
        axes = " and ".join(f"{{{axis}}}" for axis in stage.cell)
        expect(
            other is stage,
            expected=f"a folder of its own for each cell of {stage.command}",
            got=f"{out or 'no out'} for {other.label} and for {stage.label}",
            remedy=f"put {axes} into its out",
        )


@dataclass(frozen=True, slots=True)
class _Template:
    """A stage as it was written."""

    place: int
    "in the list"
    command: str
    options: Mapping[str, Any]
    "without `with`"
    arms: Mapping[str, Axis]
    "whose options it takes"
    axes: frozenset[str]
    "that it uses"
    joins: bool
    "whether it takes the encoders of the matrix"

    @classmethod
    def read(
        cls,
        place: int,
        command: str,
        options: Mapping[str, Any] | None,
        axes: Mapping[str, Axis],
        names: Mapping[str, str],
    ) -> _Template:
        """Find the axes that a stage uses."""
        own = dict(options or {})
        asked = own.pop(WITH, []) if axes else []
        wanted = asked if isinstance(asked, list) else [asked]
        unknown = [name for name in wanted if name not in [axis.name for axis in axes.values() if axis.is_named]]
        expect(
            not unknown,
            expected=f"`{WITH}` of {command} to name axes of the matrix that have options",
            got=", ".join(map(str, unknown)),
            remedy=f"the axes are {', '.join(axes)}",
        )
        arms = {name: axes[name] for name in wanted}
        texts = list(_list_texts([own, *(axis.options for axis in arms.values())]))
        found = {match[1] for text in texts for match in _PLACEHOLDER.finditer(text)}
        known = [*names, *axes, *([JOINED] if axes else [])]
        strange = sorted(found - set(known))
        if strange:
            raise UserError(
                f"expected placeholders out of {', '.join(f'{{{name}}}' for name in known)} in the options of"
                f" {command}, got {{{strange[0]}}}{suggest_nearest(strange[0], known)}"
            )
        return cls(place, command, own, arms, frozenset(found & set(axes)) | set(wanted), JOINED in found)

    def fill(
        self, cell: Cell, names: Mapping[str, str], before: Sequence[PlannedStage], is_there: Callable[[str], bool]
    ) -> PlannedStage:
        """Return the stage of a cell."""
        options, given = dict(self.options), dict[str, str]()
        for axis in self.arms.values():
            for name, value in axis.options[cell[axis.name]].items():
                expect(
                    name not in given,
                    expected=f"each option of {self.command} from one axis",
                    got=f"{name} from {given.get(name)} and {axis.name}",
                    remedy="leave it out of one of them",
                )
                options[name], given[name] = value, axis.name
        joined = _Joined.of(before, is_there) if self.joins else None
        filled = {name: _fill(value, {**names, **cell}, joined) for name, value in options.items()}
        words = "" if joined is None else joined.words
        return PlannedStage(self.command, filled, cell, self.place, words)


@dataclass(frozen=True, slots=True)
class _Joined:
    """The encoders of the cells before a stage, by arm."""

    folders: Mapping[tuple[Value, ...], list[str]]
    "of each arm: values of the axes but the seed's -> folders, by seed"
    words: str

    @classmethod
    def of(cls, before: Sequence[PlannedStage], is_there: Callable[[str], bool]) -> _Joined:
        """Take those of the nearest `pretrain` that runs once for each cell."""
        trained = [stage for stage in before if stage.command == "pretrain" and stage.cell]
        cells = [stage for stage in trained if stage.place == max(other.place for other in trained)]
        folders: dict[tuple[Value, ...], list[str]] = {}
        for stage in cells:
            if is_there(str(stage.options.get("out", ""))):
                arm = tuple(value for axis, value in stage.cell.items() if axis != SEED)
                folders.setdefault(arm, []).append(str(stage.options.get("out", "")))
        count = sum(map(len, folders.values()))
        expect(
            count,
            expected=f"encoders of the matrix for {{{JOINED}}}",
            got="none that is finished" if cells else "no pretrain before it that uses an axis",
            remedy="run without --only" if cells else "put it behind the stage that trains them",
        )
        return cls(folders, f"{count} of {len(cells)} cells")

    def list_entries(self, arm: str | None, suffix: str) -> list[str]:
        """`name=folder,folder` of each arm, or of those that ``arm`` names, with ``suffix`` behind each folder."""
        chosen = {
            "-".join(map(str, values)): folders
            for values, folders in self.folders.items()
            if arm is None or arm in ("-".join(map(str, values)), *map(str, values))
        }
        if not chosen:
            known = ", ".join("-".join(map(str, values)) for values in self.folders)
            raise UserError(f"expected an arm of the matrix out of {known}, got {{{JOINED}.{arm}}}; correct it")
        return [
            f"{name}{'=' * bool(name)}{','.join(f'{folder}{suffix}' for folder in folders)}"
            for name, folders in chosen.items()
        ]


def _fill(value: Any, names: Mapping[str, Value], joined: _Joined | None) -> Any:
    """Put what placeholders stand for into every text of a nested value."""
    if isinstance(value, Mapping):
        return {key: _fill(item, names, joined) for key, item in value.items()}
    if isinstance(value, list):
        return [filled for item in value for filled in _fill_item(item, names, joined)]
    if isinstance(value, str):
        whole = _PLACEHOLDER.fullmatch(value)
        if whole and whole[1] in names and whole[2] is None:
            return names[whole[1]]  # a number stays a number
        if _begins_with_join(value):
            return _fill_item(value, names, joined)
        return _PLACEHOLDER.sub(lambda match: _look_up(match, names), value)
    return value


def _fill_item(item: Any, names: Mapping[str, Value], joined: _Joined | None) -> list[Any]:
    """An item of a list; that of the matrix stands for several."""
    found = _begins_with_join(item) if isinstance(item, str) else None
    if found is None or joined is None:
        return [_fill(item, names, joined)]
    return joined.list_entries(found[2], _PLACEHOLDER.sub(lambda match: _look_up(match, names), item[found.end() :]))


def _begins_with_join(text: str) -> re.Match[str] | None:
    found = _PLACEHOLDER.match(text)
    return found if found is not None and found[1] == JOINED else None


def _look_up(match: re.Match[str], names: Mapping[str, Value]) -> str:
    if match[1] not in names or match[2] is not None:
        raise UserError(
            f"expected {{{JOINED}}} or {{{JOINED}.ARM}} at the beginning of an item of a list, and other placeholders"
            f" without a point, got {match[0]}; correct it"
        )
    return str(names[match[1]])


def _list_texts(value: Any) -> Iterator[str]:
    """Every text of a nested value, keys left out."""
    if isinstance(value, Mapping):
        for item in value.values():
            yield from _list_texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _list_texts(item)
    elif isinstance(value, str):
        yield value
