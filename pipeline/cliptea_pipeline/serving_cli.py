"""The commands that use a model: they find it, show progress, and report the result."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cliptea.errors import ConfigError
from cliptea.exit_codes import ExitCode
from cliptea.log_lines import tell
from cliptea.messages import number_of, plain
from cliptea.storage import is_remote
from cliptea.storage.local_files import local_path
from cliptea_pipeline.opening import exact_address, open_model
from cliptea_pipeline.options import AsJson, Debug, json_document, one_line_errors, whole_number
from cliptea_pipeline.prediction_folder import claim_folder, free_folder, require_same_classes

if TYPE_CHECKING:
    from cliptea.segment.segmenter import ClassSet, Segmenter
    from cliptea.serving.predict import Predicted, Put

__all__ = ["AllowCode", "Home", "Model", "TextWeights", "app", "predict", "split_names", "tell_classes"]

app = typer.Typer()

Model = Annotated[
    str,
    typer.Option(
        "--model", help="Model to use: models:/NAME@champion, models:/NAME/VERSION, runs:/ID/model, or a local folder."
    ),
]
Home = Annotated[
    str,
    typer.Option(
        "--workdir",
        metavar="FOLDER",
        help="Work directory of the run that trained the model. If MLFLOW_TRACKING_URI is set, models come from that "
        "server instead.",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Import and call the function that the model names as its network (package.module:function). Only use it "
        "for models and code that you trust.",
    ),
]

TextWeights = Annotated[
    str | None,
    typer.Option(
        "--text-weights",
        help="CLIP weights that encode class names new to the model. Defaults to the weights of its teacher.",
    ),
]

NAMED = 3  # images in a line
PRECISIONS = "float32", "bfloat16", "float16"
LONGEST_NAME = 100  # characters; CLIP reads 77 tokens


@app.command(rich_help_panel="Use models")
def predict(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE|FOLDER...",
            help="Images, or folders of images, to segment. s3:// works too.",
            show_default=False,
        ),
    ],
    model: Model,
    classes: Annotated[
        str | None,
        typer.Option(
            help="Class names, for example 'cat, dog, my sofa', or a list as in YAML if a name has a comma: "
            "'\\[cat, \"red, white\"]'. Defaults to the model's own classes."
        ),
    ] = None,
    text_weights: TextWeights = None,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder for the results, here or in S3: new, empty, or written by an earlier call.",
        ),
    ] = "predictions",
    workdir: Home = ".cliptea",
    debug: Debug = False,
    allow_code: AllowCode = False,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, or cuda:1 for the second GPU. Defaults to all GPUs, or to the CPU.")
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(PRECISIONS),
            help="Precision of the network. Half precision is faster on a GPU, and changes masks a little. Defaults to "
            "the precision in which the model was evaluated.",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number("--batch-size", 1, 1 << 20),
            help="Images of one size that the network gets together. Defaults to 8 on a GPU, and to 1 on a CPU.",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            parser=whole_number("--workers", 1, 1024),
            help="Threads that work on images. Defaults to one per processor core, and to at most 4 for each GPU.",
            show_default=False,
        ),
    ] = None,
    confidence: Annotated[
        bool,
        typer.Option(
            "--confidence",
            help="Also write confidence/NAME.png: the probability of each pixel's class, 0-255. It is not calibrated.",
        ),
    ] = False,
    unknown: Annotated[
        str | None,
        typer.Option(
            metavar="THRESHOLD",
            help="Give pixels with less confidence than this, between 0 and 1, the id 255 and the name unknown.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Segment images with a trained model, using its own classes or any other class names."""
    with one_line_errors(debug), json_document(as_json) as document:
        if precision not in (None, *PRECISIONS):
            raise ConfigError(f"cannot use --precision {precision}", f"one of {', '.join(PRECISIONS)}")
        from cliptea.serving.photos import find_images

        threshold = None if unknown is None else _threshold(unknown)
        wanted = None if classes is None else split_names(classes, "--classes")
        home = local_path("--workdir", workdir)
        folder = free_folder(output)
        sources, left_out = find_images(images, leave_out=output if is_remote(output) else str(folder))
        exact = exact_address(model, home)
        segmenter = open_model(exact, home, allow_code, device)
        from cliptea.serving.classes import choose_classes
        from cliptea.serving.predict import UNKNOWN, areas_facts, predict

        chosen = choose_classes(segmenter, wanted, text_weights)
        if threshold is not None and UNKNOWN in chosen.names:
            raise ConfigError("--unknown cannot be used with a class named unknown", "another class name")
        require_same_classes(output, folder, chosen.names)
        tell_classes(segmenter, chosen)
        put = claim_folder(folder, chosen.names)
        given = {"precision": precision, "batch_size": batch_size, "workers": workers}
        settings = segmenter.description.evaluation.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        document.update(output=output, far=None)
        found = predict(segmenter, chosen, sources, put, settings, confidence, threshold)
        facts = partial(areas_facts, exact, chosen, left_out=left_out, unknown=threshold)
        _predict_all(found, len(sources), put, facts, document)
        if segmenter.training_features is not None:
            _tell_far(document)
        bad = len(document["errors"])
        if done := len(sources) - bad:
            written = f"masks/, overlays/{', confidence/' * confidence} and areas.json"
            print(f"wrote {written} for {number_of(done, 'image')} to {plain(output)}")
        else:
            print("no image could be segmented")
        if bad:
            tell("error", f"{bad} of {number_of(len(sources), 'image')} could not be read")
            raise typer.Exit(ExitCode.FAILED)


