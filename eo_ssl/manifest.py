"""How a product comes into being: the one commit primitive, and the manifest that is written last.

A product is a folder. Its files reach their final names first, ``manifest.json`` last; a folder without it is
unfinished and the same command resumes it.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from eo_ssl.commits import commit, replace
from eo_ssl.documents import SCHEMA_VERSION as SCHEMA_VERSION
from eo_ssl.documents import build_record, measure_file, read_json
from eo_ssl.documents import check_schema as check_schema
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json
from eo_ssl.leases import LEASE, reserve
from eo_ssl.product_record import Clock as Clock
from eo_ssl.product_record import Manifest as Manifest
from eo_ssl.product_record import describe as describe
from eo_ssl.product_record import list_package_versions as list_package_versions
from eo_ssl.product_record import measure_peak_mb as measure_peak_mb

MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
_REPLACES = "replaces"  # marks a product whose predecessor is being removed


def plan(
    folder: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    overwrite: bool = False,
    compare: bool = True,
) -> Literal["new", "resume", "done"]:
    """Say what is to be done for the product ``folder``: start it, resume it, or nothing.

    Starting leaves ``unfinished.json`` with configuration and inputs, so that a resume under another configuration is
    refused.

    Args:
        folder: of the product.
        stage: the command that makes it.
        config: the resolved configuration.
        inputs: fingerprint of every input, by role.
        overwrite: remove a product of the same stage that was made otherwise or is damaged.
        compare: refuse a finished product whose files are damaged.

    Raises:
        UserError: the folder holds something made with another configuration or input, and ``overwrite`` was not asked
            for, or what this command did not make, which is never removed.
    """
    wanted = _describe_wanted(stage, config, inputs)
    state = _decide(folder, wanted, overwrite=overwrite, compare=compare)
    if state == "replace":
        # An interrupted removal goes on: at no moment is there a manifest without its files, or files of nobody.
        replace(folder / UNFINISHED, dump_canonical_json({**wanted, _REPLACES: True}).encode())
        (folder / MANIFEST).unlink(missing_ok=True)
        for path in folder.iterdir():
            if path.name not in (UNFINISHED, LEASE):
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
        replace(folder / UNFINISHED, dump_canonical_json(wanted).encode())
        return "new"
    if state == "new":
        commit(folder / UNFINISHED, dump_canonical_json(wanted).encode())
    return state


def _describe_wanted(stage: str, config: Mapping[str, Any], inputs: Mapping[str, str]) -> dict[str, Any]:
    return {"stage": stage, "config": json.loads(dump_canonical_json(config)), "inputs": dict(inputs)}


Decision = Literal["new", "resume", "done", "replace"]


def _decide(folder: Path, wanted: Mapping[str, Any], *, overwrite: bool, compare: bool = True) -> Decision:
    """Say what is to be done, as `plan`, and write nothing."""
    stage = wanted["stage"]
    for name in (MANIFEST, UNFINISHED):
        there = _read_json(folder / name)
        if there is None:
            continue
        if all(there.get(key) == value for key, value in wanted.items()):
            if name == UNFINISHED:
                return "replace" if _REPLACES in there else "resume"
            try:
                if compare:
                    _build_manifest(there, folder).check_files(folder)
            except UserError:
                if overwrite:
                    return "replace"
                raise
            return "done"
        ours = there.get("stage") == stage and all(isinstance(there.get(key), dict) for key in ("config", "inputs"))
        expect(  # also with overwrite: what goes would be a corpus, or a folder of somebody else's
            ours,
            expected=f"{folder} to be free or a product of {stage}",
            got=_kind(there, name),
            remedy="give another output folder",
        )
        expect(
            overwrite,
            expected=f"{folder} to be free or made by the same command",
            got=f"a product of {stage} that differs in {_difference(there, wanted)}",
            remedy="give another output folder or --overwrite",
        )
        return "replace"
    expect(
        not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()),
        expected=f"{folder} to be empty or a product of this library",
        got="a folder with other files",
        remedy="give another output folder",
    )
    return "new"


def _kind(product: Mapping[str, Any], name: str) -> str:
    return f"a product of stage {product['stage']}" if "stage" in product else f"a {name} that is not of this library"


def _difference(product: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    rows = []
    for part in ("config", "inputs"):
        old, new = product.get(part, {}), wanted[part]
        rows += [f"{part}.{key}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)]
    return ", ".join(rows[:6]) or "its schema"


def finish(
    folder: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    product: str,
    started: Clock,
    seed: int | None = None,
    summary: Mapping[str, Any] | None = None,
    files: Sequence[str] = (),
) -> Manifest:
    """Write ``manifest.json``, the last file of a product whose fingerprint is ``product``, and return it.

    A manifest that is there already is replaced in one step: at no moment is there none.
    """
    manifest = describe(
        stage=stage, config=config, inputs=inputs, product=product, started=started, seed=seed, summary=summary
    )
    manifest = dataclasses.replace(manifest, files={name: measure_file(folder / name) for name in files})
    write = replace if (folder / MANIFEST).exists() else commit
    write(folder / MANIFEST, manifest.to_bytes())
    (folder / UNFINISHED).unlink(missing_ok=True)
    return manifest


@dataclass(slots=True)
class OpenProduct:
    """A product between its beginning and its manifest; made by `open_product`."""

    folder: Path
    "where its files go"
    stage: str
    config: Mapping[str, Any]
    inputs: Mapping[str, str]
    state: Literal["new", "resume", "done"]
    "done: it is there already, made with this configuration and these inputs"
    started: Clock = field(default_factory=Clock)

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.state == "done"

    @property
    def nothing_to_do(self) -> str:
        """The sentence for a product that is there already."""
        return f"nothing to do: {self.folder} is made with this configuration already"

    def leave(self) -> None:
        """Leave the manifest to another process of the run, which signs the product."""
        self.state = "done"

    def sign(
        self,
        product: str,
        *,
        seed: int | None = None,
        summary: Mapping[str, Any] | None = None,
        files: Sequence[str] = (),
    ) -> Manifest:
        """Write the manifest, the last file of the product.

        Args:
            product: its fingerprint.
            seed: of everything random.
            summary: small results of the stage.
            files: relative paths of the files that are compared when the product is opened.
        """
        made: dict[str, Any] = {"stage": self.stage, "config": self.config, "inputs": self.inputs}
        made |= {"product": product, "started": self.started, "seed": seed, "summary": summary, "files": files}
        self.state = "done"
        return finish(self.folder, **made)


@contextmanager
def open_product(
    folder: Path,
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    overwrite: bool = False,
) -> Iterator[OpenProduct]:
    """Begin, resume, refuse or find done the product ``folder``; the block makes its files and signs it.

    Nobody else writes there meanwhile (`leases.reserve`).

    Args:
        folder: of the product.
        stage: the command that makes it.
        config: the resolved configuration.
        inputs: fingerprint of every input, by role.
        overwrite: remove a product of the same stage that was made otherwise.

    Raises:
        UserError: as `plan`, or another process writes there.
        RuntimeError: the block ended without signing a product that was not done.
    """
    begun = _decide(folder, _describe_wanted(stage, config, inputs), overwrite=overwrite)
    if begun == "done":
        _remove_leftovers(folder)
    with nullcontext() if begun == "done" else reserve(folder):
        state = plan(folder, stage=stage, config=config, inputs=inputs, overwrite=overwrite)
        product = OpenProduct(folder, stage, config, inputs, state)
        yield product
        if not product.done:
            raise RuntimeError(f"the product {folder} was left without its manifest")


def _remove_leftovers(folder: Path) -> None:
    """Remove what a run that was killed after its manifest left in ``folder``, where that is allowed."""
    if any((folder / name).exists() for name in (LEASE, UNFINISHED)):
        with suppress(UserError, OSError), reserve(folder):
            (folder / UNFINISHED).unlink(missing_ok=True)


def require(folder: Path, stage: str | tuple[str, ...]) -> Manifest:
    """Return the manifest of the finished product ``folder`` of one of the stages asked for.

    Raises:
        UserError: there is no such folder, it is unfinished, of another stage, or of a schema this version does not
            read.
    """
    stages = (stage,) if isinstance(stage, str) else stage
    wanted = " or ".join(stages)
    expect(
        folder.is_dir(),
        expected=f"a {wanted} product at {folder}",
        got="no such folder",
        remedy=f"make it with `eo-ssl {stages[0]}`",
    )
    content = _read_json(folder / MANIFEST)
    expect(
        content is not None,
        expected=f"a finished {wanted} product at {folder}",
        got="an unfinished one" if (folder / UNFINISHED).exists() else f"a folder without {MANIFEST}",
        remedy=f"run `eo-ssl {stages[0]}` again to finish it",
    )
    value = content or {}
    expect(
        value.get("stage") in stages,
        expected=f"a product of {wanted} at {folder}",
        got=f"one of {value.get('stage')}",
        remedy=f"give the folder `eo-ssl {stages[0]}` made",
    )
    manifest = _build_manifest(value, folder)
    manifest.check_files(folder)
    return manifest


def _build_manifest(value: Mapping[str, Any], folder: Path) -> Manifest:
    remedy = "make it again with this version of eo_ssl"
    check_schema(value, at=str(folder), remedy=remedy)
    return build_record(Manifest, value, at=str(folder / MANIFEST), remedy=remedy)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return read_json(path, remedy="remove the folder and make it again")
    except FileNotFoundError:
        return None
