"""Everything that changes while a student learns, and the step that changes it."""

from __future__ import annotations

import io
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cliptea import device
from cliptea.config import Config
from cliptea.method.glm import TokenBank
from cliptea.method.vla import Adapter
from cliptea.models import build_student
from cliptea.training.batches import Batch
from cliptea.training.optimiser import make_optimiser
from cliptea.training.step import method_losses

__all__ = ["History", "Trainer"]


@dataclass
class History:
    """What was measured: mean loss terms of each logging interval, and the time that training took."""

    curves: list[dict[str, float]] = field(default_factory=list)  # each with its iteration
    pending: list[dict[str, float]] = field(default_factory=list)  # iterations since the last entry
    seconds: float = 0.0

    def add(self, terms: dict[str, float]) -> None:
        self.pending.append(terms)

    def close_interval(self, iteration: int) -> None:
        means = {name: sum(terms[name] for terms in self.pending) / len(self.pending) for name in self.pending[0]}
        self.curves.append({"iteration": iteration, **means})
        self.pending = []


class Trainer:
    """Everything that changes while a student learns, and the step that changes it."""

    def __init__(self, config: Config, text_SD: Tensor, seed: int) -> None:
        torch.manual_seed(seed)
        method, dim = config.method, text_SD.shape[1]
        self.config, self.where = config, device.best()
        self.student = build_student(
            config.student.backbone, dim, config.student.dropout, config.student.initial_weights
        ).to(self.where)
        self.adapter = Adapter(
            method.generator,
            dim,
            method.generator_layers,
            method.generator_heads,
            method.generator_ffn,
            method.generator_dropout,
        ).to(self.where)
        self.bank = TokenBank(method.bank_iterations)
        self.optimiser, self.schedule = make_optimiser(
            self.student, self.adapter, config.train, config.student.backbone
        )
        self.text_SD = text_SD.to(self.where)
        self.iteration = 0
        self.history = History()

    def step(self, batch: Batch) -> dict[str, float]:
        """One iteration; returns the loss terms."""
        batch = batch.to(self.where)
        self.student.train()
        self.adapter.train()
        amp = self.config.train.amp and self.where.type == "cuda"
        with torch.autocast(self.where.type, torch.bfloat16, enabled=amp):
            terms = method_losses(self.student, self.adapter, batch, self.text_SD, self.bank, self.config.method)
        self.optimiser.zero_grad(set_to_none=True)
        terms["total"].backward()
        self.bank.enqueue(batch.cls_BD, batch.image_ids_B)
        self.optimiser.step()
        self.schedule.step()
        self.iteration += 1
        names, values = list(terms), torch.stack([term.detach() for term in terms.values()]).tolist()
        return dict(zip(names, values, strict=True))

    def state(self) -> bytes:
        """Everything needed to go on, as tensors and plain values (read back with weights_only)."""
        buffer = io.BytesIO()
        torch.save(
            {
                "student": self.student.state_dict(),
                "adapter": self.adapter.state_dict(),
                "optimiser": self.optimiser.state_dict(),
                "schedule": self.schedule.state_dict(),
                "bank": self.bank.state_dict(),
                "iteration": self.iteration,
                "rng": torch.get_rng_state(),
                "cuda_rng": torch.cuda.get_rng_state_all(),
                "history": [self.history.curves, self.history.pending, self.history.seconds],
            },
            buffer,
        )
        return buffer.getvalue()

    def restore(self, data: bytes) -> None:
        state = torch.load(io.BytesIO(data), map_location=self.where, weights_only=True)
        self.student.load_state_dict(state["student"])
        self.adapter.load_state_dict(state["adapter"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.schedule.load_state_dict(state["schedule"])
        self.bank.load_state_dict(state["bank"])
        self.iteration = state["iteration"]
        self.history = History(*state["history"])
        torch.set_rng_state(state["rng"].cpu())
        torch.cuda.set_rng_state_all([rng.cpu() for rng in state["cuda_rng"]])
