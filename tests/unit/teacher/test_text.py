"""Text features: prompts against open_clip, and files against a text tower that is at hand or is not.

Rows of a class list are made as CLIP's are: a narrow cone, and other prompts move every row a little.
"""

import errno
from types import SimpleNamespace

import ftfy
import numpy as np
import open_clip
import pytest
import torch

from cliptea import progress
from cliptea.errors import StorageError, TeacherError, Unusable
from cliptea.manifest import Output
from cliptea.settings import load
from cliptea.storage import FileStore
from cliptea.teacher import text
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.outputs import TextSet
from cliptea.teacher.templates import TEMPLATES
from cliptea.teacher.text import read_text_features, require_different, text_features

DIM = 64
CLASSES = [f"thing {number}" for number in range(20)]


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def rows_of(names, prompts=0, clip=0):
    """(N, D) unit rows with cosines of about 0.8 between classes, and 0.97 between prompts of one class."""
    cone = unit(np.random.default_rng(clip).standard_normal(DIM))
    own = [unit(np.random.default_rng([clip, *name.encode()]).standard_normal(DIM)) for name in names]
    rows = unit(2 * cone + np.stack(own))
    return unit(rows + 0.25 * prompts * unit(np.random.default_rng(prompts).standard_normal(rows.shape)))


def tower(prompts=0, clip=0):
    """A teacher that answers as `rows_of`."""

    def encode_text(texts):
        names = [text.removeprefix("a photo of a ") for text in texts]
        return torch.from_numpy(rows_of(names, prompts, clip)).float()

    return SimpleNamespace(dim=DIM, encode_text=encode_text)


@pytest.fixture
def warnings(monkeypatch):
    said = []
    monkeypatch.setattr(progress, "warn", said.append)
    return said


@pytest.fixture
def saved(tmp_path):
    def save(rows):
        np.save(tmp_path / "rows.npy", rows)
        return str(tmp_path / "rows.npy")

    return save


OWN = ["an aerial view of {}.", "{} {from above}"]


@pytest.mark.parametrize("templates", ["single", "multi", OWN])
def test_text_features_are_means_of_unit_prompt_features(folder, templates):
    model = open_clip.create_model(f"local-dir:{folder}").eval()
    tokenizer = open_clip.get_tokenizer(f"local-dir:{folder}")
    prompts = {
        str(OWN): lambda name: [f"an aerial view of {name}.", f"{name} {{from above}}"],
        "single": lambda name: [f"a photo of a {name}"],
        "multi": lambda name: [template.format(name) for template in TEMPLATES["multi"]],
    }
    rows = []
    for name in ("cat", "traffic light"):
        with torch.no_grad():
            features = model.encode_text(tokenizer(prompts[str(templates)](name))).double().numpy()
        mean = (features / np.linalg.norm(features, axis=1, keepdims=True)).mean(0)
        rows.append(mean / np.linalg.norm(mean))
    found = text_features(load_teacher(str(folder), "unused", 32), ["cat", "traffic light"], templates)
    np.testing.assert_allclose(found.numpy(), rows, atol=1e-5)


def test_a_class_with_several_names_has_their_mean(folder):
    teacher = load_teacher(str(folder), "unused", 32)
    alone = text_features(teacher, ["person", "man", "woman", "child", "cat"], "multi").double().numpy()
    found = text_features(teacher, ["cat", "person"], "multi", {"person": ["man", "woman", "child"], "dog": ["x"]})
    np.testing.assert_array_equal(found[0].numpy(), alone[4].astype(np.float32))
    mean = alone[1:4].mean(0)
    np.testing.assert_allclose(found[1].numpy(), mean / np.linalg.norm(mean), atol=1e-6)
    assert np.abs(found[1].numpy() - alone[0]).max() > 1e-3


def test_there_are_zegclips_15_prompts():
    assert len(set(TEMPLATES["multi"])) == 15
    assert TEMPLATES["single"] == ["a photo of a {}"]


def read(source, teacher=None, classes=CLASSES):
    return read_text_features(source, teacher or tower(), classes)


def test_the_cone_is_as_narrow_as_clips():
    cosines = rows_of(CLASSES) @ rows_of(CLASSES).T
    assert 0.75 < cosines[~np.eye(20, dtype=bool)].mean() < 0.85
    assert 0.95 < np.diagonal(rows_of(CLASSES, prompts=1) @ rows_of(CLASSES).T).min() < 0.99


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rows_come_back_as_unit_float32(saved, warnings, dtype):
    rows = rows_of(CLASSES).astype(dtype)
    found = read(saved(rows))
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), unit(rows.astype(np.float32)), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found.numpy(), axis=1), 1, atol=1e-6)
    assert warnings == []


def test_rows_of_other_prompts_are_recognised(saved, warnings):
    read(saved(rows_of(CLASSES, prompts=1)))
    assert warnings == []


@pytest.mark.parametrize("prompts", [0, 1])
def test_two_classes_exchanged_are_refused_by_name(saved, prompts):
    order = list(range(20))
    order[7], order[12] = 12, 7
    with pytest.raises(TeacherError, match=r"row 8 of .* is 'thing 12' .* not 'thing 7'"):
        read(saved(rows_of(CLASSES, prompts)[order]))


