"""Several processes, one run: who has which prompts, sums over all, shared weights. One process is the simple case.

Started by torchrun, `accelerate.PartialState` finds the others (NCCL on GPUs, gloo on CPUs). Weights are either held by
all, and gradients added up, or shared out by FSDP2.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

T = TypeVar("T")


class Crew:
    """The processes of a run.

    Attributes:
        rank: number of this one.
        size: how many there are.
        device: what this one computes on.
    """

    def __init__(self) -> None:
        state = PartialState(cpu=not torch.cuda.is_available())
        self.rank, self.size = state.process_index, state.num_processes
        self.device: torch.device = state.device or torch.device("cpu")

    @property
    def first(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()

    def total(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def most(self, value: float) -> float:
        """The largest of the processes' values."""
        return self._reduced([value], dist.ReduceOp.MAX)[0]

    def _reduced(self, values: Sequence[float], how: dist.ReduceOp.RedOpType) -> list[float]:
        if self.size == 1:
            return list(values)
        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor, op=how)
        return tensor.tolist()

    def gathered(self, mine: T) -> list[T]:
        """Every process's value, in the order of ranks."""
        if self.size == 1:
            return [mine]
        everyone: list[T | None] = [None] * self.size
        dist.all_gather_object(everyone, mine)
        return [value for value in everyone if value is not None]

    def add_up_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Sum gradients over the processes where each holds all weights; FSDP2 has done it for shares."""
        if self.size == 1:
            return
        for parameter in parameters:
            if not isinstance(parameter, DTensor):
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                dist.all_reduce(parameter.grad)


def share_out(model: nn.Module, layers: Iterable[nn.Module], *, bf16: bool) -> None:
    """Share the weights of a model among the processes (FSDP2), each of the layers as a unit of its own.

    Gradients are summed, not averaged: the loss is divided by the size of the whole step already.
    """
    precision = MixedPrecisionPolicy(torch.bfloat16, torch.float32, cast_forward_inputs=False) if bf16 else MixedPrecisionPolicy()
    for layer in layers:
        fully_shard(layer, mp_policy=precision)
    fully_shard(model, mp_policy=precision)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)  # gloo knows no other


def whole(tensor: Tensor) -> Tensor:
    """A tensor with all shares in it; every process must ask for it."""
    tensor = tensor.detach()
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(value: Tensor, target: Tensor) -> Tensor:
    """A whole tensor on the device of `target`, and shared out as it is."""
    value = value.to(target.device, target.dtype)
    return distribute_tensor(value, target.device_mesh, target.placements) if isinstance(target, DTensor) else value
