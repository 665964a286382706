"""The size of a student against counts by hand, and its speed by a clock that the test turns."""

import numpy as np
import pytest
import torch
from plain_student import Plain
from torch import nn

from cliptea.config import EvaluationConfig
from cliptea.cores import processor
from cliptea.evaluation import inference_speed as speed
from cliptea.evaluation.inference_speed import measure_inference

SETTINGS = EvaluationConfig(scale=(128, 64), divisor=32)
TEXT = nn.functional.normalize(torch.ones(4, 5), dim=1)


@pytest.fixture
def _one_round(monkeypatch):
    monkeypatch.setattr(speed, "FEWEST", 1)
    monkeypatch.setattr(speed, "SECONDS", 0.0)


@pytest.mark.usefixtures("_one_round")
def test_operations_and_weights_are_those_counted_by_hand():
    student = Plain(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 5, 1)).eval()
    found = measure_inference(student, TEXT, SETTINGS)
    pixels = 32 * 32
    assert found.gflops * 1e9 == 2 * pixels * (8 * 3 * 9 + 5 * 8 + 4 * 5)
    assert found.parameters == 8 * 3 * 9 + 8 + 5 * 8 + 5
    assert (found.size, found.precision, found.threads) == ("64x64", "float32", torch.get_num_threads())


@pytest.mark.usefixtures("_one_round")
def test_attention_is_counted_also_where_it_is_fused():
    class Attending(nn.Module):
        def forward(self, images):
            tokens = images.flatten(2).transpose(1, 2)[:, :32, :3]
            attended = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
            return attended.transpose(1, 2)[:, :, :16].unflatten(2, (4, 4))

    text = nn.functional.normalize(torch.ones(2, 3), dim=1)
    found = measure_inference(Plain(Attending()).eval(), text, SETTINGS)
    assert found.gflops * 1e9 == 2 * (2 * 32 * 32 * 3 + 16 * 3 * 2)


@pytest.mark.usefixtures("_one_round")
def test_a_window_is_the_size_of_a_student_that_slides_and_the_precision_is_told():
    student = Plain(nn.Conv2d(3, 5, 1)).eval()
    slides = SETTINGS.model_copy(update={"mode": "slide", "window": 40, "stride": 40, "precision": "bfloat16"})
    found = measure_inference(student, TEXT, slides)
    assert (found.size, found.precision) == ("64x64", "bfloat16")  # 40 is padded to the divisor


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is measured instead")
@pytest.mark.usefixtures("_one_round")
def test_the_memory_of_a_cpu_is_not_measured():
    found = measure_inference(Plain(nn.Conv2d(3, 5, 1)).eval(), TEXT, SETTINGS)
    assert (found.device, found.peak_memory_mib) == (processor(), None)


@pytest.mark.usefixtures("_one_round")
def test_threads_and_batches_of_evaluation_do_not_change_what_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(speed, "each_image", lambda *arguments: asked.append(arguments[2]) or iter(()))
    student = Plain(nn.Conv2d(3, 5, 1)).eval()
    for changed in ({}, {"workers": 1, "batch_size": 3}):
        measure_inference(student, TEXT, SETTINGS.model_copy(update=changed))
    assert {(settings.workers, settings.batch_size) for settings in asked} == {(None, None)}


def test_the_median_of_warm_rounds_counts(monkeypatch):
    now, durations = [0.0], iter([9.0, 0.5, 0.1, 0.2, 1.5, 7.0])

    def work():
        now[0] += next(durations)

    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    assert speed._median_seconds(work) == pytest.approx(np.median([0.5, 0.1, 0.2, 1.5]))
