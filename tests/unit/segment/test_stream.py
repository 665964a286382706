"""Images through a student by several devices and threads and in batches give what they give one by one.

Several devices are simulated by naming the CPU several times: each place in the list has a copy of the network.
"""

import threading
from copy import deepcopy
from functools import partial

import numpy as np
import pytest
import torch

from cliptea.config import EvaluationConfig
from cliptea.errors import DataError, NotFinite
from cliptea.models import build_student
from cliptea.models.own import OwnStudent
from cliptea.models.student import Student
from cliptea.segment import stream
from cliptea.segment.inference import image_logits
from cliptea.segment.masks import make_mask
from cliptea.segment.stream import Loaded, each_image

SIZES = [(64, 96), (96, 64), (64, 96), (33, 40), (64, 96), (64, 90), (50, 70), (64, 96), (64, 96)]
SETTINGS = EvaluationConfig(scale=(96, 64))


@pytest.fixture(scope="module", params=["demo_fpn", "segformer_b0"])
def student(request):
    torch.manual_seed(0)
    return build_student(request.param, 16).eval()


@pytest.fixture(scope="module")
def text():
    torch.manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(5, 16), dim=1)


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def mask_of(logits):
    """With all classes in it, which a network of random weights does not see by itself."""
    return make_mask(logits, -logits.small_Nhw.mean((1, 2)))


def masks(student, text, images, settings=SETTINGS, devices=1):
    """The mask of each image, or None for those that are None."""

    def work(loaded, logits):
        return None if logits is None else mask_of(logits)

    read = partial(_read, images)
    places = [torch.device("cpu")] * devices
    return list(each_image(student, text, settings, range(len(images)), read, work, "image {}".format, places))


def _read(images, number):
    return Loaded(number, images[number])


def one_by_one(student, text, images):
    found = (image_logits(student, [image], text, SETTINGS) for image in images)
    return [mask_of(logits) for (logits,) in found]


@pytest.mark.parametrize(
    ("workers", "batch_size", "devices"),
    [(None, None, 1), (1, None, 1), (3, None, 1), (2, 2, 1), (3, 8, 1), (None, None, 3), (3, 2, 2), (1, 2, 2)],
)
def test_masks_are_those_of_single_images_whatever_the_batch_the_threads_and_the_devices(
    student, text, images, workers, batch_size, devices
):
    settings = SETTINGS.model_copy(update={"workers": workers, "batch_size": batch_size})
    found, wanted = masks(student, text, images, settings, devices), one_by_one(student, text, images)
    for one, other in zip(found, wanted, strict=True):
        assert len(np.unique(other)) > 1
        assert np.array_equal(one, other)


class Counted(Student):
    """Knows which of its copies segment images, and how many calls of one copy happen at the same time.

    Each call waits for as many others as `together` asks for. If they do not come, it is an error.
    """

    together = threading.Barrier(1)

    def __init__(self):
        super().__init__("", 1.0)
        self.layer, self.inside = torch.nn.Conv2d(3, 16, 4, 4), []

    def forward(self, images):
        self.inside.append(None)
        CALLS.append((id(self), len(self.inside)))
        self.together.wait(timeout=60)
        self.inside.pop()
        return self.layer(images)


CALLS = []


@pytest.mark.parametrize(("hooks", "most"), [(False, 2), (True, 1)])
def test_each_device_has_a_copy_and_as_many_threads_as_may_call_it(text, images, monkeypatch, hooks, most):
    student = Counted()
    monkeypatch.setattr(Counted, "together", threading.Barrier(3 * most))
    if hooks:  # as in encoders of timm that keep features between calls
        student.layer.hooks = None
    CALLS.clear()
    masks(student, text, images[:6] * 2, SETTINGS.model_copy(update={"workers": 6}), devices=3)
    assert len({copy for copy, _ in CALLS}) == 3
    assert id(student) in {copy for copy, _ in CALLS}
    assert max(inside for _, inside in CALLS) == most


@pytest.mark.parametrize(("number", "workers", "used"), [(2, None, 2), (9, 2, 2), (9, None, 4), (0, None, 1)])
def test_the_network_is_copied_only_to_devices_that_get_work(text, images, monkeypatch, number, workers, used):
    copied = []
    monkeypatch.setattr(stream, "deepcopy", lambda student: copied.append(student) or deepcopy(student))
    masks(Counted(), text, images[:number], SETTINGS.model_copy(update={"workers": workers}), devices=4)
    assert len(copied) == used - 1


def test_a_network_of_the_users_own_stays_on_one_device_and_in_one_thread(text, images):
    calls = []

    class Own(torch.nn.Module):
        def forward(self, images):
            calls.append(threading.get_ident())
            return images.repeat(1, 6, 1, 1)[:, :16, ::4, ::4]

    masks(OwnStudent(Own(), 16, "own"), text, images, SETTINGS.model_copy(update={"workers": 4}), devices=3)
    assert len(calls) == len(images)
    assert len(set(calls)) == 1


