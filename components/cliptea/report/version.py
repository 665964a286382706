"""What the report says about the registered version and how to use it, which only the last step of a run knows."""

from __future__ import annotations

from markupsafe import Markup, escape

__all__ = ["BEST", "COMMANDS", "LOSER", "PENDING", "SHIP", "with_place", "with_version"]

PENDING = "The last step of the run registers this model."
COMMANDS = Markup("<!-- commands -->")  # the place of the commands in the page
# Headings: of a run whose model is the champion, of one whose model is not, and of one while there is no champion.
SHIP, LOSER, BEST = "Ship this:", "Best of this run, but not the champion:", "Best of this run:"
COMMAND = Markup('<p class="command"><code>{}</code></p>')
OWN = Markup("<p>This run's best, to compare:</p>")
OTHERS = Markup(
    "<p><code>cliptea bundle</code> and <code>cliptea export</code> take <code>--model</code> and "
    "<code>--workdir</code>, too. If the work directory was moved, give its new place.</p>"
)


def with_version(report: str, heading: str, sentence: str, command: str, own: str) -> str:
    """The report with what the last step knows. A report without a model to ship stays as it is.

    Args:
        heading: `SHIP`, `LOSER` or `BEST`.
        sentence: about the version and the champion.
        command: to use the model to ship.
        own: to use this run's model, if that is another one; or "".
    """
    parts = [COMMAND.format(command), *([OWN, COMMAND.format(own)] if own else []), OTHERS]
    report = report.replace(f"<h2>{SHIP}", f"<h2>{heading}", 1)
    report = report.replace(str(escape(PENDING)), str(escape(sentence)), 1)
    return report.replace(COMMANDS, Markup("\n").join(parts), 1)


def with_place(report: str, placeless: str, command: str) -> str:
    """The report with the command that opens MLflow on this machine, for the copy in a work directory.

    Args:
        placeless: the command in the report, which names no place, because the report may be moved or copied.
    """
    return report.replace(str(escape(placeless)), str(escape(command)), 1)
