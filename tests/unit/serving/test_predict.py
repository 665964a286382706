"""The command `cliptea predict` on files and folders: masks, overlays, areas, and what is said of bad images."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from naive_logits import class_logits
from PIL import Image
from scipy.special import softmax
from typer.testing import CliRunner

from cliptea.data.colours import NEUTRAL, palette
from cliptea.errors import ConfigError
from cliptea.segment.inference import image_logits
from cliptea.segment.model_files import TRAINING_FEATURES
from cliptea.segment.segmenter import open_segmenter
from cliptea.segment.training_features import TrainingFeatures, image_feature
from cliptea.serving import predict as predicting
from cliptea.serving.classes import choose_classes
from cliptea.serving.photos import find_images, read_image
from cliptea.serving.predict import class_pixels, into, predict, write_areas
from cliptea.storage.marks import claim
from cliptea_pipeline.cli import app
from cliptea_pipeline.prediction_folder import claim_folder, require_same_classes


def call(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments)])


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, size in (("a.png", (40, 60)), ("sub/b.jpg", (90, 30))):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / name)
    return folder


def test_pixels_are_counted_the_largest_class_first():
    mask = np.array([[0, 2, 2], [2, 2, 0]], np.uint8)
    assert list(class_pixels(mask).items()) == [(2, 4), (0, 2)]


def test_masks_overlays_and_areas_are_written(photos, model_folder, model, tmp_path):
    output = tmp_path / "out"
    answer = call(photos, "--model", model_folder, "-o", output)
    assert answer.exit_code == 0, answer.output
    assert "4 classes; gamma is 0.02 for the unseen ones: zebra" in answer.stdout
    files = sorted(str(file.relative_to(output)) for file in output.rglob("*") if file.is_file())
    assert files == [
        "areas.json",
        "cliptea.json",
        "masks/a.png",
        "masks/sub/b.png",
        "overlays/a.jpg",
        "overlays/sub/b.jpg",
    ]
    told = json.loads((output / "areas.json").read_text())
    assert told["classes"] == ["sky", "grass", "cow", "zebra"]
    for row, name in zip(told["images"], ("a.png", "sub/b.jpg"), strict=True):
        expected = model.mask(read_image(photos / name), model.known())
        with Image.open(output / row["mask"]) as mask:
            assert mask.mode == "P"
            assert (np.array(mask) == expected).all()
            assert mask.getpalette() == palette().ravel().tolist()
        assert (row["height"], row["width"]) == expected.shape
        assert sum(area["pixels"] for area in row["areas"].values()) == expected.size
        with Image.open(output / "overlays" / name.replace(".png", ".jpg")) as overlay:
            assert overlay.width > overlay.height * expected.shape[1] / expected.shape[0]  # the legend


def test_a_folder_goes_through_the_network_in_batches_and_comes_out_in_order(model, tmp_path):
    rng = np.random.default_rng(1)
    sizes = [(40, 60), (60, 40), (80, 120), (40, 60), (40, 60), (40, 60), (300, 200)]
    for number, size in enumerate(sizes):
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "3b.png").write_text("no image")
    batches, threes = [], model.description.evaluation.model_copy(update={"batch_size": 3, "workers": 2})
    model.student.encoder.register_forward_hook(lambda module, inputs, output: batches.append(len(inputs[0])))
    sources = find_images([tmp_path], tmp_path / "out").sources
    done = list(predict(model, model.known(), sources, into(tmp_path / "out"), threes))
    assert sorted(batches) == [2, 2, 3]  # five wide images by three, and the two tall ones
    assert [one.source for one in done] == sources
    assert [one.source.name for one in done if one.error] == ["3b"]
    for one in done:
        if one.error is None:
            with Image.open(tmp_path / "out" / one.row["mask"]) as mask:
                assert np.array_equal(np.array(mask), model.mask(read_image(one.source.path), model.known()))
    batches.clear()
    assert len(list(predict(model, model.known(), sources[:4], into(tmp_path / "out")))) == 4
    assert batches == [1, 1, 1, 1]  # a CPU takes them one by one


def test_several_devices_write_the_same_files_as_one(photos, model, tmp_path, monkeypatch):
    (photos / "broken.png").write_text("no image")
    sources, written = find_images([photos], tmp_path / "out").sources, []
    for number, folder in ((1, tmp_path / "one"), (2, tmp_path / "two")):
        monkeypatch.setattr(model, "devices", [torch.device("cpu")] * number)
        done = list(predict(model, model.known(), sources * 3, into(folder)))
        assert [one.source for one in done] == sources * 3
        assert [one.error is None for one in done] == [True, False, True] * 3
        written.append({str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*.*")})
    assert len(written[0]) == 4
    assert written[0] == written[1]


def test_every_kind_of_image_gets_a_mask_of_its_own_size(model_folder, tmp_path):
    folder, ramp = tmp_path / "kinds", Image.linear_gradient("L").resize((60, 40))
    folder.mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6  # a quarter to the right
    ramp.convert("1").save(folder / "bits.png")
    Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257).save(folder / "deep.png")
    ramp.convert("P").save(folder / "palette.png")
    ramp.convert("CMYK").save(folder / "print.jpg")
    ramp.convert("RGBA").save(folder / "layer.png")
    ramp.save(folder / "moving.gif", save_all=True, append_images=[ramp.rotate(90)])
    ramp.convert("RGB").save(folder / "web.webp", save_all=True, append_images=[ramp.convert("RGB").rotate(90)])
    ramp.convert("RGB").save(folder / "turned.jpg", exif=turned)
    Image.new("L", (1, 1)).save(folder / "dot.png")
    answer = call(folder, "--model", model_folder, "-o", tmp_path / "out")
    assert answer.exit_code == 0, answer.output
    sizes = {}
    for file in (tmp_path / "out/masks").iterdir():
        with Image.open(file) as mask:
            sizes[file.stem] = mask.size
    usual = ("bits", "deep", "palette", "print", "layer", "moving", "web")
    assert sizes == dict.fromkeys(usual, (60, 40)) | {"turned": (40, 60), "dot": (1, 1)}


@pytest.mark.long
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_huge_image_gets_a_mask_of_its_own_size_in_bounded_memory(model_folder, tmp_path):
    Image.linear_gradient("L").resize((12000, 10000)).save(tmp_path / "huge.png", compress_level=1)
    code = f"""
