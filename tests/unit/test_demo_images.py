"""Images of the demo world to try a model on: new scenes, complete files, and nobody's files are touched."""

import numpy as np
import pytest
from PIL import Image

from cliptea.config import DataConfig, WorldConfig
from cliptea.data.datasets import Demo
from cliptea.data.sample import decode_image
from cliptea.errors import StorageError
from cliptea_pipeline.demo_images import write_demo_images

CONFIG = DataConfig(world=WorldConfig(size=32, train_scenes=3, val_scenes=2, canvases=1), seed=1)


def test_they_are_scenes_of_the_same_world_that_are_in_no_split(tmp_path):
    folder = tmp_path / "images"
    write_demo_images(CONFIG, folder)
    (folder / "scene03.png").unlink()  # as if the run had been killed
    write_demo_images(CONFIG, folder)
    assert sorted(file.name for file in folder.iterdir()) == [
        "cliptea.json",
        *(f"scene{number:02d}.png" for number in range(12)),
    ]
    world = Demo(CONFIG)
    used = {
        decode_image(world.read(split, name).image, name).tobytes()
        for split in ("train", "val")
        for name in world.ids(split)
    }
    more = Demo(CONFIG.model_copy(update={"world": CONFIG.world.model_copy(update={"val_scenes": 14})}))
    for number in range(12):
        with Image.open(folder / f"scene{number:02d}.png") as image:
            pixels = np.array(image)
        assert pixels.tobytes() not in used
        assert (pixels == decode_image(more.read("val", f"val{2 + number:05d}").image, "x")).all()


def test_a_folder_of_the_users_own_is_left_alone(tmp_path):
    (tmp_path / "mine.png").write_text("precious")
    with pytest.raises(StorageError, match="holds files that are not from cliptea"):
        write_demo_images(CONFIG, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.png"]
