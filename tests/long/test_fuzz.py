"""Whatever is read, damaged or hostile: it is read as it is, or refused in one line, within seconds and little memory.

CLIPTEA_TEST_FUZZ_MINUTES sets the time (2). A failure names the seed of its input; the inputs are kept in its message.
"""

import hashlib
import io
import itertools
import json
import os
import random
import resource
import signal
import time
from contextlib import contextmanager
from functools import partial

import numpy as np
import open_clip
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image
from pycocotools import mask

from cliptea import settings
from cliptea.config import DataConfig
from cliptea.data.coco_labels import CocoLabels
from cliptea.data.folder import Folder
from cliptea.data.labels import decode_values
from cliptea.data.sample import decode_image
from cliptea.data.shard_sets import put_top_index
from cliptea.data.shard_writer import ShardWriter
from cliptea.data.shards import ShardReader
from cliptea.errors import ClipteaError
from cliptea.files import SUMS, sums
from cliptea.manifest import Contents, Output, find, publish, put_object
from cliptea.models import build_student
from cliptea.models.encoder_weights import read_state
from cliptea.plan import read_rates
from cliptea.preset_files import read_preset
from cliptea.run import Run, expand
from cliptea.sealed import seal
from cliptea.segment.segmenter import open_segmenter
from cliptea.segment.training_features import TrainingFeatures
from cliptea.serving.classes import choose_classes
from cliptea.steps.common import read
from cliptea.storage import FileStore
from cliptea.storage.marks import MARK, read_mark
from cliptea.teacher.clip_files import read_checkpoint
from cliptea.training.checkpoint import Checkpoints
from cliptea.weights_source import WeightsSource
from cliptea_pipeline.compile import pipeline_file
from cliptea_pipeline.fit import read_compiled
from cliptea_pipeline.placement_file import read_placement
from cliptea_pipeline.serving_cli import split_names

MINUTES = float(os.environ.get("CLIPTEA_TEST_FUZZ_MINUTES", "2"))
SECONDS, MIB = 20, 1500  # for one input
LONGEST = 10_000  # characters of a message
LONG = "9" * 300  # longer than the name of a file may be

pytestmark = [pytest.mark.long, pytest.mark.timeout(60 * MINUTES + 600)]

VALUES = [
    LONG, f"/{LONG}.pt",
    None, True, -1, 0, 1e308, float("nan"), float("inf"), 2**70, -(2**63), "", "x" * 5000, "\x1b[31m\x00", "../../etc",
    "é\udcff", "os:system", [], {}, [[]] * 50, {"a": {"b": []}}, "9" * 400, 0.5, [1, "a", None],
]  # fmt: skip


def deep(levels=3000):
    return "[" * levels + "]" * levels


def bits(data, draw):
    wrong = bytearray(data)
    for _ in range(draw.choice([1, 1, 2, 8, 64])):
        wrong[draw.randrange(len(wrong))] ^= 1 << draw.randrange(8)
    return bytes(wrong)


def cut(data, draw):
    return data[: draw.randrange(len(data))]


def without(data, draw):
    first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:first] + data[last:]


def doubled(data, draw):
    first, last = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return data[:last] + data[first:]


def noise(data, draw):
    place = draw.randrange(len(data) + 1)
    return data[:place] + draw.randbytes(draw.choice([1, 4, 100])) + data[place:]


def extremes(data, draw):
    place = draw.randrange(len(data))
    return data[:place] + draw.choice([b"\xff" * 4, b"\x00" * 8, b"\x7f\xff\xff\xff"]) + data[place + 4 :]


def other(data, draw):
    return draw.choice([b"", b"\n", b"null", b"[]", b"{}", b"\x89PNG\r\n\x1a\n", b"PK\x03\x04", deep().encode(),
                        b"\x80\x04cos\nsystem\n", "\ufeff{}".encode(), b"<html>", b"a: &a [*a]", bytes(9)])  # fmt: skip


BYTES = [bits, cut, without, doubled, noise, extremes, other]


def changed(value, draw):
    """The JSON value with one node replaced, removed or renamed."""
    if isinstance(value, dict) and value and draw.random() < 0.9:
        key = draw.choice(list(value))
        rest = {name: item for name, item in value.items() if name != key}
        kind = draw.random()
        if kind < 0.1:
            return rest
        return {
            **rest,
            (key if kind < 0.9 else draw.choice(["", "x", key + "\x1b", "__class__"])): changed(value[key], draw),
        }
    if isinstance(value, list) and value and draw.random() < 0.9:
        place = draw.randrange(len(value))
        return [*value[:place], changed(value[place], draw), *value[place + 1 :]]
    return draw.choice(VALUES)


def of_json(dump):
    def mutate(data, draw):
        return dump(changed(json.loads(data), draw))

    return mutate