import re
from pathlib import Path
from cliptea_pipeline.cli import app
try:
    app(["predict", "{tmp_path}/huge.png", "--model", "{model_folder}", "-o", "{tmp_path}/out"])
finally:
    print(int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) >> 10)
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    with Image.open(tmp_path / "out/masks/huge.png") as mask:
        assert mask.size == (12000, 10000)
    assert int(ended.stdout.split()[-1]) < 3500  # MiB; the image alone has 343, its logits would have 1831


def test_errors_and_warnings_are_json_if_the_log_is(photos, model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("CLIPTEA_LOG_FORMAT", "json")
    (photos / "no.png").write_text("no image")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out")
    lines = [json.loads(line) for line in answer.stderr.splitlines() if line.startswith("{")]
    assert [line["level"] for line in lines] == ["error", "error"]
    assert "no.png" in lines[0]["message"]
    assert "1 of 3 images" in lines[1]["message"]
    assert "error: " not in answer.stderr


def test_bad_images_get_a_line_and_the_others_are_done(photos, model_folder, tmp_path):
    (photos / "cut.jpg").write_bytes((photos / "sub/b.jpg").read_bytes()[:700])
    (photos / "no.png").write_text("no image")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    lines = [line for line in answer.stderr.splitlines() if line.startswith("error: ")]
    assert [name in line for name, line in zip(("cut.jpg", "no.png", "2 of 4"), lines, strict=True)] == [True] * 3
    assert len(json.loads((tmp_path / "out/areas.json").read_text())["images"]) == 2
    assert sorted(file.name for file in (tmp_path / "out/masks").rglob("*.*")) == ["a.png", "b.png"]


def test_one_json_document_tells_what_was_written_and_what_could_not_be_read(photos, model_folder, tmp_path):
    (photos / "no.png").write_text("no image")
    for number in range(7):
        (photos / f"sub/{number}.heic").touch()
    options = ("--workers", 2, "--batch-size", 2, "--precision", "float32", "--device", "cpu", "--json")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out", *options)
    assert answer.exit_code == 1
    told = json.loads(answer.stdout)
    written = json.loads((tmp_path / "out/areas.json").read_text())
    assert {name: told[name] for name in written} == written
    assert (len(told["images"]), told["output"]) == (2, str(tmp_path / "out"))
    assert [("no.png" in error) for error in written["errors"]] == [True]
    first = [str(photos / f"sub/{number}.heic") for number in range(5)]
    assert written["left_out"] == {"not an image by its suffix": {"number": 7, "first": first}}
    (photos / "no.png").unlink()
    shutil.rmtree(photos / "sub")
    assert call(photos, "--model", model_folder, "-o", tmp_path / "out").exit_code == 0
    written = json.loads((tmp_path / "out/areas.json").read_text())
    assert (written["errors"], written["left_out"]) == ([], {})


@pytest.fixture
def measured(model_folder, model, tmp_path):
    """The model with the features of training images, which are patches of a few colours."""
    folder, axes = shutil.copytree(model_folder, tmp_path / "measured"), torch.eye(model.description.dim)
    rng = np.random.default_rng(3)
    images = [rng.integers(90, 140, (2, 2, 3), dtype=np.uint8).repeat(32, 0).repeat(32, 1) for _ in range(5)]
    seen = image_logits(model.student, images, axes, model.description.evaluation)
    features_MD = torch.stack([image_feature(one) for one in seen])
    std_K = features_MD.std(0)[:4]
    limit = float((((features_MD - features_MD.mean(0))[:, :4] / std_K) ** 2).sum(1).max()) * 0.99
    features = TrainingFeatures(axes[:4], features_MD.mean(0)[:4], std_K, limit)
    (folder / TRAINING_FEATURES).write_bytes(features.dump())
    (tmp_path / "patches").mkdir()
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"patches/{number}.png")
    return folder


