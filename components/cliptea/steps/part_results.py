"""The results of the parts of a run. Each part stores its own and compares all that are there.

So the part that ends last has the complete comparison, in whatever order the parts run.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ValidationError

from cliptea.manifest import Contents, Output, find_whole, publish, put_immutable, read_object
from cliptea.parts import Part, ranges
from cliptea.run import Run
from cliptea.steps.evaluate import Evaluated
from cliptea.storage import Store
from cliptea.tracking.deferred import receipt

__all__ = ["PartResults", "lacking", "missing_text", "placed", "with_other_parts"]

RESULTS = "results"


class PartResults(BaseModel):
    """What a part stores. A later run of the same part replaces it."""

    tracking_run: str  # of the part, which the receipts of its models belong to
    evaluations: list[Evaluated]


def with_other_parts(store: Store, run: Run, evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """Store the results of this part, and return them together with those that other parts have stored."""
    if run.part.of == 1:
        return list(evaluations)
    own = [placed(store, run, item) for item in evaluations]
    output = run.parts[run.part.number - 1]
    data = PartResults(tracking_run=run.tracking_run, evaluations=own).model_dump_json().encode()
    stored = put_immutable(store, f"{output.prefix}/{RESULTS}", ".json", data)
    publish(store, output, Contents({RESULTS: stored}, {}))
    others = [item for other in run.parts if other != output for item in _read(store, run, other)]
    return [*own, *others]


def _read(store: Store, run: Run, output: Output) -> list[Evaluated]:
    """The results of another part; none if it has not stored any, or another version of cliptea has."""
    done = find_whole(store, output)
    if done is None:
        return []
    try:
        results = PartResults.model_validate_json(read_object(store, done.objects[RESULTS]))
    except ValidationError:
        return []
    other = run.model_copy(update={"tracking_run": results.tracking_run})
    return [placed(store, other, item) for item in results.evaluations]


def placed(store: Store, run: Run, item: Evaluated) -> Evaluated:
    """A variant with the location of its model, which is not known before it is logged to MLflow."""
    logged = None if item.rows[0].mlflow_run_id else receipt(store, run, item.telling)
    place = logged.place()._asdict() if logged else {}
    return item.model_copy(update={"rows": [row.model_copy(update=place) for row in item.rows]})


def lacking(run: Run, evaluations: Sequence[Evaluated]) -> list[int]:
    """The numbers of the parts that have no results among `evaluations`.

    Args:
        run: with the students of all parts (`Run.whole`).
    """
    of = run.part.of
    present = {(item.rows[0].group, item.rows[0].variant, item.rows[0].seed) for item in evaluations}
    if of == 1:
        return []
    numbers = []
    for number in range(1, of + 1):
        first = Part(number, of).share(run.variants)[0]
        if (first.members[0].group, first.members[0].variant, first.seed) not in present:
            numbers.append(number)
    return numbers


def missing_text(numbers: Sequence[int], of: int) -> str:
    """Says which parts a comparison lacks."""
    return f"the results of part{'s' * (len(numbers) > 1)} {ranges(numbers)} of {of} are missing"
