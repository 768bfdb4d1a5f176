"""Large files of a product: written beside their name by a library, visible whole or not at all."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from eo_ssl.manifest import explain_os_error, fault, sync_folder


@contextmanager
def published(path: Path) -> Iterator[Path]:
    """Yield a temporary file in the folder of ``path`` and give it that name when the block ends, unless a file is there already.

    As ``manifest.commit``, for what does not fit into memory. A block that fails leaves nothing; what a killed process leaves carries
    the name that ``corpus.fragments.discard_leftovers`` looks for.

    Raises:
        UserError: the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fault("after-temp-write")
        handle = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
        with suppress(FileExistsError):  # of two writers one wins
            os.link(temporary, path)
        fault("after-link")
        sync_folder(path.parent)
    except OSError as error:
        raise explain_os_error(error, path) from error
    finally:
        with suppress(FileNotFoundError, NotADirectoryError):
            temporary.unlink()
