"""`cliptea submit --split`: several runs on a cluster that share the students and have one comparison."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from cliptea.exit_codes import ExitCode
from cliptea.log_lines import tell
from cliptea.parts import Part, ranges
from cliptea_pipeline import submit as submitting
from cliptea_pipeline import watch
from cliptea_pipeline.endpoint import Endpoint
from cliptea_pipeline.looks import run_page

__all__ = ["submit_parts"]


def submit_parts(
    endpoint: Endpoint,
    given: dict[str, object],
    parts: Iterable[Part],
    document: dict[str, Any],
    experiment: str = "cliptea",
    file: Path | None = None,
) -> int:
    """Start the parts one after another, each when the one before has ended, and follow them.

    A part that fails does not keep the others from starting, but one that is cancelled does. The last one fails if its
    comparison lacks a part that has succeeded, because something has changed in between.

    Args:
        given, experiment, file: as for `submit`.
        document: its list `runs` gets an entry for each started part.

    Returns:
        Exit code: 0 if all parts succeeded or were skipped, 1 if one failed, 3 if one was cancelled, 130 after Ctrl-C.

    Raises:
        EndpointError: the server cannot be reached, or denies the request.
    """
    store, left = submitting.store(file), list(parts)
    finished: list[int] = []
    unfinished: list[Part] = []
    try:
        while left:
            part = left[0] if len(left) > 1 else left[0]._replace(needs=ranges(finished))
            tell("info", f"part {part.number} of {part.of}")
            run_id = submitting.submit(endpoint, given | {"part": str(part)}, experiment, file)
            left.pop(0)
            entry: dict[str, Any] = {"part": part.number, "run": run_id, "address": run_page(endpoint, run_id) or None}
            entry["state"] = "RUNNING"  # also if watching it fails
            document.setdefault("runs", []).append(entry)
            try:
                code = watch.wait(endpoint, run_id, store)
            except Exception:  # nobody knows how it ends
                unfinished.append(part)
                tell("info", f"part {part.number} may still be running: see run {run_id} before you submit it again")
                raise
            entry["state"] = watch.state_of(code)
            if code == ExitCode.DONE:
                finished.append(part.number)
            elif code in (ExitCode.FAILED, ExitCode.CANCELLED):
                unfinished.append(part)
            if code not in (ExitCode.DONE, ExitCode.FAILED):
                return code
    finally:
        if unfinished or left:
            numbers = ranges([part.number for part in (*unfinished, *left)])
            tell("info", f"parts that have not finished: {numbers}; to submit them, add --parts {numbers}")
    return ExitCode.FAILED if unfinished else ExitCode.DONE
