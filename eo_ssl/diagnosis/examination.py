"""The examination of one product, test by test, and of a set, whose products bear witness for one another."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from eo_ssl.corpus import Corpus
from eo_ssl.diagnosis.bands import check_bands, check_nodata
from eo_ssl.diagnosis.findings import CERTAIN, Finding, Outcome
from eo_ssl.diagnosis.offsets import Traces, check_offset, extract_traces
from eo_ssl.diagnosis.order import check_order, reorder
from eo_ssl.diagnosis.polarisation import check_polarisation
from eo_ssl.diagnosis.sampled_windows import Sample, sample_corpus, sample_product
from eo_ssl.diagnosis.units import check_scale, check_unit
from eo_ssl.errors import UserError
from eo_ssl.scene import Product

_WITNESSES = 3  # other products that must show, or lack, a code step before the set counts


@dataclass(frozen=True, slots=True)
class Examination:
    """All findings about one product, and what is kept of it to judge the set."""

    product_id: str
    findings: tuple[Finding, ...]
    traces: Traces | None = None

    @property
    def outcome(self) -> Outcome:
        """The gravest outcome."""
        outcomes = {finding.outcome for finding in self.findings}
        order: tuple[Outcome, ...] = ("wrong", "suspect", "cannot tell")
        return next((outcome for outcome in order if outcome in outcomes), "fine")

    def to_json(self) -> dict[str, Any]:
        """Return the examination as plain values."""
        findings = [finding.to_json() for finding in self.findings]
        return {"product": self.product_id, "outcome": self.outcome, "findings": findings}


def examine(sample: Sample) -> Examination:
    """Return all findings about one sample, on its own.

    What one test calls wrong is put right before the next looks: fill is made invalid, a scale undone, constant and
    copied bands left out, an order corrected. Otherwise one mistake would show as several.
    """
    fill = check_nodata(sample)
    if fill and fill.outcome == "wrong":
        sample = _mask_fill(sample, fill)
    planes = check_bands(sample)
    findings = [*([fill] if fill else []), *planes]
    useless = {name for finding in planes if finding.outcome == "wrong" for name in finding.bands}
    scale = check_scale(sample) or check_unit(sample)
    findings += [scale] if scale else []
    if scale and scale.outcome == "wrong" and "factor" in scale.evidence:
        sample = sample.times(1.0 / float(scale.evidence["factor"]))
    sample = _take_bands(sample, [name for name in sample.bands if name not in useless])
    order = check_order(sample)
    swapped = check_polarisation(sample)
    findings += [finding for finding in (order, swapped) if finding]
    traces = extract_traces(reorder(sample, order)) if sample.bands else None
    findings += [check_offset(traces)] if traces else []
    if not sample.file_bands:  # no card says anything that could be repaired there
        findings = [replace(finding, remedy={}) for finding in findings]
    return Examination(sample.product_id, tuple(findings), traces)


def examine_products(products: Iterable[Product]) -> list[Examination]:
    """Return the examinations of the products of a card; a product that cannot be read has that as its finding."""
    examinations = []
    for product in products:
        if product.kind == "chips":
            finding = Finding(kind="metadata", outcome="cannot tell", llr=0.0, sentence="chips are not examined")
            examinations.append(Examination(product.product_id, (finding,)))
            continue
        try:
            examinations.append(examine(sample_product(product)))
        except UserError as error:
            finding = Finding(kind="metadata", outcome="wrong", llr=CERTAIN, sentence=str(error))
            examinations.append(Examination(product.product_id, (finding,)))
    return _judge_as_set(examinations)


def examine_corpus(corpus: Corpus, *, streams: Sequence[str] = ()) -> list[Examination]:
    """Return the examinations of the products of a corpus, from up to four tiles each.

    Raises:
        UserError: an unknown stream, or the corpus is damaged.
    """
    examinations = []
    for stream in streams or tuple(corpus.streams):
        examinations += _judge_as_set([examine(sample) for sample in sample_corpus(corpus, stream)])
    return examinations


def collect_offsets(examinations: Iterable[Examination]) -> dict[str, float]:
    """Return the offset of each product whose pixels tell it, as ``offset_by_file`` of its card."""
    entries: dict[str, float] = {}
    for examination in examinations:
        for finding in examination.findings:
            entries |= finding.remedy.get("offset_by_file", {})
    return dict(sorted(entries.items()))


def _judge_as_set(examinations: list[Examination]) -> list[Examination]:
    """Judge the offsets again, knowing how many products of the set show the code step of their processor."""
    shown = [
        None if item.traces is None or item.traces.codec is None else item.traces.codec.stepped for item in examinations
    ]
    judged = []
    for place, item in enumerate(examinations):
        others = [value for k, value in enumerate(shown) if value is not None and k != place]
        if item.traces is None or len(others) < _WITNESSES:
            judged.append(item)
            continue
        finding = check_offset(item.traces, set_share=(sum(others) + 0.5) / (len(others) + 1.0))
        kept = tuple(finding if old.kind == "offset" else old for old in item.findings)
        judged.append(replace(item, findings=kept))
    return judged


def _take_bands(sample: Sample, bands: Sequence[str]) -> Sample:
    if len(bands) == len(sample.bands):
        return sample
    kept = [sample.bands.index(name) for name in bands]
    return replace(sample, bands=tuple(bands), windows=tuple(window[kept] for window in sample.windows))


def _mask_fill(sample: Sample, finding: Finding) -> Sample:
    value = np.float32((finding.evidence["value"] + sample.offset) * sample.scale)
    windows = []
    for window in sample.windows:
        filled = np.isclose(window, value, rtol=1e-6, atol=1e-9).all(axis=0)
        windows.append(np.where(filled, np.float32(np.nan), window))
    return replace(sample, windows=tuple(windows))
