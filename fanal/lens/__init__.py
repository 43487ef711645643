"""See-through: what a run did, by source line."""
from fanal.lens.report import Line, Report, print_report, report

__all__ = ["Line", "Report", "print_report", "report"]
