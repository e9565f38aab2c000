"""Evidently's reports: of surrogates made from profiles, alike for any number of rows, the exact figures on top."""

from feedback_loop.monitoring.reports.about import (
    KINDS,
    LEAST_REPORT_ROWS,
    Kind,
    ReportFile,
    Subject,
    list_reports,
    model_folder,
    pages_holding,
    snapshot_of,
)
from feedback_loop.monitoring.reports.page import RealRows, write_report

__all__ = [
    "KINDS",
    "LEAST_REPORT_ROWS",
    "Kind",
    "RealRows",
    "ReportFile",
    "Subject",
    "list_reports",
    "model_folder",
    "pages_holding",
    "snapshot_of",
    "write_report",
]
