"""Files of weights: every format at ViT-B/16's true size, what does not fit, and files that hold code."""

import errno
import os
import pickle
import zipfile

import open_clip
import pytest
import safetensors.torch
import torch
from torch import nn

from cliptea import files
from cliptea.errors import StorageError, TeacherError
from cliptea.teacher.clip import load_teacher
from cliptea.teacher.clip_files import find_checkpoint, read_checkpoint, weights_sha256

MODEL = "ViT-B-16-quickgelu"
FORMATS = ["ViT-B-16.pt", "open_clip_pytorch_model.bin", "epoch_9.pt", "open_clip_model.safetensors"]
TEXT = "a photo of a cat"
NORMAL = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Holder(nn.Module):
    """A module that holds parameters and computes nothing."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Restored(Holder):
    """A module that TorchScript restores by calling a method of the archive."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2))

    @torch.jit.export
    def __getstate__(self) -> tuple[torch.Tensor, bool]:
        return self.weight, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[torch.Tensor, bool]) -> None:
        self.weight = state[0]
        self.training = state[1]


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def save_torchscript(module, path):
    with pytest.warns(FutureWarning):  # torch discourages the format that OpenAI's files have
        torch.jit.save(torch.jit.script(module), path)


def openai_archive(state, path, size=224):
    """Save as OpenAI does: parameters in half precision under their names, and three numbers beside them."""
    root = Holder()
    for name, value in state.items():
        *parents, last = name.split(".")
        module = root
        for parent in parents:
            if not hasattr(module, parent):
                module.add_module(parent, Holder())
            module = module.get_submodule(parent)
        module.register_parameter(last, nn.Parameter(value, requires_grad=False))
    context, vocabulary = len(state["positional_embedding"]), len(state["token_embedding.weight"])
    for name, number in (("input_resolution", size), ("context_length", context), ("vocab_size", vocabulary)):
        root.register_buffer(name, torch.tensor(number))
    save_torchscript(root.eval(), path)


def save(state, path):
    if path.name == "ViT-B-16.pt":
        openai_archive(state, path)
    elif path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    elif path.name == "epoch_9.pt":  # as open_clip's training leaves it
        held = {f"module.{name}": value for name, value in state.items()}
        torch.save({"epoch": 9, "state_dict": held, "optimizer": {"lr": 0.1}}, path)
    else:
        torch.save(state, path)


@pytest.fixture(scope="module")
def true_size():
    """The state dict of a ViT-B/16 with random weights, in half precision."""
    torch.manual_seed(0)
    return open_clip.CLIP(**open_clip.get_model_config(MODEL)).half().state_dict()


def expected(state, images, crop):
    """open_clip's own model and forward passes; dense tokens are taken behind ln_post and projected here."""
    model = open_clip.create_model(MODEL, force_image_size=crop)
    state = {name: value.float() for name, value in state.items()}
    open_clip.model.resize_pos_embed(state, model)
    model.load_state_dict(state)
    normed = []
    model.visual.ln_post.register_forward_hook(lambda module, inputs, output: normed.append(output))
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in NORMAL)
    with torch.no_grad():
        cls_BD = model.eval().encode_image((images / 255 - mean) / std)
        side = crop // 16
        dense_BDgg = torch.einsum("ble,ed->bdl", normed[0][:, 1:], model.visual.proj).unflatten(2, (side, side))
        return cls_BD, dense_BDgg, model.encode_text(open_clip.get_tokenizer(MODEL)([TEXT]), normalize=True)


@pytest.mark.parametrize("crop", [128, pytest.param(512, marks=pytest.mark.long)])
def test_every_format_gives_open_clips_tokens_at_true_size(true_size, tmp_path, crop):
    images = torch.randint(0, 256, (1, 3, crop, crop), dtype=torch.uint8)
    wanted = expected(true_size, images, crop)
    for name in FORMATS:
        path = tmp_path / name
        save(true_size, path)
        teacher = load_teacher(str(path), MODEL, crop)
        path.unlink()
        assert {parameter.dtype for parameter in teacher.parameters()} == {torch.float32}
        found = *teacher.tokens(images, torch.ones(1, crop, crop, dtype=torch.bool)), teacher.encode_text([TEXT])
        del teacher  # before the next one is loaded
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.fixture
def small(folder):
    return safetensors.torch.load_file(folder / "open_clip_model.safetensors")


