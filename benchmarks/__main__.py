"""`python -m benchmarks`: measure the rows, print one table, and write everything as JSON and as a page."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import sys
import tempfile
import time
import traceback
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.measure import Bench, Row, machine
from benchmarks.page import render
from cliptea.messages import three_digits

RESULTS = Path(__file__).parent / "results.json"
PAGE = "README.md"  # beside the results
LONG = {"online_teacher"}  # tens of minutes
NAMES = sorted(module.name for module in pkgutil.iter_modules(rows.__path__))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 whether goals are met or not, a shared machine's figures being read by people; 1 if a row fails."""
    parser = _parser()
    asked = parser.parse_args(arguments)
    if not asked.output.absolute().parent.is_dir():
        parser.error(f"--output {asked.output}: there is no such folder")
    names = asked.only or [name for name in NAMES if asked.long or name not in LONG]
    found: list[Row] = []
    written: list[dict[str, Any]] = []
    failed = []
    with tempfile.TemporaryDirectory(prefix="cliptea-bench-") as folder:
        bench = Bench(Path(folder), asked.quick, asked.long)
        for name in names:
            start, load = time.monotonic(), os.getloadavg()[0]
            try:
                measured = list(importlib.import_module(f"benchmarks.rows.{name}").measure(bench))
            except Exception:  # the other rows are still worth their time
                traceback.print_exc()
                failed.append(name)
                continue
            found += measured
            written += [_written(row, name, load) for row in measured]
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    _print(found, asked.quick)
    kept = [row for row in _earlier(asked.output, asked.quick) if row["module"] not in {*names} - {*failed}]
    ordered = sorted(kept + written, key=lambda row: row["module"])
    rates = {name: rate for row in ordered for name, rate in row["rates"].items()}
    results = {"machine": machine(), "quick": asked.quick, "rows": ordered, "images_per_second": rates}
    asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    if not asked.quick:
        asked.output.with_name(PAGE).write_text(render(results), encoding="utf-8")
    return int(bool(failed))


def _written(row: Row, module: str, load: float) -> dict[str, Any]:
    return {**asdict(row), "goal_text": row.goal_text, "met": row.met, "module": module, "load": round(load, 1)}


def _earlier(file: Path, quick: bool) -> list[dict[str, Any]]:
    """The rows of an earlier file from the same machine."""
    if not file.is_file():
        return []
    earlier = json.loads(file.read_text(encoding="utf-8"))
    return earlier["rows"] if (earlier["machine"], earlier["quick"]) == (machine(), quick) else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        choices=NAMES,
        metavar="NAME",
        help=f"run only this row; can be repeated; one of {', '.join(NAMES)}",
    )
    parser.add_argument(
        "--quick", action="store_true", help="only check that every row runs; the figures are meaningless"
    )
    parser.add_argument(
        "--long", action="store_true", help="also run rows that take tens of minutes, and every backbone"
    )
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file to write; the page goes beside it")
    return parser


def _print(found: list[Row], quick: bool) -> None:
    table = Table("what", "first", "second", "ratio", "goal", "")
    for row in found:
        verdict = {None: "", True: "met", False: "[red]missed[/]"}[row.met]
        table.add_row(row.name, row.first, row.second, three_digits(row.ratio), row.goal_text, "" if quick else verdict)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
