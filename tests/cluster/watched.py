"""A run that `cliptea submit --wait` follows at a quick pace, and what its steps write to the store meanwhile."""

from typer.testing import CliRunner

from cliptea.board import StepStatus, status_key
from cliptea.storage import open_store
from cliptea_pipeline import watch
from cliptea_pipeline.cli import app

QUICK = watch.Pace(poll=0.01, refresh=0.01, outage=2.0)
RUN = "runs-0"


def followed(*arguments):
    return CliRunner().invoke(app, ["submit", "--preset", "smoke", "--wait", *arguments])


def write(step, label="", beat=1, writer="step", **facts):
    """A step's status in the store of the environment, as the step itself would write it."""
    status = StepStatus(step=step, label=label, beat=beat, started=100.0, updated=100.0 + 20 * beat, **facts)
    open_store().put(status_key(RUN, step, label, writer), status.model_dump_json().encode())


def later(acts):
    """An act at each look."""
    return [lambda act=act: [one() for one in act] for act in acts]