def test_the_content_tells_the_format(small, tmp_path):
    """A download may have lost its suffix."""
    for name in FORMATS:
        save(small, tmp_path / name)
        (tmp_path / name).rename(tmp_path / "weights")
        read = read_checkpoint(tmp_path / "weights")
        assert all(torch.equal(read[key], value) for key, value in small.items())


def test_logit_scales_of_both_shapes_are_taken(small, small_architecture, tmp_path):
    small["logit_scale"] = small["logit_scale"].reshape(1)
    save(small, tmp_path / "weights.safetensors")
    assert load_teacher(str(tmp_path / "weights.safetensors"), small_architecture, 32).clip.logit_scale.ndim == 0


def other_width(state):
    return state | {"visual.conv1.weight": torch.zeros(40, 3, 8, 8)}


def fewer_keys(state):
    return {name: value for name, value in state.items() if name != "visual.ln_post.bias"}


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (other_width, r"visual\.conv1\.weight is \(40, 3, 8, 8\), expected \(32, 3, 8, 8\)"),
        (fewer_keys, r"visual\.ln_post\.bias is missing"),
        (lambda state: state | {"visual.extra": torch.ones(1)}, r"visual\.extra is unexpected"),
        (lambda state: state | {"visual.proj": 3}, r"visual\.proj is not a tensor but int"),
        (
            lambda state: state | {"visual.positional_embedding": torch.zeros(12, 32)},
            r"visual\.positional_embedding is \(12, 32\), expected \(17, 32\)",
        ),
    ],
)
def test_what_does_not_fit_is_named(small, small_architecture, tmp_path, change, difference):
    path = tmp_path / "weights.pt"
    torch.save(change(small), path)
    with pytest.raises(TeacherError, match=rf"weights\.pt do not fit small: {difference}") as caught:
        load_teacher(str(path), small_architecture, 32)
    assert "\n" not in str(caught.value)


def test_openais_archive_needs_quickgelu(small, small_architecture, tmp_path):
    openai_archive(small, tmp_path / "small.pt", 32)
    with pytest.raises(TeacherError, match=r"trained with QuickGELU.*add --set teacher\.model=small|open_clip_config"):
        load_teacher(str(tmp_path / "small.pt"), small_architecture, 32)
    assert load_teacher(str(tmp_path / "small.pt"), "small-quickgelu", 32).dim == 24


@pytest.mark.parametrize("how", ["zip", "legacy", "plain", "nested"])
def test_pickles_that_run_code_are_refused_and_run_nothing(small, small_architecture, tmp_path, how):
    path, trace = tmp_path / "weights.pt", tmp_path / "was-here"
    evil = small | {"evil": Malicious(trace)}
    if how == "plain":
        path.write_bytes(pickle.dumps({"evil": Malicious(trace)}, protocol=2))
    else:
        held = {"state_dict": small, "args": Malicious(trace)} if how == "nested" else evil
        torch.save(held, path, _use_new_zipfile_serialization=how != "legacy")
    with pytest.raises(TeacherError, match=r"could run code|not a file of CLIP weights") as caught:
        load_teacher(str(path), small_architecture, 32)
    assert not trace.exists()
    assert "weights_only" not in str(caught.value)  # torch's advice is to run the code


def test_archives_with_a_method_that_loading_calls_are_refused(tmp_path):
    save_torchscript(Restored(), tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match="__setstate__"):
        read_checkpoint(tmp_path / "weights.pt")


def test_such_a_method_is_found_whatever_the_name_of_its_file(tmp_path):
    """PyTorch finds the file in any case."""
    save_torchscript(Restored(), tmp_path / "plain.pt")
    for number, change in enumerate((str.upper, str.title, lambda name: name.replace("__torch__", "__torch__\n"))):
        path = tmp_path / f"{number}.pt"
        with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(path, "w") as changed:
            for entry in plain.infolist():
                name = change(entry.filename) if entry.filename.endswith(".py") else entry.filename
                changed.writestr(name, plain.read(entry))
        with pytest.raises(TeacherError, match="__setstate__"):
            read_checkpoint(path)


