"""The package: what wheel and source distribution hold, and what works without the extras."""

import os
import re
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from PIL import Image
from typer.testing import CliRunner

from cliptea import __version__
from cliptea_pipeline.cli import app
from cliptea_pipeline.extras import EXTRAS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {"cliptea": ROOT / "components/cliptea", "cliptea_pipeline": ROOT / "pipeline/cliptea_pipeline"}


def call(path, *arguments, cwd):
    """Run the command with the modules in the folders of `path`."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path)), "PYTHONSAFEPATH": "1"}
    command = [sys.executable, "-m", "cliptea_pipeline.cli", *map(str, arguments)]
    return subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel, and a wheel that was built from the source distribution."""
    pytest.importorskip("hatchling", reason="the builder is installed by `make install`")
    folder = tmp_path_factory.mktemp("dist")

    def build(source, kind, target):
        command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(target)]
        subprocess.run(command, check=True, cwd=source, capture_output=True)
        (made,) = target.iterdir()
        return made

    wheel = build(ROOT, "wheel", folder / "wheel")
    with tarfile.open(build(ROOT, "sdist", folder / "sdist")) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return wheel, build(unpacked, "wheel", folder / "again")


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_a_wheel_holds_all_files_of_both_packages_and_the_compiled_pipeline(built):
    expected = {
        f"{package}/{file.relative_to(folder).as_posix()}"
        for package, folder in SOURCES.items()
        for file in folder.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {"cliptea/py.typed", "cliptea_pipeline/py.typed", "cliptea/presets/demo.yaml"} <= expected
    for wheel in built:
        assert names(wheel) == expected | {"cliptea_pipeline/cliptea.yaml"}


def test_an_installed_wheel_works_without_the_sources(built, tmp_path):
    for number, wheel in enumerate(built):
        installed = tmp_path / str(number)
        command = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", installed, wheel]
        subprocess.run(command, check=True, capture_output=True)
        assert call([installed], "--version", cwd=tmp_path).stdout == f"cliptea {__version__}\n"
        found = call([installed], "plan", "--preset", "smoke", cwd=tmp_path)
        assert found.returncode == 0, found.stderr
        assert "4 (variants times seeds)" in found.stdout
        text = "import cliptea, cliptea_pipeline; print(cliptea.__file__, cliptea_pipeline.__file__)"
        environment = os.environ | {"PYTHONPATH": str(installed)}
        told = subprocess.run(
            [sys.executable, "-c", text], check=True, cwd=tmp_path, env=environment, capture_output=True
        )
        assert all(place.startswith(str(installed)) for place in told.stdout.decode().split())


def test_the_metadata_name_every_extra(built):
    with zipfile.ZipFile(built[0]) as archive:
        (metadata,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        text = archive.read(metadata).decode()
    assert f"\nVersion: {__version__}\n" in text
    assert set(re.findall(r"^Provides-Extra: (\S+)$", text, re.MULTILINE)) >= {
        "all",
        "cluster",
        "dev",
        "export",
        "mlflow",
        "openvino",
        "sweep",
    }
    assert not re.search(r"^Requires-Dist: (kfp|mlflow|onnx|openvino|optuna)[^;]*$", text, re.MULTILINE)


def test_the_modules_of_extras_are_those_of_the_project_file():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    found = {
        re.match(r"[\w-]+", line)[0].replace("-", "_"): extra
        for extra in ("cluster", "export", "mlflow", "openvino")
        for line in extras[extra]
    }
    assert found.pop("kfp_kubernetes") == "cluster"  # it adds the module kfp.kubernetes
    assert found == EXTRAS
    assert extras["all"] == ["cliptea[cluster,export,mlflow,sweep]"]
    assert extras["dev"][0] == "cliptea[all,openvino]"


def test_what_kfp_does_not_promise_to_keep_is_used_in_one_file():
    private = re.compile(r"\bclient\._[a-z]|\bkfp(_server_api)?\.[\w.]*\b_[a-z]|subprocess_task_handler|_KFP_RUNTIME")
    found = {
        file.relative_to(folder).as_posix()
        for folder in SOURCES.values()
        for file in folder.rglob("*.py")
        if private.search(file.read_text())
    }
    assert found == {"steps/kfp_inside.py"}
    cluster = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["cluster"]
    assert all("<" in line for line in cluster if line.startswith("kfp"))


def closure(requirements):
    """The installed distributions that these lines of metadata lead to, without any extra that they do not name."""
    found, waiting = {}, [(line, ("",)) for line in requirements]
    seen = set()
    while waiting:
        line, extras = waiting.pop()
        wanted = Requirement(line)
        if not any(wanted.marker is None or wanted.marker.evaluate({"extra": extra}) for extra in extras):
            continue
        further = (canonicalize_name(wanted.name), ("", *sorted(wanted.extras)))
        if further not in seen:
            seen.add(further)
            found[further[0]] = distribution(wanted.name)
            waiting += [(needed, further[1]) for needed in found[further[0]].requires or []]
    return found


@pytest.fixture(scope="module")
def fresh(built, tmp_path_factory):
    """Python of a new environment with the wheel and links to the packages that its metadata ask for, and no others.

    This proves that the core declares all that it imports. What pip would choose is not proven, since the packages are
    those of the present environment. Packages that share a folder, such as those of NVIDIA, come together.
    """
    folder = tmp_path_factory.mktemp("fresh")
    venv.create(folder / "venv", with_pip=False)
    python = folder / "venv/bin/python"
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", built[0]]
    subprocess.run(command, check=True, capture_output=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    (metadata,) = site.glob("cliptea-*.dist-info")
    needed = closure(Distribution.at(metadata).requires)
    assert needed.keys() >= {"torch", "timm", "pydantic"}
    assert not needed.keys() & {canonicalize_name(module) for module in EXTRAS}
    for package in needed.values():
        for name in {file.parts[0] for file in package.files if not file.name.endswith(".pth")} - {"..", "__pycache__"}:
            if not (site / name).exists():
                (site / name).symlink_to(package.locate_file(name))
    return python


@pytest.fixture
def core(fresh, tmp_path):
    """Calls the command where no extra is installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*arguments):
        command = [fresh.with_name("cliptea"), *map(str, arguments)]
        return subprocess.run(command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True)

    return run


def test_nothing_of_an_extra_is_in_the_fresh_environment(fresh):
    text = f"from importlib.util import find_spec; print([name for name in {sorted(EXTRAS)!r} if find_spec(name)])"
    told = subprocess.run([fresh, "-I", "-c", text], check=True, capture_output=True, text=True)
    assert told.stdout == "[]\n"


def test_a_model_is_used_without_extras(core, model_folder, tmp_path):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    done = core("predict", "photo.png", "--model", model_folder, "-o", "out")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "out/masks/photo.png") as mask:
        assert mask.size == (60, 40)


def test_settings_are_resolved_without_extras(core):
    done = core("config", "--preset", "smoke")
    assert done.returncode == 0, done.stderr
    assert "demo_fpn" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "module", "extra"),
    [
        (["run", "--preset", "smoke"], "kfp", "cluster"),
        (["plan", "--preset", "smoke"], "kubernetes", "cluster"),
        (["submit", "--endpoint", "http://localhost:1"], "kubernetes", "cluster"),
        (["predict", "photo.png", "--model", "models:/a@champion"], "mlflow", "mlflow"),
        (["ui"], "mlflow", "mlflow"),
    ],
)
def test_what_needs_an_extra_says_so_in_one_line_and_makes_nothing(
    core, arguments, module, extra, tmp_path, monkeypatch
):
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")
    before = sorted(tmp_path.rglob("*"))
    refused = core(*arguments)
    assert refused.returncode == 1
    assert refused.stderr == (
        f"error: this needs the Python package {module}, which is not installed; expected cliptea with the extra "
        f"{extra}; run pip install '.[{extra}]' in a checkout\n"
    )
    assert sorted(tmp_path.rglob("*")) == before


def test_an_export_needs_its_extra(core, model_folder, tmp_path):
    refused = core("export", "--model", model_folder, "-o", "student.onnx")
    assert refused.returncode == 1
    assert refused.stderr.endswith("with the extra export; run pip install '.[export]' in a checkout\n")
    assert not list(tmp_path.glob("student*"))


def test_a_bundle_and_openvino_need_theirs(core, model_folder, tmp_path, monkeypatch):
    refused = core("bundle", "--model", model_folder, "-o", "bundle")
    assert (refused.returncode, "with the extra export" in refused.stderr) == (1, True)
    monkeypatch.setattr("cliptea_pipeline.extras.find_spec", lambda name: None if name == "openvino" else name)
    arguments = ["export", "--model", str(model_folder), "--format", "openvino", "-o", str(tmp_path / "student.xml")]
    answer = CliRunner().invoke(app, arguments)
    assert answer.exit_code == 1
    assert answer.stderr.endswith("with the extra openvino; run pip install '.[openvino]' in a checkout\n")
    assert not list(tmp_path.glob("student*"))
    assert not (tmp_path / "bundle").exists()
