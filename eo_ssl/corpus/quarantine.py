"""Products that were put aside: errors of a task as values, and one JSON file each, kept until the product succeeds."""

from __future__ import annotations

import hashlib
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar

from eo_ssl.corpus.store import Store
from eo_ssl.documents import parse_json, sign_json
from eo_ssl.errors import UserError, expect

if TYPE_CHECKING:  # readers of a corpus need neither GDAL nor xarray
    from eo_ssl.scene import Product

FOLDER = "quarantine"
P = ParamSpec("P")
R = TypeVar("R")


class Named(Protocol):
    """What a task is about: a product, or the plan or build of one."""

    @property
    def product_id(self) -> str:
        """Name of the product."""
        ...


S = TypeVar("S", bound=Named)


@dataclass(frozen=True, slots=True)
class Failure:
    """A product that was put aside, or the write error that ended the run."""

    product_id: str
    reason: str
    kind: Literal["product", "write", "stopped"] = "product"
    trace: str = ""
    "stack of an error that no reader put in words; such a product is tried again by the next run"


def guard(task: Callable[Concatenate[S, P], R]) -> Callable[Concatenate[S, P], R | Failure]:
    """Return ``task`` with its errors as values, so that the other products go on.

    Its first argument names the product.
    """

    def run(subject: S, /, *args: P.args, **kwargs: P.kwargs) -> R | Failure:
        try:
            return task(subject, *args, **kwargs)
        except UserError as error:
            return Failure(subject.product_id, str(error))
        except Exception as error:  # the readers of a dozen formats raise what they like
            wanted, remedy = (
                ("memory for this product", "give workers more of it, or use fewer, and run again")
                if isinstance(error, MemoryError)
                else ("a readable product", "look at its files or at the stack in the quarantine folder")
            )
            reason = f"expected {wanted}, got {type(error).__name__}: {error}; {remedy}"
            return Failure(subject.product_id, reason, trace="".join(traceback.format_exception(error)))

    run.__name__ = task.__name__  # what Dask shows
    return run


def update(
    store: Store, products: Sequence[Product], failures: Sequence[Failure], *, checksums: Mapping[str, str]
) -> None:
    """Record why ``products`` were put aside; forget those that now succeeded.

    Args:
        store: of the corpus.
        products: all that were to be ingested.
        failures: of some of them.
        checksums: by name of those whose files could be read.
    """
    known = set(store.names(FOLDER))
    failed = {failure.product_id: failure for failure in failures}
    for product in products:
        name = _name(product.product_id)
        failure = failed.get(product.product_id)
        if failure is None:
            if name in known:
                store.remove(f"{FOLDER}/{name}")
            continue
        value = {
            "product_id": product.product_id,
            "card": product.card.name,
            "reason": failure.reason,
            "trace": failure.trace,
            "checksum": checksums.get(product.product_id, ""),
            "files": [file.name for file in product.paths],
        }
        store.replace(f"{FOLDER}/{name}", sign_json(value, indent=1))


def load_failures(store: Store, products: Sequence[Product]) -> list[Failure]:
    """Return why an earlier run put some of ``products`` aside."""
    known = set(store.names(FOLDER))
    aside = [product.product_id for product in products if _name(product.product_id) in known]
    return [
        Failure(name, str(value["reason"]), trace=str(value.get("trace", "")))
        for name, value in zip(aside, _read_many(store, map(_name, aside)), strict=True)
    ]


def read(store: Store) -> list[dict[str, Any]]:
    """Return all that was put aside, as plain values.

    Raises:
        UserError: a file of the quarantine is damaged.
    """
    return list(_read_many(store, filter(_is_record, store.names(FOLDER))))


def _is_record(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _read_many(store: Store, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    keys = [f"{FOLDER}/{name}" for name in names]
    for key, data in zip(keys, store.read_many(keys), strict=True):
        remedy = "remove that file and run the same ingest again"
        value = parse_json(data, at=f"{store}/{key}", remedy=remedy)
        expect("reason" in value, expected=f"a reason in {store}/{key}", got="none", remedy=remedy)
        yield value


def _name(product_id: str) -> str:
    """Return a file name that can be read and that no other product has."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", product_id)
    stem = plain if plain == product_id else f"{plain[:150]}-{hashlib.sha256(product_id.encode()).hexdigest()[:8]}"
    return f"{stem}.json"
