"""Figures of a variant: the confusion matrix, and photo, truth and prediction of the chosen images."""

import io
import json

import numpy as np
from PIL import Image

from cliptea.data.sample import encode_png
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.report.variant_figures import HEADING, variant_figures
from cliptea.storage import open_store


def test_every_chosen_image_has_its_picture(tmp_path):
    store = open_store(tmp_path.as_uri())
    rng = np.random.default_rng(1)
    truth, predicted = (rng.integers(0, 3, (20, 30)).astype(np.uint8) for _ in range(2))
    photo = rng.integers(0, 255, (20, 30, 3)).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, format="PNG")
    writer = ShardWriter(store, "split/s/val", 1 << 20)
    for name in ("one", "three"):
        writer.add(name, {"png": buffer.getvalue(), "label.png": encode_png(truth)})
    shards = put_top_index(store, "split/s/val", writer.close())
    matrix = rng.integers(0, 9, (3, 3))
    arrays = {"confusion": matrix, "prediction/one": predicted, "attention/two": matrix}
    files = variant_figures(ShardReader(store, shards, "val"), ["a", "b", "c"], arrays)
    assert set(files) == {"one.png", "confusion.json", "confusion.png"}
    assert json.loads(files["confusion.json"])["pixels"] == matrix.tolist()
    page = np.asarray(Image.open(io.BytesIO(files["one.png"])))
    heading, below = page[:HEADING], page[HEADING:]
    shown = below[3:120:6, 3:]  # six pixels for each of the photo's
    starts = [0, 184, 368]
    np.testing.assert_array_equal(shown[:, 0:180:6], photo)
    colours = {tuple(shown[y, 184 + 6 * x]): int(truth[y, x]) for y in range(20) for x in range(30)}
    assert sorted(colours.values()) == [0, 1, 2]
    assert all(colours[tuple(shown[y, 368 + 6 * x])] == predicted[y, x] for y in range(20) for x in range(30))
    assert all((heading[:, start : start + 80] < 128).any() for start in starts)
    legend = {tuple(pixel) for pixel in below[:, 552:].reshape(-1, 3)}
    assert set(colours) <= legend
