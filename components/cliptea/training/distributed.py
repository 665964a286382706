"""Training by any number of processes: what they tell each other, and how one joins the others.

The convention: every process computes its *share* of each loss, and the shares add up to the loss of the whole
batch. So gradients are summed over processes, never averaged, and no factor depends on their number. Those of the
student are summed by DDP while the backward pass goes on; those of the adapter, which a loss may not reach, behind it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cliptea.errors import ConfigError
from cliptea.outage import patience

__all__ = ["ALONE", "World", "join", "left_alone"]

T = TypeVar("T")
WORK_SECONDS = 600.0  # that a process may let the others wait, besides the time in which it waits for a server
# In what NCCL says: the mistakes of this process, not the absence of another.
OWN_FAULTS = ("ncclInvalidUsage", "ncclInvalidArgument", "ncclUnhandledCudaError", "unhandled cuda error")


class World(NamedTuple):
    """The processes of one training. With a single one nothing is sent and every answer is the argument."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and shows progress."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Sum over processes of a tensor of one shape; gradients flow back to every process's part."""
        return tensor if self.size == 1 else _Sum.apply(tensor)

    def concat(self, rows: Tensor) -> Tensor:
        """The rows (n, ...) of all processes, n of each, in the order of ranks; gradients flow back.

        Args:
            rows: of any type; n is the same in each process.
        """
        if self.size == 1:
            return rows
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        before = sent.new_zeros(self.rank * len(rows), *rows.shape[1:])
        after = sent.new_zeros((self.size - 1 - self.rank) * len(rows), *rows.shape[1:])
        # A sum with zeros: exact, on every backend, and its gradient is again one sum.
        return self.total(torch.cat([before, sent, after])).to(rows.dtype)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in any process."""
        return bool(self.total(torch.tensor(int(flag))))

    def wait(self) -> None:
        """Until all processes are here."""
        self.any(False)

    def agree(self, value: T) -> T:
        """The first process's value, of plain Python; the others wait for it."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def parallel(self, module: nn.Module, may_skip: bool) -> nn.Module:
        """The module with the first process's weights, whose gradients are added up over processes.

        Args:
            module: its batch norms keep their own running statistics.
            may_skip: whether a forward pass may leave parameters unused.
        """
        if self.size == 1:
            return module
        parallel = DistributedDataParallel(module, find_unused_parameters=may_skip, gradient_as_bucket_view=True)
        parallel.broadcast_buffers = False  # an argument of two names, by torch's version
        parallel.register_comm_hook(None, lambda state, bucket: _add_up(bucket))
        return parallel

    def quiet(self, parallel: nn.Module, on: bool) -> AbstractContextManager[None]:
        """Inside, if it is on, gradients of that module are kept and not added up yet."""
        return parallel.no_sync() if on and isinstance(parallel, DistributedDataParallel) else nullcontext()

    @torch.no_grad()
    def start_equal(self, modules: Iterable[nn.Module]) -> None:
        """Give every process the first one's weights, which a network of the user's own may draw as it likes."""
        if self.size > 1:
            for module in modules:
                for tensor in module.state_dict().values():
                    dist.broadcast(tensor, src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Add up the gradients of all processes. A parameter that none of them used keeps none."""
        if self.size == 1 or not parameters:
            return
        unused = [p for p in parameters if p.grad is None]
        flags = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
        flat = [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters]
        summed = torch.cat([*flat, flags])
        dist.all_reduce(summed)
        *parts, users = summed.split([p.numel() for p in parameters] + [len(parameters)])
        for parameter, part in zip(parameters, parts, strict=True):
            parameter.grad = part.view_as(parameter) if parameter.grad is None else parameter.grad
            parameter.grad.copy_(part.view_as(parameter))
        if unused:  # asked only then: reading the flags waits for the GPU
            for parameter, number in zip(parameters, users.tolist(), strict=True):
                parameter.grad = parameter.grad if number else None

    @torch.no_grad()
    def average_statistics(self, module: nn.Module) -> None:
        """Give every process the mean of the running statistics that each batch norm keeps by itself.

        They take no part in training; the mean is what the saved model is used with.
        """
        if self.size == 1:
            return
        kept = [tensor for norm in module.modules() for tensor in _own_statistics(norm)]
        if kept:
            flat = torch.cat([tensor.flatten() for tensor in kept])
            dist.all_reduce(flat)
            for tensor, mean in zip(kept, (flat / self.size).split([t.numel() for t in kept]), strict=True):
                tensor.copy_(mean.view_as(tensor))


ALONE = World()


@contextmanager
def join() -> Iterator[World]:
    """Meet the other processes that torchrun started (RANK, WORLD_SIZE, ...); alone where it did not.

    GPU tensors go through NCCL, all others through gloo. Each process of a machine has a GPU of its own.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    if "WORLD_SIZE" not in os.environ:
        yield ALONE
        return
    timeout = timedelta(seconds=patience() + WORK_SECONDS)
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ConfigError(
                f"{local + 1} training processes are started, but the machine has {gpus} GPU{'s' * (gpus != 1)}",
                "one GPU per process",
            )
        torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    yield World(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error: the others may wait in a call that never ends


def left_alone(error: BaseException | None) -> bool:
    """Whether an error, or one before it, says that the other processes have gone: gloo, NCCL or torchrun's store."""
    if error is None:
        return False
    text = str(error)
    gone = isinstance(error, dist.DistError) and not any(fault in text for fault in OWN_FAULTS)
    gloo = isinstance(error, RuntimeError) and "gloo/" in text  # the file of the line that failed
    return gone or gloo or left_alone(error.__context__)


def _add_up(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class _Sum(torch.autograd.Function):
    """Sum over processes. Each loss share depends on it, so the gradient is the sum of all shares' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _Sum.apply(grad_outputs[0])


def _own_statistics(module: nn.Module) -> list[Tensor]:
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):  # SyncBatchNorm is none of these
        return []
    return [tensor for tensor in (module.running_mean, module.running_var) if tensor is not None]
