"""The plan of one product, made before a pixel is cut: stream, encoding, tiles and the parts they are cut in."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from eo_ssl.corpus.config import IngestConfig
from eo_ssl.corpus.cutting import Raster, derive_stream, open_raster
from eo_ssl.corpus.fragments import name_fragment
from eo_ssl.corpus.quarantine import guard
from eo_ssl.corpus.shards import Layout
from eo_ssl.corpus.streams import Encoding, Stream
from eo_ssl.corpus.tile_quality import check_limits
from eo_ssl.errors import UserError, expect
from eo_ssl.scene import Product
from eo_ssl.sensors import Quantity
from eo_ssl.tiling import plan_groups

MAX_PARTS = 12  # tasks per product, about: enough for the cores of a machine, few enough that scheduling costs nothing


@dataclass(frozen=True, slots=True)
class ProductPlan:
    """A product, opened once, and what becomes of it.

    It pickles with what was read of the headers, so that no task opens it again.
    """

    product: Product
    config: IngestConfig
    card_fingerprint: str
    checksum: str
    nbytes: int
    "of the product's files"
    stream: Stream
    encoding: Encoding
    tiles: int
    "planned; filters may keep fewer, and 0 of a batch of samples, which only reading counts"
    parts: tuple[tuple[int, int], ...] = ()
    "runs of the raster's regions, one per task; empty for chips"
    sizes: tuple[int, ...] = ()
    "tiles of each run"
    raster: Raster | None = field(default=None, repr=False, compare=False)
    "the opened product on the grid its tiles are cut from; None for chips"

    @property
    def product_id(self) -> str:
        """Name of the product."""
        return self.product.product_id

    @property
    def layout(self) -> Layout:
        """How the tiles are stored."""
        return Layout(self.stream, self.encoding, self.config.codec, "crc32c")

    @property
    def fragment(self) -> str:
        """Name of the fragment it becomes."""
        return name_fragment(self.checksum, self.product_id, self.card_fingerprint, self.config)

    @property
    def tile_bytes(self) -> int:
        """Bytes of a stored tile before compression."""
        return int(np.prod(self.layout.shape)) * np.dtype(self.encoding.dtype).itemsize

    @property
    def tasks(self) -> int:
        """In how many parts it is cut."""
        return max(len(self.parts), 1)


def plan_product(product: Product, config: IngestConfig, card_fingerprint: str) -> ProductPlan:
    """Return the plan of a product; reads its bytes for the checksum, but decodes no more than a sample.

    Raises:
        UserError: it cannot be read, has none of the bands or masks asked for, or is smaller than a tile.
    """
    known = (product, config, card_fingerprint, product.checksum(), product.nbytes)
    if product.kind == "chips":
        stream, encoding = _plan_chips(product, config)
        return ProductPlan(*known, stream, encoding, len(product.entries))
    cube = product.open()
    stream = derive_stream(cube, config)
    check_limits(config, stream, masks={str(name) for name in cube.data_vars}, product_id=product.product_id)
    raster = open_raster(cube, stream, config)
    tiles, regions = len(raster.tiles.windows), raster.tiles.regions
    if tiles == 0:
        height, width = int(cube.sizes["y"]), int(cube.sizes["x"])
        raise UserError(
            f"expected {product.product_id} to hold a whole tile of {config.size_px} px, got {height} x {width} px "
            f"({config.tiling}, edge {config.edge}); use edge pad or a smaller size_px"
        )
    encoding = Encoding.of(stream.quantity, chips=False)
    shard = Layout(stream, encoding, config.codec).tiles_per_shard
    parts = plan_groups(regions, least=2 * shard, most=max(2 * shard, -(-tiles // MAX_PARTS)))
    sizes = tuple(sum(len(region.tiles) for region in regions[first:last]) for first, last in parts)
    return ProductPlan(*known, stream, encoding, tiles, tuple(parts), sizes, raster)


def _plan_chips(product: Product, config: IngestConfig) -> tuple[Stream, Encoding]:
    """Return what the chips of a batch are and how they are stored."""
    card, bands, size = product.card, product.bands, product.shape[1]
    expect(
        size == config.size_px,
        expected=f"chips of card {card.name} cropped to size_px {config.size_px}",
        got=f"crop_px {size}",
        remedy="make the two equal",
    )
    quantity = Quantity(card.quantity)
    stream = Stream(card.sensor, quantity.in_power if quantity.is_db else quantity, bands, card.gsd_m, size)
    check_limits(config, stream, masks=set(card.mask.classes) if card.mask else set(), product_id=product.product_id)
    images = product.is_described_by_card  # samples of an archive that describes itself hold calibrated values
    return stream, Encoding.of(stream.quantity, chips=images, scale=card.scale, offset=product.offset)


guarded_plan = guard(plan_product)
