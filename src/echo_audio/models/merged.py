"""Projections of the same input as one matrix product: their weights are laid side by side in memory, each a view of it.

The parameters stay what they were: who reads, saves or changes one in place does so in the merged memory. Whoever gives
one a memory of its own (moving the model, attaching adapters) only undoes the merging.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def merge_projections(decoder: Any) -> None:
    """Lay query, key and value projections of each layer side by side, and its gate and up projections."""
    for layer in decoder.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for group in ((attention.q_proj, attention.k_proj, attention.v_proj), (mlp.gate_proj, mlp.up_proj)):
            if all(type(linear) is nn.Linear for linear in group):
                _lay([linear.weight for linear in group])
                if all(linear.bias is not None for linear in group):
                    _lay([linear.bias for linear in group])


def project(linears: Sequence[Any], inputs_NI: Tensor) -> Iterable[Tensor]:
    """The outputs (N, features) of projections of the same input; strided views where one product gives them all."""
    if all(type(linear) is nn.Linear for linear in linears):
        weights, biases = [linear.weight for linear in linears], [linear.bias for linear in linears]
        whole = _whole(weights)
        bias = None if biases[0] is None else _whole(biases)
        if whole is not None and (bias is not None or all(some is None for some in biases)):
            return F.linear(inputs_NI, whole, bias).split([len(weight) for weight in weights], dim=-1)
    return [linear(inputs_NI) for linear in linears]


def _lay(parameters: Sequence[nn.Parameter]) -> None:
    merged = torch.cat([parameter.data for parameter in parameters])
    for parameter, part in zip(parameters, merged.split([len(parameter) for parameter in parameters]), strict=True):
        parameter.data = part


def _whole(parameters: Sequence[Tensor]) -> Tensor | None:
    """All of them as one tensor, if they lie side by side in one memory."""
    first = parameters[0]
    end = first.storage_offset()
    for parameter in parameters:
        beside = parameter.untyped_storage().data_ptr() == first.untyped_storage().data_ptr() and parameter.is_contiguous()
        if not beside or parameter.storage_offset() != end or parameter.dtype != first.dtype:
            return None
        end += parameter.numel()
    return first.as_strided((sum(map(len, parameters)), *first.shape[1:]), first.stride())
