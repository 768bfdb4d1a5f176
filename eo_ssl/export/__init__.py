"""The hand-off: an encoder as a bundle that timm, TorchGeo, onnxruntime and catalogues open, and the proof that they do."""

from __future__ import annotations

from eo_ssl.export.bundle import Bundle, Options, export
from eo_ssl.export.hub import Upload, list_uploads, push
from eo_ssl.export.terms import Terms, collect_terms
from eo_ssl.export.verification import Check, verify

__all__ = ["Bundle", "Check", "Options", "Terms", "export", "Upload", "collect_terms", "list_uploads", "push", "verify"]