def test_images_far_from_the_training_images_are_told_with_the_farthest_first(measured, photos, tmp_path):
    answer = call(photos, tmp_path / "patches", "--model", measured, "-o", tmp_path / "out", "--json")
    assert answer.exit_code == 0, answer.output
    told, model = json.loads(answer.stdout), open_segmenter(measured)
    for row in told["images"]:
        (along,) = image_logits(
            model.student,
            [read_image(Path(row["image"]))],
            model.training_features.directions_KD,
            model.description.evaluation,
        )
        assert row["distance"] == pytest.approx(model.training_features.distance(along), rel=1e-3)
        with Image.open(tmp_path / "out" / row["mask"]) as mask:
            assert (np.array(mask) == model.mask(read_image(Path(row["image"])), model.known())).mean() > 0.999
    by_distance = sorted(told["images"], key=lambda row: -row["distance"])
    assert told["far"] == [row["image"] for row in by_distance if row["distance"] > 1]
    assert {str(photos / "a.png"), str(photos / "sub/b.jpg")} == set(told["far"][:2])
    assert len(told["far"]) == 3  # and the farthest of the patches
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("warning: ")]
    assert line.startswith(f"warning: {len(told['far'])} of 7 images differ more from the training images than 99 %")
    assert f"wrong: {told['far'][0]} ({by_distance[0]['distance']:.1f} times the limit), " in line


