"""Where a corpus lies: a folder, or a prefix of an S3-compatible object store; the same few verbs for both.

What is committed appears whole or not at all and never changes: on disk by a hard link or a rename, in an object store
by a conditional put (``If-None-Match: *``). An object store without conditional put is refused for writing. Endpoint
and credentials come from the environment as AWS names it: ``AWS_ENDPOINT_URL``, ``AWS_ACCESS_KEY_ID``,
``AWS_SECRET_ACCESS_KEY``, ``AWS_REGION``, ``AWS_ALLOW_HTTP`` and the rest that obstore reads.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eo_ssl.commits import commit, explain_os_error, replace, sync_folder
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import hash_file

Place = str | Path
_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]+):/+(.*)$")  # also s3:/bucket, what a Path makes of s3://bucket


class Store(Protocol):
    """Small files by key (names joined by ``/``, relative to the corpus)."""

    @property
    def name(self) -> str:
        """Last part of the address."""
        ...

    def read(self, key: str) -> bytes:
        """Return the content of ``key``; raises FileNotFoundError."""
        ...

    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of each of ``keys`` in order."""
        ...

    def measure(self, key: str) -> tuple[int, str]:
        """Return size and sha256 of the content of ``key``; raises FileNotFoundError."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names of files and folders directly in ``folder``, sorted; none where it does not exist."""
        ...

    def create(self, key: str, data: bytes) -> bool:
        """Create ``key`` whole or not at all; return False, leaving it alone, if it exists with another content."""
        ...

    def replace(self, key: str, data: bytes) -> None:
        """Put ``data`` at ``key`` in one step, whatever is there: for what may change."""
        ...

    def remove(self, key: str) -> None:
        """Remove ``key`` if it exists."""
        ...

    def move_in(self, folder: Path, key: str) -> None:
        """Take the files of a finished local folder over to ``key``; the folder is gone afterwards."""
        ...

    def fsync_names(self, folder: str) -> None:
        """Make the names in ``folder`` durable."""
        ...

    def dataset_root(self) -> tuple[Any, str]:
        """Return a file system for pyarrow (None: the local one) and the corpus's path in it."""
        ...

    def check_writable(self) -> None:
        """Refuse what cannot hold a corpus; raises UserError."""
        ...


def open_store(place: Place | Store) -> Store:
    """Return the store at a path, a ``file://`` or an ``s3://`` address (also one that went through ``Path``).

    Raises:
        UserError: an address of another kind.
    """
    if not isinstance(place, str | Path):
        return place
    address = _URL.match(str(place))
    if address is None:
        return LocalStore(Path(place).absolute())
    scheme, rest = address[1].lower(), address[2]
    if scheme == "file":
        return LocalStore(Path("/") / rest)
    if scheme in ("s3", "s3a") and rest.strip("/"):
        from eo_ssl.corpus.bucket import Bucket  # obstore is needed only here

        return Bucket(f"s3://{rest.strip('/')}")
    raise UserError(
        f"expected a corpus in a folder or at s3://bucket/prefix, got {str(place)!r}; other stores are not supported"
    )


@dataclass(frozen=True, slots=True)
class LocalStore:
    """A corpus on a local or mounted disk."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    def read(self, key: str) -> bytes:
        """Return the content of a file."""
        return (self.path / key).read_bytes()

    def read_many(self, keys: Sequence[str]) -> Iterator[bytes]:
        """Yield the content of files."""
        return map(self.read, keys)

    def measure(self, key: str) -> tuple[int, str]:
        """Return size and sha256 of a file, whose bytes are read once per process."""
        path = self.path / key
        return path.stat().st_size, hash_file(path)

    def names(self, folder: str) -> list[str]:
        """Return what ``folder`` holds."""
        home = self.path / folder
        return sorted(path.name for path in home.iterdir()) if home.is_dir() else []

    def create(self, key: str, data: bytes) -> bool:
        """Commit a file."""
        return commit(self.path / key, data)

    def replace(self, key: str, data: bytes) -> None:
        """Replace a file."""
        replace(self.path / key, data)

    def remove(self, key: str) -> None:
        """Remove a file."""
        (self.path / key).unlink(missing_ok=True)

    def move_in(self, folder: Path, key: str) -> None:
        """Rename a folder of the same disk, whose files are durable; of two writers the second drops its own."""
        target = self.path / key
        try:
            folder.rename(target)
        except OSError as error:
            if not target.is_dir():
                raise explain_os_error(error, target) from error
            shutil.rmtree(folder)

    def fsync_names(self, folder: str) -> None:
        """Sync a folder."""
        sync_folder(self.path / folder)

    def dataset_root(self) -> tuple[Any, str]:
        """Return the path."""
        return None, str(self.path)

    def check_writable(self) -> None:
        """Refuse a file where a folder is wanted."""
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"expected a folder to write to, got the file {self.path}; give another output folder")
