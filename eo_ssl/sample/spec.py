"""What a sample archive is to contain, and the places it may lie in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from eo_ssl.errors import expect, suggest_nearest
from eo_ssl.landcover import CLASS_NAMES

COARSEST = 6  # 60 m pixels are six 10 m pixels wide
PIXEL_M = 10.0  # metres, the latent grid
SENSORS = ("sentinel2_l2a", "sentinel1_rtc")
OFFSET_SINCE = (4, 0)  # processing baseline 04.00 (2022-01-25) brought the radiometric offset


@dataclass(frozen=True, slots=True)
class Site:
    """An invented place with real coordinates: the corner lies on a 60 m grid, as those of real Sentinel-2 tiles do."""

    name: str
    epsg: int
    "UTM zone on WGS 84: 326xx north, 327xx south"
    left_m: float
    "easting of the upper left corner, metres"
    top_m: float
    "northing of the upper left corner, metres"
    emphasis: tuple[tuple[str, float], ...]
    "class -> how many times its usual share the place tends to have"

    @property
    def southern(self) -> bool:
        """Whether the place lies on the southern hemisphere."""
        return self.epsg // 100 == 327


SITES: tuple[Site, ...] = (
    Site("harbour", 32632, 500040.0, 4916040.0, (("water", 3.0), ("built", 1.5))),
    Site("plain", 32633, 450000.0, 5400060.0, (("crop", 3.0), ("grass", 1.5))),
    Site("highveld", 32735, 600060.0, 7100040.0, (("built", 4.0), ("grass", 4.0))),
    Site("andes", 32719, 399960.0, 6300000.0, (("snow", 60.0), ("bare", 12.0), ("forest", 1.5))),
    Site("lakes", 32635, 420000.0, 6840060.0, (("forest", 3.0), ("water", 1.5))),
    Site("steppe", 32648, 560040.0, 4700040.0, (("grass", 4.0), ("bare", 3.0))),
    Site("delta", 32645, 620040.0, 2500020.0, (("water", 2.0), ("crop", 2.0))),
    Site("pampas", 32721, 300000.0, 6120060.0, (("crop", 2.0), ("grass", 2.0), ("built", 1.5))),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveSpec:
    """Size and content of a sample archive.

    The default gives about 1,200 tiles of 64 px per sensor, in many small places rather than few large ones: a class
    that occurs in one place alone cannot be tested where another place teaches.
    """

    sites: int = 8
    "number of places, the first ones of SITES"
    dates: int = 4
    "acquisitions per place and sensor, spread over the seasons"
    size_px: int = 384
    "side of a product in 10 m pixels, a multiple of 6"
    shares: tuple[tuple[str, float], ...] = (
        ("forest", 0.34),
        ("water", 0.26),
        ("crop", 0.18),
        ("grass", 0.10),
        ("built", 0.06),
        ("bare", 0.04),
        ("snow", 0.02),
    )
    "land-cover class -> share of all pixels; long-tailed by default; sums to 1"
    sensors: tuple[str, ...] = SENSORS
    baselines: tuple[str, ...] = ("03.01", "05.09")
    "Sentinel-2 processing baselines, taken in turn over places and dates"
    looks: float = 4.4
    "equivalent number of looks of the speckle; 4.4 is that of Sentinel-1 IW ground-range products at 10 m"
    cloud_cover: float = 0.15
    "expected share of an optical product under cloud, 0-0.6"
    edge_share: float = 0.5
    "share of the products that are cut by the edge of a swath"
    exact_duplicates: int = 1
    "per sensor: products delivered twice, same bytes under another product id"
    near_duplicates: int = 1
    "per sensor: products of the same place and a close date that differ by little more than noise"
    reprocessed: int = 1
    "Sentinel-2 products delivered again under a later baseline: other stored numbers, same reflectance"
    saturated: int = 6
    "20 m areas per optical product at the saturated value"

    def __post_init__(self) -> None:
        """Refuse what cannot be made."""
        within = "choose a number in between"
        expect(1 <= self.sites <= len(SITES), expected=f"1 to {len(SITES)} sites", got=self.sites, remedy=within)
        expect(1 <= self.dates <= 36, expected="1 to 36 dates", got=self.dates, remedy=within)
        sides = f"size_px to be a multiple of {COARSEST} of at least 96"
        expect(self.size_px >= 96 and self.size_px % COARSEST == 0, expected=sides, got=self.size_px, remedy="try 384")
        self._check_shares()
        self._check_ranges()
        self._check_copies()

    def _check_shares(self) -> None:
        classes = f"classes out of {', '.join(CLASS_NAMES)}"
        for name, share in self.shares:
            expect(
                name in CLASS_NAMES,
                expected=classes,
                got=repr(name),
                remedy=f"correct it{suggest_nearest(name, CLASS_NAMES)}",
            )
            expect(
                share > 0, expected="positive shares", got=f"{share} for {name}", remedy="leave the class out instead"
            )
        total = sum(share for _, share in self.shares)
        whole = abs(total - 1.0) <= 1e-6 and len(dict(self.shares)) == len(self.shares)
        once = "each class once and shares that sum to 1"
        expect(whole, expected=once, got=f"a sum of {total:g}", remedy="correct `shares`")

    def _check_ranges(self) -> None:
        sensors, known = f"sensors out of {', '.join(SENSORS)}", set(self.sensors) <= set(SENSORS)
        expect(self.sensors and known, expected=sensors, got=self.sensors, remedy="correct `sensors`")
        typical = "1 is single-look, 4.4 Sentinel-1 IW at 10 m"
        expect(self.looks > 0, expected="looks > 0", got=self.looks, remedy=typical)
        expect(
            0.0 <= self.cloud_cover <= 0.6,
            expected="cloud_cover in 0-0.6",
            got=self.cloud_cover,
            remedy="choose a share in between",
        )
        expect(
            0.0 <= self.edge_share <= 1.0,
            expected="edge_share in 0-1",
            got=self.edge_share,
            remedy="choose a share in between",
        )
        expect(self.baselines, expected="at least one processing baseline", got="none", remedy="give ('05.09',)")
        for baseline in self.baselines:
            get_baseline_offset(baseline)
        expect(self.saturated >= 0, expected="saturated >= 0", got=self.saturated, remedy="give areas per product")

    def _check_copies(self) -> None:
        reprocessed = self.reprocessed if "sentinel2_l2a" in self.sensors else 0
        copies, originals = (self.exact_duplicates, self.near_duplicates, reprocessed), self.sites * self.dates
        possible = min(copies) >= 0 and sum(copies) <= originals
        wanted = f"0 to {originals} copies in all, one per product"
        expect(possible, expected=wanted, got=copies, remedy="ask for fewer")
        taken = [self.baselines[(s + d) % len(self.baselines)] for s in range(self.sites) for d in range(self.dates)]
        early = sum(get_baseline_offset(baseline) == 0 for baseline in taken)
        before = f"at most {early} reprocessed products, as many as have a baseline before 04.00"
        expect(
            reprocessed <= early, expected=before, got=reprocessed, remedy="ask for fewer or add '03.01' to `baselines`"
        )


def get_baseline_offset(baseline: str) -> int:
    """Return what turns a stored number into reflectance x 10,000: 0 before processing baseline 04.00, then -1000.

    Raises:
        UserError: when the text is not of the form "05.09".
    """
    major, dot, minor = baseline.partition(".")
    numeric = dot and major.isdigit() and minor.isdigit()
    expect(numeric, expected="a processing baseline such as '05.09'", got=repr(baseline), remedy="give major.minor")
    return -1000 if (int(major), int(minor)) >= OFFSET_SINCE else 0


def compute_site_shares(spec: ArchiveSpec) -> npt.NDArray[np.float64]:
    """Return the share of each class in each place, float64 [site, class].

    Rows sum to 1 and columns average to ``spec.shares``. Places differ (a harbour has water, the plain has fields), the
    archive as a whole keeps the shares asked for: iterative proportional fitting (Deming and Stephan 1940) of the
    emphases to both margins.
    """
    wanted = np.array([dict(spec.shares).get(name, 0.0) for name in CLASS_NAMES])
    shares: npt.NDArray[np.float64] = (
        np.array([[dict(site.emphasis).get(name, 1.0) for name in CLASS_NAMES] for site in SITES[: spec.sites]])
        * wanted
    )
    used = wanted > 0
    for _ in range(500):
        shares[:, used] *= wanted[used] / shares[:, used].mean(axis=0)
        shares /= shares.sum(axis=1, keepdims=True)
    return shares