def _threshold(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 < value < 1:
        raise ConfigError(f"cannot use --unknown {text[:20]}", "a number between 0 and 1, such as 0.5")
    return value


def split_names(text: str, option: str) -> list[str]:
    """The names in "cat, dog,my sofa" or in a list such as [cat, "red, white"], where a name may hold a comma.

    Args:
        option: that the text was given with, such as --classes.

    Raises:
        ConfigError: the list cannot be read, or there are no names, too many or repeated ones, or one is too long or
            has control characters.
    """
    names = _listed(text, option) if text.lstrip().startswith("[") else text.split(",")
    names = [name.strip() for name in names if name.strip()]
    if longest := max((name for name in names if len(name) > LONGEST_NAME), key=len, default=""):
        raise ConfigError(
            f"a class name has {len(longest)} characters: {longest[:20]}...",
            f"at most {LONGEST_NAME}",
            "separate names with commas",
        )
    from cliptea.data.catalogue import MOST_NAMES, require_distinct

    require_distinct(names)
    if not 0 < len(names) <= MOST_NAMES:
        raise ConfigError(
            f"{len(names)} class names are given", f"1 to {MOST_NAMES}, for example {option} 'cat, dog, my sofa'"
        )
    return names


def _listed(text: str, option: str) -> list[str]:
    from cliptea.parse import parse_yaml

    expected = 'a list such as [cat, "red, white"]'
    found = parse_yaml(text, option, expected, typed=False, comments=False)
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise ConfigError(f"cannot read {option}: it is not a list of names", expected)
    return found


def tell_classes(model: Segmenter, classes: ClassSet) -> None:
    """Print how many classes are segmented, and the gamma for those that had no masks in training."""
    unseen = [name for name in classes.names if name in model.description.unseen]
    gamma = float(max(classes.gamma_N.tolist(), key=abs))  # it may be negative
    if all(name in model.description.classes for name in classes.names):
        listed = plain(", ".join(unseen))
        said = f"gamma is {gamma:g} for the unseen ones: {listed}" if unseen else "all were seen in training"
    else:
        said = "gamma is 0, because no suitable value is known for new class names"
    print(f"{number_of(len(classes.names), 'class')}; {said}")


def _tell_far(document: dict[str, Any]) -> None:
    """Warn of images that lie far from the training images, and name the farthest."""
    from cliptea.segment.training_features import SHARE
    from cliptea.serving.predict import far_images

    far = far_images(document["images"])
    document["far"] = [row["image"] for row in far]
    if far:
        shown = ", ".join(f"{plain(row['image'])} ({row['distance']:.1f} times the limit)" for row in far[:NAMED])
        more = f", and {len(far) - NAMED} more" if len(far) > NAMED else ""
        total, differ = number_of(len(document["images"]), "image"), "differs" if len(far) == 1 else "differ"
        tell(
            "warning",
            f"{len(far)} of {total} {differ} more from the training images than {SHARE * 100:g} % of those "
            f"do, so masks may be wrong: {shown}{more}",
        )


def _predict_all(
    found: Iterable[Predicted],
    total: int,
    put: Put,
    facts_of: Callable[[list[dict[str, Any]], list[str]], dict[str, Any]],
    document: dict[str, Any],
) -> None:
    """Predict with a progress bar, and always write areas.json.

    Args:
        found: the images, which are segmented one after the other.
        total: number of images.
        facts_of: makes the content of areas.json from the rows of images, and from the errors of unreadable ones.
        document: gets what areas.json holds.
    """
    from rich import progress
    from rich.console import Console

    from cliptea.serving.predict import write_areas

    columns = (
        progress.TextColumn("predicting"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[rate]}"),
        progress.TimeRemainingColumn(),
    )
    rows: list[dict[str, Any]] = []
    errors: list[str] = []
    try:
        with progress.Progress(*columns, console=Console(stderr=True, soft_wrap=True)) as bar:  # lines stay whole
            task = bar.add_task("", total=total, rate="")
            for predicted in found:
                if predicted.error is None:
                    rows.append(predicted.row)
                else:
                    errors.append(str(predicted.error))
                    tell("error", str(predicted.error))
                speed = bar.tasks[0].speed
                bar.update(task, advance=1, rate=f"{speed:.1f} images/s" if speed else "")
    finally:
        facts = facts_of(rows, errors)
        document |= facts
        if rows:
            write_areas(put, facts)
