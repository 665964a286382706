"""The state of a training, and the training step.

The same global batch gives the same weights, up to rounding, for any number of processes, with two exceptions:

- Dropout and stochastic depth in the student: the masks of a process depend on (seed, iteration, micro-batch, rank).
  The masks of the adapter depend on (seed, iteration, micro-batch) and are the same in every process. A compiled
  student has other masks than one that is not.
- Batch norms that are not synchronised use the statistics of the images of one process. On the CPU, torch cannot
  synchronise them.

Gradient accumulation (`train.accumulate`) divides the images of a process into micro-batches. Contrast and loss
denominators still use the global batch. Centroids (eq. 7), the generated classes and eq. 8, batch norms and dropout
use a micro-batch.
"""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from cliptea import device
from cliptea.config import Config
from cliptea.data.views import generator
from cliptea.errors import NotFinite
from cliptea.finite import named_tensors, require_finite
from cliptea.method.glm import TokenBank
from cliptea.method.vla import Adapter
from cliptea.models import build_student
from cliptea.models.backbones import require
from cliptea.training.batches import Batch
from cliptea.training.distributed import ALONE, World
from cliptea.training.global_batch import GlobalBatch, MicroBatch
from cliptea.training.history import History
from cliptea.training.initial_state import InitialState
from cliptea.training.loss_terms import Terms, TextFeatures, method_losses
from cliptea.training.optimiser import make_optimiser
from cliptea.training.self_training import SelfTraining

__all__ = ["Trainer"]

# Families whose results are worse with synchronised batch norms (MMSegmentation on SegNeXt: "degrades significantly").
OWN_STATISTICS = {"segnext"}
PARTS = ("student", "adapter", "optimiser", "schedule", "bank")  # of a trainer, with a state of their own


