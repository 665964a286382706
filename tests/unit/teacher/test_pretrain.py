import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from cliptea import progress
from cliptea.config import PretrainConfig, WorldConfig
from cliptea.data.catalogue import IGNORE
from cliptea.data.world import CLASSES, World, caption
from cliptea.teacher import pretrain as module
from cliptea.teacher.pretrain import CHECKPOINT, CONFIG, WEIGHTS, pretrain

WORLD = WorldConfig()
TINY = PretrainConfig(
    detail_iterations=3,
    crop_iterations=3,
    scene_iterations=2,
    detail_batch=8,
    crop_batch=8,
    scene_batch=4,
    scenes=20,
)


class Killed(BaseException):
    """Stands for SIGKILL: nothing in the program catches it."""


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Equal bits are promised for the same number of threads, and these models are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    pretrain(folder, WORLD, TINY, 1)
    return folder


def interrupt_at(monkeypatch: pytest.MonkeyPatch, iteration: int) -> None:
    update = progress.Bar.update

    def dying(self: progress.Bar, units: int = 1, **values: float) -> None:
        update(self, units, **values)
        if self.done == iteration:
            raise Killed

    monkeypatch.setattr(progress.Bar, "update", dying)


def test_folder_holds_config_weights_and_checkpoint(undisturbed: Path) -> None:
    assert {path.name for path in undisturbed.iterdir()} == {CONFIG, WEIGHTS, CHECKPOINT}


