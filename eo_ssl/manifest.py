"""How a product comes into being: the one commit primitive, and the manifest that is written last.

A product is a folder. Its files reach their final names first, ``manifest.json`` last; a folder without it is
unfinished and the same command resumes it.
"""

from __future__ import annotations

import json
import platform
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError

from eo_ssl.commits import commit, replace
from eo_ssl.errors import UserError, expect
from eo_ssl.fingerprints import dump_canonical_json

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"
_RECORDED_PACKAGES = (
    *("eo_ssl", "numpy", "xarray", "dask", "zarr", "rasterio"),
    *("torch", "lightning", "timm", "torchgeo", "faiss-cpu"),
)


@dataclass(frozen=True, slots=True)
class Clock:
    """Wall and CPU time at the moment of its creation (own process and finished children)."""

    wall: float = field(default_factory=time.monotonic)
    cpu: float = field(default_factory=lambda: _cpu_seconds())

    @property
    def wall_s(self) -> float:
        """Seconds of wall time since."""
        return time.monotonic() - self.wall

    @property
    def cpu_s(self) -> float:
        """Seconds of CPU time since."""
        return _cpu_seconds() - self.cpu


def _cpu_seconds() -> float:
    usages = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def measure_peak_mb() -> float:
    """Return the largest resident set of this process so far, in MB (10^6 bytes)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


@dataclass(frozen=True, slots=True)
class Manifest:
    """What made a product: enough to judge it, to repeat it and to notice that nothing is left to do."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)

    stage: str
    "the command that made the product: ingest, curate, pretrain, evaluate, report, run"
    config: dict[str, Any]
    "the resolved configuration"
    inputs: dict[str, str]
    "fingerprint of every input, by role"
    fingerprint: str
    "fingerprint of the product itself"
    packages: dict[str, str]
    seed: int | None
    wall_s: float
    cpu_s: float
    peak_mb: float
    created: str
    "ISO 8601, UTC"
    command: str
    summary: dict[str, Any] = field(default_factory=dict)
    "small stage-specific results"
    schema_version: int = SCHEMA_VERSION

    def to_bytes(self) -> bytes:
        """Return the content of ``manifest.json``."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()


_READER = TypeAdapter(Manifest)


def plan(
    folder: Path, *, stage: str, config: Mapping[str, Any], inputs: Mapping[str, str], overwrite: bool = False
) -> Literal["new", "resume", "done"]:
    """Say what is to be done for the product ``folder``: start it, resume it, or nothing.

    Starting leaves ``unfinished.json`` with configuration and inputs, so that a resume under another configuration is
    refused.

    Raises:
        UserError: the folder holds something made with another configuration or input, and ``overwrite`` was not asked
            for, or what this command did not make, which is never removed.
    """
    wanted = {"stage": stage, "config": json.loads(dump_canonical_json(config)), "inputs": dict(inputs)}
    for name, answer in ((MANIFEST, "done"), (UNFINISHED, "resume")):
        there = _read_json(folder / name)
        if there is None:
            continue
        if all(there.get(key) == value for key, value in wanted.items()):
            return answer  # type: ignore[return-value]
        expect(  # also with overwrite: what goes would be a corpus, or a folder of somebody else's
            there.get("stage") == stage and {"config", "inputs"} <= set(there),
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
        shutil.rmtree(folder)
        break
    else:
        expect(
            not folder.exists() or all(path.name.startswith(".") for path in folder.iterdir()),
            expected=f"{folder} to be empty or a product of this library",
            got="a folder with other files",
            remedy="give another output folder",
        )
    commit(folder / UNFINISHED, dump_canonical_json(wanted).encode())
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
) -> Manifest:
    """Write ``manifest.json``, the last file of a product whose fingerprint is ``product``, and return it.

    A manifest that is there already is replaced in one step: at no moment is there none.
    """
    manifest = describe(
        stage=stage, config=config, inputs=inputs, product=product, started=started, seed=seed, summary=summary
    )
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

    def sign(self, product: str, *, seed: int | None = None, summary: Mapping[str, Any] | None = None) -> Manifest:
        """Write the manifest, the last file of the product, whose fingerprint is ``product``."""
        made: dict[str, Any] = {"stage": self.stage, "config": self.config, "inputs": self.inputs}
        self.state = "done"
        return finish(self.folder, **made, product=product, started=self.started, seed=seed, summary=summary)


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

    Args:
        folder: of the product.
        stage: the command that makes it.
        config: the resolved configuration.
        inputs: fingerprint of every input, by role.
        overwrite: remove a product of the same stage that was made otherwise.

    Raises:
        UserError: as `plan`.
        RuntimeError: the block ended without signing a product that was not done.
    """
    state = plan(folder, stage=stage, config=config, inputs=inputs, overwrite=overwrite)
    product = OpenProduct(folder, stage, config, inputs, state)
    yield product
    if not product.done:
        raise RuntimeError(f"the product {folder} was left without its manifest")


def describe(
    *,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str],
    product: str,
    started: Clock,
    seed: int | None = None,
    summary: Mapping[str, Any] | None = None,
) -> Manifest:
    """Return the manifest of a product that was begun at ``started`` and is now complete."""
    return Manifest(
        stage=stage,
        config=json.loads(dump_canonical_json(config)),
        inputs=dict(inputs),
        fingerprint=product,
        packages=list_package_versions(),
        seed=seed,
        wall_s=round(started.wall_s, 3),
        cpu_s=round(started.cpu_s, 3),
        peak_mb=round(measure_peak_mb(), 1),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=" ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        summary=json.loads(dump_canonical_json(summary or {})),
    )


def list_package_versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that decide results, those that are installed."""
    packages = {"python": platform.python_version()}
    for name in _RECORDED_PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return packages


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
    check_schema(value, at=str(folder), remedy="make it again with this version of eo_ssl")
    try:
        return _READER.validate_json(json.dumps(value))
    except ValidationError as error:
        wrong = error.errors()[0]
        got = f"{'.'.join(map(str, wrong['loc']))}: {wrong['msg'].lower()}"
        raise UserError(f"expected a manifest in {folder}, got {got}; make the product again") from error


def check_schema(value: Mapping[str, Any], *, at: str, remedy: str) -> None:
    """Refuse the content ``value`` of a file ``at`` a place that another version wrote than this one or the one before.

    Raises:
        UserError: naming both versions.
    """
    version = value.get("schema_version")
    expect(
        version in (SCHEMA_VERSION, SCHEMA_VERSION - 1),
        expected=f"schema version {SCHEMA_VERSION} at {at}",
        got=version,
        remedy=remedy,
    )


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"expected JSON in {path}, got {error}; remove the folder and make it again") from error
    if not isinstance(value, dict):
        raise UserError(
            f"expected a JSON object in {path}, got a {type(value).__name__}; remove the folder and make it again"
        )
    return value
