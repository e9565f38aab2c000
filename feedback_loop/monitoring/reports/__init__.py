"""Evidently's reports: of surrogates made from profiles, alike for any number of rows, the exact figures on top."""

from feedback_loop.monitoring.reports.files import ReportFile, list_reports, model_folder, pages_holding, snapshot_of
from feedback_loop.monitoring.reports.page import RealRows, write_report
from feedback_loop.monitoring.reports.subject import KINDS, LEAST_REPORT_ROWS, Kind, Subject

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
