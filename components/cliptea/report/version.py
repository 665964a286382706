"""The sentence of the report about the registered version, which only the last step of a run knows."""

from __future__ import annotations

from markupsafe import escape

__all__ = ["PENDING", "with_version"]

PENDING = "The last step of the run registers this model."
SHIP, BEST = "<h2>Ship this:", "<h2>Best of this run:"


def with_version(report: str, sentence: str, ship: bool) -> str:
    """The report with what the last step knows. A report without a model to ship stays as it is.

    Args:
        sentence: about the version and the champion.
        ship: whether the version is the champion; if not, the heading does not say so either.
    """
    report = report.replace(str(escape(PENDING)), str(escape(sentence)), 1)
    return report if ship else report.replace(SHIP, BEST, 1)