def plain_json(value):
    return json.dumps(value).encode()


def resealed(value):
    """With the right hash, as somebody would write who may write to the store."""
    if not isinstance(value, dict):
        return plain_json(value)
    content = {key: item for key, item in value.items() if key != "sha256"}
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return plain_json(value)
    return json.dumps({**content, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


def of_yaml(data, draw):
    return yaml.safe_dump(changed(yaml.safe_load(data), draw), allow_unicode=True).encode("utf-8", "surrogatepass")


def pictures():
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 31, 3), dtype=np.uint8))
    deep_grey = Image.fromarray(rng.integers(0, 65536, (24, 31), dtype=np.uint16))
    floats = Image.fromarray(rng.random((24, 31), dtype=np.float32))
    exif = Image.Exif()
    exif[0x0112] = 6
    for image, kind in [(colour, "JPEG"), (colour, "PNG"), (colour, "WEBP"), (colour, "BMP"), (colour, "GIF"),
                        (colour.convert("RGBA"), "PNG"), (colour.convert("CMYK"), "JPEG"), (deep_grey, "PNG"),
                        (colour.convert("P"), "PNG"), (colour.convert("L"), "PNG"), (floats, "TIFF")]:  # fmt: skip
        buffer = io.BytesIO()
        image.save(buffer, format=kind, **({"exif": exif} if kind == "JPEG" else {}))
        yield buffer.getvalue()


