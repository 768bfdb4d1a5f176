"""Finished product folders, found by their manifests, and their files of JSON.

Which folder is what is said by the `stage` of its manifest, never by its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eo_ssl import documents
from eo_ssl.commits import explain_read_error
from eo_ssl.errors import UserError, expect
from eo_ssl.manifest import MANIFEST, Manifest, require

STAGES = ("ingest", "pair", "curate", "pretrain", "evaluate", "export", "embed")
_REMEDY = "make this product again"
DEEPEST = 4  # folder levels below an input: run / stage / product


@dataclass(frozen=True, slots=True)
class FinishedProduct:
    """One finished product folder."""

    path: Path
    "where it lies"
    manifest: Manifest
    "what made it"
    name: str
    "folder name, made unique among the products of one report"

    @property
    def stage(self) -> str:
        """The stage that made it."""
        return self.manifest.stage


def find_products(inputs: Sequence[Path]) -> tuple[FinishedProduct, ...]:
    """All finished products in the given folders, in the order of the flow, then as they were made.

    A folder with a manifest of a known stage is a product and is not searched further; any other one is searched.

    Raises:
        UserError: an input does not exist or holds no finished product.
    """
    manifests: dict[Path, Manifest] = {}
    for start in inputs:
        if not start.is_dir():
            raise UserError(
                f"expected a product or a run folder, got {start}, which is no folder: give the out of a stage"
            )
        inside = _search(start, DEEPEST)
        if not inside:
            raise UserError(
                f"expected a finished product of {', '.join(STAGES)} in {start}, got no {MANIFEST} of these: "
                "run the stage to its end first"
            )
        manifests.update(inside)
    ordered = sorted(manifests.items(), key=lambda item: (STAGES.index(item[1].stage), item[1].created, str(item[0])))
    names = _unique_names([path for path, _ in ordered])
    return tuple(FinishedProduct(path, manifest, name) for (path, manifest), name in zip(ordered, names, strict=True))


def _search(folder: Path, depth: int) -> dict[Path, Manifest]:
    file = folder / MANIFEST
    if file.is_file():
        stage = read_json(file).get("stage")
        if stage in STAGES:
            return {folder.resolve(): require(folder, STAGES)}
        if stage != "run":
            return {}
    if depth == 0:
        return {}
    manifests: dict[Path, Manifest] = {}
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.name.startswith("."):
            manifests.update(_search(below, depth - 1))
    return manifests


def _unique_names(paths: Sequence[Path]) -> list[str]:
    """The last part of each path; where two are equal, the last two parts."""
    last = [path.name for path in paths]
    return [
        name if last.count(name) == 1 else f"{path.parent.name}/{name}" for path, name in zip(paths, last, strict=True)
    ]


@contextmanager
def expect_sound(product: FinishedProduct) -> Iterator[None]:
    """Say in a sentence which product is not as its stage makes it, whatever its content leads a view to.

    Raises:
        UserError: something in it is absent or of another kind.
    """
    try:
        yield
    except UserError:
        raise
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise UserError(
            f"expected a product as `eo-ssl {product.stage}` makes it in {product.path}, got {type(error).__name__}:"
            f" {str(error)[:80]}; make it again"
        ) from error


def filter_stage(products: Sequence[FinishedProduct], stage: str) -> list[FinishedProduct]:
    """The products of one stage, in order."""
    return [product for product in products if product.stage == stage]


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; a UserError where the file holds anything else."""
    try:
        return documents.read_json(path, remedy=_REMEDY)
    except FileNotFoundError as error:
        raise explain_read_error(error, path, remedy=_REMEDY) from error


def read_list(path: Path) -> list[dict[str, Any]]:
    """A JSON list of objects; empty where there is no such file (an optional part of a product)."""
    if not path.is_file():
        return []
    value = _load(path)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise UserError(f"expected a JSON list of objects in {path}, got something else: make this product again")
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A JSON-lines log; empty where there is none. A line cut off by a kill is the last one and is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(errors="replace").splitlines()
    records = []
    for i, line in enumerate(lines):
        try:
            record = json.loads(line)
            expect(isinstance(record, dict), expected=f"JSON objects in {path}", got=line[:40], remedy=_REMEDY)
        except (ValueError, RecursionError) as error:
            if i == len(lines) - 1:
                break
            raise UserError(f"expected one JSON object per line in {path}, got {error} in line {i + 1}") from error
        records.append(record)
    return records


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise explain_read_error(error, path, remedy=_REMEDY) from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"expected JSON in {path}, got {str(error)[:120]}: {_REMEDY}") from error
