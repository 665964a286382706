"""The sentence of the report about the registered version, which only the last step of a run knows."""

from __future__ import annotations

from markupsafe import escape

__all__ = ["PENDING", "address", "with_version"]

PENDING = "The last step of the run registers this model."
SHIP, BEST = "<h2>Ship this:", "<h2>Best of this run:"


def with_version(report: str, sentence: str, model: str, version: str, ship: bool) -> str:
    """The report with what the last step knows. A report without a model to ship stays as it is.

    Args:
        sentence: about the version and the champion.
        model, version: its name in the registry, and its number.
        ship: whether the version is the champion; if not, heading and command do not say so either.
    """
    report = report.replace(str(escape(PENDING)), str(escape(sentence)), 1)
    if ship:
        return report
    used, exact = (str(escape(address(model, version, champion))) for champion in (True, False))
    return report.replace(SHIP, BEST, 1).replace(used, exact, 1)


def address(model: str, version: str, champion: bool) -> str:
    """What commands take for a version: its alias if it is the champion, or else its number."""
    return f"models:/{model}{'@champion' if champion else f'/{version}'}"
