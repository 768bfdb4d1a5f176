"""One damaged product at a time, read as the ingest reads it, in a process that may die, hang or run out of memory."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import resource
import shutil
import sys
import traceback
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from bench import mutations
from bench.hostile_files import EXECUTED, SET
from bench.mutations import Mutation
from bench.subjects import CROP_PX, Subject
from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.errors import UserError
from eo_ssl.scene import Product, UnreadableChip, list_products

SECONDS = 30.0
MEMORY = 6 * 2**30  # bytes of address space
CONFIG = IngestConfig(size_px=CROP_PX, edge="pad", min_valid=0.0)
CAUGHT = ("listing", "dropped", "checksum", "reading")
AGAIN = (
    "flip",
    "impossible number",
    "replaced value",
    "damaged list",
    "missing element",
    "cut",
    "missing key",
    "swapped children",
)
LARGEST = 10_000_000  # values; the sound products have a fiftieth of it
Reading = dict[str, str]


@dataclass(frozen=True)
class Trial:
    """A damaged copy of a subject, to be read."""

    number: int
    subject: Subject
    mutation: Mutation
    through_ingest: bool


@dataclass(frozen=True)
class Outcome:
    """What became of it."""

    number: int
    subject: str
    kind: str
    mutation: str
    file: str
    done: str
    guarded: bool
    "whether a checksum is stated that the change does not fit"
    verdict: str
    "listing, dropped, checksum, reading (where it was refused in words); equal, pixels, metadata (what was read); gone; unworded; crash; hang"
    detail: str
    others: str
    "what happened to the good product beside it; empty for nothing"

    @property
    def violation(self) -> str:
        """What must not be; empty for nothing."""
        if self.verdict in ("crash", "hang", "unworded", "gone", "executed"):
            return self.verdict
        if self.others:
            return self.others
        return f"{self.verdict} changed unseen" if self.guarded and self.verdict in ("pixels", "metadata") else ""


def plan(subjects: Sequence[Subject], *, count: int, ingest_every: int) -> list[Trial]:
    """Every mutation of every subject once, then those of ``AGAIN`` in turn until there are ``count``; the order is mixed."""
    cells = [(subject, mutation) for subject in subjects for mutation in mutations.mutations(subject)]
    cells += [(subject, mutations.PICKLED) for subject in subjects if subject.name == "ssl4eo-zarr"]
    again = [cell for name in AGAIN for cell in cells if cell[1].name.removeprefix("sealed ") == name]
    while len(cells) < count:
        cells.append(again[len(cells) % len(again)])
    order = np.random.default_rng(len(cells)).permutation(len(cells))[:count]
    return [Trial(n, *cells[cell], through_ingest=n % ingest_every == 0) for n, cell in enumerate(order)]


def guarded(subject: Subject, mutation: Mutation, file: str, victim: Path) -> bool:
    """Whether a stated checksum does not fit the damaged bytes."""
    if mutation.kind == "zip":
        return not mutation.sealed  # the CRC of each member
    if mutation.sealed or not subject.sums or subject.name == "ssl4eo-zarr":
        return False  # sealed by its maker: checksums fit, as those of a zip that was packed anew do
    name = Path(file).name
    # what holds the checksums has none itself
    return name != "manifest.safe" and (name.endswith(".tif") or not subject.name.startswith("stac"))


def run(trials: Sequence[Trial], folder: Path, *, seed: int) -> Iterator[Outcome]:
    """Yield the outcome of each trial, in order; a worker that died or hung is replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    subjects = {trial.subject.name: trial.subject for trial in trials}
    truths = {name: read_set(subject, subject.root) for name, subject in subjects.items()}
    tiles = {name: tiles_of_good(subject, folder / f"good-{name}") for name, subject in subjects.items()}
    worker = _Worker()
    try:
        for trial in trials:
            place = folder / f"trial-{trial.number:04d}"
            shutil.copytree(trial.subject.root, place / SET)
            rng = np.random.default_rng([seed, trial.number])
            file, done = mutations.apply(trial.mutation, trial.subject, place / SET, rng)
            name = trial.subject.name
            order = (trial.subject, place, truths[name], tiles[name], trial.through_ingest)
            verdict, detail, others = worker.ask(order)
            if (place / EXECUTED).exists():
                verdict = "executed"
            is_guarded = guarded(trial.subject, trial.mutation, file, place)
            yield Outcome(
                trial.number,
                trial.subject.name,
                trial.mutation.kind,
                trial.mutation.name,
                file,
                done,
                is_guarded,
                verdict,
                detail,
                others,
            )
            shutil.rmtree(place)
    finally:
        worker.close()


