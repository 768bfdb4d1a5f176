"""Cards: one YAML file per corpus or benchmark that declares what its pixels mean and how its files are laid out.

A card is data, read strictly: an unknown key, a wrong type or an unknown band is an error that names the place. What a
card does not say is not guessed from file names or pixel values.
"""

from __future__ import annotations

import math
import re
from dataclasses import MISSING, asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from eo_ssl.errors import UserError, suggest_nearest
from eo_ssl.layouts import STRICT
from eo_ssl.layouts import ArrayLayout as ArrayLayout
from eo_ssl.layouts import Chips as Chips
from eo_ssl.layouts import Exclusion as Exclusion
from eo_ssl.layouts import FileGroup as FileGroup
from eo_ssl.layouts import Labels as Labels
from eo_ssl.layouts import Mask as Mask
from eo_ssl.layouts import Metadata as Metadata
from eo_ssl.layouts import Radar as Radar
from eo_ssl.layouts import SampleSelection as SampleSelection
from eo_ssl.layouts import Stac as Stac
from eo_ssl.layouts import Statistics as Statistics
from eo_ssl.layouts import Vignettes as Vignettes
from eo_ssl.plain_yaml import read_yaml
from eo_ssl.sensors import Quantity, sensor

Resampling = Literal["nearest", "bilinear", "average"]


_NON_COMMERCIAL = re.compile(r"\bCC[ -]BY[ -]NC\b|\bnon-?commercial\b", re.IGNORECASE)


def is_non_commercial(licence: str) -> bool:
    """Return whether a licence text names a Creative Commons NC licence (``CC BY-NC 4.0``) or says non-commercial."""
    return _NON_COMMERCIAL.search(licence) is not None