class Trainer:
    """Student, adapter, bank, optimiser and history.

    Except for the times in the history, they are the same in every process.

    Args:
        initial: the weights that the student starts from, instead of those of its settings.

    Raises:
        ConfigError: these weights do not fit.
        NotFinite: the initial weights hold NaN or infinity.
    """

    def __init__(
        self,
        config: Config,
        text: TextFeatures,
        seed: int,
        world: World = ALONE,
        initial: InitialState | None = None,
    ) -> None:
        torch.manual_seed(seed)
        method, train, backbone, dim = config.method, config.train, config.student.backbone, text.seen_SD.shape[1]
        self.config, self.seed, self.world, self.where = config, seed, world, device.best()
        self._layout = torch.channels_last if train.channels_last else torch.contiguous_format
        student = build_student(backbone, dim, config.student.dropout, config.encoder_weights)
        if initial is not None:
            initial.load(student, dim)
        require_finite(
            student.state_dict(),
            f"the initial weights of {backbone}",
            f"replace student.pretrained={config.encoder_weights}",
        )
        if world.size > 1 and self.where.type == "cuda" and _synchronised(train.sync_bn, backbone):
            # torch's own conversion drops the activation of timm's norms
            from timm.layers.norm_act import convert_sync_batchnorm

            convert_sync_batchnorm(student)
        self.student = student.to(self.where)
        self.adapter = Adapter(
            method.generator,
            dim,
            method.generator_layers,
            method.generator_heads,
            method.generator_ffn,
            method.generator_dropout,
        ).to(self.where)
        world.start_equal(self.adapter)
        self.student.to(memory_format=self._layout)
        self._network = world.parallel(self.student, may_skip=require(backbone).family == "own")
        self.parameters = [p for p in (*self.student.parameters(), *self.adapter.parameters()) if p.requires_grad]
        self.bank = TokenBank(method.bank_iterations, method.bank_tokens)
        self.optimiser, self.schedule = make_optimiser(self.student, self.adapter, train, backbone)
        self.text = text.to(self.where)
        self.self_training: SelfTraining | None = None
        if method.transductive.names:
            self.self_training = SelfTraining(self.student, self.text, method, train)
        self.iteration = 0
        self.history = History()
        if train.compile:
            self._network.compile()

    def step(self, batch: Batch) -> dict[str, float]:
        """Run one iteration. Returns the loss terms of the global batch.

        Args:
            batch: the images of this process.

        Raises:
            NotFinite: a loss term or the gradient is NaN or infinite.
        """
        train = self.config.train
        batch, names_BR = batch.to(self.where), None
        if self.self_training is not None:
            batch, names_BR = self.self_training.name_regions(batch, self.iteration, self.world)
        global_batch = GlobalBatch(
            batch, len(self.text.seen_SD), self.config.method, self.world, train.accumulate, names_BR
        )
        self.student.train()
        self.adapter.train()
        self.optimiser.zero_grad(set_to_none=True)
        shares = []
        for number, micro_batch in enumerate(global_batch.micro_batches()):
            with self.world.quiet(self._network, on=number + 1 < train.accumulate):
                terms = self._losses(micro_batch, global_batch, number)
                terms["total"].backward()
            shares.append(torch.stack([term.detach() for term in terms.values()]))
        self.world.sum_gradients(list(self.adapter.parameters()))
        self.world.average_statistics(self.student)
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        norm = nn.utils.get_total_norm(gradients).to(self.where)
        if train.clip_norm is not None:
            nn.utils.clip_grads_with_norm_(self.parameters, train.clip_norm, norm)
        self.bank.enqueue(global_batch.cls_WD, global_batch.image_ids_W)
        self.optimiser.step()
        if self.self_training is not None:
            self.self_training.update(self.student)
        self.schedule.step()
        self.iteration += 1
        *values, steepness = torch.cat([self.world.total(torch.stack(shares).sum(0)), norm[None]]).tolist()
        found = dict(zip(terms, values, strict=True))
        self._require_finite(found | {"the gradient's norm": steepness})
        return found

    def _require_finite(self, values: dict[str, float]) -> None:
        bad = [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]
        if bad:
            raise NotFinite(
                f"training has diverged in iteration {self.iteration}: {', '.join(bad)}",
                "finite losses and gradients",
                "lower train.lr, or limit the gradient with train.clip_norm",
            )

    def _losses(self, micro_batch: MicroBatch, global_batch: GlobalBatch, number: int) -> Terms:
        amp = self.config.train.amp and self.where.type == "cuda"
        with torch.autocast(self.where.type, torch.bfloat16, enabled=amp):
            self._draw_from(number, self.world.rank)
            features_BDhw = self._network(micro_batch.images_B3CC.contiguous(memory_format=self._layout))
            self._draw_from(number)
            return method_losses(
                features_BDhw, self.adapter, micro_batch, global_batch, self.text, self.bank, self.config.method
            )  # fmt: skip

    def _draw_from(self, *key: int) -> None:
        """Seed torch for this iteration, so that checkpoints need no random state."""
        seed = int(generator("dropout", self.seed, self.iteration, *key).integers(2**63))
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes milliseconds in a process without a GPU
        if self.where.type == "cuda":
            torch.cuda.manual_seed(seed)

    @property
    def _parts(self) -> tuple[str, ...]:
        return PARTS if self.self_training is None else (*PARTS, "self_training")

    def state(self) -> dict[str, Any]:
        """Everything needed to resume, as tensors and plain values. The tensors are not copied.

        Raises:
            NotFinite: a tensor holds NaN or infinity.
        """
        parts = {part: getattr(self, part).state_dict() for part in self._parts}
        require_finite(
            dict(named_tensors(parts)), f"iteration {self.iteration}", "lower train.lr, or set train.clip_norm"
        )
        return {**parts, "iteration": self.iteration, "history": asdict(self.history)}

    def restore(self, state: dict[str, Any]) -> None:
        for part in self._parts:
            getattr(self, part).load_state_dict(state[part])
        self.iteration = state["iteration"]
        self.history = History(**state["history"])


def _synchronised(wanted: bool | None, backbone: str) -> bool:
    return require(backbone).family not in OWN_STATISTICS if wanted is None else wanted