def test_another_order_of_the_same_classes_is_refused(saved):
    """Alphabetical and VOC-first lists of PASCAL Context hold the same names."""
    listed_first = [*CLASSES[10:], *CLASSES[:10]]
    with pytest.raises(TeacherError, match=r"row 1 .* is 'thing 10'"):
        read(saved(rows_of(listed_first)))


def test_another_data_set_with_as_many_classes_is_refused(saved):
    """Some of its classes are here too, at other places."""
    others = [f"thing {number}" for number in range(12, 32)]
    with pytest.raises(TeacherError, match="order of the class list"):
        read(saved(rows_of(others)))


def test_the_file_of_another_clip_is_one_warning(saved, warnings):
    rows = rows_of(CLASSES)
    np.testing.assert_allclose(read(saved(rows), tower(clip=1)).numpy(), rows, atol=1e-6)
    assert len(warnings) == 1
    assert "another CLIP" in warnings[0]


def test_an_odd_row_is_a_warning(saved, warnings):
    """A hand-made class near another one, whose own row is there, tells of no other order."""
    rows = rows_of(CLASSES)
    rows[3] = unit(rows[3] + 2 * rows[5])
    read(saved(rows))
    assert len(warnings) == 1
    assert "'thing 3', is nearer to 'thing 5'" in warnings[0]


def test_rows_that_are_not_unit_are_normalised_with_a_warning(saved, warnings):
    rows = rows_of(CLASSES)
    np.testing.assert_allclose(read(saved(rows * 10)).numpy(), rows, atol=1e-6)
    assert len(warnings) == 1
    assert "norms from 10 to 10" in warnings[0]


def with_row(index, value):
    rows = rows_of(CLASSES)
    rows[index] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        (rows_of(CLASSES)[:-1], r"are \(19, 64\) float64; expected \(20, 64\)"),
        (rows_of(CLASSES)[:, :-1], r"are \(20, 63\) float64; expected \(20, 64\)"),
        (rows_of(CLASSES).T, r"are \(64, 20\)"),
        (rows_of(CLASSES)[None], r"are \(1, 20, 64\)"),
        ((rows_of(CLASSES) * 100).astype(np.int64), "int64"),
        (with_row(2, np.nan), "not all finite"),
        (with_row(2, 1e300), "not all finite"),  # infinite in float32
        (with_row(2, 0), "row for 'thing 2' .* is zero"),
        (with_row(2, rows_of(CLASSES)[9]), "rows for 'thing 2' and 'thing 9' .* are equal"),
        (np.ones((20, DIM)) / 8, "rows for 'thing 0' and 'thing 1' .* are equal"),
        (np.array([{}] * 20), "cannot be read"),
    ],
)
def test_a_file_of_something_else_is_one_line(saved, rows, complaint):
    with pytest.raises(TeacherError, match=complaint) as caught:
        read(saved(rows))
    assert "\n" not in str(caught.value)


def test_a_disk_that_cannot_be_read_is_no_other_format(saved, monkeypatch):
    def fails(*arguments, **options):
        raise OSError(errno.EIO, "Input/output error")

    file = saved(rows_of(CLASSES))
    monkeypatch.setattr(np, "load", fails)
    with pytest.raises(Unusable, match=r"^cannot read the text features .*: the disk has an input/output error"):
        read(file)


def test_a_damaged_shape_is_not_taken_for_too_little_memory(saved):
    path = saved(rows_of(CLASSES))
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**13, DIM)}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(bytes(1000))
    with pytest.raises(TeacherError, match="cannot be read"):
        read(path)


def test_files_that_are_no_array_are_one_line(tmp_path):
    (tmp_path / "text.npy").write_bytes(b"not numpy")
    np.savez(tmp_path / "several.npz", rows_of(CLASSES))
    with pytest.raises(TeacherError, match=r"text\.npy cannot be read"):
        read(str(tmp_path / "text.npy"))
    with pytest.raises(TeacherError, match="several arrays"):
        read(str(tmp_path / "several.npz"))
    with pytest.raises(StorageError, match=r"none\.npy"):
        read(str(tmp_path / "none.npy"))


def test_equal_features_are_found_among_many_classes():
    text_ND = torch.nn.functional.normalize(torch.randn(60, 512), dim=1)
    names = [f"class {index}" for index in range(60)]
    require_different(text_ND, names)
    text_ND[41] = text_ND[7]
    with pytest.raises(TeacherError, match="'class 7' and 'class 41'"):
        require_different(text_ND, names)


@pytest.mark.parametrize("weights", ["demo", "openai"])
def test_classes_that_are_one_to_the_teacher_are_refused(weights, tmp_path, monkeypatch, warnings):
    clip = tower()
    same = SimpleNamespace(dim=DIM, encode_text=lambda texts: clip.encode_text([ftfy.fix_text(one) for one in texts]))
    monkeypatch.setattr(text, "teacher_weights", lambda store, config: "")
    monkeypatch.setattr(text, "open_teacher", lambda weights, config: same)
    config = load("demo", [f"teacher.weights={weights}", "teacher.model=ViT-B-16-quickgelu"])
    sets = {
        Output("text", "f"): TextSet(classes=["caf\u00e9", "caf\u00c3\u00a9"], templates="single", text_features=None)
    }
    with pytest.raises(TeacherError, match="have the same text embedding"):
        text.make_texts(FileStore(tmp_path), config, sets)
    assert not list(tmp_path.rglob("text.safetensors"))
