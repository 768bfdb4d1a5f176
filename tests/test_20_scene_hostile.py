"""Archives of strangers: text that names addresses contacts none, catalogues stay below their root, pipes are no files, slow servers end."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml

from catalogues import asset, item, only, write_cog
from catalogues import card as stac_card
from catalogues import write as write_json
from eo_ssl.errors import UserError
from eo_ssl.fingerprints import hash_file
from eo_ssl.scene import gdal_files, list_products
from eo_ssl.scene.stac import access
from rasters import FOLDER, RASTER, card, image_of, write

SERVICES = {
    "WMS": '<GDAL_WMS><Service name="TMS"><ServerUrl>{url}/${{z}}/${{x}}/${{y}}</ServerUrl></Service><DataWindow><UpperLeftX>0'
    "</UpperLeftX><UpperLeftY>0</UpperLeftY><LowerRightX>9</LowerRightX><LowerRightY>9</LowerRightY><SizeX>64</SizeX><SizeY>64"
    "</SizeY></DataWindow><BandsCount>3</BandsCount></GDAL_WMS>",
    "TiledWMS": '<GDAL_WMS><Service name="TiledWMS"><ServerUrl>{url}/t?</ServerUrl><TiledGroupName>a</TiledGroupName></Service></GDAL_WMS>',
    "WMTS": "<GDAL_WMTS><GetCapabilitiesUrl>{url}/c</GetCapabilitiesUrl></GDAL_WMTS>",
    "WCS": "<WCS_GDAL><ServiceURL>{url}/w?</ServiceURL><Version>1.0.0</Version><CoverageName>a</CoverageName></WCS_GDAL>",
    "GTI": "<GDALTileIndexDataset><IndexDataset>/vsicurl/{url}/i.gpkg</IndexDataset></GDALTileIndexDataset>",
    "VRT": '<VRTDataset rasterXSize="64" rasterYSize="64"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
    "<SourceFilename>/vsicurl/{url}/x.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>",
    "STACIT": '{{"type":"FeatureCollection","stac_version":"1.0.0","features":[{{"assets":{{"a":{{"href":"{url}/a.tif"}}}}}}]}}',
}


class Listener:
    """A socket that counts who comes, answers nothing and hangs up."""

    def __init__(self) -> None:
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.visits = 0
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.socket.getsockname()[1]}"

    def _serve(self) -> None:
        while True:
            try:
                visitor, _ = self.socket.accept()
            except OSError:
                return
            self.visits += 1
            visitor.close()


@pytest.fixture
def listener() -> Iterator[Listener]:
    heard = Listener()
    yield heard
    heard.socket.close()


def test_the_listener_hears(listener: Listener) -> None:
    with socket.create_connection(listener.socket.getsockname()) as visitor:
        visitor.recv(1)
    assert listener.visits == 1


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("name", ["a.tif", "a.TIFF", "a.jp2", "a.img", "a.xml", "a.vrt", "a"])
def test_text_under_any_name_contacts_nobody(tmp_path: Path, listener: Listener, service: str, name: str) -> None:
    path = tmp_path / name
    path.write_text(SERVICES[service].format(url=listener.url))
    with pytest.raises(UserError, match="expected a readable raster in"):
        gdal_files.read_window(path, (1,), rows=(0, 1), columns=(0, 1))
    with pytest.raises(UserError, match="expected a readable raster in"):
        access.read_header(str(path), sign="")
    assert listener.visits == 0


@pytest.mark.parametrize("ending", [".msk", ".ovr"])
@pytest.mark.parametrize("service", SERVICES)
def test_nor_does_text_beside_a_raster(
    tmp_path: Path, listener: Listener, rng: np.random.Generator, ending: str, service: str
) -> None:
    path = write(tmp_path / "B02.tif", rng.integers(300, 6000, (1, 64, 64)).astype(np.uint16))
    (tmp_path / f"B02.tif{ending}").write_text(SERVICES[service].format(url=listener.url))
    with pytest.raises(UserError, match="to be the TIFF that GDAL writes"):
        gdal_files.open_raster(path)
    with pytest.raises(UserError, match="to be the TIFF that GDAL writes"):
        access.read_header(str(path), sign="")
    assert listener.visits == 0


def test_nor_does_the_reference_system_of_an_item(tmp_path: Path, listener: Listener) -> None:
    """GDAL takes a system that is a link for the address of its definition."""
    write_cog(tmp_path / "B02.tif", np.full((64, 64), 3000, dtype=np.uint16))
    assets = {"blue": asset("B02.tif", (64, 64), 10, **{"proj:code": f"{listener.url}/crs"})}
    write_json(tmp_path / "item.json", item(assets=assets, **{"s2:processing_baseline": "05.09"}))
    with pytest.raises(UserError, match="expected a reference system such as EPSG:32632 in proj:code"):
        only(stac_card(bands=("B02",)), tmp_path).open()
    assert listener.visits == 0


def test_nor_does_the_reference_system_of_a_card(tmp_path: Path, listener: Listener, rng: np.random.Generator) -> None:
    np.save(tmp_path / "a.npy", rng.random((1, 8, 8), dtype=np.float32))
    fields = {key: value for key, value in RASTER.items() if key != "scale"}
    known = card(tmp_path, fields, reader="array", files="*.npy", array={"dims": "byx"}, bands=["B02"])
    text = yaml.safe_load((tmp_path / "set.yaml").read_text())
    del known
    changed = card(tmp_path, text, crs=f"{listener.url}/crs", transform=[10, 0, 5e5, 0, -10, 4e6])
    with pytest.raises(Exception):  # noqa: B017 - whatever it says, it must not ask
        image_of(tmp_path, changed)
    assert listener.visits == 0


def test_a_relative_name_is_never_one_of_gdals(
    tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``GTIFF_DIR:1:/x`` would be the first image of the file /x, wherever that lies."""
    secret = write(tmp_path / "secret.tif", rng.integers(1, 9, (1, 4, 4)).astype(np.uint16))
    inside = tmp_path / "set" / f"GTIFF_DIR:1:{secret}"
    inside.parent.mkdir(parents=True)
    inside.write_bytes(b"no raster at all")
    monkeypatch.chdir(tmp_path / "set")
    with pytest.raises(UserError, match="expected a readable raster"):
        gdal_files.open_raster(inside.relative_to(tmp_path / "set"))