READERS: dict[str, tuple[str, ...]] = {
    "raster": ("files",),
    "band_folder": ("files",),
    "array": ("array",),
    "chips": ("chips",),
    "sentinel2_safe": ("files",),
    "sentinel1_grd_safe": ("files", "radar"),
    "sentinel1_wv_safe": ("files", "vignettes"),
    "stac": ("stac",),
    "ssl4eo_folders": ("files", "samples"),
    "ssl4eo_zarr": ("files", "samples"),
    "ssl4eo_lmdb": ("files", "samples"),
    "torchgeo": ("loader",),
}
"""Reader -> the keys that a card must give for it.

``torchgeo`` reads benchmarks, the others are packages of ``eo_ssl.scene``.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """What the files of one corpus or benchmark are. Physical value = (stored + offset) * scale."""

    __pydantic_config__ = STRICT

    name: str
    title: str
    sensor: str
    "registered sensor, see `eo_ssl.sensors.SENSORS`"
    reader: str
    "one of `READERS`"
    bands: tuple[str, ...]
    "bands in file order; any known spelling, canonical after reading"
    quantity: Quantity
    gsd_m: float
    "ground sampling distance of these files in metres (decimated copies are coarser than the sensor)"
    licence: str
    attribution: str
    source: str
    "where the data come from"
    non_commercial: bool | None = None
    "whether the licence forbids commercial use; not given: whether `licence` says so (see `is_non_commercial`)"
    files: str | dict[str, str] = ""
    "raster, array: glob relative to the root, one product per match; band_folder: band -> file name inside `folder`"
    layers: dict[str, tuple[int, ...]] = field(default_factory=dict)
    "raster: layer name -> 1-based bands of the file in the order of `bands`; one product per layer, such as a date"
    folder: str = "."
    "band_folder: glob of product folders relative to the root"
    scale: float = 1.0
    offset: float = 0.0
    "in stored units, added before scaling"
    offset_by_file: dict[str, float] = field(default_factory=dict)
    """file (or folder of bands) relative to the root -> offset, for sets that mix radiometric offsets.

    The bare name does where only one file of the set has it. A file that is not listed is refused or dropped.
    """
    nodata: float | None = None
    dtype_max: float | None = None
    "stored value that marks saturation (65535 in Sentinel-2), None if there is none"
    grid_from: str | None = None
    "band whose grid a band without georeference takes, allowed only for equal shapes"
    resampling: dict[str, Resampling] = field(default_factory=dict)
    "band -> method to reach the common grid; the key `default` for all others"
    metadata: Metadata | None = None
    mask: Mask | None = None
    labels: Labels | None = None
    array: ArrayLayout | None = None
    chips: Chips | None = None
    group: FileGroup | None = None
    cloud_model: Literal["", "s2cloudless"] = ""
    "sentinel2_safe, Level-1C: classifier that adds a cloud probability"
    ignored_names: str = ""
    "why the band names in the files do not count: `b1` to `b4` that count the bands; empty where they do"
    commissioning: Literal["refuse", "accept"] = "refuse"
    "what to do with data of a satellite that was not calibrated yet: left out, or read with a remark"
    radar: Radar | None = None
    vignettes: Vignettes | None = None
    stac: Stac | None = None
    samples: SampleSelection | None = None
    datetime: str = ""
    "ISO 8601 date or time of the whole set where files do not say"
    datetime_pattern: str | None = None
    "regular expression with a group (?P<datetime>...) over the file path"
    datetime_format: str | None = None
    "strptime format of that group"
    processing_baseline: str = ""
    orbit: str = ""
    crs: str = ""
    "for arrays without georeference, e.g. EPSG:32633"
    transform: tuple[float, float, float, float, float, float] | None = None
    "affine a, b, c, d, e, f of such arrays"
    statistics: Statistics | None = None
    splits: dict[str, str] = field(default_factory=dict)
    "split -> rule in words"
    loader: str | None = None
    "class path of the loader of a benchmark, e.g. torchgeo.datasets.EuroSAT"
    citation: str = ""
    pitfalls: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Resolve the band names and check what types cannot express."""
        if self.reader not in READERS:
            raise UserError(
                f"expected the reader of card {self.name} out of {', '.join(READERS)}, got {self.reader!r}"
                f"{suggest_nearest(self.reader, READERS)}"
            )
        known = sensor(self.sensor)
        object.__setattr__(self, "bands", known.resolve_all(self.bands))
        if self.quantity not in known.quantities:
            allowed = ", ".join(known.quantities)
            raise UserError(
                f"expected card {self.name} to declare a quantity of {self.sensor} ({allowed}), got "
                f"{self.quantity.value}; correct `quantity`"
            )
        if self.nodata is not None and not math.isfinite(self.nodata):
            object.__setattr__(self, "nodata", None)  # what is not finite is invalid without being named
        stated = is_non_commercial(self.licence)
        if self.non_commercial is False and stated:
            raise UserError(
                f"expected card {self.name} to be non_commercial with the licence {self.licence!r}, got false; correct "
                "one of them"
            )
        object.__setattr__(self, "non_commercial", bool(self.non_commercial or stated))
        offsets = (self.offset, *self.offset_by_file.values())
        if not (0 < self.gsd_m < math.inf) or self.scale == 0 or not all(map(math.isfinite, (self.scale, *offsets))):
            raise UserError(
                f"expected card {self.name} to have gsd_m > 0, scale != 0 and finite offsets, got {self.gsd_m}, "
                f"{self.scale} and {self.offset}; "
                "correct the card"
            )
        if self.cloud_model and (self.reader, self.sensor) != ("sentinel2_safe", "sentinel2_l1c"):
            raise UserError(
                f"expected cloud_model of card {self.name} with reader sentinel2_safe and sensor sentinel2_l1c, got "
                f"{self.reader} and {self.sensor}; remove it"
            )
        if self.mask is not None:
            self._check_mask(self.mask)
        if self.labels and not all(0 <= value < 2**15 for value in self.labels.classes):
            raise UserError(
                f"expected label classes of card {self.name} from 0 to 32767, got {sorted(self.labels.classes)}; "
                "renumber them in the label file"
            )
        if not all(getattr(self, name) for name in READERS[self.reader]):
            part = " and ".join(READERS[self.reader])
            raise UserError(f"expected card {self.name} with reader {self.reader} to have `{part}`, got none; add it")

    def _check_mask(self, mask: Mask) -> None:
        if bool(mask.source) != bool(mask.classes) or not (mask.source or mask.ignore.strip()):
            raise UserError(
                f"expected mask of card {self.name} with `source` and `classes`, or with the reason why masks in the "
                f"files do not count (`mask: {{ignore: why}}`), got {asdict(mask)}; complete it"
            )
        if mask.ignore and self.reader not in ("raster", "band_folder", "chips", "stac", "ssl4eo_folders", "torchgeo"):
            raise UserError(
                f"expected mask.ignore of card {self.name} with a reader of rasters, got {self.reader}; remove it: "
                "other files have none"
            )

    @property
    def ignores_masks(self) -> bool:
        """Whether masks and alpha bands in the files do not count."""
        return self.mask is not None and bool(self.mask.ignore)

    def list_stated(self, *names: str) -> list[str]:
        """Return those of the optional keys ``names`` that the card gives: some readers leave them to the products."""
        missing = {
            item.name: item.default if item.default_factory is MISSING else item.default_factory()
            for item in fields(self)
        }
        return [name for name in names if getattr(self, name) != missing[name]]

    def to_json(self) -> dict[str, Any]:
        """Return the card as plain values, as it enters configurations and fingerprints."""
        value = asdict(self)
        for key, before in (("commissioning", "refuse"), ("ignored_names", "")):
            if value[key] == before:
                del value[key]  # as before the key existed, so that corpora know their cards again
        if self.mask is not None and not self.mask.ignore:
            del value["mask"]["ignore"]  # as before the key existed, so that corpora know their cards again
        return value


