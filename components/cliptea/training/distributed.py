"""Training with any number of processes: communication between them, and how a process joins the others.

Every process computes its *share* of each loss, and the shares add up to the loss of the whole batch. So gradients are
summed over processes, not averaged, and no factor depends on the number of processes. DDP sums the gradients of the
student during the backward pass. The gradients of the adapter are summed afterwards, since some losses do not use it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any, NamedTuple, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from cliptea.errors import ConfigError
from cliptea.messages import number_of
from cliptea.outage import patience

__all__ = ["ALONE", "World", "join", "left_alone"]

T = TypeVar("T")
WORK_SECONDS = 600.0  # how long the others wait for a process, in addition to the time that it may wait for a server
# Parts of NCCL's messages about errors of this process. Other messages mean that another process is gone.
OWN_FAULTS = ("ncclInvalidUsage", "ncclInvalidArgument", "ncclUnhandledCudaError", "unhandled cuda error")


class World(NamedTuple):
    """The processes of one training. With a single process, nothing is sent and arguments are returned unchanged."""

    rank: int = 0
    size: int = 1

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, logs and shows progress."""
        return self.rank == 0

    def total(self, tensor: Tensor) -> Tensor:
        """Sum of a tensor over all processes, with gradients. All of them must call this, with the same shape."""
        return tensor if self.size == 1 else _Sum.apply(tensor)

    def concat(self, rows: Tensor, parts: int = 1) -> Tensor:
        """The rows (n, ...) of all processes, concatenated in the order of ranks, with gradients.

        Args:
            rows: a tensor of any dtype; n is the same in each process.
            parts: into how many equal parts each process's rows are divided. The first parts of all processes come
                before their second parts, and so on.
        """
        if self.size == 1:
            return rows
        sent = rows.to(torch.uint8) if rows.dtype == torch.bool else rows
        before = sent.new_zeros(self.rank * len(rows), *rows.shape[1:])
        after = sent.new_zeros((self.size - 1 - self.rank) * len(rows), *rows.shape[1:])
        # A sum with zeros is exact and works on every backend, and its gradient is again a single sum.
        every = self.total(torch.cat([before, sent, after])).to(rows.dtype)
        return every.unflatten(0, (self.size, parts, -1)).transpose(0, 1).flatten(0, 2)

    def own(self, rows: Tensor, parts: int = 1) -> Tensor:
        """This process's rows among those that `concat` has returned."""
        return rows.unflatten(0, (parts, self.size, -1))[:, self.rank].flatten(0, 1)

    def any(self, flag: bool) -> bool:
        """Whether the flag is true in any process. All processes must call this."""
        return bool(self.total(torch.tensor(int(flag))))

    def wait(self) -> None:
        """Wait until all processes have called this method."""
        self.any(False)

    def agree(self, value: T) -> T:
        """The value (a plain Python object) of the first process, for which the others wait."""
        if self.size == 1:
            return value
        box: list[Any] = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def parallel(self, module: nn.Module, may_skip: bool) -> nn.Module:
        """Wrap a module so that it starts with the first process's weights and its gradients are summed over processes.

        Args:
            module: the module. Its batch norms keep separate running statistics in each process.
            may_skip: whether a forward pass may leave parameters unused.
        """
        if self.size == 1:
            return module
        parallel = DistributedDataParallel(module, find_unused_parameters=may_skip, gradient_as_bucket_view=True)
        parallel.broadcast_buffers = False  # the name of the argument depends on torch's version
        parallel.register_comm_hook(None, lambda state, bucket: _add_up(bucket))
        return parallel

    def quiet(self, parallel: nn.Module, on: bool) -> AbstractContextManager[None]:
        """A context in which, if `on`, gradients of the module are accumulated without summing over processes."""
        return parallel.no_sync() if on and isinstance(parallel, DistributedDataParallel) else nullcontext()

    @torch.no_grad()
    def start_equal(self, module: nn.Module) -> None:
        """Copy the weights of the first process to all processes, since a custom network may draw random weights."""
        if self.size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: list[nn.Parameter]) -> None:
        """Sum the gradients over all processes. A parameter that no process used keeps the gradient None."""
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
        if unused:  # only then, because reading the flags waits for the GPU
            for parameter, number in zip(parameters, users.tolist(), strict=True):
                parameter.grad = parameter.grad if number else None

    @torch.no_grad()
    def average_statistics(self, module: nn.Module) -> None:
        """Average the running statistics of batch norms that are separate in each process.

        They do not affect training. The saved model uses the average.
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
    """Join the other processes that torchrun started, according to its variables RANK, WORLD_SIZE and so on.

    GPU tensors are sent with NCCL, other tensors with gloo. Each process of a machine uses a different GPU.

    Raises:
        ConfigError: there are more processes than GPUs.
    """
    timeout = timedelta(seconds=patience() + WORK_SECONDS)
    if torch.cuda.is_available():
        local, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local >= gpus:
            raise ConfigError(
                f"{local + 1} training processes are started, but the machine has {number_of(gpus, 'GPU')}",
                "one GPU per process",
            )
        torch.cuda.set_device(local)
        dist.init_process_group("cpu:gloo,cuda:nccl", timeout=timeout)
    else:
        dist.init_process_group("gloo", timeout=timeout)
    yield World(dist.get_rank(), dist.get_world_size())
    dist.destroy_process_group()  # not after an error, because the others may be in a call that never ends


def left_alone(error: BaseException | None) -> bool:
    """Whether an error, or its context, means that other processes are gone. It comes from gloo, NCCL or torchrun."""
    if error is None:
        return False
    text = str(error)
    gone = isinstance(error, dist.DistError) and not any(fault in text for fault in OWN_FAULTS)
    gloo = isinstance(error, RuntimeError) and "gloo/" in text  # the source file in the message
    return gone or gloo or left_alone(error.__context__)


def _add_up(bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:  # pyright: ignore[reportPrivateImportUsage]
    work = dist.all_reduce(bucket.buffer(), async_op=True)
    assert work is not None
    return work.get_future().then(lambda done: done.value()[0])


class _Sum(torch.autograd.Function):
    """Sum over processes. Every loss share depends on the sum, so its gradient is the sum of the shares' gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        return _Sum.apply(grad_outputs[0])


def _own_statistics(module: nn.Module) -> list[Tensor]:
    if not isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d | nn.BatchNorm3d):  # SyncBatchNorm is not a subclass
        return []
    return [tensor for tensor in (module.running_mean, module.running_var) if tensor is not None]
