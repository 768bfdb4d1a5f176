"""Damaged products of the library itself: each file of a corpus, subset, pairs, embeddings and results is changed, then all of it is read.

What is read must equal what was there, or be refused in one sentence: never another value, never a stack. A document that a forger changed
and left without its signature, as version 0.1 wrote it, may hold a value that could be true; it must not end in a stack either.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import resource
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from bench import mutations
from eo_ssl.corpus import Corpus, describe_corpus, read_parquet
from eo_ssl.curation import CurationReport, read_subset
from eo_ssl.embedding import Embeddings
from eo_ssl.errors import UserError
from eo_ssl.evaluation.predictions import Predictions
from eo_ssl.manifest import require
from eo_ssl.pairing import read_pairs
from eo_ssl.reporting.products import find_products, read_json, read_list
from eo_ssl.reporting.sections.scores import read_rows
from eo_ssl.sample import ArchiveSpec, make_archive
from eo_ssl.workflows.curate import main as curate
from eo_ssl.workflows.embed import main as embed
from eo_ssl.workflows.evaluate import main as evaluate
from eo_ssl.workflows.ingest import main as ingest
from eo_ssl.workflows.pair import main as pair

Rng = np.random.Generator
OPTICAL, RADAR = "s2_boa_b02b03b04b08_10m_16px", "s1rtc_gamma0_vvvh_10m_16px"
VERDICTS = ("equal", "refused", "another", "unworded", "slow", "large")
SECONDS, MEGABYTES = 30.0, 500.0  # more than any damage may cost


def make_products(root: Path) -> Path:
    """Make one small product of each kind and return their folder."""
    make_archive(root / "archive", seed=3, spec=ArchiveSpec(sites=2, dates=2, size_px=96))
    made = root / "sound"
    corpus, tiles = made / "corpus", {"size_px": 16, "tiling": "grid", "dask": "synchronous"}
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ingest("sample_s2_l2a", root / "archive", corpus, bands=["B02", "B03", "B04", "B08"], **tiles)
        ingest("sample_s1_rtc", root / "archive", corpus, **tiles)
        curate(corpus, made / "subset", stream=OPTICAL, keep=0.5)
        pair(corpus, made / "pairs", RADAR, OPTICAL)
        embed("imagestats", str(corpus), made / "embeddings", stream=OPTICAL)
        chosen: dict[str, Any] = {"streams": [OPTICAL], "protocols": ["knn5"], "draws": 2, "held_out": "all"}
        evaluate(["imagestats", "rcf"], "corpus", corpus, made / "results", device="cpu", **chosen)
    return made


def read_all(kind: str, folder: Path) -> str:
    """Return a digest of all that the readers of a product give."""
    digest = hashlib.sha256()
    for part in _READERS[kind](folder):
        digest.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()


def _read_corpus(folder: Path) -> Iterator[Any]:
    corpus = Corpus.open(folder)
    described = corpus.describe()
    described.pop("root")
    yield described
    yield describe_corpus(corpus)
    yield [corpus.settings(), corpus.manifest().to_bytes().decode()]
    for name in corpus.streams:
        reader = corpus.stream(name)
        yield reader.read_stored(np.arange(len(reader))).tobytes()
        yield reader.read([0]).tobytes()
        yield _table(corpus.index(name))
        yield corpus.statistics(name).to_json()
    yield corpus.provenance(OPTICAL, 0)


def _read_subset(folder: Path) -> Iterator[Any]:
    manifest = require(folder, "curate")
    yield manifest.to_bytes()
    yield read_subset(folder, manifest).tobytes()
    yield CurationReport.from_json(read_json(folder / "curation_report.json")).to_json()
    yield _table(read_parquet(folder / "dropped.parquet", remedy="curate again"))


def _read_pairs(folder: Path) -> Iterator[Any]:
    manifest = require(folder, "pair")
    pairs = read_pairs(folder, expected=manifest.fingerprint)
    yield manifest.to_bytes()
    yield str(pairs.report)
    yield from map(_table, (pairs.kept, pairs.rejected, pairs.scenes))


def _read_embeddings(folder: Path) -> Iterator[Any]:
    table = Embeddings.open(folder)
    yield [table.manifest.to_bytes().decode(), table.about, table.dim, len(table)]
    for _, part in table.groups(table._file.schema_arrow.names):
        yield _table(part)


def _read_results(folder: Path) -> Iterator[Any]:
    (product,) = find_products([folder])
    yield product.manifest.to_bytes()
    rows = read_rows([product], [])
    yield [dict(row.data) for row in rows]
    yield read_list(folder / "comparisons.json")
    for row in rows:
        for key in row.data["answers"]:
            yield Predictions.read(folder, key).values.tobytes()


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    "corpus": _read_corpus,
    "subset": _read_subset,
    "pairs": _read_pairs,
    "embeddings": _read_embeddings,
    "results": _read_results,
}


def _table(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table.combine_chunks())
    return sink.getvalue().to_pybytes()


# Changes


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield where a JSON document holds something, from the top down."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*path, key)
        yield from _places(item, (*path, key))


def _edit(rng: Rng, path: Path, change: Callable[[Any, Any], str]) -> str:
    value = json.loads(path.read_text())
    if isinstance(value, dict) and rng.random() < 0.5:
        value.pop("sha256", None)
    places = list(_places(value))
    *above, key = places[rng.integers(len(places))]
    holder = value
    for step in above:
        holder = holder[step]
    done = change(holder, key)
    path.write_text(json.dumps(value).replace('"NUMBER"', "9" * 5000).replace('"DEEP"', "[" * 20_000 + "]" * 20_000))
    return f"{done} at {'.'.join(map(str, (*above, key)))}"


def _drop(holder: Any, key: Any) -> str:
    del holder[key]
    return "dropped"


def _add(holder: Any, key: Any) -> str:
    if isinstance(holder, dict):
        holder["more"] = holder[key]
    else:
        holder.append(holder[key])
    return "added"


def _set(value: Any) -> Callable[[Any, Any], str]:
    def act(holder: Any, key: Any) -> str:
        holder[key] = value
        return f"{str(value)[:20]!r}"

    return act


def _nudge(holder: Any, key: Any) -> str:
    value = holder[key]
    holder[key] = not value if isinstance(value, bool) else value + 1 if isinstance(value, int | float) else f"{value}x"
    return "nudged"


def empty(rng: Rng, path: Path) -> str:
    path.write_bytes(b"")
    return "empty"


BYTES: dict[str, Callable[[Rng, Path], str]] = {
    "flip": mutations.flip,
    "cut": mutations.cut,
    "blank": mutations.blank,
    "junk": mutations.junk,
    "gone": mutations.gone,
    "other": mutations.other,
    "empty": empty,
}
EDITS: dict[str, Callable[[Any, Any], str]] = {
    "missing key": _drop,
    "extra key": _add,
    "nudged": _nudge,
    "text": _set("five"),
    "null": _set(None),
    "list": _set([1, [2]]),
    "object": _set({"a": 1}),
    "negative": _set(-1),
    "large": _set(10**18),
    "huge number": _set("NUMBER"),
    "deep nesting": _set("DEEP"),
    "NaN": _set(float("nan")),
    "infinity": _set(1e308 * 10),
    "up": _set("../../etc/passwd"),
}


@dataclass(frozen=True)
class DamagedProduct:
    """One change of one file and what became of it."""

    number: int
    kind: str
    file: str
    mutation: str
    done: str
    signed: bool
    "whether what was written beside the content tells of the change"
    verdict: str
    "equal, refused, another, unworded, slow or large"
    detail: str

    @property
    def violation(self) -> str:
        """What must not be; empty for nothing."""
        if self.verdict in ("equal", "refused") or (self.verdict == "another" and not self.signed):
            return ""
        return self.verdict


def damage(made: Path, work: Path, *, count: int, seed: int) -> Iterator[DamagedProduct]:
    """Change one file of one product at a time, in turns, and read the whole product."""
    sound = {kind: read_all(kind, made / kind) for kind in _READERS}
    for number in range(count):
        rng = np.random.default_rng([seed, number])
        kind = list(_READERS)[number % len(_READERS)]
        folder = work / f"{number:04d}" / kind
        shutil.copytree(made / kind, folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        documents = [path for path in files if path.suffix == ".json"]
        edited = rng.random() < 0.5
        chosen = documents if edited else files
        path = chosen[rng.integers(len(chosen))]
        names = sorted(EDITS if edited else BYTES)
        name = names[rng.integers(len(names))]
        before = path.read_bytes()
        done = _edit(rng, path, EDITS[name]) if edited else BYTES[name](rng, path)
        unsigned = edited and b'"sha256"' in before[-200:] and b'"sha256"' not in path.read_bytes()[-200:]
        verdict, detail = _judge(kind, folder, sound[kind])
        named = path.relative_to(folder).as_posix()
        yield DamagedProduct(number, kind, named, name, done, not unsigned, verdict, detail)
        shutil.rmtree(folder.parent)


def _judge(kind: str, folder: Path, sound: str) -> tuple[str, str]:
    begun, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            found = read_all(kind, folder)
    except UserError as error:
        verdict, detail = "refused" if "\n" not in str(error) and len(str(error)) < 1000 else "unworded", str(error)
    except BaseException as error:  # what no reader put in words, also a panic of a foreign library
        if isinstance(error, KeyboardInterrupt):
            raise
        verdict, detail = "unworded", f"{type(error).__name__}: {error}"
    else:
        verdict, detail = "equal" if found == sound else "another", ""
    if time.monotonic() - begun > SECONDS:
        verdict = "slow"
    if (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory) / 1024 > MEGABYTES:
        verdict = "large"
    return verdict, detail
