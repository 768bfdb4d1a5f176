"""Cards are read strictly: what is not understood is refused with the place and the nearest remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from eo_ssl.cards import READERS, load_card
from eo_ssl.errors import UserError
from eo_ssl.scene import readers

GOOD = {
    "title": "three bands",
    "sensor": "sentinel2_l1c",
    "reader": "raster",
    "bands": ["B4", "green", "BLUE"],
    "quantity": "toa_reflectance",
    "scale": 0.0001,
    "gsd_m": 10,
    "licence": "MIT",
    "attribution": "none",
    "source": "made here",
    "files": "*.tif",
}


def write(folder: Path, **changes: object) -> Path:
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in {**GOOD, **changes}.items() if value is not None}))
    return path


def test_bands_become_canonical_in_file_order(tmp_path: Path) -> None:
    card = load_card(write(tmp_path))
    assert card.bands == ("B04", "B03", "B02")
    assert card.name == "card"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"nodta": 0}, "did you mean 'nodata'"),
        ({"gsd_m": None}, "to have the key 'gsd_m', got none"),
        ({"gsd_m": "ten"}, "expected a valid gsd_m"),
        ({"bands": ["B04", "B99"]}, "got 'B99'"),
        ({"bands": ["B04", "red"]}, "B04 more than once"),
        ({"quantity": "boa_reflectance"}, "got boa_reflectance"),  # Level-1C is top of atmosphere
        ({"quantity": "reflectance"}, "expected a valid quantity"),
        ({"sensor": "sentinel2_l1d"}, "did you mean 'sentinel2_l1c'"),
        ({"reader": "chips"}, "to have `chips`, got none"),
        ({"mask": {"source": "SCL", "clases": {}}}, "card"),
        ({"scale": 0}, "scale != 0"),
        ({"scale": float("nan")}, "finite"),  # used to end in a JSON error of the fingerprint
        ({"offset_by_file": {"a.tif": float("inf")}}, "finite offsets"),
        ({"labels": {"source": "l", "classes": {70000: "rye"}}}, r"from 0 to 32767, got \[70000\]"),  # labels are int16
    ],
)
def test_a_wrong_card_is_refused_with_its_remedy(tmp_path: Path, changes: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        load_card(write(tmp_path, **changes))


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    """YAML's own loader takes the last of two offsets without a word."""
    path = write(tmp_path, offset=-1000.0)
    path.write_text(path.read_text() + "offset: 0.0\n")
    with pytest.raises(UserError, match="got the key 'offset' twice"):
        load_card(path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "card.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"expected YAML in .*card\.yaml"):
        load_card(tmp_path / "card.yaml")


def test_nan_as_nodata_means_what_it_says(tmp_path: Path) -> None:
    """It is invalid anyway; kept as NaN it broke the fingerprint of every corpus made with the card."""
    assert load_card(write(tmp_path, nodata=float("nan"))).nodata is None


def test_unsafe_yaml_is_not_executed(tmp_path: Path) -> None:
    path = tmp_path / "evil.yaml"
    path.write_text("!!python/object/apply:os.system ['touch /tmp/owned']")
    with pytest.raises(UserError, match="expected YAML"):
        load_card(path)


def test_a_missing_card_names_the_nearest() -> None:
    name = "s2_29rkh_l2a"
    with pytest.raises(UserError, match=f"did you mean '{name}'"):
        load_card(name + "x")


def test_every_reader_of_cards_is_a_package_of_scene_or_loads_benchmarks() -> None:
    assert set(READERS) - {"torchgeo"} == set(readers.READERS)


def test_an_unknown_reader_is_refused_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"reader of card card out of raster, .*got 'arrays'; did you mean 'array'\?"):
        load_card(write(tmp_path, reader="arrays"))
