"""Documents of this version without their signature, of a newer version, or with a key that nobody knows: each is refused in a sentence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from eo_ssl.corpus import Corpus, IngestConfig, ingest
from eo_ssl.documents import SCHEMA_VERSION, check_not_newer, is_signed, parse_json, sign_json
from eo_ssl.encoder import ENCODER_FILE, load_encoder, save_encoder
from eo_ssl.errors import UserError
from eo_ssl.export.contract_file import describe_configurations, read_configurations, to_bytes
from eo_ssl.fingerprints import fingerprint
from eo_ssl.manifest import require
from eo_ssl.models import Vit
from eo_ssl.reporting.products import find_products
from eo_ssl.reporting.sections.scores import read_rows
from eo_ssl.scene import list_products
from planted import BANDS, contract
from rasters import RASTER, card, write

VERSION_0_1 = Path(__file__).parent / "fixtures" / "version_0_1"
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus of one scene, with one more that cannot be read, and results whose rows are of this version."""
    root = tmp_path_factory.mktemp("versions")
    rng = np.random.default_rng(3)
    write(root / "a.tif", rng.integers(300, 6000, (3, 64, 64)).astype(np.uint16))
    (root / "b.tif").write_bytes(b"II*\0 no more")
    products = list_products(card(root, RASTER), root).products
    ingest(products, out=root / "corpus", config=IngestConfig(size_px=32), client="synchronous")
    shutil.copytree(VERSION_0_1 / "results", root / "results")
    for path in (*(root / "results").glob("rows/*.json"), root / "results" / "manifest.json"):
        value = {key: part for key, part in json.loads(path.read_text()).items() if key != "schema_version"}
        path.write_bytes(sign_json(value, indent=1))
    return root


def open_corpus(root: Path) -> None:
    corpus = Corpus.open(root / "corpus")
    (stream,) = corpus.streams
    corpus.provenance(stream, 0)
    corpus.manifest()


def run_again(root: Path) -> None:
    products = list_products(card(root, RASTER), root).products
    ingest(products, out=root / "corpus", config=IngestConfig(size_px=32), client="synchronous")


def read_results(root: Path) -> None:
    read_rows(find_products([root / "results"]), [])


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "manifest": ("corpus/manifest.json", lambda root: require(root / "corpus", "ingest") and None),
    "manifest of a corpus": ("corpus/manifest.json", open_corpus),
    "manifest at a run": ("corpus/manifest.json", run_again),
    "snapshot": ("corpus/snapshots/*.json", open_corpus),
    "fragment": ("corpus/fragments/*/fragment.json", open_corpus),
    "quarantine": ("corpus/quarantine/*.json", run_again),
    "result": ("results/rows/*.json", read_results),
    "manifest of results": ("results/manifest.json", read_results),
}
STRICT = [
    name for name, (file, _) in KINDS.items() if "quarantine" not in file and "rows" not in file and "run" not in name
]


@pytest.fixture
def root(sound: Path, tmp_path: Path) -> Path:
    shutil.copytree(sound, tmp_path / "copy")
    return tmp_path / "copy"


def change(root: Path, kind: str, how: Change, *, signed: bool) -> Callable[[], None]:
    pattern, read = KINDS[kind]
    read(root)
    path = sorted(root.glob(pattern))[0]
    value = json.loads(path.read_text())
    assert is_signed(path.read_bytes()) and value["schema_version"] == SCHEMA_VERSION
    del value["sha256"]
    value = how(value)
    path.write_bytes(sign_json(value) if signed else json.dumps(value).encode())
    return lambda: read(root)


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_this_version_without_its_signature_is_refused(root: Path, kind: str) -> None:
    """As version 0.1 wrote them, which nothing tells from a document whose signature somebody took away but its version."""
    read = change(root, kind, lambda value: value, signed=False)
    with pytest.raises(UserError, match=r"^expected the signature at the end of \S+\.json, got none: it was edited"):
        read()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("signed", [True, False])
def test_a_document_of_a_newer_version_says_to_update(root: Path, kind: str, signed: bool) -> None:
    """Whatever else it says, and however it is signed."""
    read = change(
        root, kind, lambda _: {"schema_version": SCHEMA_VERSION + 1, "stage": "ingest", "new": 1}, signed=signed
    )
    with pytest.raises(
        UserError, match=r"expected schema version 3 or earlier at .*, got 4, which a newer eo_ssl wrote; update"
    ):
        read()