def test_an_error_of_one_device_ends_the_work_and_is_told(text, images):
    student, before = Counted(), set(threading.enumerate())
    original, found = id(student), []

    class Broken(Counted):
        def forward(self, images):
            if id(self) != original:
                raise RuntimeError("this device has no memory left")
            return super().forward(images)

    student.__class__ = Broken
    read, places = partial(_read, images), [torch.device("cpu")] * 2
    with pytest.raises(RuntimeError, match="this device has no memory left"):
        found.extend(each_image(student, text, SETTINGS, range(9), read, lambda one, logits: one.item, str, places))
    assert found == list(range(len(found)))  # in their order up to the error
    assert len(found) < 9
    started = set(threading.enumerate()) - before
    assert not [thread for thread in started if thread.name.startswith("ThreadPoolExecutor")]


def test_batches_hold_images_of_one_padded_size_and_the_order_stays(student, text, images, monkeypatch):
    batches = []
    hook = student.encoder.register_forward_hook(lambda module, inputs, output: batches.append(inputs[0].shape))
    masks(student, text, images, SETTINGS.model_copy(update={"workers": 1, "batch_size": 3}))
    hook.remove()
    assert [tuple(shape) for shape in batches] == [(3, 3, 64, 96)] * 2 + [(2, 3, 64, 96), (1, 3, 96, 64)]
    monkeypatch.setattr(stream, "MOST_PIXELS", 0)
    batches.clear()
    hook = student.encoder.register_forward_hook(lambda module, inputs, output: batches.append(inputs[0].shape))
    masks(student, text, images, SETTINGS.model_copy(update={"workers": 1, "batch_size": 3}))
    hook.remove()
    assert [shape[0] for shape in batches] == [1] * len(images)


def test_an_item_without_an_image_keeps_its_place(student, text, images):
    found = masks(student, text, [images[0], None, images[1], None])
    assert [None if mask is None else mask.shape for mask in found] == [(64, 96), None, (96, 64), None]


def test_errors_of_reading_and_of_logits_come_in_their_turn(student, text, images):
    done, threads = [], torch.get_num_threads()

    def read(number):
        if number == 2:
            raise DataError("image 2 is damaged")
        return Loaded(number, images[number])

    with pytest.raises(DataError, match="image 2 is damaged"):
        done.extend(each_image(student, text, SETTINGS, range(9), read, lambda one, logits: one.item, str))
    with pytest.raises(NotFinite, match="image 0: "):
        masks(student, text * torch.inf, images)
    assert torch.get_num_threads() == threads


def test_threads_share_the_cores_and_leave_them_as_they_were(student, text, images):
    seen = []

    def work(loaded, logits):
        seen.append((torch.get_num_threads(), threading.get_ident()))

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for number, threads in ((4, 1), (1, 2)):  # a single image gets all cores
            seen.clear()
            list(each_image(student, text, SETTINGS, range(number), partial(_read, images), work, str))
            assert {found for found, _ in seen} == {threads}
            assert threading.get_ident() not in {thread for _, thread in seen}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("devices", [1, 2])
def test_large_images_are_segmented_one_at_a_time_on_each_device(student, text, images, monkeypatch, devices):
    monkeypatch.setattr(stream, "LARGE", 0)
    inside, most = [0], [0]
    guard = threading.Lock()

    def work(loaded, logits):
        with guard:
            inside[0] += 1
            most[0] = max(most[0], inside[0])
        mask_of(logits)
        with guard:
            inside[0] -= 1

    settings = SETTINGS.model_copy(update={"workers": 4})
    places = [torch.device("cpu")] * devices
    list(each_image(student, text, settings, range(9), partial(_read, images), work, str, places))
    assert 1 <= most[0] <= devices


def test_large_images_on_two_devices_do_not_wait_for_each_other(text, images, monkeypatch):
    monkeypatch.setattr(stream, "LARGE", 0)
    monkeypatch.setattr(Counted, "together", threading.Barrier(2))
    CALLS.clear()
    masks(Counted(), text, images[:6], SETTINGS.model_copy(update={"workers": 2}), devices=2)
    assert len({copy for copy, _ in CALLS}) == 2


@pytest.mark.parametrize(("precision", "dtype"), [("bfloat16", torch.bfloat16), ("float32", torch.float32)])
def test_the_network_runs_in_the_precision_that_is_set(text, images, precision, dtype):
    torch.manual_seed(0)
    student, seen = build_student("demo_fpn", 16).eval(), []
    student.decoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    settings = SETTINGS.model_copy(update={"precision": precision})
    (logits,) = image_logits(student, images[:1], text, settings)
    (wanted,) = image_logits(student, images[:1], text, SETTINGS)
    assert (seen[0], logits.small_Nhw.dtype) == (dtype, torch.float32)
    spread = float(wanted.small_Nhw.std())
    error = float((logits.small_Nhw - wanted.small_Nhw).abs().max()) / spread
    assert (error > 0) is (precision != "float32")
    assert error < 0.1
