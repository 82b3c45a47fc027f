"""The thinker's decoder on rows of a key-value cache: positions of many transcripts side by side, none of them padding.

Everything but attention works on one position at a time, so a forward takes a flat list of positions (N, hidden), each with
its row and its place in the row. Same modules and same values as transformers' forward: `tests/parity/test_rows.py`. On a GPU
with Triton, rotating, storing and the attention of single positions are kernels of `row_kernels.py`; elsewhere they are
the functions below, which say what the kernels compute.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from echo_audio.models.merged import project

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]
"""Of layer i: query (N, heads, width), key and value (N, kv_heads, width), before rotation -> mixed (N, heads, width)."""


class Parts(Protocol):
    """The small pieces between the matrix products, which kernels may do in one go."""

    def add_norm(self, hidden_NH: Tensor, more_NH: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The sum, and its RMS norm."""
        ...

    def gate(self, gates_NI: Tensor, values_NI: Tensor) -> Tensor:
        """The gated values: silu(gates) * values."""
        ...


class Plain:
    """`Parts` in plain torch."""

    @staticmethod
    def add_norm(hidden_NH: Tensor, more_NH: Tensor, weight_H: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """The sum, and its RMS norm."""
        added = hidden_NH + more_NH
        return added, _norm(added, weight_H, eps)

    @staticmethod
    def gate(gates_NI: Tensor, values_NI: Tensor) -> Tensor:
        """The gated values."""
        return F.silu(gates_NI) * values_NI


def run_layers(decoder: Any, hidden_NH: Tensor, attend: Attend, parts: Parts | None = None) -> Tensor:
    """Run the decoder's layers.

    Args:
        decoder: transformers' text model, with or without adapters.
        hidden_NH: input embeddings of positions, of any rows in any order.
        attend: rotates, stores and mixes.
        parts: the small pieces; in plain torch unless given.

    Returns:
        Hidden states (N, hidden).
    """
    parts, eps = parts or Plain(), decoder.config.rms_norm_eps
    layers = list(decoder.layers)
    norms = [*(layer.input_layernorm for layer in layers[1:]), decoder.norm]
    normed = _norm(hidden_NH, layers[0].input_layernorm.weight, eps)
    for index, (layer, norm) in enumerate(zip(layers, norms, strict=True)):
        attention, mlp = layer.self_attn, layer.mlp
        shape = (len(normed), -1, attention.head_dim)
        projected = project((attention.q_proj, attention.k_proj, attention.v_proj), normed)
        query, key, value = (heads.view(shape) for heads in projected)
        mixed = attention.o_proj(attend(index, query, key, value).reshape(len(normed), -1))
        hidden_NH, normed = parts.add_norm(hidden_NH, mixed, layer.post_attention_layernorm.weight, eps)
        gated = parts.gate(*project((mlp.gate_proj, mlp.up_proj), normed))
        hidden_NH, normed = parts.add_norm(hidden_NH, mlp.down_proj(gated), norm.weight, eps)
    return normed


def _norm(hidden_NH: Tensor, weight_H: Tensor, eps: float) -> Tensor:
    return F.rms_norm(hidden_NH, hidden_NH.shape[-1:], weight_H.to(hidden_NH.dtype), eps)


def rotation_table(decoder: Any, n_positions: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines (n_positions, head_dim) of the rotary embedding, where its three axes are equal."""
    like = torch.empty(0, dtype=dtype, device=device)
    places = torch.arange(n_positions, device=device).expand(3, 1, -1)
    cosines, sines = decoder.rotary_emb(like, places)
    width = cosines.shape[-1]  # transformers 5.17 gives one table an axis, 5.23 one for all
    return cosines.reshape(-1, n_positions, width)[0].contiguous(), sines.reshape(-1, n_positions, width)[0].contiguous()


@dataclass(frozen=True, slots=True)
class Aim:
    """Which places of a cache a forward is about.

    Args:
        slots_N: the row of each position, int64.
        positions_N: the place of each position in its row, int64.
        cosines_ND: of these positions.
        sines_ND: of these positions.
    """

    slots_N: Tensor
    positions_N: Tensor
    cosines_ND: Tensor
    sines_ND: Tensor


def rotate_and_store(
    query_NHD: Tensor, key_NKD: Tensor, value_NKD: Tensor, aim: Aim, keys_SCKD: Tensor, values_SCKD: Tensor
) -> Tensor:
    """Rotate queries and keys, and put keys and values into the cache (slots, capacity, kv_heads, width).

    Returns:
        The rotated queries.
    """
    where = aim.slots_N * keys_SCKD.shape[1] + aim.positions_N
    for store, new in ((keys_SCKD, _rotate(key_NKD, aim)), (values_SCKD, value_NKD)):
        store.view(-1, *store.shape[2:]).index_copy_(0, where, new)
    return _rotate(query_NHD, aim)


def _rotate(heads_NHD: Tensor, aim: Aim) -> Tensor:
    first, second = heads_NHD.chunk(2, dim=-1)
    turned = torch.cat([-second, first], dim=-1)
    return heads_NHD * aim.cosines_ND[:, None] + turned * aim.sines_ND[:, None]


def attend_single(
    query_BHD: Tensor, keys_SCKD: Tensor, values_SCKD: Tensor, slots: Tensor | slice, mask_B11T: Tensor
) -> Tensor:
    """Attention of one position a row over its row.

    Args:
        query_BHD: rotated queries.
        keys_SCKD: the cache.
        values_SCKD: the cache.
        slots: the row of each query; a slice where they are neighbours, which are then not copied.
        mask_B11T: what each sees of its first T positions.
    """
    n_rows, n_heads, width = query_BHD.shape
    keys, values = (_rows(store, slots, mask_B11T.shape[-1]) for store in (keys_SCKD, values_SCKD))
    query = query_BHD.view(n_rows, keys.shape[1], -1, width)  # the queries that share a key head are one matrix
    return F.scaled_dot_product_attention(query, keys, values, attn_mask=mask_B11T).reshape(n_rows, n_heads, width)


@dataclass(frozen=True, slots=True)
class Padding:
    """How a flat list of positions lies in a padded batch (rows, longest).

    Args:
        index_N: place of each position in the flattened batch.
        n_rows: of the batch.
        longest: positions of the longest row.
        mask: (rows, 1, queries to a key head * longest, T), what is added to scores; None where all rows are at their
            beginning, so that each position simply sees those before it.
    """

    index_N: Tensor
    n_rows: int
    longest: int
    mask: Tensor | None


def attend_many(
    query_NHD: Tensor, keys_SCKD: Tensor, values_SCKD: Tensor, slots: Tensor | slice, padding: Padding
) -> Tensor:
    """Attention of any number of positions a row over their rows; see `attend_single`."""
    n_heads, width = query_NHD.shape[1:]
    n, longest, mask = padding.n_rows, padding.longest, padding.mask
    n_visible = longest if mask is None else mask.shape[-1]
    keys, values = (_rows(store, slots, n_visible) for store in (keys_SCKD, values_SCKD))
    batch = query_NHD.new_zeros(n * longest, n_heads, width).index_copy_(0, padding.index_N, query_NHD)
    if mask is None:
        mixed = _attend_causal(batch.view(n, longest, n_heads, width).transpose(1, 2), keys, values).transpose(1, 2)
        return mixed.reshape(n * longest, n_heads, width).index_select(0, padding.index_N)
    n_shared = n_heads // keys.shape[1]
    query = batch.view(n, longest, -1, n_shared, width).permute(0, 2, 3, 1, 4).reshape(n, -1, n_shared * longest, width)
    mixed = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask)
    mixed = mixed.view(n, -1, n_shared, longest, width).permute(0, 3, 1, 2, 4).reshape(n * longest, n_heads, width)
    return mixed.index_select(0, padding.index_N)


def _attend_causal(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention where every position sees those before it; (rows, heads, longest, width)."""
    if query.is_cuda and query.dtype != torch.float32:  # flash attention, which shares key heads by itself
        return F.scaled_dot_product_attention(query, keys, values, is_causal=True, enable_gqa=True)
    keys, values = (x.repeat_interleave(query.shape[1] // x.shape[1], dim=1) for x in (keys, values))
    return F.scaled_dot_product_attention(query, keys, values, is_causal=True)


def _rows(store_SCKD: Tensor, slots: Tensor | slice, n_visible: int) -> Tensor:
    """(rows, kv_heads, n_visible, width) of a cache."""
    seen = store_SCKD[:, :n_visible]
    return (seen[slots] if isinstance(slots, slice) else seen.index_select(0, slots)).transpose(1, 2)
