"""Metadata of Sentinel-2 SAFE products, element by element as in real ones (Product Specification Document S2-PDGS-TAS-DI-PSD, 14.x)."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import numpy.typing as npt

from worlds.safe.s2_spec import GSD_M, L1C_BANDS, S2SafeSpec

# Of Sentinel-2A, from the metadata of its products: shortest, longest, central wavelength (nm), solar irradiance (W/m2/um), gain.
_SPECTRAL = {
    "B01": (412, 456, 442.7, 1884.69, 4.10304067),
    "B02": (456, 533, 492.7, 1959.66, 3.75668157),
    "B03": (538, 583, 559.8, 1823.24, 4.18953758),
    "B04": (646, 684, 664.6, 1512.06, 4.5233009),
    "B05": (695, 714, 704.1, 1424.64, 5.20566374),
    "B06": (731, 749, 740.5, 1287.61, 4.87066355),
    "B07": (769, 797, 782.8, 1162.08, 4.53175713),
    "B08": (760, 907, 832.8, 1041.63, 6.15677842),
    "B8A": (837, 881, 864.7, 955.32, 5.13408802),
    "B09": (932, 958, 945.1, 812.92, 8.53331509),
    "B10": (1337, 1412, 1373.5, 367.15, 54.96213391),
    "B11": (1539, 1682, 1613.7, 245.59, 35.21561911),
    "B12": (2078, 2320, 2202.4, 85.25, 106.32214723),
}
SCENE_CLASSES = (
    "NODATA",
    "SATURATED_DEFECTIVE",
    "DARK_FEATURE_SHADOW",
    "CLOUD_SHADOW",
    "VEGETATION",
    "NOT_VEGETATED",
    "WATER",
    "UNCLASSIFIED",
    "CLOUD_MEDIUM_PROBA",
    "CLOUD_HIGH_PROBA",
    "THIN_CIRRUS",
    "SNOW_ICE",
)
XML_HEAD = '<?xml version="1.0" encoding="UTF-8" standalone="no"?>\n'
XSI = 'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"'
PSD = "https://psd-14.sentinel2.eo.esa.int/PSD"
MEAN_ORDER = (0, 9, 10, 1, 2, 3, 4, 5, 6, 7, 8, 11, 12)  # in which real products list the bands of the mean view angles


def physical(band: str) -> str:
    """Return a band as the metadata spell it: B1, not B01."""
    return "B" + band[1:].lstrip("0")


def view_angles(band: str) -> tuple[float, float]:
    """Return the mean zenith and azimuth under which a band sees the product, degrees; bands look from slightly different places."""
    index = L1C_BANDS.index(band)
    return round(7.25 + 0.013 * index, 6), round(104.5 + 0.21 * index, 6)


def product_xml(spec: S2SafeSpec, images: list[str], cloud_percent: float) -> str:
    """Return MTD_MSIL1C.xml or MTD_MSIL2A.xml.

    Args:
        spec: the product.
        images: names of the images relative to the product, without suffix, in the order to be listed.
        cloud_percent: share of the product under cloud.
    """
    level = f"Level-{spec.level[1:]}"
    return (
        f'{XML_HEAD}<n1:{level}_User_Product xmlns:n1="{PSD}/User_Product_{level}.xsd" {XSI} '
        f'xsi:schemaLocation="{PSD}/User_Product_{level}.xsd">\n'
        f"  <n1:General_Info>\n{_product_info(spec, images)}"
        f"    <Product_Image_Characteristics>\n{_special_values()}{_encoding(spec)}{_spectral()}"
        f"{_scene_classes() if spec.level == 'L2A' else ''}"
        f"    </Product_Image_Characteristics>\n  </n1:General_Info>\n"
        f"  <n1:Geometric_Info>\n    <Product_Footprint>\n      <Product_Footprint>\n        <Global_Footprint>\n"
        f"          <EXT_POS_LIST>{footprint(spec)}</EXT_POS_LIST>\n        </Global_Footprint>\n      </Product_Footprint>\n"
        f"      <RASTER_CS_TYPE>POINT</RASTER_CS_TYPE>\n      <PIXEL_ORIGIN>1</PIXEL_ORIGIN>\n    </Product_Footprint>\n"
        f'    <Coordinate_Reference_System>\n      <GEO_TABLES version="1">EPSG</GEO_TABLES>\n'
        f"      <HORIZONTAL_CS_TYPE>GEOGRAPHIC</HORIZONTAL_CS_TYPE>\n    </Coordinate_Reference_System>\n  </n1:Geometric_Info>\n"
        f"  <n1:Quality_Indicators_Info>\n    <Cloud_Coverage_Assessment>{cloud_percent:.6f}</Cloud_Coverage_Assessment>\n"
        f"  </n1:Quality_Indicators_Info>\n</n1:{level}_User_Product>\n"
    )


def _product_info(spec: S2SafeSpec, images: list[str]) -> str:
    level = f"Level-{spec.level[1:]}"
    made, number = datetime.fromisoformat(spec.generated), spec.baseline
    start = stamp(spec.start.replace(microsecond=24000), "milliseconds")
    strip = f"{spec.platform}_OPER_MSI_{spec.level}_{spec.datastrip}_N{number}"
    listed = "".join(f"            <IMAGE_FILE>{name}</IMAGE_FILE>\n" for name in images)
    return (
        f"    <Product_Info>\n      <PRODUCT_START_TIME>{start}</PRODUCT_START_TIME>\n"
        f"      <PRODUCT_STOP_TIME>{start}</PRODUCT_STOP_TIME>\n      <PRODUCT_URI>{spec.name}</PRODUCT_URI>\n"
        f"      <PROCESSING_LEVEL>{level}</PROCESSING_LEVEL>\n      <PRODUCT_TYPE>S2MSI{spec.level[1:]}</PRODUCT_TYPE>\n"
        f"      <PROCESSING_BASELINE>{number}</PROCESSING_BASELINE>\n"
        f"      <GENERATION_TIME>{stamp(made, 'microseconds')}</GENERATION_TIME>\n"
        f"      <PREVIEW_IMAGE_URL>Not applicable</PREVIEW_IMAGE_URL>\n      <PREVIEW_GEO_INFO>Not applicable</PREVIEW_GEO_INFO>\n"
        f'      <Datatake datatakeIdentifier="G{spec.platform}_{spec.start:%Y%m%dT%H%M%S}_{spec.orbit:06d}_N{number}">\n'
        f"        <SPACECRAFT_NAME>Sentinel-{spec.platform[1:]}</SPACECRAFT_NAME>\n        <DATATAKE_TYPE>INS-NOBS</DATATAKE_TYPE>\n"
        f"        <DATATAKE_SENSING_START>{start}</DATATAKE_SENSING_START>\n"
        f"        <SENSING_ORBIT_NUMBER>{spec.relative_orbit}</SENSING_ORBIT_NUMBER>\n"
        f"        <SENSING_ORBIT_DIRECTION>{direction(spec).upper()}</SENSING_ORBIT_DIRECTION>\n      </Datatake>\n"
        f'      <Query_Options completeSingleTile="true">\n        <PRODUCT_FORMAT>SAFE_COMPACT</PRODUCT_FORMAT>\n'
        f"      </Query_Options>\n      <Product_Organisation>\n        <Granule_List>\n"
        f'          <Granule datastripIdentifier="{strip}" granuleIdentifier="{tile_identifier(spec)}" imageFormat="JPEG2000">\n'
        f"{listed}          </Granule>\n        </Granule_List>\n      </Product_Organisation>\n    </Product_Info>\n"
    )


def _special_values() -> str:
    rows = "".join(
        f"      <Special_Values>\n        <SPECIAL_VALUE_TEXT>{text}</SPECIAL_VALUE_TEXT>\n"
        f"        <SPECIAL_VALUE_INDEX>{value}</SPECIAL_VALUE_INDEX>\n      </Special_Values>\n"
        for text, value in (("NODATA", 0), ("SATURATED", 65535))
    )
    channels = "".join(
        f"        <{name}_CHANNEL>{index}</{name}_CHANNEL>\n" for name, index in (("RED", 3), ("GREEN", 2), ("BLUE", 1))
    )
    return f"{rows}      <Image_Display_Order>\n{channels}      </Image_Display_Order>\n"


def _encoding(spec: S2SafeSpec) -> str:
    """Return scale and offsets; before baseline 04.00 there is no list of offsets at all."""
    if spec.level == "L1C":
        scale = '      <QUANTIFICATION_VALUE unit="none">10000</QUANTIFICATION_VALUE>\n'
        container, element = "Radiometric_Offset_List", "RADIO_ADD_OFFSET"
    else:
        scale = (
            '      <QUANTIFICATION_VALUES_LIST>\n        <BOA_QUANTIFICATION_VALUE unit="none">10000</BOA_QUANTIFICATION_VALUE>\n'
            '        <AOT_QUANTIFICATION_VALUE unit="none">1000.0</AOT_QUANTIFICATION_VALUE>\n'
            '        <WVP_QUANTIFICATION_VALUE unit="cm">1000.0</WVP_QUANTIFICATION_VALUE>\n      </QUANTIFICATION_VALUES_LIST>\n'
        )
        container, element = "BOA_ADD_OFFSET_VALUES_LIST", "BOA_ADD_OFFSET"
    if not spec.offset:
        return scale
    rows = "".join(f'        <{element} band_id="{index}">{spec.offset}</{element}>\n' for index in range(13))
    return f"{scale}      <{container}>\n{rows}      </{container}>\n"


def _spectral() -> str:
    sunlight = "".join(
        f'          <SOLAR_IRRADIANCE bandId="{index}" unit="W/m²/µm">{_SPECTRAL[band][3]}</SOLAR_IRRADIANCE>\n'
        for index, band in enumerate(L1C_BANDS)
    )
    rows = "".join(
        f'        <Spectral_Information bandId="{index}" physicalBand="{physical(band)}">\n'
        f"          <RESOLUTION>{GSD_M[band]}</RESOLUTION>\n          <Wavelength>\n"
        f'            <MIN unit="nm">{low}</MIN>\n            <MAX unit="nm">{high}</MAX>\n'
        f'            <CENTRAL unit="nm">{centre}</CENTRAL>\n          </Wavelength>\n        </Spectral_Information>\n'
        for index, band in enumerate(L1C_BANDS)
        for low, high, centre in [_SPECTRAL[band][:3]]
    )
    gains = "".join(
        f'      <PHYSICAL_GAINS bandId="{index}">{_SPECTRAL[band][4]}</PHYSICAL_GAINS>\n'
        for index, band in enumerate(L1C_BANDS)
    )
    return (
        "      <Reflectance_Conversion>\n        <U>0.967</U>\n        <Solar_Irradiance_List>\n"
        f"{sunlight}        </Solar_Irradiance_List>\n      </Reflectance_Conversion>\n"
        f"      <Spectral_Information_List>\n{rows}      </Spectral_Information_List>\n{gains}"
    )


def _scene_classes() -> str:
    rows = "".join(
        "        <Scene_Classification_ID>\n"
        f"          <SCENE_CLASSIFICATION_TEXT>SC_{text}</SCENE_CLASSIFICATION_TEXT>\n"
        f"          <SCENE_CLASSIFICATION_INDEX>{index}</SCENE_CLASSIFICATION_INDEX>\n        </Scene_Classification_ID>\n"
        for index, text in enumerate(SCENE_CLASSES)
    )
    return f"      <REFERENCE_BAND>3</REFERENCE_BAND>\n      <Scene_Classification_List>\n{rows}      </Scene_Classification_List>\n"


def footprint(spec: S2SafeSpec) -> str:
    """Return latitude and longitude of the corners, clockwise from the upper left, closed."""
    side = spec.extent_m
    ring = [spec.position(*place) for place in ((0, 0), (side, 0), (side, side), (0, side), (0, 0))]
    return " ".join(f"{latitude:.12f} {longitude:.12f}" for longitude, latitude in ring) + " "


def tile_identifier(spec: S2SafeSpec) -> str:
    """Return the identifier of the granule, as TILE_ID and the list of granules have it."""
    made = datetime.fromisoformat(spec.generated)
    return f"{spec.platform}_OPER_MSI_{spec.level}_TL_{spec.station}_{made:%Y%m%dT%H%M%S}_A{spec.orbit:06d}_T{spec.tile}_N{spec.baseline}"


def direction(spec: S2SafeSpec) -> str:
    """Return ascending or descending."""
    return "ascending" if spec.ascending else "descending"


def stamp(when: datetime, precision: str) -> str:
    """Return a time as the metadata write it, with a Z."""
    return when.replace(tzinfo=None).isoformat(timespec=precision) + "Z"


def angle_nodes(spec: S2SafeSpec) -> npt.NDArray[np.float64]:
    """Return the places of the angle grids along a side, metres from the upper left corner: every 5 km, one beyond the end."""
    return np.asarray(5000.0 * np.arange(int(spec.extent_m // 5000) + 2))