def place(folder, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def through(path, work):
    """Writes what it is given to the file, and works on that."""

    def run(data):
        path.write_bytes(data)
        return work(path)

    return run


# Each of the following yields a name, inputs that are right, ways to change them, and what reads the result.


def of_users(folder):
    yield "image", list(pictures()), BYTES, lambda data: decode_image(data, "image")
    yield "label map", list(pictures()), BYTES, lambda data: (decode_values(data, "a"), decode_values(data, "a", True))

    root = folder / "data"
    for kind, split in itertools.product(("images", "labels"), ("train", "val")):
        Image.new("RGB" if kind == "images" else "L", (8, 8)).save(place(root, f"{kind}/{split}/a.png"))

    def data_set(path):
        found = Folder(DataConfig(dataset="folder", root=str(root)))
        assert found.catalogue
        found.digest()
        found.check("train")

    described = plain_json({"classes": ["cow", "grass"], "unseen": ["grass"], "first_id": 0, "ignore": 255})
    yield "classes.json", [described], [*BYTES, of_json(plain_json)], through(root / "classes.json", data_set)

    texts = [b"train.iterations=5", b"variants=[table3]", b"data.unseen=[zebra, bee]", b"seeds=2", b"train.lr=1e-3",
             b"teacher.weights=demo", b"evaluation.scale=[64, 64]", b"student.pretrained={a: b}"]  # fmt: skip
    yield "settings", texts, BYTES, lambda data: settings.load("smoke", [data.decode("utf-8", "surrogateescape")])

    preset = b"preset: smoke\ntrain: {iterations: 5}\ndata: {unseen: [zebra]}\nvariants: [table3]\nseeds: 2\n"
    yield (
        "preset file",
        [preset],
        [*BYTES, of_yaml],
        through(folder / "preset.yaml", lambda path: settings.load(path.name, [], read_preset(str(path)))),
    )
    yield (
        "variant file",
        [b"wide: {student: {dropout: 0.2}}\nlow: {train: {lr: 0.001}}\n"],
        [*BYTES, of_yaml],
        through(folder / "own.yaml", lambda path: settings.load("smoke", [f"variants=[{path}]"])),
    )
    names = [b"cat, dog,my sofa", b'[cat, "red, white"]']
    yield "--classes", names, BYTES, lambda data: split_names(data.decode("utf-8", "surrogateescape"), "--classes")

    placement = b"image: host/a:1\nsteps:\n  train: {gpus: 1, memory: 2Gi, memory_limit: 4Gi}\ntoken_parts: 2\n"
    yield "placement", [placement], [*BYTES, of_yaml], through(folder / "placement.yaml", read_placement)
    yield "pipeline", [pipeline_file().read_bytes()], BYTES, through(folder / "pipeline.yaml", read_compiled)
    yield (
        "rates",
        [b'{"machine": {"gpu": "H200"}, "images_per_second": {"teacher": 10.0}}'],
        [*BYTES, of_json(plain_json)],
        through(folder / "rates.json", lambda path: read_rates(path, [])),
    )
    yield (
        "mark",
        [b'{"kind": "cache", "version": "1"}'],
        [*BYTES, of_json(plain_json)],
        through(place(folder, f"marked/{MARK}"), lambda path: read_mark(path.parent)),
    )


def of_coco():
    image = {"id": 1, "file_name": "a.jpg", "height": 24, "width": 31}
    categories = [{"id": 3, "name": "cow"}, {"id": 7, "name": "grass"}]
    runs = {"size": [24, 31], "counts": [700, 40, 4]}
    packed = runs | {"counts": mask.frPyObjects(runs, 24, 31)["counts"].decode()}
    drawn = [
        {"image_id": 1, "category_id": 3, "segmentation": [[1, 1, 9, 1, 9.5, 8, 1, 8]]},
        {"image_id": 1, "category_id": 7, "segmentation": runs},
        {"image_id": 1, "category_id": 7, "segmentation": packed},
    ]
    segments = [{"id": 5, "category_id": 3}, {"id": 9, "category_id": 7}]
    panoptic = [{"image_id": 1, "file_name": "a.png", "segments_info": segments}]
    seeds = [plain_json({"images": [image], "annotations": one, "categories": categories}) for one in (drawn, panoptic)]
    pixels = np.zeros((24, 31, 3), dtype=np.uint8)
    pixels[:, 9:, 0], pixels[:, 20:, 0] = 5, 9
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")

    png = buffer.getvalue()

    def values(data, png=png):
        labels = CocoLabels(data, "a.json")
        for name in labels.names[:3]:
            labels.values(name, png if labels.panoptic else None, labels.png(name))

    yield "COCO", seeds, [*BYTES, of_json(plain_json)], values
    yield "panoptic PNG", [png], BYTES, lambda data: values(seeds[1], data)


def of_the_store(folder):
    store, config = FileStore(folder / "store"), settings.load("smoke")
    run = Run(config=config, data_digest="0", fingerprint="0", job_id="a", tracking_run="b", variants=expand(config))

    class Handed:
        uri, path = "file:///run.json", str(folder / "run.json")

    artifact = through(folder / "run.json", lambda path: read(Handed, Run))
    yield "artifact", [seal(run)], [*BYTES, of_json(plain_json), of_json(resealed)], artifact

    output = Output("split", "0" * 16)
    publish(store, output, Contents({"a": put_object(store, f"{output.prefix}/a", b"a" * 9)}, {"images": 3}))
    whole = store.get(output.manifest_key)

    def manifest(data):
        store.put(output.manifest_key, data)
        find(store, output)

    yield "manifest", [whole], [*BYTES, of_json(plain_json), of_json(resealed)], manifest

    writer = ShardWriter(store, "shards/cls", 1 << 20)
    for number in range(5):
        writer.add(f"{number:03d}", {"npy": random.Random(number).randbytes(300), "txt": b"text"})
    (top,) = put_top_index(store, "shards", writer.close()).values()
    listed = json.loads(store.get(top.key))
    (tar,) = (entry for entry in store.entries("shards/cls") if entry.key.endswith(".tar"))
    index = store.get(listed["shards"][0]["index"]["key"])

    def records(item):
        reader = ShardReader(store, {"cls": item}, "cls")
        for number in range(min(len(reader), 5)):
            reader.name(number)
            reader.members(number)
        list(reader.stream("npy"))

    def shard(data):
        store.put(tar.key, data)
        records(top)

    def shard_index(data):
        listed["shards"][0]["index"] = put_object(store, "shards/cls/fuzzed.index.json", data).model_dump()
        records(put_object(store, "shards/fuzzed.json", plain_json(listed)))

    yield (
        "top index",
        [store.get(top.key)],
        [*BYTES, of_json(plain_json)],
        lambda data: records(put_object(store, "shards/fuzzed.json", data)),
    )
    yield "shard index", [index], [*BYTES, of_json(plain_json)], shard_index
    yield "shard", [store.get(tar.key)], BYTES, shard


def of_weights(folder):
    store = FileStore(folder / "weights")
    torch.manual_seed(0)
    student = build_student("demo_fpn", 8)
    buffer = io.BytesIO()
    torch.save({"iteration": 3, "student": student.state_dict()}, buffer)
    state = buffer.getvalue()

    def checkpoint(data, right_name):
        name = hashlib.sha256(data if right_name else state).hexdigest()[:32]
        for entry in list(store.entries("checkpoints")):
            store.delete(entry.key)
        store.put(f"checkpoints/000000003-{name}.pt", data)
        with Checkpoints(store, "checkpoints", 1) as checkpoints:
            checkpoints.last()

    yield "checkpoint", [state], BYTES, lambda data: checkpoint(data, right_name=False)
    yield "checkpoint of a right name", [state], BYTES, lambda data: checkpoint(data, right_name=True)

    weights = safetensors.torch.save(dict(student.state_dict()))
    plain = {name: value for name, value in student.state_dict().items() if "weight" in name}
    for suffix, seeds in {"safetensors": [weights], "pth": [state]}.items():
        source = WeightsSource.of(str(folder / f"encoder.{suffix}"))
        yield (
            f"encoder.{suffix}",
            seeds,
            BYTES,
            through(folder / f"encoder.{suffix}", lambda path, source=source: read_state(source, lambda tag: plain)),
        )
        yield f"clip.{suffix}", seeds, BYTES, through(folder / f"clip.{suffix}", read_checkpoint)


def of_models(folder):
    """Models with a text tower of their own, which is asked for a class name that they do not know."""
    torch.manual_seed(0)
    clip = folder / "clip"
    described = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    place(clip, "open_clip_config.json").write_text(json.dumps({"model_cfg": described}))
    network = open_clip.CLIP(described["embed_dim"], described["vision_cfg"], described["text_cfg"])
    safetensors.torch.save_file(network.state_dict(), clip / "open_clip_model.safetensors")
    os.mkfifo(folder / "pipe.pt")
    text = torch.nn.functional.normalize(torch.randn(2, 8))
    features = TrainingFeatures.fit(np.random.default_rng(0).normal(size=(200, 8)))
    teacher = {"weights": str(clip), "model": "", "templates": "single", "crop": 32}
    described = {
        "backbone": "demo_fpn", "dim": 8, "classes": ["cow", "grass"], "unseen": ["grass"], "teacher": teacher,
        "evaluation": settings.load("smoke").evaluation.model_dump(),
    }  # fmt: skip
    odd = [
        described | {"teacher": teacher | {"weights": weights, "sha256": "0" * 64}}
        for weights in ("/dev/zero", *(str(folder / name) for name in ("pipe.pt", "none.pt", "")), LONG, f"/{LONG}.pt")
    ]
    model = {
        "model.json": plain_json(described),
        "model.safetensors": safetensors.torch.save(dict(build_student("demo_fpn", 8).state_dict())),
        "text.safetensors": safetensors.torch.save({"text": text}),
        "training_features.safetensors": features.dump(),
    }
    for name, data in model.items():
        place(folder, f"model/{name}").write_bytes(data)

    def opened(changed, name, names=None):
        file = folder / "model" / name
        file.write_bytes(changed)
        try:
            choose_classes(open_segmenter(folder / "model"), names, None)
        finally:
            if name in model:
                file.write_bytes(model[name])
            else:
                file.unlink()

    for name, data in [*model.items(), (SUMS, sums(model))]:
        ways = [*BYTES, of_json(plain_json)] if name == "model.json" else BYTES
        yield name, [data], ways, partial(opened, name=name)
    yield (
        "model.json with a new name of a class",
        [model["model.json"], *map(plain_json, odd)],
        [*BYTES, of_json(plain_json)],
        partial(opened, name="model.json", names=["cow", "zebra"]),
    )
    config = clip / "open_clip_config.json"

    def asked(path):
        choose_classes(open_segmenter(folder / "model"), ["cow", "zebra"], None)

    yield "open_clip_config.json", [config.read_bytes()], [*BYTES, of_json(plain_json)], through(config, asked)


@contextmanager
def limited():
    def late(number, frame):
        raise TimeoutError(f"more than {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(work, data):
    """What is wrong with how an input was taken, or None."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        with limited():
            work(data)
    except ClipteaError as error:
        text = str(error)
        if "\n" in text or not text.isprintable() or len(text) > LONGEST:
            return f"message of {len(text)} characters: {text[:300]!r}"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        return f"{type(error).__name__}: {str(error)[:300]}"
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    return f"{grown} MiB" if grown > MIB else None


def test_every_reader_takes_or_refuses_what_it_is_given(tmp_path):
    known = [*of_users(tmp_path), *of_coco(), *of_the_store(tmp_path), *of_weights(tmp_path), *of_models(tmp_path)]
    for name, seeds, _, work in known:
        assert [fault(work, data) for data in seeds] == [None] * len(seeds), name
    started, tried, faults = time.monotonic(), dict.fromkeys((name for name, *_ in known), 0), {}
    for number in itertools.count():
        if time.monotonic() - started > 60 * MINUTES:
            break
        name, seeds, ways, work = known[number % len(known)]
        draw = random.Random(number)
        data = draw.choice(seeds)
        for _ in range(draw.choice([1, 1, 1, 2, 4])):
            way = draw.choice(ways)
            try:
                data = way(data, draw) or b"\0"
            except (ValueError, IndexError, RecursionError, yaml.YAMLError, AttributeError, TypeError):
                break  # what was changed before is no JSON or YAML any more
        tried[name] += 1
        found = fault(work, data)
        if found:
            faults.setdefault((name, found[:60]), (number, found, data[:200]))
    print(json.dumps(tried))
    assert not faults, "\n".join(f"{name} {details}" for (name, _), details in faults.items())
