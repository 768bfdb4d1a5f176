"""``eo-ssl export``: an encoder as a bundle for timm, TorchGeo and onnxruntime, its check, and its push to the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from eo_ssl.corpus import Corpus
from eo_ssl.encoder import FITTED, WEIGHT_FREE
from eo_ssl.errors import UserError
from eo_ssl.export import Bundle, Check, Options, check_repo, collect_terms, export, list_uploads, load_exportable
from eo_ssl.export import push as upload
from eo_ssl.export import verify as checks_of
from eo_ssl.manifest import require
from eo_ssl.printable import check_name, make_console


def main(
    encoder: Path | None = None,
    out: Path | None = None,
    verify: Path | None = None,
    name: str | None = None,
    corpus: list[Path] | Path | None = None,
    results: Path | None = None,
    onnx: bool = True,
    onnx_preprocessing: bool = False,
    licence: str = "other",
    publication: str = "not stated",
    repo: str = "not stated",
    push: str | None = None,
    private: bool = True,
    dry_run: bool = False,
    overwrite: bool = False,
) -> int:
    """Write an encoder as a bundle for timm, TorchGeo, onnxruntime and catalogues, or check file.

    Args:
        encoder: folder of a finished pretraining, of one sensor or of two, or an encoder.safetensors.
        out: folder that receives the bundle; a bundle that is there already is only pushed.
        verify: a bundle to check instead: each route is loaded as its users do and its features compared.
        name: of the encoder in the bundle; default: that of its folder.
        corpus: corpus, or list of corpora, the encoder was trained on, for their licences and attributions in the
            model card.
        results: folder of an evaluation of this encoder, for its numbers in the model card.
        onnx: write an ONNX graph that takes the normalised input.
        onnx_preprocessing: write a second graph that takes physical values.
        licence: of the weights, as the Hugging Face hub spells it.
        publication: address of a publication.
        repo: address of the code.
        push: owner/name of a repository of the Hugging Face hub to upload the bundle to.
        private: whether a new repository is private.
        dry_run: with push: list what would be sent, and send nothing.
        overwrite: replace a bundle made with other options.

    Returns:
        0, or 1 when verify found a route that does not give the encoder's features.
    """
    console = make_console()
    if verify is not None:
        if encoder is not None or out is not None or push is not None:
            raise UserError("expected verify alone, got it with encoder, out or push; export first, then verify")
        return _show(console, checks_of(verify))
    if encoder is None or out is None:
        raise UserError(
            "expected an encoder and out, or verify, got neither pair; give `eo-ssl export ENCODER --out FOLDER`"
        )
    if dry_run and push is None:
        raise UserError("expected dry_run with push, got it alone; an export itself sends nothing")
    if push is not None:
        check_repo(push)
    if str(encoder) in (*WEIGHT_FREE, *FITTED):
        raise UserError(
            f"expected a trained encoder, got {encoder}, which has no weights to hand over; export what `eo-ssl"
            " pretrain` made"
        )
    for what, text in (("name", name), ("licence", licence), ("publication", publication), ("repo", repo)):
        if text is not None:
            check_name(text, what=f"a {what}")
    loaded = load_exportable(encoder, name=name)
    corpora = corpus if isinstance(corpus, list) else [corpus] if corpus else []
    given = {opened.manifest().fingerprint: opened.licences() for opened in map(Corpus.open, corpora)}
    options = Options(
        onnx=onnx,
        onnx_preprocessing=onnx_preprocessing,
        terms=collect_terms(loaded.provenance, given),
        results=_rows(results, loaded.fingerprint),
        results_fingerprint=require(results, "evaluate").fingerprint if results else "",
        licence=licence,
        publication=publication,
        repo=repo,
        overwrite=overwrite,
    )
    bundle = export(loaded, out, options=options)
    _tell(console, bundle)
    if push is not None:
        _push(console, out, push, private=private, dry_run=dry_run)
    return 0


def _rows(results: Path | None, encoder: str) -> tuple[dict[str, Any], ...]:
    """Rows of the evaluation that are of this encoder under its own contract."""
    if results is None:
        return ()
    require(results, "evaluate")
    rows = [json.loads(path.read_text()) for path in sorted((results / "rows").glob("*.json"))]
    chosen = [row for row in rows if row["encoder_fingerprint"] == encoder and not row.get("reference")]
    if not chosen:
        raise UserError(
            f"expected results of this encoder in {results}, got those of others; evaluate it, or leave results out"
        )
    return tuple(chosen)


def _tell(console: Console, bundle: Bundle) -> None:
    summary = bundle.manifest.summary
    if not bundle.made:
        console.print(f"nothing to do: {bundle.folder} holds this bundle already", soft_wrap=True)
    if summary["torchgeo"] is None:
        console.print(f"{bundle.opened_by} route only: {summary['torchgeo_left_out']}", soft_wrap=True)
    elif summary["cosine_native_to_torchgeo"] is None:
        console.print(f"TorchGeo routes as {summary['torchgeo']}, as it was trained", soft_wrap=True)
    else:
        console.print(
            f"TorchGeo routes as {summary['torchgeo']}: mean cosine of features, native against 224 px,"
            f" {summary['cosine_native_to_torchgeo']:.4f}"
            f" (between different images {summary['cosine_between_images']:.4f})",
            soft_wrap=True,
        )
    restricted = {None: "not known (give the corpora)", True: "forbidden", False: "allowed"}[summary["non_commercial"]]
    restricted = restricted.replace("allowed", "not forbidden by the data")
    console.print(f"commercial use: {restricted}", soft_wrap=True)
    console.print(
        f"{len(bundle.files)} files: {bundle.folder.resolve()}; check them with `eo-ssl export --verify`",
        soft_wrap=True,
    )


def _push(console: Console, folder: Path, repo: str, *, private: bool, dry_run: bool) -> None:
    sent = list_uploads(folder) if dry_run else upload(folder, repo, private=private)
    for file in sent:
        console.print(f"{file.nbytes:>12,} {repo}/{file.target}", soft_wrap=True, highlight=False)
    console.print(
        f"{len(sent)} files, {sum(file.nbytes for file in sent) / 1e6:.1f} MB {'would be' if dry_run else ''} sent to"
        f" {repo}",
        soft_wrap=True,
    )


def _show(console: Console, checks: list[Check]) -> int:
    for check in checks:
        difference = "" if check.difference is None else f"{check.difference:.1e} of {check.tolerance}"
        verdict = "passed" if check.passed else f"FAILED {check.reason}"
        console.print(f"{check.route:<72} {difference:<28} {verdict}", soft_wrap=True, highlight=False)
    failed = sum(not check.passed for check in checks)
    console.print(f"{len(checks) - failed} of {len(checks)} passed")
    return int(failed > 0)
