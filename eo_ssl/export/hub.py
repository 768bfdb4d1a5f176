"""A bundle on the Hugging Face hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from eo_ssl.errors import UserError
from eo_ssl.export.checksums import check_files, read_recorded
from eo_ssl.export.timm_folder import TIMM_FOLDER
from eo_ssl.manifest import MANIFEST, require
from eo_ssl.printable import show_controls

_KEPT_BACK = (MANIFEST,)
"""It records the command as typed, with folders of the machine it ran on."""


class Api(Protocol):
    """The part of `huggingface_hub.HfApi` that a push calls."""

    def create_repo(self, repo_id: str, *, private: bool, exist_ok: bool) -> Any: ...  # noqa: D102
    def upload_folder(  # noqa: D102
        self, *, repo_id: str, folder_path: str, path_in_repo: str, ignore_patterns: list[str], commit_message: str
    ) -> Any: ...


@dataclass(frozen=True, slots=True)
class Upload:
    """One file of a push."""

    source: Path
    target: str
    "path in the repository"
    nbytes: int


def list_uploads(folder: Path) -> list[Upload]:
    """Return the files that a push of a bundle sends, timm's once more at the root, where ``hf-hub:`` looks.

    Raises:
        UserError: the folder is no finished bundle, or its files are not those of its manifest.
    """
    manifest = require(folder, "export")
    check_files(folder, manifest)
    names = list(read_recorded(folder, manifest))
    top = [name for name in names if name.startswith(f"{TIMM_FOLDER}/")]
    pairs = [(name, name) for name in names] + [(name, name.removeprefix(f"{TIMM_FOLDER}/")) for name in top]
    return [Upload(folder / name, target, (folder / name).stat().st_size) for name, target in pairs]


def push(folder: Path, repo: str, *, private: bool = True, api: Api | None = None) -> list[Upload]:
    """Upload a bundle to the repository ``repo`` of the Hugging Face hub, created where it does not exist.

    Args:
        folder: a finished bundle.
        repo: owner/name.
        private: whether a new repository is private.
        api: of the hub; None for the one of the logged-in user.

    Raises:
        UserError: a name without an owner, the folder is no bundle, or the hub refuses.
    """
    check_repo(repo)
    sent = list_uploads(folder)
    hub = _api() if api is None else api
    message = f"export of {show_controls(folder.name)}"
    try:
        hub.create_repo(repo, private=private, exist_ok=True)
        for source in (folder, folder / TIMM_FOLDER) if (folder / TIMM_FOLDER).is_dir() else (folder,):
            hub.upload_folder(
                repo_id=repo,
                folder_path=str(source),
                path_in_repo=".",
                ignore_patterns=[*_KEPT_BACK, ".*"],
                commit_message=message,
            )
    except (OSError, ValueError) as error:  # HfHubHTTPError is an OSError
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"expected the hub to take {repo}, got {reason[:200]}; log in with `hf auth login` and push again"
        ) from error
    return sent


def check_repo(repo: str) -> None:
    """Refuse what is no owner/name."""
    owner, slash, name = repo.partition("/")
    if not (slash and owner and name) or "/" in name:
        raise UserError(f"expected a repository as owner/name, got {repo!r}; add the owner")


def _api() -> Api:
    from huggingface_hub import HfApi

    return HfApi()
