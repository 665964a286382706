"""The command `cliptea evaluate`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cliptea.errors import ConfigError
from cliptea.messages import plain
from cliptea.storage.local_files import local_path, write_file
from cliptea_pipeline.display import cell
from cliptea_pipeline.opening import exact_address, open_model
from cliptea_pipeline.options import ConfigFile, Debug, Overrides, Preset, choose_preset, one_line_errors
from cliptea_pipeline.serving_cli import AllowCode, Home, Model, TextWeights

if TYPE_CHECKING:
    from cliptea.evaluation.results import Scored

__all__ = ["app"]

app = typer.Typer()


@app.command(rich_help_panel="Use models")
def evaluate(
    model: Model,
    preset: Preset = None,
    config_file: ConfigFile = None,
    overrides: Overrides = None,
    text_weights: TextWeights = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="JSON file to write the scores to.")
    ] = None,
    workdir: Home = ".cliptea",
    debug: Debug = False,
    allow_code: AllowCode = False,
) -> None:
    """Score a trained model on the val images of any data set, without a run.

    The preset and --set name the data set. Evaluation settings that they do not give are those of the model.
    """
    with one_line_errors(debug):
        from cliptea import settings
        from cliptea.data.catalogue import names_of
        from cliptea.data.datasets import open_dataset

        home, file = local_path("--workdir", workdir), None if output is None else local_path("-o", output)
        if file is not None and (file.suffix != ".json" or file.is_dir()):
            raise ConfigError(f"cannot write scores to {file}", "the name of a .json file")
        chosen, text = choose_preset(preset, config_file)
        config = settings.load_without_teacher(chosen, overrides or [], text)
        dataset, label = open_dataset(config.data), config.data.name
        for warning in dataset.check("val"):
            print(f"warning: {plain(warning)}")
        names = dataset.ids("val")
        exact = exact_address(model, home)
        segmenter = open_model(exact, home, allow_code)
        from cliptea.serving.classes import choose_classes
        from cliptea.serving.scores import evaluate as score
        from cliptea.serving.scores import settings_of

        synonyms = names_of(dataset.catalogue.classes, config.data.synonyms)
        classes = choose_classes(segmenter, dataset.catalogue.classes, text_weights, synonyms)
        chosen = settings_of(segmenter, config.evaluation)
        scored = score(segmenter, dataset, names, classes, chosen, label)
        facts: dict[str, Any] = {
            "model": exact,
            "model_sha256": segmenter.sha256,
            "dataset": label,
            "images": len(names),
            "gamma": chosen.gamma,
            "unseen": dataset.catalogue.unseen,
        }
        _print(facts, scored)
        if file is not None:
            write_file(file, json.dumps(facts | scored.model_dump(), indent=1, ensure_ascii=False).encode() + b"\n")
            print(f"wrote {plain(str(file))}")


def _print(facts: dict[str, Any], scored: Scored) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "IoU", box=None)
    for name, iou in scored.per_class.items():
        table.add_row(cell(name) + (" (unseen)" if name in facts["unseen"] else ""), _percent(iou))
    for name, value in scored.scores.model_dump().items():
        table.add_row(f"[bold]{name}[/]", f"[bold]{_percent(value)}[/]")
    console = Console(highlight=False)
    console.print(f"{facts['images']} val images of {plain(facts['dataset'])}, gamma {facts['gamma']:g}", markup=False)
    console.print(table)


def _percent(value: float | None) -> str:
    return "no pixels" if value is None else f"{value:.1%}"
