"""The command `cliptea evaluate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cliptea.errors import ConfigError
from cliptea.log_lines import tell
from cliptea.messages import number_of, plain
from cliptea.storage.local_files import local_path, write_file
from cliptea_pipeline.display import cell
from cliptea_pipeline.opening import exact_address, open_model
from cliptea_pipeline.options import ConfigFile, Debug, Overrides, Preset, choose_preset, one_line_errors
from cliptea_pipeline.own_files import require_own
from cliptea_pipeline.serving_cli import AllowCode, Home, Model, TextWeights

if TYPE_CHECKING:
    from cliptea.serving.score_file import Measurement

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

    The preset and --set name the data set. Evaluation settings are those of the model, except for those in --set and in
    a file of your own.
    """
    with one_line_errors(debug):
        from cliptea import settings
        from cliptea.data.catalogue import known_to, names_of
        from cliptea.data.datasets import open_dataset
        from cliptea.data.left_out import count, left_out_lines
        from cliptea.serving.score_file import Measurement, are_scores

        home, file = local_path("--workdir", workdir), None if output is None else local_path("-o", output)
        if file is not None and (file.suffix != ".json" or file.is_dir()):
            raise ConfigError(f"cannot write scores to {file}", "the name of a .json file")
        if file is not None:
            require_own(file, are_scores, "a file of scores")
        chosen, text = choose_preset(preset, config_file)
        config = settings.load_without_teacher(chosen, overrides or [], text)
        given = settings.given_settings(chosen, overrides or [], text)
        # Unlike a run, this leaves out no image that cannot be read.
        dataset, label = open_dataset(config.data.model_copy(update={"max_bad": 0})), config.data.name
        left_out = count(dataset.left_out(["val"]))
        for warning in [*dataset.check("val"), *left_out_lines(left_out, " of the data")]:
            tell("warning", warning)
        names, unseen = dataset.ids("val"), dataset.catalogue.unseen
        exact = exact_address(model, home)
        segmenter = open_model(exact, home, allow_code)
        from cliptea.sealed import seal
        from cliptea.serving.classes import choose_classes, text_digests
        from cliptea.serving.scores import evaluate as score
        from cliptea.serving.scores import other_settings, settings_of

        used = settings_of(segmenter, given)
        others = other_settings(used, segmenter.description.evaluation)
        masks = known_to(unseen, segmenter.description.had_masks)
        _tell(others, masks)

        synonyms = names_of(dataset.catalogue.classes, config.data.synonyms)
        classes = choose_classes(segmenter, dataset.catalogue.classes, text_weights, synonyms)
        scored = score(segmenter, dataset, names, classes, used, label)
        measured = Measurement(
            model=exact,
            model_sha256=segmenter.sha256,
            dataset=label,
            images=len(names),
            left_out=left_out,
            evaluation=used,
            other_settings=others,
            unseen=unseen,
            unseen_with_masks=masks,
            text_sha256=text_digests(classes),
            **scored.model_dump(),
        )
        _print(measured)
        if file is not None:
            write_file(file, seal(measured) + b"\n")
            print(f"wrote {plain(str(file))}")


def _tell(others: dict[str, dict[str, Any]], masks: list[str]) -> None:
    """Name the settings that are not the model's own, and warn of unseen classes that had masks in training."""
    for name, values in others.items():
        own = "" if values["own"] is None else f"; the model's own is {values['own']}"
        print(plain(f"evaluation.{name} is {values['used']}{own}"))
    if masks:
        tell(
            "warning",
            f"the data set calls {', '.join(masks)} unseen, but the model had masks of "
            f"{'this class' if len(masks) == 1 else 'these classes'} in training: unseen mIoU and hIoU are optimistic",
        )


def _print(measured: Measurement) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("class", "IoU", box=None)
    for name, iou in measured.per_class.items():
        table.add_row(cell(name) + (" (unseen)" if name in measured.unseen else ""), _percent(iou))
    for name, value in measured.scores.model_dump().items():
        table.add_row(f"[bold]{name}[/]", f"[bold]{_percent(value)}[/]")
    console = Console(highlight=False)
    images = number_of(measured.images, "val image")
    console.print(f"{images} of {plain(measured.dataset)}, gamma {measured.evaluation.gamma:g}", markup=False)
    console.print(table)


def _percent(value: float | None) -> str:
    return "no pixels" if value is None else f"{value:.1%}"