def test_a_model_without_features_of_training_images_tells_no_distance(photos, model_folder, tmp_path):
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out", "--json")
    told = json.loads(answer.stdout)
    assert (told["far"], "distance" in told["images"][0], "warning" in answer.stderr) == (None, False, False)


def test_damaged_features_of_training_images_are_one_line(measured, photos, tmp_path):
    (measured / TRAINING_FEATURES).write_bytes(b"cut")
    answer = call(photos, "--model", measured, "-o", tmp_path / "out")
    assert (answer.exit_code, answer.stderr.count("\n")) == (1, 1)
    assert "does not hold a cliptea model" in answer.stderr


def test_confidence_is_the_softmax_of_the_chosen_class_and_unknown_is_below_the_threshold(
    photos, model_folder, model, tmp_path
):
    evaluation, known = model.description.evaluation, model.known()
    logits = class_logits(model.student, read_image(photos / "a.png"), known.text_ND, evaluation).numpy()
    expected = softmax(logits + known.gamma_N.numpy()[:, None, None], axis=0).max(0)
    threshold = float(np.median(expected))
    options = ("--confidence", "--unknown", threshold)
    answer = call(photos / "a.png", "--model", model_folder, "-o", tmp_path / "out", *options)
    assert answer.exit_code == 0, answer.output
    assert "wrote masks/, overlays/, confidence/ and areas.json for 1 image" in answer.stdout
    told = json.loads((tmp_path / "out/areas.json").read_text())
    (row,) = told["images"]
    with Image.open(tmp_path / "out" / row["confidence"]) as confidence:
        assert confidence.mode == "L"
        assert np.abs(np.array(confidence) - expected * 255).max() < 0.51
    with Image.open(tmp_path / "out" / row["mask"]) as mask:
        ids, colour = np.array(mask), mask.getpalette()[255 * 3 :]
    unsure = expected < threshold
    assert ((ids == 255) == unsure).mean() > 0.999
    assert (ids == model.mask(read_image(photos / "a.png"), known))[ids != 255].all()
    assert colour == list(NEUTRAL)
    assert row["areas"]["unknown"]["share"] == pytest.approx(unsure.mean(), abs=0.001)
    assert told["unknown"] == threshold


def test_a_threshold_that_is_none_is_one_line(photos, model_folder, tmp_path):
    for value in ("0", "1", "-1", "1.5", "nan", "inf", "half"):
        answer = call(photos, "--model", model_folder, "-o", tmp_path / "out", "--unknown", value)
        expected = f"error: cannot use --unknown {value}; expected a number between 0 and 1, such as 0.5\n"
        assert (answer.exit_code, answer.stderr) == (2, expected)
    assert not (tmp_path / "out").exists()


def test_the_precision_of_the_command_line_is_used(photos, model_folder, tmp_path, monkeypatch):
    seen = []
    kept = predicting.each_image
    monkeypatch.setattr(predicting, "each_image", lambda *given: seen.append(given[2]) or kept(*given))
    for options in ((), ("--precision", "bfloat16", "--workers", 3)):
        assert call(photos, "--model", model_folder, "-o", tmp_path / "out", *options).exit_code == 0
    assert [(one.precision, one.workers, one.scale) for one in seen] == [
        ("float32", None, (96, 64)),
        ("bfloat16", 3, (96, 64)),
    ]


def test_labels_of_somebody_else_are_not_taken_for_predictions(photos, model_folder, tmp_path):
    output = tmp_path / "labels"
    for name in ("masks", "overlays"):
        (output / name).mkdir(parents=True)
        (output / name / "a.png").write_text("precious")
    refused = call(photos, "--model", model_folder, "-o", output)
    assert (refused.exit_code, "holds files that are not from cliptea" in refused.stderr) == (1, True)
    assert (output / "masks/a.png").read_text() == "precious"
    assert sorted(path.name for path in output.iterdir()) == ["masks", "overlays"]


