"""The commands that make files for use without cliptea from a model: export and bundle."""

from __future__ import annotations

import os
import re
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cliptea.errors import ConfigError
from cliptea.files import unchanged
from cliptea.messages import plain
from cliptea.serving.choices import SUFFIXES, Format, Output, Precision, Server, require_choices
from cliptea.serving.export_files import exported_files
from cliptea.storage.local_files import delete_partial_files, local_path
from cliptea.storage.marks import claim, read_mark, require_free
from cliptea_pipeline.extras import require
from cliptea_pipeline.opening import exact_address, open_model
from cliptea_pipeline.options import Debug, one_line_errors
from cliptea_pipeline.own_files import require_own
from cliptea_pipeline.serving_cli import AllowCode, Home, Model, TextWeights, split_names, tell_classes

if TYPE_CHECKING:
    from cliptea.segment.model_files import Description
    from cliptea.segment.segmenter import ClassSet, Segmenter

__all__ = ["app", "bundle", "export"]

app = typer.Typer()

Size = Annotated[
    str | None,
    typer.Option(
        metavar="HxW",
        help="Fixed input size, for example 512x512. By default, the exported model accepts any size that the "
        "network supports.",
    ),
]
BUNDLE = "bundle of a model"  # in its mark
LARGEST_EDGE = 8192  # pixels
REMEDY = "choose another one with -o"


@app.command(rich_help_panel="Use models")
def export(
    model: Model,
    output: Annotated[
        str, typer.Option("-o", "--output", metavar="FILE", help="File to write, for example student.onnx.")
    ],
    format: Annotated[Format, typer.Option("--format", help="Format of the file.")] = "onnx",
    size: Size = None,
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            "--classes",
            help="Class names, as for predict, that the exported model is fixed to. By default, class embeddings are "
            "an input of it, so it can segment any classes.",
            show_default=False,
        ),
    ] = None,
    result: Annotated[
        Output,
        typer.Option("--result", help="What the exported model returns. Other results than logits need --names."),
    ] = "logits",
    precision: Annotated[
        Precision, typer.Option("--precision", help="Numbers in the exported model. int8 needs --images.")
    ] = "float32",
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            help="Images or folders of images, here or in S3, on which the file is compared with PyTorch. For int8, "
            "every other image calibrates. Can be repeated.",
        ),
    ] = None,
    text_weights: TextWeights = None,
    workdir: Home = ".cliptea",
    debug: Debug = False,
    allow_code: AllowCode = False,
) -> None:
    """Export a model to ONNX, OpenVINO or torch.export, and compare it with PyTorch."""
    with one_line_errors(debug):
        require(*(() if format == "torch-export" else ("onnx", "onnxruntime", "onnxscript")))
        require(*(("openvino",) if format == "openvino" else ()))
        file, home, edges = local_path("-o", output), local_path("--workdir", workdir), _edges(size)
        if file.suffix != SUFFIXES[format]:
            raise ConfigError(
                f"cannot export to {file}",
                f"a file name that ends in {SUFFIXES[format]}; a .json file of that name is written as well",
            )
        wanted = None if names is None else split_names(names, "--names")
        require_choices(format, result, precision, named=wanted is not None, photos=bool(images))
        _require_exportable(file)
        from cliptea.serving.photos import find_images

        sources = find_images(images, leave_out=file).sources if images else []
        segmenter = open_model(model, home, allow_code, require=partial(_require_size, edges=edges))
        from cliptea.serving.export import Form, export_model

        classes = None if wanted is None else _choose(segmenter, wanted, text_weights)
        _tell_start(segmenter, edges)
        photos = [source.path for source in sources]
        exported = export_model(segmenter, file, Form(format, edges, classes, result, precision, photos))
        divisor, measured = segmenter.description.evaluation.divisor, exported.measured
        sizes = f"{exported.fixed[0]}x{exported.fixed[1]} only" if exported.fixed else f"any multiples of {divisor}"
        network = "the network" if precision == "float32" else "the network before its precision was lowered"
        by = "" if result == "classes" else f"{result} differ by at most {exported.parity.difference:.1e} and "
        print(
            f"wrote {plain(str(file))} and the .json beside it; height and width: {sizes}; {network} compared with "
            f"PyTorch: {by}{exported.parity.equal:.2%} of pixels are equal"
        )
        print(
            f"{precision} on {measured.inputs}: {measured.equal:.2%} of pixels are equal; "
            f"{measured.milliseconds:.1f} ms for {measured.size[0]}x{measured.size[1]}, and "
            f"{measured.torch_milliseconds:.1f} ms with PyTorch"
        )