class _Worker:
    """A process that reads damaged products; started anew when it is lost."""

    def __init__(self) -> None:
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._here, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there,), daemon=True)
        self._process.start()
        there.close()
        self._here.recv()  # imported and ready

    def ask(self, order: Any) -> tuple[str, str, str]:
        self._here.send(order)
        try:
            if self._here.poll(SECONDS):
                answer: tuple[str, str, str] = self._here.recv()
                return answer
            verdict = ("hang", f"longer than {SECONDS:g} s", "")
        except EOFError:
            self._process.join()
            verdict = ("crash", f"exit code {self._process.exitcode}", "")
        self.close()
        self._start()
        return verdict

    def close(self) -> None:
        self._process.kill()
        self._process.join()
        self._here.close()


def _serve(pipe: Connection) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    warnings.simplefilter("ignore")
    pipe.send("ready")
    while True:
        try:
            subject, place, truth, tiles, through_ingest = pipe.recv()
        except EOFError:
            return
        pipe.send(examine(subject, place, truth, tiles, through_ingest=through_ingest))


def examine(
    subject: Subject,
    place: Path,
    truth: dict[str, Reading],
    tiles: frozenset[tuple[bytes, bytes]],
    *,
    through_ingest: bool,
) -> tuple[str, str, str]:
    """Return verdict, detail and what happened to the good product."""
    good = next(name for name in truth if subject.key not in name)
    known = truth[next(name for name in truth if subject.key in name)]
    try:
        listed = list_products(subject.card, place / SET, accept_unknown_offset="drop")
    except UserError as error:
        return "listing", str(error), "the listing stopped"
    except Exception:
        return "unworded", f"listing: {_last()}", "the listing stopped"
    others = [product for product in listed.products if product.product_id != good]
    verdict, detail = "gone", ""
    if others:
        verdict, detail = _verdict(others[0], known)
    elif listed.dropped:
        verdict, detail = "dropped", listed.dropped[0][1]
    spared = _spared(listed.products, good, truth[good])
    if through_ingest and not spared:
        spared = _ingested(listed.products, good, place / "corpus", verdict, tiles)
    return verdict, detail, spared


def _verdict(product: Product, known: Reading) -> tuple[str, str]:
    unlisted = product.acquisition.datetime == "" and known["listed"] != ""
    step = "checksum"
    try:
        product.checksum()
        step = "size"
        _ = product.nbytes
        step = "reading"
        found = reading(product)
    except UserError as error:
        return ("listing" if unlisted else "reading" if step == "size" else step), str(error)
    except Exception:
        return "unworded", f"{step}: {_last()}"
    if found["metadata"] != known["metadata"] or product.product_id != known["id"]:
        return "metadata", _difference(known["metadata"], found["metadata"])
    return ("equal", "") if found["pixels"] == known["pixels"] else ("pixels", "")


def _last() -> str:
    kind, error, trace = sys.exc_info()
    frames = [frame for frame in traceback.extract_tb(trace) if "eo_ssl" in frame.filename]
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{kind.__name__ if kind else ''}: {str(error)[:120]}{place}"


def _difference(known: str, found: str) -> str:
    one, other = json.loads(known), json.loads(found)
    if not isinstance(one, dict) or not isinstance(other, dict):
        return "chips"
    return ", ".join(
        f"{key}: {str(one.get(key))[:40]} -> {str(other.get(key))[:40]}" for key in one if one[key] != other.get(key)
    )


