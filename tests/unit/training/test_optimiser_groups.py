"""Learning rates and weight decay that each family's recipe gives (MMSegmentation's)."""

import pytest

from cliptea import settings
from cliptea.method.vla import Adapter
from cliptea.models import build_student
from cliptea.training.optimiser import make_optimiser

LR, DECAY = 6e-5, 0.01
SPARED = ("bias", "layer_scale_1", "layer_scale_2", "gamma", "relative_position_bias_table")


@pytest.mark.parametrize(
    ("backbone", "factor"), [("segformer_b0", 10), ("segnext_t", 10), ("swin_t", 1), ("convnext_atto", 1)]
)
def test_rates_and_decay_follow_the_recipe(backbone, factor):
    config = settings.load(
        "demo", ["train.lr=6e-5", f"train.lr_scale={{{backbone}: 1.0}}", "train.head_lr_factor=null"]
    ).train
    student = build_student(backbone, channels=8)
    optimiser, _ = make_optimiser(student, Adapter("mlp", 8), config, backbone)
    given = {id(p): (g["initial_lr"], g["weight_decay"]) for g in optimiser.param_groups for p in g["params"]}
    norms = {id(p) for m in student.modules() if "Norm" in type(m).__name__ for p in m.parameters(recurse=False)}
    for name, parameter in student.named_parameters():
        lr, decay = given[id(parameter)]
        assert lr == pytest.approx(LR if name.startswith("encoder.") else LR * factor), name
        spared = id(parameter) in norms or name.endswith(SPARED)
        assert decay == (0 if spared else DECAY), name


def test_each_kind_that_does_not_decay_is_met():
    spared = {
        "swin_t": ("relative_position_bias_table", "norm1.weight"),
        "segnext_t": ("layer_scale_1", "norm1.weight"),
        "convnext_atto": ("gamma", "norm.weight"),
        "segformer_b0": ("norm1.weight", "norm.bias"),
    }
    for backbone, endings in spared.items():
        student = build_student(backbone, channels=8)
        still = {id(p) for group in student.parameter_groups() if not group.decay for p in group.parameters}
        for ending in endings:
            found = [p for name, p in student.named_parameters() if name.endswith(ending)]
            assert found
            assert all(id(p) in still for p in found)
