"""Images of the demo world to try a model on: scenes that nobody was trained on or scored with."""

from __future__ import annotations

from pathlib import Path

from cliptea.config import DataConfig
from cliptea.data.sample import encode_png
from cliptea.data.world import World
from cliptea.storage.local_files import write_file
from cliptea.storage.marks import claim

__all__ = ["write_demo_images"]

IMAGES = 12
KIND = "folder of demo images"  # in its mark


def write_demo_images(config: DataConfig, folder: Path) -> None:
    """Render the scenes that follow the val scenes, with the textures of val scenes. Earlier images are replaced.

    Each file appears only when it is complete.

    Args:
        config: settings of a demo world.
        folder: gets scene00.png and so on.

    Raises:
        StorageError: the folder holds files of somebody else, or cannot be written.
    """
    claim(folder, KIND, "move them, and run again to get the images")
    world = World(config.world, config.seed)
    for number in range(IMAGES):
        image, _ = world.scene("val", config.world.val_scenes + number)
        write_file(folder / f"scene{number:02d}.png", encode_png(image))
