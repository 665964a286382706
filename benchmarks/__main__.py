"""`python -m benchmarks`: measure the rows, print one table, and write everything as JSON."""

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

from rich.console import Console
from rich.table import Table

from benchmarks import rows
from benchmarks.measure import Bench, Row, machine

RESULTS = Path(__file__).parent / "results.json"
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
    failed = False
    load, began = os.getloadavg()[0], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="cliptea-bench-") as folder:
        bench = Bench(Path(folder), asked.quick, asked.long)
        for name in names:
            start = time.monotonic()
            try:
                found += importlib.import_module(f"benchmarks.rows.{name}").measure(bench)
            except Exception:  # the other rows are still worth their time
                traceback.print_exc()
                failed = True
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    _print(found, asked.quick)
    results = {
        "machine": {**machine(), "load_before": load, "seconds": round(time.monotonic() - began)},
        "quick": asked.quick,
        "rows": [{**asdict(row), "goal_text": row.goal_text, "met": row.met} for row in found],
        "images_per_second": {name: rate for row in found for name, rate in row.rates.items()},
    }
    asked.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return int(failed)


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
    parser.add_argument("--output", type=Path, default=RESULTS, help="the JSON file to write")
    return parser


def _print(found: list[Row], quick: bool) -> None:
    table = Table("what", "first", "second", "ratio", "goal", "")
    for row in found:
        verdict = {None: "", True: "met", False: "[red]missed[/]"}[row.met]
        table.add_row(row.name, row.first, row.second, f"{row.ratio:.3g}", row.goal_text, "" if quick else verdict)
    Console(width=None if sys.stdout.isatty() else 160).print(table)


if __name__ == "__main__":
    sys.exit(main())
