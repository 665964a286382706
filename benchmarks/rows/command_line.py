"""How long the command line takes to say something."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks.measure import Bench, Row, interleaved

GOALS = {"--help": 0.5, "compile": 3.0}  # seconds

NOTE = "`cliptea compile`: most of this time is the import of kfp's compiler."


def measure(bench: Bench) -> Iterator[Row]:
    """Beside each command, an interpreter that does nothing."""
    command = Path(sys.executable).with_name("cliptea")
    target = bench.folder / "compiled.yaml"
    calls = {"--help": [command, "--help"], "compile": [command, "compile", "-o", target]}
    nothing = [sys.executable, "-c", "pass"]
    for name in ["--help"] if bench.quick else list(calls):
        ours, bare = interleaved(bench.repeats, partial(_call, calls[name]), partial(_call, nothing))
        yield Row(
            f"cliptea {name}",
            f"{median(ours):.2f} s",
            f"the goal, {GOALS[name]:g} s (python alone: {median(bare):.2f} s)",
            median(ours) / GOALS[name],
            1,
            at_most=True,
            note="" if name == "--help" else NOTE,
        )


def _call(command: Sequence[str | Path]) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
