"""The demo's small CLIP as a source of weights. It is trained once for each world and kept in the store."""

from __future__ import annotations

from pathlib import Path

from cliptea.config import Config
from cliptea.manifest import Contents, Output, find, fingerprint, make_once, put_object
from cliptea.storage import Store, fetch

__all__ = ["demo_fingerprint", "demo_words", "teacher_weights"]


def demo_words() -> set[str]:
    """Words that the demo's captions contain."""
    from cliptea.data.world import CLASSES

    return {word for name in CLASSES for word in name.split()}


def demo_fingerprint(config: Config) -> str:
    """The fingerprint of the world and of the training settings."""
    return fingerprint(
        "demo-teacher",
        world=config.data.world,
        seed=config.data.seed,
        pretrain=config.teacher.pretrain,
    )


def teacher_weights(store: Store, config: Config) -> str:
    """The weights for `open_teacher`: `teacher.weights`, or the folder of the demo's CLIP. It is trained if needed."""
    if config.teacher.source.kind != "demo":
        return config.teacher.weights or ""
    output = Output("demo-teacher", demo_fingerprint(config))
    if find(store, output) is None:
        with store.scratch(f"{output.kind}-{output.fingerprint}") as folder:  # another run may have made it meanwhile
            make_once(store, output, lambda: _trained(store, config, output.prefix, folder))
    return str(fetch(store.uri(output.prefix)))


def _trained(store: Store, config: Config, prefix: str, folder: Path) -> Contents:
    """Train the demo's CLIP in the folder, in open_clip's local layout."""
    from cliptea.teacher.pretrain import pretrain

    pretrain(folder, config.data.world, config.teacher.pretrain, config.data.seed)
    files = sorted(folder.glob("open_clip_*"))
    return Contents({file.name: put_object(store, f"{prefix}/{file.name}", file.read_bytes()) for file in files}, {})
