"""Writes the golden files anew from ``session.ndjson``: ``python -m tests.golden.exports``."""

from streaming.exports import FORMATS
from tests.transcripts import GOLDEN, SESSION_ID, golden_session

for name, exporter in FORMATS.items():
    text = exporter.export(golden_session(), SESSION_ID)
    (GOLDEN / f"session.{name}").write_text(text, encoding="utf-8")
