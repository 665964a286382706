"""A folder that segments images without this package: an ONNX file, a script, a model card, and files for servers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import PIL

from cliptea.files import sums
from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving import standalone
from cliptea.serving.bundle_folder import SERVED, names_of_files
from cliptea.serving.choices import Server
from cliptea.serving.export import Form, export_model
from cliptea.serving.model_card import model_card
from cliptea.serving.score_file import Measurement

__all__ = ["bundle_files"]

HERE = Path(__file__).parent
KSERVE = "kserve>=0.15"


def bundle_files(
    model: Segmenter,
    classes: ClassSet,
    server: Server | None = None,
    size: tuple[int, int] | None = None,
    scores: Measurement | None = None,
    made: Mapping[str, str] | None = None,
) -> dict[str, bytes]:
    """The content of the folder by path.

    Args:
        classes: the classes that it segments.
        server: what shall serve it.
        size: fixed height and width of the network's input.
        scores: what `cliptea evaluate` has written.
        made: facts for the model card about where the model and the bundle come from, by their names.

    Raises:
        ClipteaError: as for `export_model`.
    """
    import onnxruntime

    with TemporaryDirectory() as folder:
        exported = export_model(model, Path(folder) / "model.onnx", Form(size=size, classes=classes))
        files = {name: (Path(folder) / name).read_bytes() for name in standalone.FILES}
    files[standalone.SUMS] = sums(files)
    files["segment.py"] = (HERE / "standalone.py").read_bytes()
    needed = [f"numpy=={numpy.__version__}", f"onnxruntime=={onnxruntime.__version__}", f"pillow=={PIL.__version__}"]
    if server == "kserve":
        needed.append(KSERVE)
    if server is not None:
        files |= SERVED[server]
    files["requirements.txt"] = "".join(f"{line}\n" for line in needed).encode()
    files["README.md"] = model_card(model.description, classes, exported, scores, made or {}).encode()
    assert {*files} == {*names_of_files(server)}  # those that are checked before they are replaced
    return files
