"""Which Sentinel-2 products are taken: metadata that are incomplete or contradict, levels, old formats, several processings, damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from eo_ssl.errors import UserError
from eo_ssl.scene import list_products
from eo_ssl.scene.safe_container import list_containers
from eo_ssl.scene.sentinel2.tile_metadata import BAND_IDS, TileMetadata, read_metadata
from safe_products import card_of, edit, only, unlisted
from worlds.safe import S2SafeSpec, S2SafeTruth, make_s2_safe

SIZE = 96
L1C = S2SafeSpec(level="L1C", baseline="04.00", size_px=SIZE)
OLD_XML = """<?xml version="1.0"?>
<n1:Level-1C_User_Product xmlns:n1="https://psd-13.sentinel2.eo.esa.int/PSD/User_Product_Level-1C.xsd"><n1:General_Info><Product_Info>
<PROCESSING_LEVEL>Level-1C</PROCESSING_LEVEL><PROCESSING_BASELINE>02.04</PROCESSING_BASELINE><Product_Organisation>
<Granule_List><Granules granuleIdentifier="S2A_OPER_MSI_L1C_TL_SGS__20160905T073438_A006291_T53HLA_N02.04"><IMAGE_ID>x_B12</IMAGE_ID></Granules></Granule_List>
<Granule_List><Granules granuleIdentifier="S2A_OPER_MSI_L1C_TL_SGS__20160905T073438_A006291_T53HMA_N02.04"><IMAGE_ID>y_B12</IMAGE_ID></Granules></Granule_List>
</Product_Organisation></Product_Info></n1:General_Info></n1:Level-1C_User_Product>"""


def metadata(path: Path) -> TileMetadata:
    (safe,) = list_containers(path, mark="GRANULE")
    return read_metadata(safe)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_s2_safe(tmp_path_factory.mktemp("template"), L1C).path


@pytest.fixture
def product(template: Path, tmp_path: Path) -> Path:
    """A Level-1C product of baseline 04.00 without manifest, to be changed."""
    path = tmp_path / template.name
    shutil.copytree(template, path)
    unlisted(path)
    return path


def without_offsets(path: Path) -> None:
    file = path / "MTD_MSIL1C.xml"
    text = file.read_text()
    start, end = text.index("<Radiometric_Offset_List>"), text.index("</Radiometric_Offset_List>")
    file.write_text(text[:start] + text[end + len("</Radiometric_Offset_List>") :])


def test_offsets_are_those_of_the_bands(product: Path) -> None:
    """band_id 8 is B8A and 9 is B09: the order in which bands were numbered is not that of their names."""
    assert BAND_IDS == ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
    changes = tuple((f'band_id="{number}">-1000<', f'band_id="{number}">{-1000 - number}<') for number in range(13))
    edit(product / "MTD_MSIL1C.xml", changes)
    found = metadata(product)
    assert [found.offset(band) for band in ("B01", "B08", "B8A", "B09", "B12")] == [-1000, -1007, -1008, -1009, -1012]


def test_no_list_of_offsets_is_zero_before_baseline_04_and_an_error_since(product: Path) -> None:
    without_offsets(product)
    with pytest.raises(UserError, match=r"RADIO_ADD_OFFSET of each band in .* of baseline 04.00, got none"):
        metadata(product)
    edit(product / "MTD_MSIL1C.xml", (("<PROCESSING_BASELINE>04.00<", "<PROCESSING_BASELINE>03.01<"),))
    assert metadata(product).offsets == ()
    assert metadata(product).offset("B04") == 0.0


def test_an_old_baseline_that_states_offsets_has_them(product: Path) -> None:
    edit(product / "MTD_MSIL1C.xml", (("<PROCESSING_BASELINE>04.00<", "<PROCESSING_BASELINE>03.01<"),))
    assert metadata(product).offset("B04") == -1000.0


ONE = '<RADIO_ADD_OFFSET band_id="3">-1000</RADIO_ADD_OFFSET>'


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (ONE, "", "radiometric offset of B04, got only those of B01"),
        (ONE, ONE.replace("-1000", "nan"), "a number as RADIO_ADD_OFFSET of B04"),
        (ONE, ONE.replace('"3"', '"4"'), "once for each band_id from 0 to 12 in .*, got '4'"),
        (ONE, ONE.replace('"3"', '"13"'), "once for each band_id .*, got '13'"),
        ('"none">10000<', '"none">0<', "QUANTIFICATION_VALUE above 0"),
        ('"none">10000<', '"none">1e9999<', "a number as QUANTIFICATION_VALUE"),
        ("QUANTIFICATION_VALUE", "QUANTITY", "expected QUANTIFICATION_VALUE in .*, got none"),
        ("SATURATED", "BRIGHT", "special values NODATA and SATURATED in .*, got NODATA, BRIGHT"),
        ("<PROCESSING_BASELINE>04.00<", "<PROCESSING_BASELINE>newest<", "PROCESSING_BASELINE such as 05.09"),
        ("<PROCESSING_LEVEL>Level-1C<", "<PROCESSING_LEVEL>Level-1B<", "Level-1C or Level-2A"),
        ("<IMAGE_FILE>GRANULE/", "<IMAGE_FILE>../../etc/", "images below GRANULE"),
        ("<IMAGE_FILE>GRANULE/", "<IMAGE_FILE>GRANULE/../", "images below GRANULE"),
        (
            "<n1:General_Info>",
            "<n1:General_Info><Granule granuleIdentifier='second'/>",
            "expected one tile in .*, got 2",
        ),
        ("<DATATAKE_SENSING_START>2022", "<DATATAKE_SENSING_START>20x2", "ISO 8601"),
    ],
)
def test_values_that_cannot_be_are_refused_in_one_sentence(product: Path, old: str, new: str, message: str) -> None:
    edit(product / "MTD_MSIL1C.xml", ((old, new),))
    listed = only(card_of("L1C"), product.parent)  # listing goes on; opening tells
    with pytest.raises(UserError, match=message) as caught:
        listed.open()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("EPSG:32632", "", "HORIZONTAL_CS_CODE in .*, got none"),
        ("<XDIM>10<", "<XDIM>-10<", "north-up grid at 10 m"),
        ("Geoposition", "Place", "Size and Geoposition of the tile at 10, 20 and 60 m in .*, got 0"),
        ("_T32TQM_", "_", "TILE_ID such as"),
    ],
)
def test_tiles_that_cannot_be_are_refused(product: Path, old: str, new: str, message: str) -> None:
    (tile,) = product.glob("GRANULE/*/MTD_TL.xml")
    edit(tile, ((old, new),))
    with pytest.raises(UserError, match=message):
        metadata(product)


def test_angles_that_are_absent_are_absent(product: Path) -> None:
    (tile,) = product.glob("GRANULE/*/MTD_TL.xml")
    edit(
        tile,
        (
            ("Mean_Sun_Angle", "Sun"),
            ("Mean_Viewing_Incidence_Angle ", "View "),
            ("</Mean_Viewing_Incidence_Angle>", "</View>"),
        ),
    )
    facts = metadata(product).acquisition
    assert facts.sun_zenith_deg is None
    assert facts.view_azimuth_deg is None


def test_level_2a_of_issue_14_2_spells_its_elements_differently(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="02.06", size_px=SIZE))
    expected = metadata(truth.path)
    unlisted(truth.path)
    edit(
        truth.path / "MTD_MSIL2A.xml",
        (
            ("IMAGE_FILE>", "IMAGE_FILE_2A>"),
            ("BOA_QUANTIFICATION_VALUE", "L2A_BOA_QUANTIFICATION_VALUE"),
            ("Product_Organisation", "L2A_Product_Organisation"),
        ),
    )
    assert metadata(truth.path) == expected
    assert expected.quantification == 10000.0


def test_products_of_the_other_level_are_left_out_by_name(tmp_path: Path) -> None:
    one, other = (make_s2_safe(tmp_path, S2SafeSpec(level=level, size_px=SIZE)) for level in ("L1C", "L2A"))
    found = list_products(card_of("L1C", files="*"), tmp_path)
    assert [product.source.name for product in found.products if product.source] == [one.name]
    ((name, reason),) = found.dropped
    assert name == f"s2_safe_l1c/{other.name.removesuffix('.SAFE')}"
    assert reason == "Level-2A, and the card is of sentinel2_l1c: ingest it with a card of its own level"
    with pytest.raises(UserError, match=r"1 that do not fit, .*Level-1C, and the card is of sentinel2_l2a"):
        list_products(card_of("L2A", files="S2?_MSIL1C*"), tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "S2A_OPER_MTD_SAFL1C_PDMC_20160905T104813_R002_V20160905T005712_20160905T010424.xml",  # as ESA called it
        "MTD_MSIL1C.xml",  # renamed
    ],
)
def test_old_products_of_several_tiles_are_refused_with_a_remedy(product: Path, name: str) -> None:
    old = product.parent / "S2A_OPER_PRD_MSIL1C_PDMC_20160905T104813_R002.SAFE"
    (old / "GRANULE" / "S2A_OPER_MSI_L1C_TL_SGS__20160905T073438_A006291_T53HLA_N02.04").mkdir(parents=True)
    (old / name).write_text(OLD_XML)
    found = list_products(card_of("L1C"), product.parent)
    told = [reason for _, reason in found.dropped]
    for listed in found.products:
        if "_OPER_" in listed.product_id:
            with pytest.raises(UserError) as caught:
                listed.checksum()
            told.append(str(caught.value))
    assert len(told) == 1
    assert "single products" in told[0] or "one tile each" in told[0]
    assert len([item for item in found.products if "_OPER_" not in item.product_id]) == 1


def test_the_newest_processing_of_a_sensing_is_kept(tmp_path: Path) -> None:
    common = {"level": "L1C", "size_px": SIZE}
    made: dict[str, S2SafeTruth] = {
        "2.04": make_s2_safe(tmp_path, S2SafeSpec(baseline="02.04", generated="2025-01-01T00:00:00Z", **common)),
        "5.00": make_s2_safe(tmp_path, S2SafeSpec(baseline="05.00", generated="2023-05-01T00:00:00Z", **common)),
        "5.00 again": make_s2_safe(tmp_path, S2SafeSpec(baseline="05.00", generated="2023-06-01T00:00:00Z", **common)),
        "other tile": make_s2_safe(tmp_path, S2SafeSpec(baseline="02.04", tile="32TPM", **common)),
        "other date": make_s2_safe(tmp_path, S2SafeSpec(baseline="02.04", datetime="2022-07-25T10:10:31Z", **common)),
        "other level": make_s2_safe(tmp_path, S2SafeSpec(baseline="05.09", level="L2A", size_px=SIZE)),
    }
    copy = make_s2_safe(tmp_path / "copy", made["5.00 again"].spec, zipped=True)
    names = {key: truth.name.removesuffix(".SAFE") for key, truth in made.items()}
    found = list_products(card_of("L1C"), tmp_path)
    kept = {product.product_id for product in found.products}
    assert kept == {f"s2_safe_l1c/{names[key]}" for key in ("5.00 again", "other tile", "other date")}
    reasons = dict(found.dropped)
    assert len(found.dropped) == 3
    assert (
        reasons[f"s2_safe_l1c/{names['2.04']}"]
        == f"processing baseline 02.04 of a sensing that {names['5.00 again']} has in 05.00"
    )
    assert reasons[f"s2_safe_l1c/{names['5.00']}"].startswith("generated 2023-05-01T00:00:00Z, and ")
    assert str(copy.path) in reasons[f"s2_safe_l1c/{names['5.00 again']}"]


def test_two_datastrips_of_one_tile_are_two_halves_and_both_stay(product: Path) -> None:
    other = product.parent / product.name.replace("123456.SAFE", "123457.SAFE")
    shutil.copytree(product, other)
    edit(other / "MTD_MSIL1C.xml", (("_S20220715T101034", "_S20220715T101559"),))
    found = list_products(card_of("L1C"), product.parent)
    assert len(found.products) == 2
    assert found.dropped == ()


def test_a_damaged_product_does_not_stop_the_others(product: Path) -> None:
    root = product.parent
    lost = root / "S2B_MSIL1C_20220716T101031_N0400_R022_T32TQM_20220716T123456.SAFE"
    shutil.copytree(product, lost)
    (lost / "MTD_MSIL1C.xml").unlink()
    torn = root / "S2B_MSIL1C_20220717T101031_N0400_R022_T32TQM_20220717T123456.zip"
    torn.write_bytes(b"PK\x03\x04 not a zip file")
    bomb = root / "S2B_MSIL1C_20220718T101031_N0400_R022_T32TQM_20220718T123456.SAFE"
    shutil.copytree(product, bomb)
    edit(
        bomb / "MTD_MSIL1C.xml",
        (("<n1:Level-1C_User_Product", '<!DOCTYPE a [<!ENTITY x "xx">]><n1:Level-1C_User_Product'),),
    )
    (root / "S2_MSIL1C_notes").mkdir()
    found = list_products(card_of("L1C"), root)
    reasons = {}
    for listed in found.products:
        try:
            listed.open()
            listed.checksum()
        except UserError as error:
            reasons[listed.product_id[12:16] + listed.product_id[23:31]] = str(error)
    assert len(found.products) == 4
    assert len(reasons) == 3
    assert "got neither" in reasons["S2B_20220716"]
    assert "expected a zip file" in reasons["S2B_20220717"]
    assert "document type or entities" in reasons["S2B_20220718"]
    assert found.dropped == (("S2_MSIL1C_notes", "no product of this kind: it holds no GRANULE"),)


def test_a_band_at_another_resolution_is_taken_only_where_the_card_is_as_coarse(tmp_path: Path) -> None:
    truth = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="05.09", size_px=SIZE))
    unlisted(truth.path)
    file = truth.path / "MTD_MSIL2A.xml"
    text = file.read_text()
    start = text.rindex("<IMAGE_FILE>", 0, text.index("_B02_10m"))
    end = text.index("</IMAGE_FILE>", start) + len("</IMAGE_FILE>")
    file.write_text(text[:start] + text[end:])
    with pytest.raises(UserError, match=r"an image of B02 at 10 m in .*, got 20 m, 60 m"):
        only(card_of("L2A", bands=["B02", "B03"]), tmp_path).open()
    assert only(card_of("L2A", bands=["B02"], gsd_m=20.0), tmp_path).shape == (1, SIZE // 2, SIZE // 2)


def test_products_of_a_users_own_sen2cor_have_the_offsets_they_state_and_give_way_to_esas(tmp_path: Path) -> None:
    """Sen2Cor run by a user writes baseline 99.xx, and a list of offsets only where its Level-1C input had one."""
    esa = make_s2_safe(tmp_path, S2SafeSpec(level="L2A", baseline="05.09", size_px=SIZE))
    own = make_s2_safe(tmp_path / "own", S2SafeSpec(level="L2A", baseline="04.00", size_px=SIZE))
    unlisted(own.path)
    edit(own.path / "MTD_MSIL2A.xml", (("<PROCESSING_BASELINE>04.00<", "<PROCESSING_BASELINE>99.99<"),))
    assert metadata(own.path).offset("B04") == -1000.0
    name = own.name.removesuffix(".SAFE")
    found = list_products(card_of("L2A"), tmp_path)
    assert [product.product_id for product in found.products] == [f"s2_safe_l2a/{esa.name.removesuffix('.SAFE')}"]
    assert dict(found.dropped) == {
        f"s2_safe_l2a/{name}": f"processing baseline 99.99 of a sensing that {esa.name.removesuffix('.SAFE')} has in 05.09"
    }
    file = own.path / "MTD_MSIL2A.xml"
    text = file.read_text()
    start, end = (text.index(f"{mark}BOA_ADD_OFFSET_VALUES_LIST>") for mark in ("<", "</"))
    file.write_text(text[:start] + text[end + len("</BOA_ADD_OFFSET_VALUES_LIST>") :])
    assert metadata(own.path).offset("B04") == 0.0