# --- catalogues that name files elsewhere


def catalogue(root: Path, href: str) -> None:
    root.mkdir(exist_ok=True)
    write_json(
        root / "item.json", item(assets={"blue": asset(href, (64, 64), 10)}, **{"s2:processing_baseline": "05.09"})
    )


@pytest.mark.parametrize("way", ["relative", "absolute", "url", "link"])
def test_a_catalogue_names_no_file_outside_its_root(tmp_path: Path, way: str) -> None:
    secret = write_cog(tmp_path / "secret" / "B02.tif", np.full((64, 64), 3000, dtype=np.uint16))
    root = tmp_path / "set"
    href = {
        "relative": "../secret/B02.tif",
        "absolute": str(secret),
        "url": secret.as_uri(),
        "link": "inside.tif",
    }[way]
    catalogue(root, href)
    if way == "link":
        (root / "inside.tif").symlink_to(secret)
    known = stac_card(bands=("B02",))
    product = only(known, root)
    for use in (product.open, product.checksum, lambda: product.nbytes):
        with pytest.raises(UserError, match=rf"expected files below {root} .* with --allow_outside true"):
            use()
    assert np.isfinite(only(known, root, allow_outside=True).open()["image"].values).all()


def test_links_between_documents_stay_inside_too(tmp_path: Path) -> None:
    catalogue(tmp_path / "secret", "B02.tif")
    link = {"rel": "item", "href": "../secret/item.json"}
    write_json(tmp_path / "set" / "catalog.json", {"type": "Catalog", "links": [link]})
    with pytest.raises(UserError, match="expected files below"):
        list_products(stac_card("catalog.json"), tmp_path / "set")
    assert only(stac_card("catalog.json"), tmp_path / "set", allow_outside=True).product_id