@pytest.mark.parametrize("iteration", [1, 5, 8])
def test_interrupted_training_ends_with_the_same_bits(
    iteration: int, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, iteration)
        with pytest.raises(Killed):
            pretrain(tmp_path, WORLD, TINY, 1)
    assert not (tmp_path / WEIGHTS).exists()
    assert (tmp_path / CHECKPOINT).exists() == (iteration > 2)
    torch.rand(3)  # the caller's random state is of no influence
    pretrain(tmp_path, WORLD, TINY, 1)
    assert (tmp_path / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other content", "empty"])
def test_a_damaged_checkpoint_is_thrown_away_with_a_note(
    damage: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    with monkeypatch.context() as patch:
        interrupt_at(patch, 5)
        with pytest.raises(Killed):
            pretrain(tmp_path, WORLD, TINY, 1)
    file = tmp_path / CHECKPOINT
    data = bytearray(file.read_bytes())
    if damage == "other content":
        torch.save({"settings": "other"}, file)
    else:
        data[len(data) // 2] ^= 1
        file.write_bytes({"truncated": data[:-100], "flipped": data, "empty": b""}[damage])
    pretrain(tmp_path, WORLD, TINY, 1)
    told = capsys.readouterr()
    assert f"the checkpoint {file} is damaged; the training of the demo teacher starts again" in told.out + told.err
    assert (tmp_path / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


def test_checkpoint_of_other_settings_is_not_continued(undisturbed: Path, tmp_path: Path) -> None:
    torch.save({"settings": "of another run", "iteration": 3}, tmp_path / CHECKPOINT)
    pretrain(tmp_path, WORLD, TINY, 1)
    assert (tmp_path / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


def test_finished_weights_that_were_damaged_since_are_made_again_without_training(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(shutil.copytree(undisturbed, tmp_path / "finished"))
    wrong = bytearray((folder / WEIGHTS).read_bytes())
    wrong[-1] ^= 1
    (folder / WEIGHTS).write_bytes(wrong)
    monkeypatch.setattr(module, "_loss", None)
    pretrain(folder, WORLD, TINY, 1)
    assert (folder / WEIGHTS).read_bytes() == (undisturbed / WEIGHTS).read_bytes()


def test_other_seed_gives_other_weights_and_leaves_the_random_state_alone(undisturbed: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(4)
    torch.manual_seed(5)
    pretrain(tmp_path, WORLD, TINY, 2)
    assert torch.equal(torch.rand(4), expected)
    assert (tmp_path / WEIGHTS).read_bytes() != (undisturbed / WEIGHTS).read_bytes()


@pytest.mark.parametrize("size", [64, 96])
def test_open_clip_loads_the_folder(undisturbed: Path, size: int) -> None:
    source = f"local-dir:{undisturbed}"
    model = open_clip.create_model(source, force_image_size=size, require_pretrained=True).eval()
    stored = load_file(undisturbed / WEIGHTS)
    assert torch.equal(model.visual.proj, stored["visual.proj"])
    assert tuple(model.visual.image_mean) == open_clip.OPENAI_DATASET_MEAN
    assert tuple(model.visual.image_std) == open_clip.OPENAI_DATASET_STD
    model.visual.output_tokens = True
    with torch.no_grad():
        cls, tokens = model.visual(torch.zeros(2, 3, size, size))
        text = model.encode_text(open_clip.get_tokenizer(source)(["a photo of a zebra"]))
    assert cls.shape == (2, 64)
    assert text.shape == (1, 64)
    assert (tokens @ model.visual.proj).shape == (2, (size // 4) ** 2, 64)


def test_longest_caption_is_not_cut(undisturbed: Path) -> None:
    tokenizer = open_clip.get_tokenizer(f"local-dir:{undisturbed}")
    context = json.loads((undisturbed / CONFIG).read_text())["model_cfg"]["text_cfg"]["context_length"]
    rng = np.random.default_rng(0)
    for _ in range(300):
        names = [CLASSES[c] for c in rng.permutation(len(CLASSES))[:7]]  # as many as a scene has
        assert len(tokenizer.encode(caption(names, rng))) + 2 <= context


def phase(size: int, batch: int, cover: float = module.NAMED) -> module.Phase:
    return module.Phase(size, 1, batch, 1e-3, cover)


def test_batch_names_what_covers_enough_of_a_crop() -> None:
    pool = module._Pool(World(WORLD, 1), 20)
    images, names, captions = pool.batch(np.random.default_rng(0), phase(32, 16))
    assert images.shape == (16, 3, 32, 32)
    assert images.dtype == torch.float32
    assert names.any(1).all()
    for row, text in zip(names, captions, strict=True):
        assert [name in text for name in CLASSES] == row.tolist()


def test_close_ups_show_one_class() -> None:
    world = World(WORLD, 1)
    pool = module._Pool(world, 20)
    _, names, _ = pool.batch(np.random.default_rng(0), phase(16, 50, module.CLOSE))
    _, usual, _ = pool.batch(np.random.default_rng(0), phase(16, 50))
    assert names.sum(1).float().mean() < 1.8 < usual.sum(1).float().mean()
    assert names.any(1).all()


def test_what_has_no_class_is_never_named_and_no_caption_is_empty() -> None:
    """Half of these scenes are without a class, so that many crops show nothing that could be named."""
    pool = module._Pool(World(WORLD, 1), 8)
    for labels in pool.labels:
        labels[:, :32] = IGNORE
        labels[:, 32:] = 3
    _, names, captions = pool.batch(np.random.default_rng(0), phase(16, 64))
    assert np.flatnonzero(names.any(0)).tolist() == [3]
    assert all(CLASSES[3] in text for text in captions)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher after a few seconds of training, whose text features do not lie in a cone."""
    folder = tmp_path_factory.mktemp("trained")
    config = TINY.model_copy(update={"detail_iterations": 100, "detail_batch": 64, "scenes": 60, "cone": 0})
    pretrain(folder, WORLD, config, 1)
    return folder


def test_training_learns_which_caption_belongs_to_an_image(trained: Path) -> None:
    """Chance is 1/16 for names drawn as often; a few seconds of training must beat it well."""
    images, names, _ = module._Pool(World(WORLD, 1), 60).batch(np.random.default_rng(0), phase(16, 200))
    text, image = unit_features(open_clip.create_model(f"local-dir:{trained}", force_image_size=16), images)
    assert names[torch.arange(200), torch.from_numpy((image @ text.T).argmax(1))].float().mean() > 0.4


def test_a_constant_moves_text_features_into_a_cone_and_keeps_what_they_say_of_images(trained: Path) -> None:
    """The real CLIP's classes have a mean cosine of 0.77 to 0.83 (VOC, COCO-Stuff, PASCAL Context; ViT-B/16)."""
    images, _, _ = module._Pool(World(WORLD, 1), 60).batch(np.random.default_rng(0), phase(16, 200))
    model = open_clip.create_model(f"local-dir:{trained}", force_image_size=16)
    text_before, image_before = unit_features(model, images)
    module._narrow(model, PretrainConfig().cone)
    text, image = unit_features(model, images)
    others = ~np.eye(len(CLASSES), dtype=bool)
    assert (text_before @ text_before.T)[others].mean() < 0.5
    assert 0.7 < (text @ text.T)[others].mean() < 0.9
    np.testing.assert_array_equal(image, image_before)
    # Relative to the mean class, the scores of an image are those of before, up to one factor for all of them.
    before, after = (scores - scores.mean(1, keepdims=True) for scores in (image @ text_before.T, image @ text.T))
    assert np.corrcoef(before.ravel(), after.ravel())[0, 1] > 0.95


def unit_features(model: open_clip.CLIP, images: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Unit text features of all classes (N, D) and unit features of images (B, D), float64."""
    tokenizer = open_clip.SimpleTokenizer(context_length=model.context_length)
    with torch.no_grad():
        text = model.eval().encode_text(tokenizer([f"a photo of a {name}" for name in CLASSES]))
        image = model.encode_image(images)
    text, image = (F.normalize(features.double(), dim=1).numpy() for features in (text, image))
    return text, image
