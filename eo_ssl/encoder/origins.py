"""What TorchGeo's weights were trained on where metadata are silent or wrong: sensor, quantity and scale.

TorchGeo's metadata name bands and transforms, never the quantity nor the unit. The rules below state both for all
weights of one origin, and where it is written. Weights that no contract can express are refused with the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from eo_ssl.errors import UserError
from eo_ssl.sensors import Quantity

RGB = "aerial_rgb"
"""Registered sensor of 8-bit colour images."""
_S2, _S1, _LANDSAT, _ANY = (10.0, 10.0), (10.0, 10.0), (30.0, 30.0), (0.05, 30.0)  # metres


@dataclass(frozen=True, slots=True)
class Origin:
    """What the numbers were that weights were trained on."""

    sensor: str
    quantity: Quantity
    gsd_m: tuple[float, float]
    source: str
    "where it is written, in words"
    scale: float | Mapping[str, float] = 1.0
    "units of the published transforms per unit of the quantity, for all bands or by canonical name"
    clip: tuple[float, float] | Mapping[str, tuple[float, float]] | None = None
    "bounds in the quantity that the authors applied and the transforms leave out, for all bands or by canonical name"
    bands: tuple[str, ...] | None = None
    "where the metadata are silent; None: as they say"
    limits: Mapping[str, tuple[float, float]] | None = None
    "values of each band, in the unit of the transforms, that the authors bring to 0 and 1 first; replaces what the"
    " transforms do there"
    blank: tuple[int, ...] = ()
    "channels of the network that were always zero in training"
    native_px: int = 224
    "side of the training images, where the transforms bring images to none"
    differs: str = ""
    "what is wrong in the published metadata and corrected here"
    range: tuple[float, float] | None = None
    "plausible values; None: of the quantity"


_DN10K = 10_000.0  # Sentinel-2 digital numbers per unit of reflectance, ESA's quantification value
_BYTE = (0.0, 255.0)  # least and greatest 8-bit number
_TCI = 255 / 0.3558  # 255 of the Level-1C true-colour image is reflectance 0.3558: ESA, Sentinel-2 MSI user guide
_L8BIT = 256 / 0.3  # TorchGeo, experiments/ssl4eo: surface reflectance 0 ... 0.3 stretched to 0 ... 256

_SSL4EO_S2 = Origin(
    "sentinel2_l1c",
    Quantity.TOA_REFLECTANCE,
    _S2,
    scale=_DN10K,
    source="SSL4EO-S12 (arXiv 2211.07044): Level-1C numbers of baselines before 04.00, so reflectance x 10,000 without"
    " offset",
)
_SSL4EO_S1 = Origin(
    "sentinel1_grd",
    Quantity.SIGMA0_DB,
    _S1,
    source="SSL4EO-S12 (arXiv 2211.07044): backscatter of ground range detected scenes in dB, z-scored as in DeCUR's"
    " linear evaluation",
)
_SATLAS_S2 = Origin(
    "sentinel2_l1c",
    Quantity.TOA_REFLECTANCE,
    _S2,
    scale={"B04": _TCI, "B03": _TCI, "B02": _TCI, **dict.fromkeys(("B05", "B06", "B07", "B08", "B11", "B12"), _DN10K)},
    clip={
        **dict.fromkeys(("B04", "B03", "B02"), (0.0, 0.3558)),
        **dict.fromkeys(("B05", "B06", "B07", "B08", "B11", "B12"), (0.0, 0.816)),
    },
    source="Satlas, Normalization.md: red, green and blue are the 8-bit true-colour image, 255 at reflectance 0.3558"
    " (ESA user guide); "
    "other bands are numbers / 8160 clipped to 0 ... 1",
    differs="bands named as if all were reflectance numbers, and not clipped",
)
_SATLAS_S1 = Origin(
    "sentinel1_grd",
    Quantity.DN,
    _S1,
    clip=_BYTE,
    source="Satlas, Normalization.md and its authors (repository's thread 49): uncalibrated 16-bit numbers / 255,"
    " clipped to 0 ... 1",
    differs="not clipped",
)
_SECO = Origin(
    "sentinel2_l2a",
    Quantity.BOA_REFLECTANCE,
    _S2,
    scale=255.0,
    limits={"B04": (0.0, 129.0), "B03": (2.0, 103.0), "B02": (3.0, 88.0)},
    clip={"B04": (0.0, 129 / 255), "B03": (2 / 255, 103 / 255), "B02": (3 / 255, 88 / 255)},
    source="SeCo, seco_downloader.py and seco_dataset.py: surface reflectance x 255, quantiles by band name to 0 ..."
    " 1, then ImageNet's statistics",
    differs="quantiles listed blue first for bands listed red first; multiplied by 255 where the authors' 0 ... 1 is"
    " meant; not clipped",
)
_CLOSP_S2 = Origin(
    "sentinel2_l2a",
    Quantity.BOA_REFLECTANCE,
    _S2,
    scale=_DN10K,
    blank=(10,),
    native_px=120,
    source="CLOSP, crisis_land_mark.py: Level-2A numbers with a channel of zeros inserted for B10",
    differs="names B10, which no training image had",
)
_SSL4ECO = Origin(
    "sentinel2_l2a",
    Quantity.BOA_REFLECTANCE,
    _S2,
    scale=_DN10K,
    source="SSL4Eco, download_ssl4eco.py: harmonised Level-2A numbers, so reflectance x 10,000 without offset",
)
_ETM_SR = Origin(
    "landsat7_etm",
    Quantity.BOA_REFLECTANCE,
    _LANDSAT,
    scale=_L8BIT,
    clip=(0.0, 0.3),
    source="SSL4EO-L (arXiv 2306.09424), TorchGeo's compress scripts: reflectance 0 ... 0.3 stretched to 8 bits",
    differs="the stretch is not named",
)
_OLI_SR = Origin(
    "landsat8_oli",
    Quantity.BOA_REFLECTANCE,
    _LANDSAT,
    scale=_L8BIT,
    clip=(0.0, 0.3),
    source=_ETM_SR.source,
    differs=_ETM_SR.differs,
)
_TM_TOA = Origin(
    "landsat5_tm",
    Quantity.DN,
    _LANDSAT,
    range=_BYTE,
    source="SSL4EO-L (arXiv 2306.09424): its 8-bit numbers as distributed; reflectance and temperature share no"
    " quantity",
)
_EARTHLOC = Origin(
    "sentinel2_l2a",
    Quantity.DN,
    _S2,
    range=_BYTE,
    source="EarthLoc (arXiv 2403.06758): 8-bit numbers of a cloudless mosaic for display, whose stretch is not"
    " published",
)
_RGB_NUMBERS = (RGB, Quantity.DN)
_GASSL = Origin(
    *_RGB_NUMBERS,
    (0.3, 3.7),
    range=_BYTE,
    bands=("R", "G", "B"),
    source="fMoW-RGB (arXiv 2011.09980): 8-bit colour images",
    differs="bands are not named",
)
_NAIP = Origin(
    *_RGB_NUMBERS, (0.6, 1.2), range=_BYTE, source="Satlas, Normalization.md: NAIP's 8-bit red, green and blue / 255"
)
_STREET = Origin(
    *_RGB_NUMBERS,
    _ANY,
    range=_BYTE,
    bands=("R", "G", "B"),
    scale=1 / 255,
    native_px=512,
    source="Cityscapes, street scenes: 8-bit colour images brought to 0 ... 1",
    differs="bands are not named",
)

_EXTRA = "the network takes more than an image ({}), which a contract does not hold"
_PAN = "the panchromatic band B8 has a pixel half as large and is not registered among the sensor's bands"
_SERIES = "the network takes a time series of single pixels, no images"
_NETWORK = "the network is none that this library builds"
RULES: tuple[tuple[str, Origin | str], ...] = (
    ("Aurora_Weights.*", "a model of the atmosphere: it takes fields of weather variables, no images"),
    (
        "CROMA*_Weights.*",
        "the authors normalise by the statistics of the batch, which makes an image's features depend on its"
        " neighbours",
    ),
    ("CopernicusFM_*.*", _EXTRA.format("wavelengths, position, time and patch size of each channel group")),
    ("DEO_Weights.*", _NETWORK),
    ("DOFA*_Weights.*", _EXTRA.format("a wavelength for each band")),
    ("OlmoEarthV1_Weights.*", _EXTRA.format("a date for each image of a series, and the sensor of each band group")),
    ("Panopticon_Weights.*", _EXTRA.format("an identity for each channel")),
    ("Presto_Weights.*", _SERIES),
    ("SatCLIP_Weights.*", "an encoder of places: it takes longitude and latitude, no images"),
    ("ScaleMAE*_Weights.*", _EXTRA.format("the ground sampling distance of each image, on which its positions depend")),
    ("Tessera_Weights.*", _SERIES),
    ("TileNet_Weights.*", _NETWORK),
    ("Unet_Weights.*FTW*", "two dates in one input, with each band twice"),
    ("Unet_Weights.NAIP_RGBN_*", _NETWORK),
    ("Unet_Weights.OAM_RGB_*", "the metadata name no normalisation and the authors' code no unit"),
    ("*.LANDSAT_?I_SATLAS", _PAN),
    ("*.LANDSAT_ETM_TOA_*", f"{_PAN}, and the thermal band is there with two gains"),
    ("*.LANDSAT_OLI_TIRS_TOA_*", _PAN),
    (
        "*.SENTINEL1_GRD_*CLOSP",
        "neither metadata nor the authors' loader state a unit, and four data sets are mixed; state it in a contract"
        " of your own (preprocessing=)",
    ),
    ("*.SENTINEL2_ALL_NDVI_SECO_ECO", "a vegetation index is among its channels, which is no band of a sensor"),
    ("*.FMOW_RGB_GASSL", _GASSL),
    ("*.NAIP_RGB_?I_SATLAS", _NAIP),
    ("Swin_[TSB]_Weights.CITYSCAPES_SEMSEG", _STREET),
    ("*.SENTINEL1_?I_SATLAS", _SATLAS_S1),
    ("*.SENTINEL2_?I_*_SATLAS", _SATLAS_S2),
    ("*.SENTINEL2_ALL_*CLOSP", _CLOSP_S2),
    ("*.SENTINEL2_ALL_SECO_ECO", _SSL4ECO),
    ("*.SENTINEL2_RGB_SECO", _SECO),
    ("*.LANDSAT_TM_TOA_*", _TM_TOA),
    ("*.LANDSAT_ETM_SR_*", _ETM_SR),
    ("*.LANDSAT_OLI_SR_*", _OLI_SR),
    ("EarthLoc_Weights.*", _EARTHLOC),
    *((f"*.SENTINEL1_*_{method}", _SSL4EO_S1) for method in ("MOCO", "DECUR", "SOFTCON", "MAE", "FGMAE")),
    *((f"*.SENTINEL2_*_{method}", _SSL4EO_S2) for method in ("MOCO", "DINO", "DECUR", "SOFTCON", "MAE", "FGMAE")),
)
"""First rule whose pattern fits ``Enum.MEMBER``: what it was trained on, or why no contract expresses it."""


def find_origin(name: str) -> Origin:
    """Return what the weights ``Enum.MEMBER`` were trained on.

    Raises:
        UserError: no contract can express it, or nothing is known of these weights.
    """
    for pattern, origin in RULES:
        if fnmatchcase(name, pattern):
            if isinstance(origin, Origin):
                return origin
            remedy = "" if "preprocessing=" in origin else "; choose other weights"
            raise UserError(f"expected weights that a contract can express, got {name}: {origin}{remedy}")
    raise UserError(
        f"expected weights whose origin is known here, got {name} without; "
        "state sensor, quantity, bands and normalisation in a contract of your own (preprocessing=)"
    )
