"""What README and pages name exists: commands and their options, settings, targets, paths, variables, links."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from docs.pages import LINK, PAGES, ROOT, anchors, commands, parse, read, targets, words
from pydantic import BaseModel

from cliptea import settings
from cliptea.config import Config
from cliptea_pipeline.placement import Placement

FILE = r"\.(py|md|ya?ml|json|toml|txt|npy|safetensors|pth?|bin|onnx|png|jpg|html|db|sh|env|sql|ipynb)$"
PATH = re.compile(r"[\w.*<>-]+(/[\w.*<>-]*)+")
SETTING = re.compile(r"[a-z_]+(\.[a-z]\w*)+")
TOP = {"benchmarks", "components", "docker", "docs", "k8s", "pipeline", "tests", ".ci", ".github"}

each_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))


def exists(name: str) -> bool:
    """Whether the repository has the path, or git ignores it: then a command of the page makes it."""
    if any(ROOT.glob(name)):
        return True
    path = Path(name)
    for folder in (ROOT, ROOT / path.parent):
        ignored = folder / ".gitignore"
        patterns = ignored.read_text(encoding="utf-8").split() if ignored.is_file() else []
        if any(path.match(pattern) for pattern in patterns):
            return True
    return False


def has_setting(model: Any, names: list[str]) -> bool:
    """Whether a pydantic model has a field of that path; keys of mappings are free."""
    for place, name in enumerate(names):
        if not (isinstance(model, type) and issubclass(model, BaseModel)) or name not in model.model_fields:
            return False
        model = model.model_fields[name].annotation
        text = str(model)
        if "dict[" in text and place + 1 < len(names):
            inner = [kind for kind in getattr(model, "__args__", ()) if isinstance(kind, type)]
            model = next((kind for kind in inner if issubclass(kind, BaseModel)), None)
            return model is None or len(names) == place + 2 or has_setting(model, names[place + 2 :])
    return True


@each_page
def test_commands_parse_and_their_settings_load(path):
    for arguments, whole in commands(read(path)):
        given = parse(arguments, whole)
        overrides = [text for text in given.get("overrides") or [] if not text.endswith("=...")]
        if "preset" in given and overrides and "..." not in str(arguments):
            preset = given["preset"] or "demo"
            settings.load(preset, [*overrides, *_weights(preset, overrides)])


def _weights(preset: str, overrides: list[str]) -> list[str]:
    """The one setting that a preset may leave open."""
    named = any(text.startswith("teacher.weights=") for text in overrides)
    return ["teacher.weights=demo"] if preset == "folder" and not named else []


@each_page
def test_targets_of_make_exist(path):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    known = set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    assert targets(read(path)) <= known


@each_page
def test_paths_exist(path):
    missing = []
    for word in words(read(path)):
        if PATH.fullmatch(word) and word.split("/")[0] in TOP:
            name = re.sub(r"\b[A-Z]{2,}\b(?!\.md)", "*", word.rstrip("/"))  # OVERLAY and the like stand for any name
            if not exists(name):
                missing.append(word)
    assert not missing


@each_page
def test_settings_exist(path):
    unknown = []
    for word in words(read(path)):
        name = word.partition("=")[0]
        names = name.split(".")
        if not SETTING.fullmatch(name) or re.search(FILE, name):
            continue
        for model in (Config, Placement):
            if names[0] in model.model_fields and not has_setting(model, names):
                unknown.append(word)
    assert not unknown


@each_page
def test_variables_occur_in_the_product(path):
    product = "".join(
        file.read_text(encoding="utf-8", errors="ignore")
        for folder in ("components", "pipeline", "docker", "k8s", "Makefile")
        for file in [ROOT / folder, *(ROOT / folder).rglob("*")]
        if file.is_file()
    )
    named = set(re.findall(r"CLIPTEA_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
    assert named <= set(re.findall(r"CLIPTEA_[A-Z0-9_]+", product))


@each_page
def test_links_lead_somewhere(path):
    broken = []
    for link in LINK.findall(read(path).prose):
        if link.startswith(("http://", "https://")):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken
