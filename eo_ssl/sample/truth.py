"""What is true of a sample archive: classes, reflectance, backscatter, clouds, copies."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from eo_ssl.documents import check_not_newer
from eo_ssl.errors import UserError, expect, suggest_nearest
from eo_ssl.landcover import CLASS_NAMES, CLASSES, S2_BANDS, UNKNOWN, Bytes
from eo_ssl.sample.fields import Floats, repeat_pixels
from eo_ssl.sample.landscape import count_class_pixels, make_landscape
from eo_ssl.sample.optical import FACTOR, OpticalScene, render_optical
from eo_ssl.sample.product_plans import PlannedAcquisition
from eo_ssl.sample.radar import POLARISATIONS, RadarScene, render_radar
from eo_ssl.sample.spec import COARSEST, SITES, ArchiveSpec

TRUTH = "truth.json"
TRUTH_VERSION = 1
Scene = TypeVar("Scene", OpticalScene, RadarScene)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductTruth:
    """One product and what was put into it."""

    acquisition: PlannedAcquisition
    cloud_fraction: float
    "share of the pixels with data whose scene class is 8 or 9 (20 m); 0 for radar"
    shadow_fraction: float
    "the same for scene class 3"
    nodata_fraction: float
    "share of all pixels beyond the edge of the swath"
    saturated_pixels: int
    "20 m pixels at the saturated value"
    looks: float
    "equivalent number of looks; 0 for optical products"

    @property
    def product_id(self) -> str:
        """The id, which is also the name of the product's folder."""
        return self.acquisition.product_id


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A planted copy."""

    product_id: str
    original: str
    kind: str
    "exact: same bytes; reprocessed: same reflectance, other offset; near: same view, little more than noise apart"


@dataclass(frozen=True, slots=True)
class Truth:
    """The truth of a sample archive. Arrays are computed anew from the seed, not stored."""

    seed: int
    spec: ArchiveSpec
    products: tuple[ProductTruth, ...]
    "sorted by product id"

    @classmethod
    def load(cls, folder: Path) -> Truth:
        """Return the truth of the archive at ``folder``.

        Raises:
            UserError: there is no finished archive, or one of another version.
        """
        path = Path(folder) / TRUTH
        whole = f"a finished sample archive at {folder}"
        expect(path.is_file(), expected=whole, got=f"no {TRUTH}", remedy="make it with make_archive")
        value = json.loads(path.read_bytes())
        version, known = value.get("version"), f"a sample archive of version {TRUTH_VERSION} at {folder}"
        check_not_newer(version, TRUTH_VERSION, what="a sample archive of version", at=str(folder))
        expect(version == TRUTH_VERSION, expected=known, got=version, remedy="make it again")
        return cls.from_json(value)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Truth:
        """Return the truth that `to_json` wrote."""
        spec = {key: _tupled(entry) for key, entry in value["spec"].items()}
        products = tuple(
            ProductTruth(**{**entry, "acquisition": PlannedAcquisition(**entry["acquisition"])})
            for entry in value["products"]
        )
        return cls(value["seed"], ArchiveSpec(**spec), products)

    def to_json(self) -> dict[str, Any]:
        """Return the truth as plain values, with the tables a person wants to see beside it."""
        return {
            "version": TRUTH_VERSION,
            "seed": self.seed,
            "spec": asdict(self.spec),
            "products": [asdict(product) for product in self.products],
            "classes": {str(label): name for label, name in self.classes.items()},
            "shares": self.shares,
            "duplicates": [asdict(duplicate) for duplicate in self.duplicates],
            "bands": list(S2_BANDS),
            "land_cover": [asdict(cover) for cover in CLASSES],
        }

    @property
    def classes(self) -> dict[int, str]:
        """Label -> name of the classes in this archive."""
        used = dict(self.spec.shares)
        return {label: name for label, name in enumerate(CLASS_NAMES) if name in used}

    @property
    def shares(self) -> dict[str, float]:
        """Name -> share of all pixels of all places, as planted."""
        counts = np.sum([count_class_pixels(self.spec, site) for site in range(self.spec.sites)], axis=0)
        return {name: float(counts[label] / counts.sum()) for label, name in self.classes.items()}

    @property
    def duplicates(self) -> tuple[Duplicate, ...]:
        """The planted copies, sorted by product id."""
        planned = [product.acquisition for product in self.products]
        return tuple(Duplicate(plan.product_id, plan.original, plan.copy) for plan in planned if plan.copy)

    def product(self, product_id: str) -> ProductTruth:
        """Return the entry of one product; a reader's id ``card/folder`` names the product of that folder.

        Raises:
            UserError: the archive has no such product.
        """
        for product in self.products:
            if product.product_id == product_id.rpartition("/")[2]:
                return product
        known = [product.product_id for product in self.products]
        raise UserError(f"expected a product of this archive, got {product_id!r}{suggest_nearest(product_id, known)}")

    def class_map(self, site: str) -> Bytes:
        """Return the land cover of a place at 10 m, [y, x] uint8, values of `classes`."""
        names = [place.name for place in SITES[: self.spec.sites]]
        if site not in names:
            raise UserError(f"expected a place out of {', '.join(names)}, got {site!r}{suggest_nearest(site, names)}")
        return make_landscape(self.seed, self.spec, names.index(site)).classes.copy()

    def label(self, product_id: str) -> Bytes:
        """Return the labels stored with a product, [y, x] uint8 at 10 m: the class map, 255 without data."""
        plan = self.product(product_id).acquisition
        labels = self.class_map(plan.site)
        labels[self.nodata(product_id)] = UNKNOWN
        return labels

    def reflectance(self, product_id: str, *, band: str | None = None) -> Floats:
        """Return the exact reflectance of an optical product before rounding, NaN where saturated or without data.

        Args:
            product_id: an optical product.
            band: a band to return at its own resolution; None for all.

        Returns:
            [y, x] float32 at the band's own resolution, or [band, y, x] float32 at 10 m in the order of the sensor's
            bands, with every coarser pixel repeated (nearest neighbour). A reader's value differs by at most 0.00005.
        """
        scene = self.optical_scene(product_id)
        if band is None:
            planes = [repeat_pixels(scene.reflectance[name], FACTOR[name]) for name in S2_BANDS]
            return np.stack(planes).astype(np.float32)
        if band not in S2_BANDS:
            raise UserError(
                f"expected a band out of {', '.join(S2_BANDS)}, got {band!r}{suggest_nearest(band, S2_BANDS)}"
            )
        return scene.reflectance[band].copy()

    def scene_classes(self, product_id: str) -> Bytes:
        """Return the scene classification of an optical product as planted, [y, x] uint8 at 20 m."""
        return self.optical_scene(product_id).scl.copy()

    def gamma0(self, product_id: str, *, speckle: bool = False) -> Floats:
        """Return the backscatter of a radar product, [VV VH, y, x] float32 linear power.

        Without speckle it is the expected value, defined everywhere; with it, what was stored, NaN beyond the edge of
        the swath.
        """
        scene = self.radar_scene(product_id)
        return np.stack([(scene.observed if speckle else scene.gamma0)[name] for name in POLARISATIONS])

    def nodata(self, product_id: str) -> npt.NDArray[np.bool_]:
        """Return where a product has no data, [y, x] bool at 10 m."""
        if self.product(product_id).acquisition.sensor == "sentinel1_rtc":
            return np.isnan(self.radar_scene(product_id).observed["VV"])
        return np.asarray(repeat_pixels(self.optical_scene(product_id).nodata, COARSEST), dtype=bool)

    def optical_scene(self, product_id: str) -> OpticalScene:
        """Return all that was rendered for an optical product."""
        return self._render(product_id, OpticalScene)

    def radar_scene(self, product_id: str) -> RadarScene:
        """Return all that was rendered for a radar product."""
        return self._render(product_id, RadarScene)

    def _render(self, product_id: str, kind: type[Scene]) -> Scene:
        plan = self.product(product_id).acquisition
        scene = render_product(self.seed, self.spec, plan)
        if not isinstance(scene, kind):
            wanted = "an optical" if kind is OpticalScene else "a radar"
            raise UserError(
                f"expected {wanted} product, got {product_id} of {plan.sensor}; reflectance is optical, gamma0 is radar"
            )
        return scene


@lru_cache(maxsize=2)  # a product is asked for band by band
def render_product(seed: int, spec: ArchiveSpec, plan: PlannedAcquisition) -> OpticalScene | RadarScene:
    """Return the scene of a planned product: a pure function of its arguments."""
    land = make_landscape(seed, spec, plan.site_index)
    if plan.sensor == "sentinel1_rtc":
        return render_radar(seed, land, plan, looks=spec.looks)
    return render_optical(seed, land, plan, saturated=spec.saturated, noise_key=1 if plan.copy == "near" else 0)


def describe_product(plan: PlannedAcquisition, scene: OpticalScene | RadarScene, spec: ArchiveSpec) -> ProductTruth:
    """Return the entry of a rendered product."""
    if isinstance(scene, RadarScene):
        beyond = float(np.isnan(scene.observed["VV"]).mean())
        return ProductTruth(
            acquisition=plan,
            cloud_fraction=0.0,
            shadow_fraction=0.0,
            nodata_fraction=round(beyond, 6),
            saturated_pixels=0,
            looks=spec.looks,
        )
    valid = scene.scl[scene.scl != 0]
    return ProductTruth(
        acquisition=plan,
        cloud_fraction=round(float(np.isin(valid, (8, 9)).mean()), 6),
        shadow_fraction=round(float((valid == 3).mean()), 6),
        nodata_fraction=round(float(scene.nodata.mean()), 6),
        saturated_pixels=int(scene.saturated.sum()),
        looks=0.0,
    )


def _tupled(value: Any) -> Any:
    return tuple(_tupled(entry) for entry in value) if isinstance(value, list) else value