def test_masks_of_two_lists_of_classes_do_not_mix(photos, model_folder, tmp_path):
    given = (photos, "--model", model_folder, "-o", tmp_path / "out")
    assert call(*given).exit_code == call(*given).exit_code == 0
    before = (tmp_path / "out/areas.json").read_bytes()
    known = json.loads(before)["classes"]
    refused = call(*given, "--classes", ", ".join(known[::-1]))
    assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1)
    assert "has masks of other classes; expected a folder for each list of classes" in refused.stderr
    assert (tmp_path / "out/areas.json").read_bytes() == before


def test_a_subfolder_that_cannot_be_read_gets_a_line_and_the_others_are_done(photos, model_folder, tmp_path, closed):
    closed("photos/sub")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    assert f"error: cannot read {photos / 'sub'} (Permission denied)" in answer.output
    assert [file.name for file in (tmp_path / "out/masks").iterdir()] == ["a.png"]


def test_a_named_pipe_gets_a_line_and_is_not_waited_for(photos, model_folder, tmp_path):
    os.mkfifo(photos / "pipe.png")
    answer = call(photos, "--model", model_folder, "-o", tmp_path / "out")
    assert answer.exit_code == 1
    assert "pipe.png: it is a named pipe" in answer.stderr
    assert "1 of 3 images could not be read" in answer.stderr
    assert call(photos / "pipe.png", "--model", model_folder, "-o", tmp_path / "out").exit_code == 1
    same = call(photos / "a.png", "--model", model_folder, "--classes", "sky, Sky", "-o", tmp_path / "out")
    assert (same.exit_code, "'sky' and 'Sky' have the same text embedding" in same.stderr) == (2, True)


def test_what_cannot_be_done_is_one_line_and_writes_nothing(photos, model_folder, tmp_path):
    output = tmp_path / "out"
    (tmp_path / "empty").mkdir()
    for arguments, code, words in (
        (["--model", model_folder, "--classes", "sky,sofa"], 2, "'sofa', and its text tower is not available"),
        ([tmp_path / "empty", "--model", model_folder], 1, "empty contains no images"),
        (["--model", tmp_path], 1, "does not hold a cliptea model"),
        (["--model", "models:/x@champion", "--workdir", tmp_path], 1, "mlflow.db does not exist"),
        (
            ["--model", "models:/x"],
            2,
            "models:/x does not name a version; expected models:/x@champion or models:/x/VERSION",
        ),
        (["--model", model_folder, "--classes", "so" * 400], 2, "a class name has 800 characters: sososososososososo"),
        (["--model", model_folder, "-o", photos / "a.png"], 2, "a.png is a file; expected a folder"),
        (["--model", model_folder, "--device", "tpu"], 2, "this machine has no device tpu; expected one of cpu"),
        (["--model", model_folder, "--precision", "int8"], 2, "--precision int8; expected one of float32, bfloat16"),
    ):
        answer = call(photos, "-o", output, *arguments)
        assert (answer.exit_code, answer.stderr.count("\n")) == (code, 1), answer.output
        assert words in answer.stderr
        assert len(answer.stderr) < 300
        assert "Errno" not in answer.stderr
    assert not output.exists()


def test_a_size_is_refused_by_its_option_and_what_is_done_is_said_after_that(model_folder, tmp_path):
    for size in ("65x96", "0x64", "big"):
        answer = CliRunner().invoke(
            app, ["export", "--model", str(model_folder), "-o", str(tmp_path / "a.onnx"), "--size", size]
        )
        assert answer.exit_code == 2
        assert re.match(rf"error: .*--size {size}.*; expected ", answer.stderr)
        assert answer.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


