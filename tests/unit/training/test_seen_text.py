"""The text features that training reads: those of unseen classes only in the transductive setting."""

from pathlib import Path

import pytest
import safetensors.torch
import torch

from cliptea.config import TransductiveConfig
from cliptea.data.catalogue import Catalogue
from cliptea.manifest import read_object
from cliptea.steps.train import training_data
from cliptea.storage import FileStore, open_store
from cliptea.teacher.text import load_text


@pytest.mark.parametrize("transductive", [False, True])
def test_training_reads_the_text_of_unseen_classes_only_if_it_may(world, monkeypatch, transductive):
    run, splits, teacher = world
    manifest, catalogue = teacher.text[run.config.data.name], Catalogue.model_validate(splits.own.info["catalogue"])
    text_ND, get, read = load_text(open_store(), manifest), FileStore.get, []
    changed = {"pseudo": False, "transductive": TransductiveConfig(names=transductive)}  # no regions to be read
    config = run.config.model_copy(update={"method": run.config.method.model_copy(update=changed)})
    monkeypatch.setattr(FileStore, "get", lambda store, key: read.append(key) or get(store, key))
    _, text = training_data(open_store(), config, splits, teacher)
    files = {key.rpartition("/")[2] for key in read if key.startswith("text/")}
    assert torch.equal(text.seen_SD, text_ND[catalogue.seen_ids])
    if transductive:
        assert torch.equal(text.unseen_UD, text_ND[catalogue.unseen_ids])
    else:
        assert (text.unseen_UD, files) == (None, {Path(manifest.objects["text_seen.safetensors"].key).name})


def test_the_file_of_training_holds_no_row_of_an_unseen_class(world):
    run, splits, teacher = world
    manifest, catalogue = teacher.text[run.config.data.name], Catalogue.model_validate(splits.own.info["catalogue"])
    assert catalogue.unseen
    text_ND = load_text(open_store(), manifest)
    held = safetensors.torch.load(read_object(open_store(), manifest.objects["text_seen.safetensors"]))
    assert set(held) == {"text"}
    assert torch.equal(held["text"], text_ND[catalogue.seen_ids])
    assert torch.cdist(held["text"], text_ND[catalogue.unseen_ids]).min() > 0.01
