"""AdamW with parameter groups, linear warm-up and polynomial decay (power 1).

Source of the schedule: MMSegmentation's recipes for transformers, `LinearLR` from a factor of 1e-6, then `PolyLR` to 0.
"""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from cliptea.config import TrainConfig
from cliptea.models.student import Student

__all__ = ["lr_factor", "make_optimiser"]

WARMUP_START = 1e-6  # as a fraction of the learning rate
WARMUP_SHARE = 0.05  # the longest warm-up, as a fraction of all iterations


def lr_factor(iteration: int, iterations: int, warmup: int) -> float:
    """The factor of the learning rate at an iteration (0-based).

    It rises linearly to 1 at `warmup`, or after 5 % of the iterations if that is earlier, and then falls linearly to 0.
    """
    warmup = min(warmup, int(iterations * WARMUP_SHARE))
    if iteration < warmup:
        return WARMUP_START + (1 - WARMUP_START) * iteration / warmup
    return max(0.0, 1 - (iteration - warmup) / max(1, iterations - warmup))


def make_optimiser(student: Student, adapter: nn.Module, config: TrainConfig, backbone: str) -> tuple[AdamW, LambdaLR]:
    """The optimiser of student and adapter, and its schedule. By default the adapter has the head's learning rate."""
    lr = config.lr * config.lr_scale.get(backbone, 1.0)
    head_lr = lr * (student.head_lr_factor if config.head_lr_factor is None else config.head_lr_factor)
    groups = [
        {
            "params": group.parameters,
            "lr": head_lr if group.head else lr,
            "weight_decay": config.weight_decay if group.decay else 0.0,
        }
        for group in student.parameter_groups()
    ]
    generator_lr = head_lr if config.generator_lr_factor is None else lr * config.generator_lr_factor
    groups.append({"params": list(adapter.parameters()), "lr": generator_lr})
    optimiser = AdamW(
        [group for group in groups if group["params"]],
        lr=lr,
        betas=config.betas,
        weight_decay=config.weight_decay,
    )
    schedule = LambdaLR(optimiser, lambda it: lr_factor(it, config.iterations, config.warmup_iterations))
    return optimiser, schedule
