"""Chips in a tar or folder: crops, labels, splits, exclusion by name and by bytes, and batches that never change."""

from __future__ import annotations

import csv
import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from eo_ssl.cards import load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import ProductList, list_products

FIELDS = {
    "title": "synthetic",
    "licence": "Apache-2.0",
    "attribution": "made in a test",
    "source": "a test",
    "sensor": "sar_chip",
    "reader": "chips",
    "bands": ["SAR"],
    "quantity": "amplitude",
    "gsd_m": 0.3,
}
CHIPS = {
    "archive": "chips.tar",
    "manifest": "all.csv",
    "path_column": "path",
    "label_column": "class",
    "split_column": "split",
    "crop_px": 8,
    "undersized": "drop",
}


def png(pixels: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(pixels).save(memory, format="PNG")
    return memory.getvalue()


def build(folder: Path, rng: np.random.Generator, *, count: int = 12) -> dict[str, np.ndarray]:
    """Chips of several sizes in two classes, the last one smaller than the crop, written in scrambled order."""
    sizes = [(9 + number % 4, 8 + number % 3) for number in range(count - 1)] + [(6, 7)]
    pixels = {f"d/{number:03d}.png": rng.integers(0, 256, size).astype(np.uint8) for number, size in enumerate(sizes)}
    names = [list(pixels)[place] for place in rng.permutation(count)]
    with tarfile.open(folder / "chips.tar", "w") as archive:
        for name in names:
            data = png(pixels[name])
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with (folder / "all.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["path", "class", "split", "angle"])
        for name in names:
            number = int(name[2:5])
            writer.writerow([name, ("tank", "truck")[number % 2], ("train", "test")[number % 3 == 0], 15 + number % 2])
    return pixels


def listed(folder: Path, **changes: Any) -> ProductList:
    path = folder / "set.yaml"
    path.write_text(
        yaml.safe_dump(
            FIELDS | {"chips": {key: value for key, value in (CHIPS | changes).items() if value is not None}}
        )
    )
    return list_products(load_card(path), folder)


def test_crops_labels_splits_and_hashes(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = build(tmp_path, rng)
    found = listed(tmp_path)
    (product,) = found.products
    chips = list(pickle.loads(pickle.dumps(product)).open_chips())
    assert [chip.name for chip in chips] == sorted(pixels)[:-1]  # by path, whatever the order in the tar
    assert found.dropped == (("d/011.png", "7 x 6 pixels, smaller than the crop of 8"),)
    for chip in chips:
        number, whole = int(chip.name[2:5]), pixels[chip.name]
        height, width = whole.shape
        top, left = (height - 8) // 2, (width - 8) // 2
        np.testing.assert_array_equal(chip.image[0], whole[top : top + 8, left : left + 8])
        assert (chip.row_off, chip.col_off, chip.height_px, chip.width_px) == (top, left, height, width)
        assert (chip.label_name, chip.label) == (("tank", 0), ("truck", 1))[number % 2]
        assert chip.split == ("train", "test")[number % 3 == 0]
        assert chip.sha256 == hashlib.sha256(png(whole)).hexdigest()
        assert chip.valid.all()


def test_a_small_chip_is_padded_where_the_card_says_so(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = build(tmp_path, rng)
    found = listed(tmp_path, undersized="pad")
    assert found.dropped == ()
    chip = list(found.products[0].open_chips())[-1]
    assert (chip.name, chip.row_off, chip.col_off) == ("d/011.png", -1, -1)
    np.testing.assert_array_equal(chip.image[0, 1:7, 1:8], pixels["d/011.png"])
    assert np.array_equal(chip.valid, np.isfinite(chip.image[0]))
    assert chip.valid.sum() == 6 * 7


def test_a_folder_gives_the_same_chips_as_the_tar(tmp_path: Path, rng: np.random.Generator) -> None:
    build(tmp_path, rng)
    with tarfile.open(tmp_path / "chips.tar") as archive:
        archive.extractall(tmp_path / "loose", filter="data")
    packed = listed(tmp_path).products
    loose = listed(tmp_path, archive="loose").products
    assert [product.checksum() for product in packed] == [product.checksum() for product in loose]


def test_where_keeps_rows_and_batches_hold_256(tmp_path: Path, rng: np.random.Generator) -> None:
    build(tmp_path, rng, count=600)
    batches = listed(tmp_path).products
    assert [len(batch.entries) for batch in batches] == [256, 256, 87]
    assert [batch.product_id for batch in batches] == ["set/00000", "set/00001", "set/00002"]
    names = [entry.name for batch in batches for entry in batch.entries]
    assert names == sorted(names)
    kept = listed(tmp_path, where={"angle": "15", "class": "tank"}).products
    assert {entry.label_name for batch in kept for entry in batch.entries} == {"tank"}
    assert sum(len(batch.entries) for batch in kept) == 300


def test_excluded_chips_are_out_under_any_name(tmp_path: Path, rng: np.random.Generator) -> None:
    pixels = build(tmp_path, rng)
    copied = {"d/000.png": "e/copy.png"}  # the same bytes filed again, outside what the exclusion names
    with tarfile.open(tmp_path / "chips.tar", "a") as archive, (tmp_path / "all.csv").open("a") as file:
        for source, name in copied.items():
            data = png(pixels[source])
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
            file.write(f"{name},tank,train,15\n")
    (tmp_path / "held.csv").write_text("file,part\nd/000.png,test\nd/001.png,train\n")
    found = listed(tmp_path, exclude={"manifest": "held.csv", "column": "file", "where": {"part": "test"}})
    assert {"d/000.png": "excluded by held.csv", "e/copy.png": "same bytes as an excluded chip"}.items() <= dict(
        found.dropped
    ).items()
    kept = {chip.sha256 for product in found.products for chip in product.open_chips()}
    assert hashlib.sha256(png(pixels["d/000.png"])).hexdigest() not in kept
    assert hashlib.sha256(png(pixels["d/001.png"])).hexdigest() in kept


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path_column": "file"}, "the column 'file' in .*all.csv, got path, class, split, angle"),
        ({"archive": "none.tar"}, r"the file .*none\.tar"),
        ({"archive": "all.csv"}, r"an uncompressed tar file in .*all\.csv"),
        ({"manifest": "more.csv"}, "the chip 'd/999.png' of more.csv in .*found none"),
        ({"where": {"class": "ship"}}, "after `where` and `exclude` of card set, got none"),
        ({"manifest": "text.csv"}, "an image in chip notes.txt"),
        ({"manifest": "colour.csv", "undersized": "pad"}, "expected 1 bands in chip colour.png .*got 3"),
        ({"manifest": "palette.csv", "undersized": "pad"}, "in chip palette.png .*got indices into a palette"),
    ],
)
def test_refusals(tmp_path: Path, rng: np.random.Generator, changes: dict[str, Any], words: str) -> None:
    build(tmp_path, rng)
    extra = {"notes.txt": b"not an image", "colour.png": png(rng.integers(0, 256, (9, 9, 3)).astype(np.uint8))}
    indexed = io.BytesIO()
    Image.open(io.BytesIO(extra["colour.png"])).quantize(8).save(indexed, "png")
    extra["palette.png"] = indexed.getvalue()
    with tarfile.open(tmp_path / "chips.tar", "a") as archive:
        for name, data in extra.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    listed_in = {
        "more.csv": "d/999.png",
        "text.csv": "notes.txt",
        "colour.csv": "colour.png",
        "palette.csv": "palette.png",
    }
    for manifest, name in listed_in.items():
        (tmp_path / manifest).write_text(f"path,class,split,angle\n{name},tank,train,15\n")
    with pytest.raises(UserError, match=words) as error:
        for product in listed(tmp_path, **changes).products:
            list(product.open_chips())
    assert "\n" not in str(error.value)


def test_a_cube_is_no_batch_of_chips(tmp_path: Path, rng: np.random.Generator) -> None:
    build(tmp_path, rng)
    with pytest.raises(
        UserError, match=r"expected a product with a cube, got the batch of chips chips.tar; call open_chips\(\)"
    ):
        listed(tmp_path).products[0].open()
