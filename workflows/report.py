"""``eo-ssl report``: products in, one HTML page out."""

from __future__ import annotations

import hashlib
from pathlib import Path

from eo_ssl.commits import commit
from eo_ssl.errors import UserError
from eo_ssl.manifest import open_product
from eo_ssl.printable import make_console
from eo_ssl.reporting import DEFAULT_TITLE, collect_report, find_products, render_report


def main(inputs: list[Path], out: Path, title: str = DEFAULT_TITLE, note: str = "", overwrite: bool = False) -> None:
    """Write one self-contained HTML page about the given products.

    What was ingested, curated, trained, measured, handed off and embedded, and how.

    Args:
        inputs: folders that ingest, pair, curate, pretrain, evaluate, export or embed made, or folders that hold such
            folders; any part of the flow will do.
        out: folder that receives index.html and its manifest.
        title: heading of the page.
        note: a caveat printed first and beside the results, for example that the run proves the pipeline and not the
            encoder.
        overwrite: replace a report made from other inputs.

    Raises:
        UserError: an input holds no finished product, or is not what its manifest says.
    """
    console = make_console()
    products = find_products(inputs)
    if any(product.path == out.resolve() for product in products):
        raise UserError(
            f"expected a folder of its own for the report, got the product {out}; give another output folder"
        )
    made_from = {f"{product.stage} {product.name}": product.manifest.fingerprint for product in products}
    config = {"title": title, "note": note}
    page = out / "index.html"
    with open_product(out, stage="report", config=config, inputs=made_from, overwrite=overwrite) as report:
        if report.done:
            console.print(f"nothing to do: {page} is made from these inputs already", soft_wrap=True)
            return
        with console.status(f"drawing {len(products)} products"):
            html = render_report(collect_report(inputs, title=title, note=note)).encode()
        page.unlink(missing_ok=True)  # of a run that was killed before its manifest: the page is made anew
        commit(page, html)
        summary = {"bytes": len(html), "products": len(products)}
        report.sign(hashlib.sha256(html).hexdigest(), summary=summary, files=[page.name])
    console.print(f"report: {page.resolve()}", soft_wrap=True)
