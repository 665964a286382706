"""The commands about data sets: `cliptea data check`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from cliptea.errors import ConfigError, DataError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import tell
from cliptea.messages import number_of, plain
from cliptea.storage.local_files import local_path, write_file
from cliptea_pipeline.display import cell
from cliptea_pipeline.options import ConfigFile, Debug, Overrides, Preset, choose_preset, one_line_errors, whole_number
from cliptea_pipeline.own_files import require_own, starts_with

if TYPE_CHECKING:
    from cliptea.data.inspection import Inspection

__all__ = ["app", "inspect"]

app = typer.Typer(help="Look at data sets.", no_args_is_help=True)

SHOWN = 3  # examples of each problem in the terminal


@app.callback()
def _main() -> None:
    """Look at data sets."""


@app.command()
def check(
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    output: Annotated[
        str | None,
        typer.Option(
            "-o", "--output", metavar="FILE", help="HTML page to write, with all problems, classes and sample images."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number("--workers", 1, 1024),
            help="Number of processes. Defaults to the number of processors. Data in S3 are read by 16 threads of one "
            "process instead.",
            show_default=False,
        ),
    ] = None,
    debug: Debug = False,
) -> None:
    """Read a whole data set as a run would, and list everything that is wrong with it.

    No CLIP is needed, and nothing is stored. The exit code is 1 if a run would fail.
    """
    with one_line_errors(debug):
        from cliptea import settings
        from cliptea.cores import cores
        from cliptea.data.catalogue import names_of
        from cliptea.data.datasets import open_dataset

        page = None if output is None else local_path("-o", output)
        if page is not None and (page.suffix != ".html" or page.is_dir()):
            raise ConfigError(f"cannot write a page to {page}", "the name of an .html file")
        if page is not None:
            require_own(page, starts_with(b'<meta name="generator" content="cliptea data check">', 1000), "such a page")
        chosen, text = choose_preset(preset, config_file)
        config = settings.load_without_teacher(chosen, overrides or [], text).data
        dataset = open_dataset(config)
        names_of(dataset.catalogue.classes, config.synonyms)
        names = {part: dataset.ids(part) for part in ("train", "val")}
        found = inspect(config, dataset, names, workers or cores())
        _show(found)
        if page is not None:
            from cliptea.report.contact_sheet import contact_sheet

            title = f"{config.dataset}: {config.root}" if config.root else config.dataset
            write_file(page, contact_sheet(title, found, dataset, names).encode())
            print(f"wrote {plain(str(page))}")
        if found.errors:
            number = sum(map(len, found.errors.values()))
            allowed = f" (data.max_bad={config.max_bad})" if config.max_bad else ""
            tell("error", f"{number_of(number, 'problem')} would end a run{allowed}")
            raise typer.Exit(ExitCode.FAILED)


def inspect(config, dataset, names: dict[str, list[str]], workers: int) -> Inspection:
    """Look at all images with a progress bar."""
    from rich import progress
    from rich.console import Console

    from cliptea.data.inspection import Inspection, examined, finish

    found = Inspection(dataset.catalogue, names)
    doubts = []
    for part in names:
        try:
            found.warnings["doubts about the data set"] += dataset.check(part)
        except DataError as error:
            doubts.append(error)
    if not found.warnings["doubts about the data set"]:
        del found.warnings["doubts about the data set"]
    columns = (
        progress.TextColumn("reading"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    images = examined(config, dataset, names, workers)
    with progress.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task("", total=sum(map(len, names.values())), rate="")
        for part, few in images:
            found.parts[part].add(few)
            speed = bar.tasks[0].speed
            bar.update(task, advance=few.counts.images + len(few.wrong), rate=f"{speed:.0f} image/s" if speed else "")
    finish(found, dataset, config.max_bad)
    if not found.errors or config.max_bad:  # otherwise they are about files that are listed one by one
        for error in doubts:
            found.errors[error.advice].append(error.what)
    return found


def _show(found: Inspection) -> None:
    from rich.console import Console
    from rich.table import Table

    from cliptea.report.contact_sheet import class_rows

    console = Console(highlight=False)
    table = Table("id", "class", "", box=None)
    for part in found.parts:
        table.add_column(f"{part} pixels", justify="right")
        table.add_column(f"{part} images", justify="right")
    for row in class_rows(found):
        counted = [text for one in row["parts"].values() for text in (f"{one['share']:.2%}", str(one["images"]))]
        table.add_row(str(row["id"]), cell(row["name"]), "unseen" if row["unseen"] else "seen", *counted)
    console.print(table)
    counts = ", ".join(number_of(one.counts.images, f"{part} image") for part, one in found.parts.items())
    console.print(f"{counts} can be used")
    for kind, groups in (("error", found.errors), ("warning", found.warnings)):
        for what, examples in groups.items():
            expected = "expected " if kind == "error" else ""
            console.print(f"{kind}: {expected}{plain(what)} ({len(examples)})", markup=False, soft_wrap=True)
            for example in examples[:SHOWN]:
                console.print(f"  {plain(example)}", markup=False, soft_wrap=True)
            if len(examples) > SHOWN:
                console.print(f"  and {len(examples) - SHOWN} more", markup=False)
