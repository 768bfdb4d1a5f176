"""What a notebook sees: ten names, a help text whose session runs, and an import that costs nothing."""

from __future__ import annotations

import doctest
import pydoc
from pathlib import Path

import pytest

import eo_ssl
from eo_ssl.sample import ArchiveSpec, make_archive

SPEC = ArchiveSpec(sites=1, dates=1, size_px=96, exact_duplicates=0, near_duplicates=0, reprocessed=0)


def test_the_session_of_the_help_text_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_archive(tmp_path / "archive", seed=3, spec=SPEC)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    (session,) = doctest.DocTestFinder(recurse=False).find(eo_ssl, "eo_ssl")
    assert len(session.examples) >= 12
    output: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failed, _ = runner.run(session, out=output.append)
    assert failed == 0, "".join(output)
    assert (tmp_path / "corpus" / "manifest.json").is_file() and (tmp_path / "subset" / "manifest.json").is_file()


def test_every_name_is_there_and_described() -> None:
    assert {*eo_ssl.__all__} == {*eo_ssl._ON_DEMAND} <= {*dir(eo_ssl)}
    assert all(getattr(eo_ssl, name).__doc__ for name in eo_ssl.__all__)
    text = pydoc.plain(pydoc.render_doc(eo_ssl))
    assert "A card says what the files are" in text and all(name in text for name in eo_ssl.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Korpus'; it has Corpus"):
        _ = eo_ssl.Korpus