@app.command(rich_help_panel="Use models")
def bundle(
    model: Model,
    output: Annotated[
        str,
        typer.Option(
            "-o",
            "--output",
            metavar="FOLDER",
            help="Folder for the bundle: new, empty, or written by an earlier call.",
        ),
    ],
    names: Annotated[
        str | None,
        typer.Option(
            "--names",
            "--classes",
            help="Class names, as for predict. Defaults to the model's own classes.",
            show_default=False,
        ),
    ] = None,
    serving: Annotated[
        Server | None, typer.Option("--serving", help="Add files for this server.", show_default=False)
    ] = None,
    scores: Annotated[
        Path | None,
        typer.Option(
            "--scores", metavar="FILE", help="Scores for the model card, as written by cliptea evaluate -o FILE."
        ),
    ] = None,
    size: Size = None,
    push_to_hub: Annotated[
        str | None,
        typer.Option(
            "--push-to-hub",
            metavar="USER/NAME",
            help="Also upload the bundle to this model repository of the Hugging Face hub, which is created if it does "
            "not exist. HF_TOKEN, or `hf auth login`, says who you are, and HF_ENDPOINT names another hub.",
            show_default=False,
        ),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="With --push-to-hub: only let the owner see the repository.")
    ] = False,
    text_weights: TextWeights = None,
    workdir: Home = ".cliptea",
    debug: Debug = False,
    allow_code: AllowCode = False,
) -> None:
    """Write a folder that segments images without cliptea: ONNX file, script, model card, and files for a server."""
    with one_line_errors(debug):
        require("onnx", "onnxruntime", "onnxscript")
        folder, home, edges = local_path("-o", output), local_path("--workdir", workdir), _edges(size)
        wanted = None if names is None else split_names(names, "--names")
        if folder.exists() and not folder.is_dir():
            raise ConfigError(f"-o {folder} is a file", "a folder for the bundle")
        require_free(folder, BUNDLE, REMEDY)
        if push_to_hub is not None:
            from cliptea.serving.push import require_pushable

            require_pushable(push_to_hub)
        elif private:
            raise ConfigError("--private is given without --push-to-hub", "both, or neither")
        from cliptea.serving.score_file import read_scores

        measured = None if scores is None else read_scores(scores)
        from cliptea.serving.bundle_folder import (
            names_of_files,
            of_other_servers,
            require_replaceable,
            write_bundle,
        )

        require_replaceable(folder, names_of_files(serving))
        exact = exact_address(model, home)
        segmenter = open_model(exact, home, allow_code, require=partial(_require_size, edges=edges))
        if measured is not None:
            measured.require_model(segmenter.sha256)
        from cliptea.serving.bundle import bundle_files
        from cliptea.tracking.origin import origin

        classes = _choose(segmenter, wanted, text_weights)
        _tell_start(segmenter, edges)
        tags = origin("")
        made = {
            "model": exact,
            "cliptea that made this folder": tags.get("cliptea.version", ""),
            "commit of cliptea that made this folder": tags.get("git.commit", ""),
        }
        files = bundle_files(segmenter, classes, serving, edges, measured, made)
        claim(folder, BUNDLE, REMEDY)
        delete_partial_files(folder)
        written = write_bundle(folder, files)
        print(f"wrote {', '.join(sorted(written))} to {plain(str(folder))}", flush=True)
        if push_to_hub is not None:
            from cliptea.serving.push import push

            print(f"uploaded to {plain(push(push_to_hub, folder, written, of_other_servers(files), private))}")


def _edges(size: str | None) -> tuple[int, int] | None:
    """Height and width.

    Raises:
        ConfigError: --size cannot be read, or is too large.
    """
    if size is None:
        return None
    match = re.fullmatch(r"(\d{1,9})x(\d{1,9})", size, re.ASCII)
    if match is None:
        raise ConfigError(f"cannot read --size {size[:30]}", "HEIGHTxWIDTH, for example 512x512")
    edges = int(match[1]), int(match[2])
    if max(edges) > LARGEST_EDGE:
        raise ConfigError(f"--size {size} is too large", f"at most {LARGEST_EDGE}x{LARGEST_EDGE}")
    return edges


def _require_exportable(file: Path) -> None:
    """Check that an export to `file` would only replace files of an earlier export that nobody has changed since.

    Raises:
        ConfigError: one of these files is something else, or the .json file belongs to an export in another format.
    """
    if read_mark(file.parent).get("kind") == BUNDLE:
        raise ConfigError(f"the folder {file.parent} is a {BUNDLE}", "another folder", REMEDY)
    facts = file.with_suffix(".json")
    own = exported_files(facts)
    require_own(facts, lambda _: own is not None, "an earlier export")
    hashes = own or {}
    paths = [file, *([file.with_suffix(".bin")] if file.suffix == ".xml" else [])]
    for path in paths:
        require_own(
            path, lambda path: unchanged(path, hashes.get(path.name, [])), "an unchanged file of an earlier export"
        )
    for name in hashes.keys() - {path.name for path in paths}:
        if os.path.lexists(file.parent / name):
            raise ConfigError(f"{facts} describes {name}", "a file name of its own for each export", REMEDY)


def _require_size(description: Description, edges: tuple[int, int] | None) -> None:
    divisor = description.evaluation.divisor
    if edges and any(edge % divisor or not edge for edge in edges):
        raise ConfigError(f"--size {edges[0]}x{edges[1]} does not fit the model", f"multiples of {divisor}")


def _choose(model: Segmenter, names: list[str] | None, text_weights: str | None) -> ClassSet:
    from cliptea.serving.classes import choose_classes

    chosen = choose_classes(model, names, text_weights)
    tell_classes(model, chosen)
    return chosen


def _tell_start(model: Segmenter, edges: tuple[int, int] | None) -> None:
    backbone = model.description.backbone
    told = "; this takes minutes for Swin, and less with a fixed --size HxW" if backbone.startswith("swin") else ""
    print(
        f"exporting {plain(backbone)} and comparing it with PyTorch{'' if edges else told}",
        file=sys.stderr,
        flush=True,
    )