def test_the_root_is_the_data_folder_where_the_catalogue_lies_in_it(tmp_path: Path) -> None:
    write_cog(tmp_path / "pixels" / "B02.tif", np.full((64, 64), 3000, dtype=np.uint16))
    catalogue(tmp_path / "catalogue", "../pixels/B02.tif")
    assert only(stac_card("catalogue/item.json", bands=("B02",)), tmp_path).open()["image"].shape == (1, 64, 64)
    with pytest.raises(UserError, match=rf"below {tmp_path}/catalogue in"):  # its own folder elsewhere
        only(stac_card(str(tmp_path / "catalogue" / "item.json"), bands=("B02",)), tmp_path / "pixels").open()


# --- what is no file


def in_time(call: threading.Thread) -> bool:
    call.daemon = True
    call.start()
    call.join(20)
    return not call.is_alive()


def refusal(call: object) -> str:
    """What ``call`` is refused with; a call that waits for ever fails."""
    said: list[str] = []

    def run() -> None:
        try:
            call()  # type: ignore[operator]
        except UserError as error:
            said.append(str(error))

    assert in_time(threading.Thread(target=run)), "it waits for somebody to write"
    return said[0] if said else ""


def test_a_pipe_is_no_raster(tmp_path: Path, rng: np.random.Generator) -> None:
    os.mkfifo(tmp_path / "a.tif")
    assert "found none" in refusal(lambda: list_products(card(tmp_path, RASTER), tmp_path))
    assert "got a pipe or device" in refusal(lambda: gdal_files.open_raster(tmp_path / "a.tif"))
    assert "got a pipe or device" in refusal(lambda: hash_file(tmp_path / "a.tif"))
    assert "got a pipe or device" in refusal(lambda: hash_file(Path("/dev/zero")))


def test_a_pipe_is_no_band_mask_document_or_side_car(tmp_path: Path, rng: np.random.Generator) -> None:
    values = rng.integers(300, 6000, (1, 32, 32)).astype(np.uint16)
    for band in ("B02", "B03"):
        write(tmp_path / "scene" / f"{band}.tif", values)
    os.mkfifo(tmp_path / "scene" / "B04.tif")
    (product,) = list_products(card(tmp_path, FOLDER), tmp_path).products
    assert "file of band B04" in refusal(product.open)
    assert "got a pipe or device" in refusal(product.checksum)
    os.mkfifo(tmp_path / "scene" / "B03.tif.msk")
    assert "got a pipe or device" in refusal(lambda: gdal_files.open_raster(tmp_path / "scene" / "B03.tif"))
    os.mkfifo(tmp_path / "scene" / "facts.json")
    stated = card(tmp_path, FOLDER, metadata={"file": "facts.json", "datetime": "when"})
    assert "expected one metadata file facts.json" in refusal(lambda: list_products(stated, tmp_path))
    os.mkfifo(tmp_path / "item.json")
    assert "a folder, pipe or device" in refusal(lambda: list_products(stac_card(), tmp_path))


# --- servers that send a byte now and then


@pytest.mark.parametrize("part", ["headers", "body"])
def test_a_document_that_trickles_ends_at_the_deadline(monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    monkeypatch.setattr(access, "DEADLINE", 1.0)
    server, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def trickle() -> None:
        visitor, _ = server.accept()
        start = b"HTTP/1.1 200 OK\r\n" + (b"" if part == "headers" else b"Content-Length: 100000\r\n\r\n")
        try:
            visitor.sendall(start)
            while not ended.is_set():
                visitor.sendall(b"a")
                time.sleep(0.05)
        except OSError:
            pass
        visitor.close()

    threading.Thread(target=trickle, daemon=True).start()
    url = f"http://127.0.0.1:{server.getsockname()[1]}"
    try:
        for ask in (lambda: access.read_document(f"{url}/item.json"),):
            with pytest.raises(UserError, match="no whole answer within 1 seconds"):
                ask()
    finally:
        ended.set()
        server.close()


def test_what_an_answer_raises_is_raised() -> None:
    def fail() -> None:
        raise UserError("expected this, got that; correct it")

    with pytest.raises(UserError, match="expected this"):
        access.bound_time(fail)
    assert access.bound_time(lambda: 7) == 7