REFUSED = """
import sys
from pathlib import Path
import typer
from cliptea_pipeline import export_cli, serving_cli
photos, empty, output = map(Path, sys.argv[1:])
for call in (
    lambda: serving_cli.predict([empty], "models:/x@champion", None, None, str(output), str(empty)),
    lambda: serving_cli.predict([photos], str(empty / "none"), None, None, str(output), str(empty)),
    lambda: serving_cli.predict([photos], "models:/x@champion", None, None, str(output), str(empty)),
    lambda: serving_cli.predict([photos], "models:/x@champion", "cat, cat", None, str(output), str(empty)),
    lambda: export_cli.export("runs:/0/model", str(output / "a.onnx"), workdir=str(empty)),
    lambda: export_cli.bundle("runs:/0/model", str(output / "a"), workdir=str(empty)),
):
    try:
        call()
    except typer.Exit:
        pass
print({"torch", "mlflow"} & set(sys.modules))
"""


def test_a_refusal_waits_for_no_import(photos, tmp_path):
    (tmp_path / "empty").mkdir()
    arguments = [str(tmp_path / name) for name in ("photos", "empty", "out")]
    ended = subprocess.run([sys.executable, "-c", REFUSED, *arguments], capture_output=True, text=True, check=True)
    wanted = ("no image", "folder does not exist", "mlflow.db", "twice: cat", "mlflow.db", "mlflow.db")
    for line, words in zip(ended.stderr.splitlines(), wanted, strict=True):
        assert words in line
    assert ended.stdout == "set()\n"


def test_the_classes_of_a_killed_prediction_are_known(tmp_path):
    folder = tmp_path / "out"
    claim_folder(folder, ["sky"])
    require_same_classes("out", folder, ["sea"])  # it has no masks yet
    claim_folder(folder, ["sky", "sea"])("masks/a.png", b"x")
    require_same_classes("out", folder, ["sky", "sea"])
    with pytest.raises(ConfigError, match="has masks of other classes"):
        require_same_classes("out", folder, ["sea", "sky"])


def test_the_classes_of_an_earlier_version_are_in_its_areas(tmp_path):
    folder = tmp_path / "out"
    claim(folder, "folder of predictions", "")
    into(folder)("masks/a.png", b"x")
    for areas in ("{", "[]", json.dumps({"classes": ["sea"]})):
        (folder / "areas.json").write_text(areas)
        with pytest.raises(ConfigError, match="has masks of other classes"):
            require_same_classes("out", folder, ["sky"])
    require_same_classes("out", folder, ["sea"])


def test_results_are_no_photos_of_the_next_call(photos, model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for number in (1, 2):
        assert call(photos, "--model", model_folder, "-o", "~/photos/out").exit_code == 0
        areas = json.loads((photos / "out/areas.json").read_text())
        assert len(areas["images"]) == 2, number
    other = call(photos, "--model", model_folder, "-o", photos / "other")
    assert other.exit_code == 0
    assert "the result of an earlier prediction" in other.stderr
    assert len(json.loads((photos / "other/areas.json").read_text())["images"]) == len(areas["images"])


def test_a_known_class_is_known_in_capitals(photos, model, model_folder, tmp_path):
    known = model.description.classes
    capitals = [name.upper() for name in known]
    assert choose_classes(model, capitals, None).names == known
    with pytest.raises(ConfigError):  # a data set's classes have its own names, which need CLIP here
        choose_classes(model, capitals, None, {name: [name, "sofa"] for name in capitals})
    for number, names in enumerate((known, map(str.title, known))):
        given = (photos, "--model", model_folder, "-o", tmp_path / f"out{number}", "--classes", ", ".join(names))
        assert call(*given).exit_code == 0
    one, two = (json.loads((tmp_path / f"out{number}/areas.json").read_text()) for number in (0, 1))
    assert (two["classes"], two["gamma"]) == (known, one["gamma"])


def test_names_that_are_not_utf_8_come_back_from_the_areas():
    written = {}
    facts = {"images": [{"image": "caf\u00e9-\udcff.png"}]}
    write_areas(written.__setitem__, facts)
    assert json.loads(written["areas.json"].decode("utf-8")) == facts
