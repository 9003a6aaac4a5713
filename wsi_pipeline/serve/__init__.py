"""A local page that answers for one patient: loopback only, no cookies, nothing stored, nothing asked elsewhere."""

from wsi_pipeline.serve.server import serve_page
from wsi_pipeline.serve.texts import LANGUAGES

__all__ = ["LANGUAGES", "serve_page"]
