"""A small student that nobody trained, whose predictions only have to be the same everywhere; and closed folders."""

import errno
import json
import os

import pytest
import safetensors.torch
import torch

from cliptea.models import build_student
from cliptea.segment.segmenter import open_segmenter

CLASSES = ["sky", "grass", "cow", "zebra"]
DIM = 16


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory):
    """A folder with model.json, model.safetensors and text.safetensors."""
    folder = tmp_path_factory.mktemp("student")
    torch.manual_seed(0)
    student = build_student("demo_fpn", DIM)
    text = torch.nn.functional.normalize(torch.randn(len(CLASSES), DIM), dim=1)
    safetensors.torch.save_file(student.state_dict(), folder / "model.safetensors")
    safetensors.torch.save_file({"text": text}, folder / "text.safetensors")
    description = {
        "backbone": "demo_fpn",
        "dim": DIM,
        "classes": CLASSES,
        "unseen": ["zebra"],
        "evaluation": {"gamma": 0.02, "scale": [96, 64]},
    }
    (folder / "model.json").write_text(json.dumps(description))
    return folder


@pytest.fixture
def model(model_folder):
    return open_segmenter(model_folder)


@pytest.fixture
def closed(monkeypatch):
    """Makes all folders that end with a name as if they could not be read, which holds for root as well."""

    def close(name):
        def refusing(listing):
            def list_folder(path="."):
                if os.fspath(path).endswith(name):
                    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
                return listing(path)

            return list_folder

        for function in (os.scandir, os.listdir):
            monkeypatch.setattr(os, function.__name__, refusing(function))

    return close
