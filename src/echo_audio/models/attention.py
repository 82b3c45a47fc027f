"""Where a thinker's attention goes: its weights summed over groups of positions, without ever holding them all.

Eager attention in blocks of queries, the same numbers as the model's own, put in place of it for the time of one forward.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from echo_audio.listen import Encoded
from echo_audio.models.thinker import Thinker

_NAME = "echo_attention_mass"


@torch.inference_mode()
def attention_mass(thinker: Thinker, encoded: Encoded, groups_NG: Tensor, *, max_weights: int = 1 << 25) -> Tensor:
    """Attention on groups of positions, by one teacher-forced forward: (n_layers, n, n_groups), mean over the heads.

    Args:
        encoded: the whole transcript, n ids.
        groups_NG: (n, n_groups), 1 where a position is of a group. A query's masses sum to 1 where the groups hold every
            position once.
        max_weights: attention weights held at once (float32: 128 MB); bounds the block of queries, not the result.
    """
    embeds = thinker.embed_encoded(encoded)[None]
    positions = torch.arange(embeds.shape[1], device=thinker.device)[None]
    masses: list[Tensor] = []
    with _watched(thinker, groups_NG.to(thinker.device, torch.float32), max_weights, masses):
        thinker.decode(embeds, positions)
    return torch.stack(masses)


@contextmanager
def _watched(thinker: Thinker, groups_NG: Tensor, max_weights: int, masses: list[Tensor]) -> Iterator[None]:
    """The decoder with an attention that appends each layer's (n, n_groups) to `masses`, on the CPU. For one thread."""

    def attend(
        module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float, **_: Any
    ) -> tuple[Tensor, None]:
        out, mass_NG = _attend(query[0], key[0], value[0], scaling, groups_NG, max_weights)
        masses.append(mass_NG.cpu())
        return out[None], None

    config = thinker.decoder.config
    before = config._attn_implementation
    AttentionInterface.register(_NAME, attend)
    config._attn_implementation = _NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def _attend(
    query_HND: Tensor, key_KND: Tensor, value_KND: Tensor, scaling: float, groups_NG: Tensor, max_weights: int
) -> tuple[Tensor, Tensor]:
    """Causal attention of H heads over K shared keys: its output (n, H, D), and its weights on each group (n, n_groups)."""
    n_heads, n, _ = query_HND.shape
    repeats = n_heads // key_KND.shape[0]
    key_HND, value_HND = key_KND.repeat_interleave(repeats, 0), value_KND.repeat_interleave(repeats, 0)
    block = max(1, max_weights // (n_heads * n))
    out, masses = [], []
    for begin in range(0, n, block):
        end = min(n, begin + block)
        scores_HQN = (query_HND[:, begin:end] @ key_HND[:, :end].transpose(1, 2)).float() * scaling
        later = torch.ones(end - begin, end, dtype=torch.bool, device=query_HND.device).triu(begin + 1)
        weights_HQN = scores_HQN.masked_fill_(later, float("-inf")).softmax(-1)
        masses.append((weights_HQN @ groups_NG[:end]).mean(0))
        out.append((weights_HQN.to(value_HND.dtype) @ value_HND[:, :end]).transpose(0, 1))
    return torch.cat(out), torch.cat(masses)
