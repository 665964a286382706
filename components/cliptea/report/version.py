"""The sentence of the report about the registered version, which only the last step of a run knows."""

from __future__ import annotations

from markupsafe import escape

from cliptea.model_address import CHAMPION, predict_command

__all__ = ["BEST", "PENDING", "SHIP", "with_version"]

PENDING = "The last step of the run registers this model."
SHIP, BEST = "Ship this:", "Best of this run, but not the champion:"


def with_version(report: str, sentence: str, model: str, version: str, champion: str) -> str:
    """The report with what the last step knows. A report without a model to ship stays as it is.

    Args:
        sentence: about the version and the champion.
        model, version: its name in the registry, and its number.
        champion: number of the present champion, or "". If it is another version, the heading says so, and the
            version has a command of its own, below that of the champion.
    """
    report = report.replace(str(escape(PENDING)), str(escape(sentence)), 1)
    if champion == version:
        return report
    report = report.replace(f"<h2>{SHIP}", f"<h2>{BEST}", 1)
    first, own = (f"<code>{escape(predict_command(model, named))}</code></p>" for named in (CHAMPION, version))
    both = f'{first}\n<p>This run\'s best, to compare:</p>\n<p class="command">{own}'
    return report.replace(first, both if champion else own, 1)
