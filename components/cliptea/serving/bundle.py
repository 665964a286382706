"""A folder that segments images without this package: an ONNX file, a script, a model card, and files for servers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy
import PIL

from cliptea.segment.segmenter import ClassSet, Segmenter
from cliptea.serving.choices import Server
from cliptea.serving.export import Form, export_model
from cliptea.serving.model_card import model_card
from cliptea.serving.score_file import Measurement
from cliptea.storage.local_files import write_file

__all__ = ["bundle_files", "of_other_servers", "write_bundle"]

HERE = Path(__file__).parent
KSERVE = "kserve>=0.15"
SERVED: dict[Server, tuple[str, ...]] = {
    "kserve": ("Dockerfile", "inferenceservice.yaml", "serve_kserve.py"),
    "triton": ("1/model.py", "config.pbtxt"),
}

DOCKERFILE = """\
FROM python:3.11-slim
WORKDIR /model
COPY requirements.txt .
RUN pip install --no-cache-dir -r requirements.txt
COPY . .
USER 65534
CMD ["python", "serve_kserve.py"]
"""

INFERENCE_SERVICE = """\
# Serves this folder with the open inference protocol: build an image with the Dockerfile, and put its name here.
apiVersion: serving.kserve.io/v1beta1
kind: InferenceService
metadata:
  name: cliptea
spec:
  predictor:
    containers:
      - name: kserve-container
        image: REGISTRY/cliptea-model:TAG
        env:
          - {name: HOME, value: /tmp}
        ports:
          - {containerPort: 8080, protocol: TCP}
        resources:
          requests: {cpu: "1", memory: 1Gi}
          limits: {memory: 4Gi}
        securityContext:
          runAsNonRoot: true
          runAsUser: 65534
          allowPrivilegeEscalation: false
          capabilities: {drop: [ALL]}
          seccompProfile: {type: RuntimeDefault}
"""

TRITON_CONFIG = """\
# This folder is a model of a Triton model repository, which is the folder above. Its name is that of the folder.
backend: "python"
max_batch_size: 0
input [ { name: "images" data_type: TYPE_UINT8 dims: [ -1, -1, -1, 3 ] } ]
output [ { name: "masks" data_type: TYPE_UINT8 dims: [ -1, -1, -1 ] } ]
"""


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
        ClipteaError: as of `export_model`.
    """
    import onnxruntime

    with TemporaryDirectory() as folder:
        exported = export_model(model, Path(folder) / "model.onnx", Form(size=size, classes=classes))
        files = {name: (Path(folder) / name).read_bytes() for name in ("model.onnx", "model.json")}
    files["segment.py"] = (HERE / "standalone.py").read_bytes()
    needed = [f"numpy=={numpy.__version__}", f"onnxruntime=={onnxruntime.__version__}", f"pillow=={PIL.__version__}"]
    if server == "kserve":
        needed.append(KSERVE)
        files["serve_kserve.py"] = (HERE / "kserve_server.py").read_bytes()
        files["inferenceservice.yaml"] = INFERENCE_SERVICE.encode()
        files["Dockerfile"] = DOCKERFILE.encode()
    if server == "triton":
        files["config.pbtxt"] = TRITON_CONFIG.encode()
        files["1/model.py"] = (HERE / "triton_backend.py").read_bytes()
    files["requirements.txt"] = "".join(f"{line}\n" for line in needed).encode()
    files["README.md"] = model_card(model.description, classes, exported, scores, made or {}).encode()
    return files


def of_other_servers(files: Collection[str]) -> list[str]:
    """Paths that an earlier bundle for another server may have left, and that are not among the files."""
    return [name for names in SERVED.values() for name in names if name not in files]


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files into a claimed folder, and delete files for servers of an earlier bundle."""
    for name in of_other_servers(files):
        (folder / name).unlink(missing_ok=True)
    with suppress(OSError):  # it is not there, or not empty
        (folder / "1").rmdir()
    (folder / "model.json").unlink(missing_ok=True)  # written last: without it, segment.py does not run
    for name in sorted(files, key=lambda name: (name == "model.json", name == "README.md")):
        write_file(folder / name, files[name])