_CARD = TypeAdapter(Card)


@cache
def find_card_folder() -> Path:
    """Return the folder of the shipped cards: beside the package in a checkout, inside it in an installed wheel."""
    return find_shipped_folder("datasets")


def find_shipped_folder(name: str) -> Path:
    """Return the folder of shipped data called ``name`` (``datasets`` or ``configs``)."""
    package = Path(__file__).parent
    for folder in (package / "data" / name, package.parent / name):
        if folder.is_dir():
            return folder
    raise UserError(f"expected the shipped folder {name!r} beside or inside {package}, found none; reinstall eo_ssl")


def list_cards() -> tuple[str, ...]:
    """Return the names of the shipped cards."""
    return tuple(sorted(path.stem for path in find_card_folder().glob("*.yaml")))


def load_card(name_or_path: str | Path) -> Card:
    """Read a card by its shipped name or from a YAML file.

    Raises:
        UserError: no such card, not YAML, an unknown key (naming the nearest), a wrong type, an unknown band or
            quantity.
    """
    text = str(name_or_path)
    path = Path(text) if text.endswith((".yaml", ".yml")) else find_card_folder() / f"{text}.yaml"
    if not path.is_file():
        raise UserError(
            f"expected a card out of {', '.join(list_cards())} or a YAML file, got "
            f"{text!r}{suggest_nearest(text, list_cards())}"
        )
    value = read_yaml(path)
    if not isinstance(value, dict):
        raise UserError(
            f"expected keys and values in {path}, got {type(value).__name__};"
            f" see the shipped cards in {find_card_folder()}"
        )
    try:
        return _CARD.validate_python({"name": path.stem, **value})
    except ValidationError as error:
        raise UserError(_sentence(path, error)) from error


def _sentence(path: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "unexpected_keyword_argument":
        close = suggest_nearest(str(first["loc"][-1]), Card.__dataclass_fields__)
        return f"expected known keys in card {path}, got {where!r}{close}"
    if first["type"] in ("missing", "missing_argument"):
        return f"expected card {path} to have the key {where!r}, got none; add it"
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, UserError):
        return f"{cause} (in {path})"
    got = str(first.get("input"))[:60]
    if where == "mask" and got == "ignore":
        return (
            f"expected a reason to ignore the masks of the files in card {path}, got none; say `mask: {{ignore: why}}`"
        )
    return f"expected a valid {where or 'card'} in card {path}, got {got!r}: {first['msg'].lower()}"
