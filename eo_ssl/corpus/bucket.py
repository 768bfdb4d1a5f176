"""A corpus in an S3-compatible object store, through obstore."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, cast

import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.fsspec import FsspecStore
from obstore.store import S3Store
from pyarrow.fs import FSSpecHandler, PyFileSystem

from eo_ssl.commits import check_fault
from eo_ssl.errors import UserError

_AT_ONCE = 16  # requests in flight of one process; an answer takes tens of milliseconds, most of it waiting
_TRIES = 4  # of a conditional put whose answer was lost, which obstore does not repeat by itself
_RETRY = {
    "max_retries": 6,
    "backoff": {"init_backoff": timedelta(seconds=0.1), "max_backoff": timedelta(seconds=5), "base": 2},
    "retry_timeout": timedelta(seconds=120),
}
_CLIENT = {"timeout": "120s", "connect_timeout": "10s"}


@dataclass(frozen=True, slots=True)
class Bucket:
    """``s3://bucket/prefix``. It pickles as its address and connects in each process when first asked."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """Last part of the address."""
        return self.url.rpartition("/")[2]

    def read(self, key: str) -> bytes:
        """Return the content of an object."""
        return bytes(self._ask("read", key, lambda store: obstore.get(store, key).bytes()))

    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of objects, fetched several at a time."""
        return self.at_once(lambda key: self.read(key), [(key,) for key in keys])

    def measure(self, key: str) -> tuple[int, str]:
        """Return size and sha256 of an object, which is fetched."""
        data = self.read(key)
        return len(data), hashlib.sha256(data).hexdigest()

    def tail(self, key: str, size: int) -> bytes:
        """Return the last ``size`` bytes of an object."""
        options: Any = {"range": {"suffix": size}}
        return bytes(self._ask("read", key, lambda store: obstore.get(store, key, options=options).bytes()))

    def ranges(self, key: str, starts: Sequence[int], ends: Sequence[int]) -> Sequence[Any]:
        """Return byte ranges [start, end) of an object as buffers; near ones are fetched together."""
        return list(
            self._ask("read", key, lambda store: obstore.get_ranges(store, key, starts=list(starts), ends=list(ends)))
        )

    def at_once(self, ask: Callable[..., Any], arguments: Sequence[tuple[Any, ...]]) -> Iterator[Any]:
        """Yield ``ask(*each)`` in order, with up to 16 in flight and no more than twice as many waiting to be taken."""
        _refuse_fork(self.url)
        pool, ahead = _pool(), 2 * _AT_ONCE
        waiting = [pool.submit(ask, *each) for each in arguments[:ahead]]
        for number in range(len(arguments)):
            yield waiting[number].result()
            waiting[number] = None  # type: ignore[call-overload]  # what was taken need not be held
            if number + ahead < len(arguments):
                waiting.append(pool.submit(ask, *arguments[number + ahead]))

    def names(self, folder: str) -> list[str]:
        """Return the last names of the keys and common prefixes under ``folder``."""
        listing = self._ask("list", folder, lambda store: obstore.list_with_delimiter(store, folder or None))
        paths = [*listing["common_prefixes"], *(item["path"] for item in listing["objects"])]
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in paths)

    def create(self, key: str, data: bytes) -> bool:
        """Put an object on the condition that there is none.

        When the answer was lost, look what is there and try again.
        """
        check_fault("before-put")
        for left in reversed(range(_TRIES)):
            try:
                self._put(key, data, mode="create")
            except AlreadyExistsError:
                return self.read(key) == data  # ours, if the answer to an earlier try was lost
            except BaseError as error:
                if left == 0:
                    raise _failed("write", f"{self.url}/{key}", error) from error
                continue
            check_fault("after-put")
            return True
        raise AssertionError  # the loop returns or raises

    def replace(self, key: str, data: bytes) -> None:
        """Put an object."""
        self._ask("write", key, lambda _: self._put(key, data, mode="overwrite"))

    def _put(self, key: str, data: bytes, *, mode: Any) -> None:
        obstore.put(self.connection(), key, data, mode=mode, use_multipart=False)

    def remove(self, key: str) -> None:
        """Delete an object."""
        self._ask("remove", key, lambda store: obstore.delete(store, key))

    def move_in(self, folder: Path, key: str) -> None:
        """Upload the files of a folder, one after the other (memory: the largest), and remove the folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.replace(f"{key}/{path.relative_to(folder).as_posix()}", path.read_bytes())
                check_fault("inside-upload")
        shutil.rmtree(folder)

    def fsync_names(self, folder: str) -> None:
        """Nothing to do: an acknowledged put is durable."""

    def dataset_root(self) -> tuple[Any, str]:
        """Return obstore's file system for fsspec, as pyarrow takes it."""
        _refuse_fork(self.url)
        files: Any = cast(Any, FsspecStore)("s3", **_options(), skip_instance_cache=True)
        return PyFileSystem(FSSpecHandler(files)), self.url.removeprefix("s3://")

    def check_writable(self) -> None:
        """Refuse a store that lets a conditional put overwrite: two writers could lose each other's snapshots.

        Raises:
            UserError: so, or the store does not answer.
        """
        key = f"probe-{uuid.uuid4().hex}"
        try:
            if not self.create(key, b"first"):
                raise UserError(f"expected to write {self.url}, got a key that exists though new; use another store")
            if self.create(key, b"second") or self.read(key) != b"first":
                raise UserError(
                    f"expected a store with conditional put (If-None-Match) at {self.url}, got one that overwrites; "
                    "write the corpus to a disk and copy it there"
                )
        finally:
            self.remove(key)

    def connection(self) -> Any:
        """Return this process's client."""
        _refuse_fork(self.url)
        return _client(self.url, tuple(sorted(item for item in os.environ.items() if item[0].startswith("AWS_"))))

    def _ask(self, verb: str, key: str, request: Callable[[Any], Any]) -> Any:
        try:
            return request(self.connection())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise _failed(verb, f"{self.url}/{key}", error) from error
            raise
        except BaseError as error:
            raise _failed(verb, f"{self.url}/{key}", error) from error


def _failed(verb: str, address: str, error: Exception) -> UserError:
    text = str(error).partition("\n\nDebug source")[0].replace("\n", " ")
    return UserError(
        f"expected to {verb} {address}, got {text[:400]}; check address, credentials (AWS_...) and connection and "
        "run the same command again"
    )


@cache
def _client(url: str, environment: tuple[tuple[str, str], ...]) -> Any:
    """Return the client of an address; ``environment`` is what it takes endpoint and credentials from."""
    return S3Store.from_url(url, **_options())


def _options() -> dict[str, Any]:
    plain = os.environ.get("AWS_ALLOW_HTTP", "").lower() in (
        "1",
        "true",
        "yes",
    )  # own client options hide it from obstore
    return {"retry_config": _RETRY, "client_options": {**_CLIENT, "allow_http": plain}}


@cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="eo_ssl-bucket")


_owner: list[int] = []


def _refuse_fork(url: str) -> None:
    """The client's threads do not survive a fork: a forked process would wait for ever.

    Raises:
        UserError: this process was forked from one that had connected.
    """
    if not _owner:
        _owner.append(os.getpid())
    if _owner[0] != os.getpid():
        raise UserError(
            f"expected {url} to be read by the process that opened it or by spawned ones, got a forked one; "
            "start workers with spawn (multiprocessing_context='spawn')"
        )