def _spared(listed: Sequence[Product], good: str, known: Reading) -> str:
    product = next((product for product in listed if product.product_id == good), None)
    if product is None:
        return "the good product is not listed"
    try:
        product.checksum()
        found = reading(product)
    except Exception:
        return f"the good product cannot be read: {_last()}"
    return "" if found == known else "the good product changed"


def _tiles(corpus: Corpus) -> frozenset[tuple[bytes, bytes]]:
    """Id and digest of the pixels of each tile."""
    tables = [corpus.index(name).select(["tile_id", "pixels_sha256"]).to_pydict() for name in corpus.streams]
    return frozenset(pair for table in tables for pair in zip(table["tile_id"], table["pixels_sha256"], strict=True))


def _ingested(
    listed: Sequence[Product], good: str, out: Path, verdict: str, tiles: frozenset[tuple[bytes, bytes]]
) -> str:
    """Ingest both and compare: what was refused is in quarantine, the good one is whole."""
    report = ingest(listed, out=out, config=CONFIG, client="synchronous")
    refused = verdict in ("listing", "checksum", "reading", "unworded") and len(listed) > 1
    aside = [name for name, _ in report.quarantined]
    corpus = Corpus.open(out)
    if good in aside or not tiles <= _tiles(corpus) or corpus.verify():
        return "ingest: the good product is not whole"
    if listed[0].kind == "cube" and (
        (refused and not aside) or (verdict == "equal" and aside)
    ):  # chips are left out one by one
        return f"ingest: {len(aside)} quarantined, and reading alone says {verdict}"
    return ""


def tiles_of_good(subject: Subject, out: Path) -> frozenset[tuple[bytes, bytes]]:
    """Ingest the good product alone."""
    found = [
        product
        for product in list_products(subject.card, subject.root).products
        if subject.key not in product.product_id
    ]
    ingest(found, out=out, config=CONFIG, client="synchronous")
    return _tiles(Corpus.open(out))


def read_set(subject: Subject, root: Path) -> dict[str, Reading]:
    """Read both products of a sound set."""
    found = {}
    for product in list_products(subject.card, root).products:
        product.checksum()
        found[product.product_id] = reading(product)
    return found


def reading(product: Product) -> Reading:
    """Return what reading a product gives, short enough to compare."""
    facts = asdict(product.acquisition)
    digest = hashlib.sha256()
    if product.kind == "chips":
        rows = []
        for chip in product.open_chips():
            if isinstance(chip, UnreadableChip):
                raise UserError(chip.reason)  # the others of the product are kept
            held = {
                key: value
                for key, value in _fields(chip).items()
                if not isinstance(value, np.ndarray) and key not in ("masks", "sha256")
            }
            rows.append({key: str(value) for key, value in held.items()})
            for array in (chip.image, chip.valid, *chip.masks.values()):
                digest.update(np.ascontiguousarray(array).tobytes())
        metadata: Any = {"facts": facts, "chips": rows}
    else:
        cube = product.open()
        if cube["image"].size > LARGEST:
            metadata = {"shape": str(cube["image"].shape)}
        else:
            metadata = {**facts, **cube.attrs, "variables": sorted(cube.data_vars), "sizes": dict(cube.sizes)}
            for name in ("x", "y", "band"):
                metadata[name] = str(cube[name].values.tolist()[:3])
            for name in sorted(cube.data_vars):
                digest.update(np.ascontiguousarray(cube[name].values).tobytes())
    text = json.dumps(metadata, default=str, sort_keys=True)
    return {
        "id": product.product_id,
        "listed": product.acquisition.datetime,
        "metadata": text,
        "pixels": digest.hexdigest(),
    }


def _fields(chip: Any) -> dict[str, Any]:
    return {name: getattr(chip, name) for name in chip.__dataclass_fields__}
