"""See-through: what a run did, by source line."""
from fanal.lens.casts import casts
from fanal.lens.report import Line, Report, print_report, report

__all__ = ["Line", "Report", "casts", "print_report", "report"]
