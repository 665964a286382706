"""The demo's small CLIP as a source of weights: trained once for each world, kept in the store."""

from __future__ import annotations

from pathlib import Path

from cliptea.config import Config
from cliptea.data.world import CLASSES
from cliptea.manifest import Manifest, find, fingerprint, publish, put_object
from cliptea.storage import Store, fetch

__all__ = ["DEMO", "demo_fingerprint", "demo_weights", "demo_words"]

DEMO = "demo"  # the value of teacher.weights
VERSION = 2


def demo_words() -> set[str]:
    """Words that the demo's captions contain."""
    return {word for name in CLASSES for word in name.split()}


def demo_fingerprint(config: Config) -> str:
    """Over the world that the model learns from and how it learns."""
    return fingerprint(
        "demo-teacher",
        VERSION,
        world=config.data.world,
        seed=config.data.seed,
        pretrain=config.teacher.pretrain,
    )


def demo_weights(store: Store, config: Config) -> Path:
    """A folder in open_clip's local layout; pre-trains the model when the store has none for these settings."""
    from cliptea.teacher.pretrain import pretrain

    fp = demo_fingerprint(config)
    if find(store, "demo-teacher", fp) is None:
        scratch = store.scratch(f"demo-teacher-{fp}")
        pretrain(scratch, config.data.world, config.teacher.pretrain, config.data.seed)
        objects = {
            path.name: put_object(store, f"demo-teacher/{fp}/{path.name}", path.read_bytes())
            for path in sorted(scratch.glob("open_clip_*"))
        }
        publish(store, Manifest(kind="demo-teacher", fingerprint=fp, objects=objects))
        store.drop_scratch(scratch.name)
    return fetch(store.uri(f"demo-teacher/{fp}"))
