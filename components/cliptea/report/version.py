"""The sentence of the report about the registered version, which only the last step of a run knows."""

from __future__ import annotations

from markupsafe import escape

__all__ = ["PENDING", "with_version"]

PENDING = "The last step of the run registers this model."


def with_version(report: str, sentence: str) -> str:
    """The report with what the last step knows. A report without a model to ship stays as it is."""
    return report.replace(str(escape(PENDING)), str(escape(sentence)), 1)
