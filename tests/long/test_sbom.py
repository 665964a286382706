"""`make sbom` and the images list every installed package with its version and licence (CycloneDX)."""

import json
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = "--output-reproducible --pyproject pyproject.toml"

pytestmark = pytest.mark.long


def test_the_list_holds_every_installed_package(tmp_path):
    assert f"cyclonedx-py environment {OPTIONS} " in (ROOT / "Makefile").read_text()
    file = tmp_path / "sbom.json"
    command = [Path(sys.executable).with_name("cyclonedx-py"), "environment", *OPTIONS.split(), "--output-file", file]
    subprocess.run([*command, sys.executable], check=True, cwd=ROOT, capture_output=True)
    listed = json.loads(file.read_text())
    assert (listed["bomFormat"], listed["metadata"]["component"]["name"]) == ("CycloneDX", "cliptea")
    versions = {canonicalize_name(item["name"]): item.get("version") for item in listed["components"]}
    found = distributions(path=[sysconfig.get_path("purelib")])  # sys.path may hold what setuptools brings along
    installed = {canonicalize_name(one.metadata["Name"]): one.version for one in found}
    assert installed.pop("cliptea")
    assert versions.items() >= installed.items()
    licences = {canonicalize_name(item["name"]): item.get("licenses") for item in listed["components"]}
    assert licences["torch"]
    assert licences["mlflow"]


def test_both_targets_of_the_image_have_one():
    assert (ROOT / "docker/Dockerfile").read_text().count(f"cyclonedx-py environment {OPTIONS} ") == 2