@pytest.mark.parametrize("entry", ["code/__torch__.py", "data.pkl", "other"])
def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch, entry):
    monkeypatch.setattr(files, "MOST_SAVED", 1 << 16)
    with zipfile.ZipFile(tmp_path / "weights.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"weights/{entry}", bytes(1 << 20))
    monkeypatch.setattr(zipfile.ZipFile, "read", None)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(TeacherError, match="would unpack to far more than its size"):
        read_checkpoint(tmp_path / "weights.pt")


def test_hidden_files_are_no_weights(tmp_path):
    for name in ("._model.safetensors", "model.safetensors"):
        (tmp_path / name).write_bytes(b"")
    assert find_checkpoint(tmp_path).name == "model.safetensors"


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("name", "odd"), [("pipe.pt", "a named pipe"), ("zero.pt", "a device")])
def test_what_is_no_file_is_not_waited_for(tmp_path, name, odd):
    os.mkfifo(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    for reader in (read_checkpoint, lambda path: weights_sha256(str(path))):
        with pytest.raises(TeacherError, match=rf"{name}.* is {odd}; expected safetensors"):
            reader(tmp_path / name)


@pytest.mark.timeout(10)
def test_a_named_pipe_among_the_files_of_a_tokenizer_is_not_waited_for(tmp_path):
    (tmp_path / "open_clip_config.json").write_text('{"model_cfg": {"text_cfg": {"hf_tokenizer_name": "x"}}}')
    (tmp_path / "model.safetensors").touch()
    os.mkfifo(tmp_path / "tokenizer.json")
    with pytest.raises(TeacherError, match=r"tokenizer\.json is a named pipe; expected only files"):
        load_teacher(str(tmp_path), "", 224)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_other_files_are_one_line(tmp_path, content):
    (tmp_path / "weights.pt").write_bytes(content)
    with pytest.raises(TeacherError, match="not a file of CLIP weights") as caught:
        read_checkpoint(tmp_path / "weights.pt")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "meaning"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "weights.pt"), "this user may not do that"),
        (OSError(errno.EIO, "Input/output error"), "the disk has an input/output error"),
        (OSError(errno.EMFILE, "Too many open files"), "the limit of open files is reached"),
        (MemoryError(), "memory is exhausted"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "memory is exhausted"),
    ],
)
def test_an_error_of_the_system_is_no_damage(tmp_path, monkeypatch, error, meaning):
    def fails(*arguments, **options):
        raise error

    torch.save({"a": torch.ones(1)}, tmp_path / "weights.pt")
    monkeypatch.setattr(torch, "load", fails)
    with pytest.raises(StorageError, match=rf"^cannot read the weights .*weights\.pt: {meaning}"):
        read_checkpoint(tmp_path / "weights.pt")


@pytest.mark.parametrize("name", FORMATS)
def test_truncated_files_are_one_line(small, tmp_path, name):
    path = tmp_path / name
    save(small, path)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(TeacherError, match="or is damaged"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "found"),
    [([1, 2], "list"), ({"epoch": 3, "loss": 0.5, "names": []}, r"epoch \(int\), loss \(float\), names \(list\)")],
)
def test_numbers_alone_are_no_weights(tmp_path, content, found):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(TeacherError, match=rf"does not hold a state dict, but {found}; expected"):
        read_checkpoint(tmp_path / "weights.pt")


def test_a_folders_own_weights_come_first(tmp_path):
    names = ["open_clip_model.safetensors", "open_clip_pytorch_model.bin", "model.safetensors", "pytorch_model.bin"]
    for name in names:
        (tmp_path / name).touch()
    for name in names:
        assert find_checkpoint(tmp_path).name == name
        (tmp_path / name).unlink()
    with pytest.raises(TeacherError, match="holds no weights"):
        find_checkpoint(tmp_path)
