"""Names: a function is a verb, and a file stem or a class means one thing in the whole house."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

WORDS = """
    accept add align allocate annotate append apply assemble assess assign attach augment average balance begin bin blur bound build
    calibrate cap center centre check choose classify clean clip close cluster collect combine commit compare compile complete compose compress
    compute concatenate configure connect convert copy correct count cover create crop curate cut decide decode decompose deduplicate
    define delete demean denoise derive describe detect determine diagnose discard divide download draw drop embed encode ensure
    enumerate equalise estimate evaluate examine exclude execute expand expect explain export extract fetch fill filter find finish
    fit flag flatten flip fold format freeze gather generate geocode geolocate get group guard handle has hash identify import include
    index infer ingest initialise insert inspect install interpolate invert is join judge keep label layout lay linearise list load
    locate log look make map mark mask match mean measure merge mosaic move multilook name normalise note number open optimise order
    pack pad pair parse partition perturb pick place plan plot point pool predict prepare print project propose prune publish push put
    quantise quarantine query rank read rebuild recognise reconstruct record recover reduce refuse register regrid reject relate
    release remove rename render reopen reorder repair repeat replace report require resample rescale reserve reset reshape resize
    resolve restore resume retry reverse rotate round run sample save scale scan score search select send serve set shard shift show
    shrink shuffle sign simulate skip smooth solve sort span split spread stack stage standardise start state stop store stream
    stretch strip subset substitute subtract suggest sum summarise survey swap spell seed shorten override fingerprint dump
    sync tabulate tag take tell temper test thin tile to track
    train transform translate transpose trim turn unite unmix unpack update upsample use validate verify view vote warn weigh whiten
    wrap write zero
    """
VERBS = frozenset(WORDS.split())
SAME_STEM: frozenset[str] = frozenset()
"""File stems that may stand in more than one room: what a word of the field names in each of them."""
SAME_CLASS: frozenset[str] = frozenset()
"""Public classes that may stand in more than one room."""
NO_VERB = frozenset({"main", "entry", "sensor", "card"})
"""Functions that are asked for by the noun they return, as the field does."""


def python_files(root: Path) -> list[Path]:
    return sorted(path for folder in ("eo_ssl", "workflows") for path in (root / folder).rglob("*.py"))


def public(root: Path, kind: type) -> list[tuple[str, str]]:
    """(name, file) of what modules define at their top level under a public name."""
    return [
        (node.name, str(path.relative_to(root)))
        for path in python_files(root)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, kind) and not node.name.startswith("_")
    ]


def test_a_public_function_begins_with_a_verb(project_root: Path) -> None:
    found = [
        f"{path}: {name}"
        for name, path in public(project_root, ast.FunctionDef)
        if name.split("_")[0] not in VERBS and name not in NO_VERB
    ]
    assert found == []


def test_a_file_stem_means_one_thing(project_root: Path) -> None:
    places = defaultdict(list)
    for path in (project_root / "eo_ssl").rglob("*.py"):
        if path.stem != "__init__":
            places[path.stem].append(str(path.relative_to(project_root)))
    assert {stem: paths for stem, paths in places.items() if len(paths) > 1 and stem not in SAME_STEM} == {}


def test_a_public_class_means_one_thing(project_root: Path) -> None:
    places = defaultdict(list)
    for name, path in public(project_root, ast.ClassDef):
        places[name].append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1 and name not in SAME_CLASS} == {}