@pytest.mark.parametrize("kind", STRICT)
def test_a_key_that_nobody_knows_is_refused(root: Path, kind: str) -> None:
    read = change(root, kind, lambda value: value | {"tomorrow": 1}, signed=True)
    with pytest.raises(UserError, match=r"got the unknown key 'tomorrow'; update eo_ssl if a newer one wrote it, or "):
        read()


@pytest.mark.parametrize("version", [0, -1, "3", 2.5, None, True, [3], 10**40])
def test_a_schema_version_that_is_none_is_refused(version: object) -> None:
    data = json.dumps({"schema_version": version}).encode()
    with pytest.raises(UserError, match=r"^expected schema version 3 at here, got .{1,60}; do something$"):
        parse_json(data, at="here", remedy="do something")


def test_documents_before_signatures_stay_readable() -> None:
    for version in (1, 2):
        value = {"schema_version": version, "a": 1}
        assert parse_json(json.dumps(value).encode(), at="x", remedy="y") == value
    with pytest.raises(UserError, match="the signature at the end of x"):
        parse_json(json.dumps({"schema_version": 3, "a": 1}).encode(), at="x", remedy="y")


def test_versions_are_compared_as_numbers() -> None:
    for version in (1, "1", 2, "2", None, "", "two", True, -5, 1.5):
        check_not_newer(version, 2, what="format", at="x")
    for version in (3, "3", "10", 999):
        with pytest.raises(
            UserError, match=rf"^expected format 2 or earlier at x, got {version}, which a newer eo_ssl"
        ):
            check_not_newer(version, 2, what="format", at="x")


# Encoders and bundles


def saved(folder: Path, **metadata: str | None) -> Path:
    network = Vit(patch_size=8, depth=1).build(BANDS, 16, 0)
    save_encoder(folder, network, preprocessing=contract(), provenance={"config": {}, "inputs": {}})
    path = folder / ENCODER_FILE
    with safetensors.safe_open(path, framework="pt") as file:
        known = {key: value for key, value in file.metadata().items() if key != "seal"}
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    known |= {key: value for key, value in metadata.items() if value is not None}
    path.write_bytes(safetensors.torch.save(tensors, known | {"seal": fingerprint(known)}))
    return path


def test_an_encoder_of_a_newer_format_says_to_update(tmp_path: Path) -> None:
    load_encoder(saved(tmp_path / "same"))
    path = saved(tmp_path / "newer", format="2", architecture="of another form")
    with pytest.raises(
        UserError, match=r"^expected encoder format 1 or earlier at .*, got 2, which a newer eo_ssl wrote"
    ):
        load_encoder(path)


@pytest.mark.parametrize(
    "metadata",
    [{"quantiser": "int8"}, {"architecture": None}],
    ids=["beside the contract", "of the architecture"],
)
def test_an_encoder_with_a_key_that_nobody_knows_is_refused(tmp_path: Path, metadata: dict[str, str | None]) -> None:
    if "architecture" in metadata:
        with safetensors.safe_open(saved(tmp_path / "before"), framework="pt") as file:
            known = json.loads(file.metadata()["architecture"])
        metadata = {"architecture": json.dumps({**known, "quantiser": "int8"})}
    with pytest.raises(
        UserError, match=r"in the header of .*, got quantiser; update eo_ssl if a newer one wrote it, or"
    ):
        load_encoder(saved(tmp_path / "after", **metadata))


def test_a_bundle_of_a_newer_format_or_with_an_unknown_key_is_refused(tmp_path: Path) -> None:
    encoder = load_encoder(saved(tmp_path / "encoder"))
    content = describe_configurations(encoder, None, reason="none")  # type: ignore[arg-type]
    path = tmp_path / "preprocess.json"
    path.write_bytes(to_bytes(content))
    assert read_configurations(tmp_path) == json.loads(path.read_text())
    path.write_bytes(to_bytes({"format": 2}))
    with pytest.raises(
        UserError, match=r"^expected exported contract of format 1 or earlier at .*, got 2, which a newer"
    ):
        read_configurations(tmp_path)
    path.write_bytes(to_bytes({**content, "quantiser": "int8"}))
    with pytest.raises(UserError, match=r"in .*preprocess\.json, got quantiser; update eo_ssl if a newer one"):
        read_configurations(tmp_path)
