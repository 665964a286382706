"""The folder of a bundle: the names of its files, those for servers, and which of them may be replaced and deleted.

Needs no torch, so that the command line refuses a folder at once.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from cliptea import progress
from cliptea.errors import ConfigError
from cliptea.files import SUMS, sha256, unchanged
from cliptea.serving.choices import Server
from cliptea.storage.local_files import write_file
from cliptea.storage.marks import add_facts, read_mark

__all__ = ["COMMON", "SERVED", "names_of_files", "of_other_servers", "require_replaceable", "write_bundle"]

HERE = Path(__file__).parent
COMMON = ("README.md", SUMS, "model.json", "model.onnx", "requirements.txt", "segment.py")
EDITABLE = frozenset(("config.pbtxt", "inferenceservice.yaml"))  # manifests that users complete
WRITTEN = "sha256"  # fact in the mark: the sha256 of all files that the last bundles may have written

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

SERVED: dict[Server, dict[str, bytes]] = {  # files for servers by path
    "kserve": {
        "Dockerfile": DOCKERFILE.encode(),
        "inferenceservice.yaml": INFERENCE_SERVICE.encode(),
        "serve_kserve.py": (HERE / "kserve_server.py").read_bytes(),
    },
    "triton": {
        "1/model.py": (HERE / "triton_backend.py").read_bytes(),
        "config.pbtxt": TRITON_CONFIG.encode(),
    },
}


def names_of_files(server: Server | None) -> list[str]:
    """The paths of all files of a bundle."""
    return [*COMMON, *(SERVED[server] if server else ())]


def of_other_servers(files: Collection[str]) -> dict[str, bytes]:
    """The files that only bundles for other servers have: content by path."""
    return {name: data for served in SERVED.values() for name, data in served.items() if name not in files}


def require_replaceable(folder: Path, names: Iterable[str]) -> None:
    """Check that a bundle would only replace files of an earlier bundle that nobody has changed since.

    Manifests that users complete may have changed, because `write_bundle` keeps them.

    Args:
        names: paths of the files of the new bundle.

    Raises:
        ConfigError: the folder holds another file with one of these names.
    """
    for name in _others(folder, names):
        if name not in EDITABLE:
            raise ConfigError(
                f"{folder / name} is not from an earlier bundle, or was changed since",
                "a folder where no file of others would be replaced",
                "move the file, or choose another folder with -o",
            )


def _others(folder: Path, names: Iterable[str]) -> list[str]:
    """Those of the names that the folder has, with content that no bundle has written."""
    written = _written(folder)
    return [name for name in names if os.path.lexists(folder / name) and not unchanged(folder / name, written)]


def _written(folder: Path) -> list[str]:
    """The sha256 of files that bundles have written into the folder."""
    written = read_mark(folder).get(WRITTEN)
    return written if isinstance(written, list) else []


def write_bundle(folder: Path, files: Mapping[str, bytes]) -> list[str]:
    """Write the files into a claimed folder, and delete what an earlier bundle has left for other servers.

    Files that were changed since, or that somebody else has put there, are not deleted. A manifest that the user
    has completed is kept with a warning.

    Returns:
        The paths of the files that were written.

    Raises:
        ConfigError: as for `require_replaceable`; nothing has changed.
        StorageError: a file cannot be written.
    """
    require_replaceable(folder, files)  # a user may have changed a file since the command began
    kept = _others(folder, files)
    names, written = {*files, *of_other_servers(files)}, _written(folder)
    own = {name: sha256(folder / name) for name in names if unchanged(folder / name, written)}
    new = [hashlib.sha256(data).hexdigest() for data in files.values()]
    add_facts(folder, **{WRITTEN: sorted({*own.values(), *new})})  # first: a killed command may leave both
    for name in own.keys() - files.keys():
        (folder / name).unlink()
    with suppress(OSError):  # it is not there, or not empty
        (folder / "1").rmdir()
    (folder / "model.json").unlink(missing_ok=True)  # written last: without it, segment.py does not run
    replaced = sorted(files.keys() - {*kept}, key=lambda name: (name == "model.json", name == "README.md", name))
    for name in replaced:
        write_file(folder / name, files[name])
    for name in kept:
        progress.warn(f"{folder / name} was changed, so it is kept; delete it and run the command again for a new one")
    return replaced
