"""Damage to Sentinel-2 products: every flipped byte of a file in use is caught by the manifest's checksums or the zip's; what is left is a sentence."""

from __future__ import annotations

import hashlib
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.folder_or_zip import Archive
from eo_ssl.scene.product import Product
from eo_ssl.scene.sentinel2.tile_product import SafeTileSource
from safe_products import card_of, edit, only, unlisted
from worlds.safe import S2SafeSpec, make_s2_safe

SIZE = 96
BANDS = {"bands": ["B02", "B05", "B09"]}


@pytest.fixture(scope="module", params=["02.04", "05.09"])
def template(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Level-1C: MD5 checksums and polygons, or SHA3-256 and a raster."""
    spec = S2SafeSpec(level="L1C", baseline=request.param, size_px=SIZE)
    return make_s2_safe(tmp_path_factory.mktemp("template"), spec).path


def copied(template: Path, folder: Path) -> Path:
    shutil.copytree(template, folder / template.name)
    return folder / template.name


def used(product: Product) -> list[str]:
    source = product.source
    assert isinstance(source, SafeTileSource)
    return source.files()


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 0x20
    path.write_bytes(data)


def test_the_checksum_is_that_of_names_and_bytes(template: Path) -> None:
    product = only(card_of("L1C", **BANDS), template.parent)
    names = used(product)
    kinds = sorted({Path(name).suffix for name in names})
    assert kinds == ([".gml"] if "N0204" in template.name else []) + [".jp2", ".safe", ".xml"]
    listed = ",".join(f'["{name}","{hashlib.sha256((template / name).read_bytes()).hexdigest()}"]' for name in names)
    assert product.checksum() == hashlib.sha256(f"[{listed}]".encode()).hexdigest()
    assert product.nbytes == sum((template / name).stat().st_size for name in names)


def test_every_flipped_byte_of_a_file_in_use_is_caught(
    template: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = copied(template, tmp_path)
    card = card_of("L1C", **BANDS)
    names = [name for name in used(only(card, tmp_path)) if name != "manifest.safe"]
    assert len(names) == 6
    for name in names:
        whole = (path / name).read_bytes()
        for place in rng.integers(0, len(whole), 8):
            flip(path / name, int(place))
            with pytest.raises(UserError) as caught:
                only(card, tmp_path).checksum()
            assert Path(name).name in str(caught.value)
            assert "\n" not in str(caught.value)
            (path / name).write_bytes(whole)
    assert only(card, tmp_path).checksum() == only(card, template.parent).checksum()


def test_a_product_is_dated_by_verified_metadata_only(template: Path, tmp_path: Path) -> None:
    """A digit of the baseline flips: without the checksum, another processing of the sensing would win in silence."""
    path = copied(template, tmp_path)
    edit(path / "MTD_MSIL1C.xml", (("<PROCESSING_BASELINE>0", "<PROCESSING_BASELINE>9"),))
    product = only(card_of("L1C"), tmp_path)
    assert product.acquisition.processing_baseline == ""
    with pytest.raises(UserError, match=r"MTD_MSIL1C.xml to have the checksum \w{16}... of its manifest"):
        product.open()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('checksumName="', 'checksumName="X', "checksums out of MD5, SHA3-256, SHA-256"),
        ("_B02.jp2", "_B03.jp2", "a checksum of .*_B02.jp2 in .*, found none"),
        ("</dataObjectSection>", "", "expected XML"),
    ],
)
def test_a_damaged_manifest_is_refused(template: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    path = copied(template, tmp_path)
    edit(path / "manifest.safe", ((old, new),))
    with pytest.raises(UserError, match=message):
        only(card_of("L1C", **BANDS), tmp_path).checksum()


def test_a_file_of_another_size_than_stated_is_refused_before_it_is_unpacked(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A zip bomb in the place of an image would otherwise be hashed to its end."""
    bomb = tmp_path / "bomb.zip"
    (image,) = template.glob("GRANULE/*/IMG_DATA/*_B02.jp2")
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(template.rglob("*")):
            if path.is_file() and path != image:
                archive.write(path, f"{template.name}/{path.relative_to(template).as_posix()}")
        archive.writestr(f"{template.name}/{image.relative_to(template).as_posix()}", bytes(50_000_000))
    read, chunks = [], Archive.chunks

    def noted(archive: Archive, name: str) -> Iterator[bytes]:
        read.append(name)
        return chunks(archive, name)

    monkeypatch.setattr(Archive, "chunks", noted)
    with pytest.raises(UserError, match=r"_B02.jp2 to have the \d+ bytes of its manifest, got 50000000"):
        only(card_of("L1C", files="*.zip", **BANDS), tmp_path).checksum()
    assert read and not any(name.endswith("_B02.jp2") for name in read)


def test_without_a_manifest_nothing_is_compared_but_everything_is_hashed(template: Path, tmp_path: Path) -> None:
    path = copied(template, tmp_path)
    unlisted(path)
    card = card_of("L1C", **BANDS)
    before = only(card, tmp_path).checksum()
    (image,) = path.glob("GRANULE/*/IMG_DATA/*_B02.jp2")
    flip(image, image.stat().st_size // 2)
    assert only(card, tmp_path).checksum() != before


def packed(template: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(template.rglob("*")):
            if file.is_file():
                archive.write(file, file.relative_to(template.parent))
    return path


def test_every_flipped_byte_of_a_zipped_file_in_use_is_caught(
    template: Path, tmp_path: Path, rng: np.random.Generator
) -> None:
    path = packed(template, tmp_path / f"{template.stem}.zip")
    card = card_of("L1C", **BANDS)
    product = only(card, tmp_path)
    assert product.checksum() == only(card, template.parent).checksum()
    with zipfile.ZipFile(path) as archive:
        spans = {
            name: (info.header_offset + len(info.FileHeader()), info.file_size)
            for name in used(product)
            for info in [archive.getinfo(f"{template.name}/{name}")]
        }
    whole = path.read_bytes()
    for start, size in spans.values():  # the manifest as well: the zip has a CRC of it
        for place in rng.integers(start, start + size, 4):
            flip(path, int(place))
            with pytest.raises(UserError, match=r"^expected .*; .*"):
                only(card, tmp_path).checksum()
            path.write_bytes(whole)


def test_zips_that_are_cut_or_lead_outside_are_refused(template: Path, tmp_path: Path) -> None:
    path = packed(template, tmp_path / f"{template.stem}.zip")
    whole = path.read_bytes()
    for size in (0, 10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="expected a zip file"):
            only(card_of("L1C"), tmp_path).open()
    path.write_bytes(whole)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../outside.txt", "x")
    with pytest.raises(UserError, match="names inside the archive"):
        only(card_of("L1C"), tmp_path).open()


@pytest.mark.parametrize("kept", [0, 40, 200, 0.5, 0.98])
def test_a_cut_image_is_one_sentence_even_without_checksums(template: Path, tmp_path: Path, kept: float) -> None:
    path = copied(template, tmp_path)
    unlisted(path)
    (image,) = path.glob("GRANULE/*/IMG_DATA/*_B02.jp2")
    data = image.read_bytes()
    image.write_bytes(data[: kept if isinstance(kept, int) else int(len(data) * kept)])
    with pytest.raises(UserError, match=r"_B02\.jp2") as caught:
        only(card_of("L1C", **BANDS), tmp_path).open().load()
    assert "\n" not in str(caught.value)


def test_images_of_another_kind_and_absent_ones_are_named(template: Path, tmp_path: Path) -> None:
    path = copied(template, tmp_path)
    unlisted(path)
    (image,) = path.glob("GRANULE/*/IMG_DATA/*_B02.jp2")
    (true_colour,) = path.glob("GRANULE/*/IMG_DATA/*_TCI.jp2")
    image.write_bytes(true_colour.read_bytes())
    with pytest.raises(UserError, match=r"one band of uint16 in .*_B02.jp2, got 3 of uint8"):
        only(card_of("L1C", **BANDS), tmp_path).open()
    image.unlink()
    product = only(card_of("L1C", **BANDS), tmp_path)
    for call in (product.open, product.checksum):
        with pytest.raises(UserError, match=r"_B02\.jp2"):
            call()


def test_checksums_are_read_once_per_content(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copied(template, tmp_path)
    product = only(card_of("L1C", **BANDS), tmp_path)
    first = product.checksum()
    monkeypatch.setattr(Archive, "chunks", None)
    assert product.checksum() == first


def test_two_products_are_listed_together(template: Path, tmp_path: Path) -> None:
    """A zip with two products, and the same pattern for both packings."""
    other = make_s2_safe(tmp_path / "other", S2SafeSpec(level="L1C", size_px=SIZE, tile="32TPM")).path
    with zipfile.ZipFile(tmp_path / "S2_MSIL1C_two.zip", "w") as archive:
        for product in (template, other):
            for file in product.rglob("*"):
                if file.is_file():
                    archive.write(file, Path("download") / file.relative_to(product.parent))
    found = list_products(card_of("L1C", files="*.zip"), tmp_path).products
    assert [product.product_id for product in found] == sorted(f"s2_safe_l1c/{item.stem}" for item in (template, other))
