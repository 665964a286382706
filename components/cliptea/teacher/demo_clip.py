"""The demo's small CLIP as a source of weights. It is trained once for each world and kept in the store."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cliptea.config import Config
from cliptea.errors import StorageError
from cliptea.files import oddity
from cliptea.manifest import Contents, Manifest, Output, find, find_whole, fingerprint, make_once, put_object
from cliptea.storage import Store, fetch

__all__ = ["demo_fingerprint", "demo_output", "demo_words", "stored_weights", "teacher_weights"]


def demo_words() -> set[str]:
    """Words that the demo's captions contain."""
    from cliptea.data.world import CLASSES

    return {word for name in CLASSES for word in name.split()}


def demo_fingerprint(config: Config) -> str:
    """The fingerprint of the scenes and of the training settings."""
    scenes = fingerprint("world", world=config.data.world, seed=config.data.seed)
    return fingerprint("demo-teacher", scenes=scenes, pretrain=config.teacher.pretrain)


def demo_output(config: Config) -> Output:
    """The output that holds the demo's CLIP."""
    return Output("demo-teacher", demo_fingerprint(config))


def teacher_weights(store: Store, config: Config) -> str:
    """The weights for `open_teacher`: `teacher.weights`, or the folder of the demo's CLIP. It is trained if needed.

    Raises:
        StorageError: the copy of the demo's CLIP in the cache is damaged.
    """
    if config.teacher.source.kind != "demo":
        return config.teacher.weights or ""
    output = demo_output(config)
    made = find_whole(store, output)
    if made is None:
        with store.scratch(f"{output.kind}-{output.fingerprint}") as folder:  # another run may have made it meanwhile
            made, _ = make_once(store, output, lambda: _trained(store, config, output.prefix, folder), find_whole)
    return _folder(store, made)


def stored_weights(store: Store, made_with: str) -> str:
    """The folder of a demo's CLIP that a run has left in the store.

    Raises:
        StorageError: it is missing or damaged.
    """
    made = find(store, Output("demo-teacher", made_with))
    if made is None:
        raise StorageError(
            f"the demo teacher {store.uri(f'demo-teacher/{made_with}')} is missing or damaged",
            "the store of the run that trained it",
            "run the demo again",
        )
    return _folder(store, made)


def _folder(store: Store, made: Manifest) -> str:
    """The local folder of the files. They are compared with the manifest, because a cache may hold damaged copies."""
    folder = fetch(store.uri(made.output.prefix))
    for name, item in made.objects.items():
        file = folder / name
        if odd := oddity(file):
            raise StorageError(f"{file} is {odd}", "a file of the demo's CLIP", "run the demo again")
        if hashlib.sha256(file.read_bytes()).hexdigest() != item.sha256:
            raise StorageError(f"{file} is damaged", f"sha256 {item.sha256}", "delete it and run again")
    return str(folder)


def _trained(store: Store, config: Config, prefix: str, folder: Path) -> Contents:
    """Train the demo's CLIP in the folder, in open_clip's local layout."""
    from cliptea.teacher.pretrain import CONFIG, WEIGHTS, pretrain

    pretrain(folder, config.data.world, config.teacher.pretrain, config.data.seed)
    if made := find_whole(store, demo_output(config)):  # by a run in another pod, whose steps may use it already
        return Contents(made.objects, made.info)
    objects = {name: put_object(store, f"{prefix}/{name}", (folder / name).read_bytes()) for name in (CONFIG, WEIGHTS)}
    return Contents(objects, {})
