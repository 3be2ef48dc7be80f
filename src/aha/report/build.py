"""Writes the report of a run folder: ``summary.json`` and ``report.html``."""

from __future__ import annotations

from pathlib import Path

from aha.report.page import render_page
from aha.report.reading import load_run
from aha.report.summary import build_summary
from aha.util.files import write_text_atomic


def build_report(run: Path) -> Path:
    """Reads the run's files, finished or not, writes ``summary.json`` and ``report.html`` and returns the latter's
    path."""
    run = Path(run)
    summary = build_summary(run)
    page = run / "report.html"
    write_text_atomic(page, render_page(load_run(run), summary))
    return page
