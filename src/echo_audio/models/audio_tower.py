"""The audio tower of Qwen2.5-Omni, run on all 2 s blocks of all clips at once.

The tower attends within blocks of `2 * n_window` frames only. The stock forward loops over the blocks in Python when no
flash attention is installed; here they are one batch. Same modules, same values: `tests/parity/test_audio_tower.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True, slots=True)
class Features:
    """Log-mel features of some clips, padded to the longest.

    Args:
        padded_NMF: (clips, mels, frames).
        n_frames: real frames of each clip.
    """

    padded_NMF: Tensor
    n_frames: Sequence[int]


def on_device(values: Sequence[int], device: torch.device) -> Tensor:
    """Whole numbers as a tensor; on a GPU by a pinned copy, which does not wait for the work in flight."""
    tensor = torch.tensor(values)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


RunLayer = Callable[[Any, Tensor, Tensor | None], Tensor]
"""A layer of the tower on (blocks, positions, width) and a mask (blocks, 1, 1, positions): `tower_layer`, perhaps compiled."""
RunLayers = Callable[[Tensor, Tensor | None], Tensor]
"""All layers on the same."""


def encode_clips(tower: Any, features: Sequence[Tensor], run_layers: RunLayers | None = None) -> list[Tensor]:
    """Run the tower on clips given one by one.

    Args:
        tower: transformers' Qwen2_5OmniAudioEncoder.
        features: log-mel of each clip, (128, n_frames), on the tower's device.
        run_layers: all layers on (blocks, positions, width) and a mask, where they do not run one after another.

    Returns:
        For each clip its tokens, (n_tokens, output_dim), in the tower's dtype.
    """
    groups = [Features(clip[None], [clip.shape[1]]) for clip in features]
    tokens, counts = encode_features(tower, groups, run_layers=run_layers)
    return list(tokens.split(counts))


def encode_features(
    tower: Any, groups: Sequence[Features], run_layer: RunLayer | None = None, run_layers: RunLayers | None = None
) -> tuple[Tensor, list[int]]:
    """Run the tower on groups of padded clips, all in one batch of blocks.

    Args:
        run_layer: `tower_layer`, perhaps compiled.
        run_layers: all layers, instead.

    Returns:
        The tokens of all clips one after another (sum of counts, output_dim), and the count of each clip.
    """
    block = 2 * tower.n_window
    n_frames = [n for group in groups for n in group.n_frames]
    cut = [_cut(group, block, tower.conv1.weight.dtype) for group in groups]
    longest = max(max(sizes) for _, sizes in cut)
    chunks_CMT = torch.cat([chunks for chunks, _ in cut])[:, :, :longest]
    sizes = on_device([size for _, some in cut for size in some], chunks_CMT.device)
    hidden_CLD, valid_CL = _convolve(tower, chunks_CMT, sizes)
    ragged = any(n % block for n in n_frames)
    mask = valid_CL[:, None, None, :] if ragged else None
    hidden_CLD = (run_layers or partial(one_by_one, tower, run_layer or tower_layer))(hidden_CLD, mask)
    pairs, counts = _pairs(n_frames, block, hidden_CLD.shape[1])
    flat = hidden_CLD.reshape(-1, hidden_CLD.shape[-1])
    pairs = pairs.pin_memory().to(flat.device, non_blocking=True) if flat.is_cuda else pairs
    pooled = flat[pairs].view(-1, 2, flat.shape[-1]).mean(1)
    return tower.proj(tower.ln_post(pooled)), counts


def _cut(group: Features, block: int, dtype: torch.dtype) -> tuple[Tensor, list[int]]:
    """Blocks (n_blocks, mels, block) of a group, zero behind each clip's end, and their frame counts."""
    padded, lengths = group.padded_NMF, group.n_frames
    n_clips, n_mels, _ = padded.shape
    most = -(-max(lengths) // block)
    padded = F.pad(padded[:, :, : max(lengths)], (0, most * block - max(lengths)))
    if n_clips > 1:
        ends = on_device(lengths, padded.device)
        padded = padded * (torch.arange(most * block, device=padded.device) < ends[:, None])[:, None]
    chunks = padded.view(n_clips, n_mels, most, block).transpose(1, 2).reshape(n_clips * most, n_mels, block)
    per_clip = [-(-n // block) for n in lengths]
    sizes = [min(block, n - i * block) for n, count in zip(lengths, per_clip, strict=True) for i in range(count)]
    if len(sizes) < len(chunks):
        kept = [c * most + i for c, count in enumerate(per_clip) for i in range(count)]
        chunks = chunks[on_device(kept, chunks.device)]
    return chunks.to(dtype), sizes


def _convolve(tower: Any, chunks_CMT: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    frames = torch.arange(chunks_CMT.shape[2], device=sizes.device)
    inside = (frames < sizes[:, None])[:, None].to(chunks_CMT.dtype)
    hidden = F.gelu(tower.conv1(chunks_CMT)) * inside
    hidden = F.gelu(tower.conv2(hidden)).transpose(1, 2)
    positions = tower.positional_embedding.positional_embedding[: hidden.shape[1]]
    valid = torch.arange(hidden.shape[1], device=sizes.device) < ((sizes - 1) // 2 + 1)[:, None]
    return hidden + positions.to(hidden.dtype), valid


def one_by_one(tower: Any, run_layer: RunLayer, hidden_CLD: Tensor, mask: Tensor | None) -> Tensor:
    """All layers of the tower on (blocks, positions, width); in training perhaps with activations recomputed."""
    for layer in tower.layers:
        if layer.gradient_checkpointing and layer.training:
            hidden_CLD = layer._gradient_checkpointing_func(run_layer, layer, hidden_CLD, mask)
        else:
            hidden_CLD = run_layer(layer, hidden_CLD, mask)
    return hidden_CLD


def tower_layer(layer: Any, hidden: Tensor, mask: Tensor | None) -> Tensor:
    """One layer of the tower on (blocks, positions, width)."""
    attention = layer.self_attn
    normed = layer.self_attn_layer_norm(hidden)
    n_chunks, length, width = hidden.shape
    shape = (n_chunks, length, attention.num_heads, width // attention.num_heads)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    query, key, value = (project(normed).view(shape).transpose(1, 2) for project in projections)
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    hidden = hidden + attention.out_proj(mixed.transpose(1, 2).reshape(n_chunks, length, width))
    normed = layer.final_layer_norm(hidden)
    return hidden + layer.fc2(layer.activation_fn(layer.fc1(normed)))


def _pairs(lengths: Sequence[int], block: int, stride: int) -> tuple[Tensor, list[int]]:
    """The positions that are pooled two by two, in the flattened (block, position) grid; tokens of each clip."""
    per_block = (block - 1) // 2 + 1
    counts: list[int] = []
    n_valid: list[int] = []
    n_blocks: list[int] = []
    for n_frames in lengths:
        full, rest = divmod(n_frames, block)
        valid = full * per_block + ((rest - 1) // 2 + 1 if rest else 0)
        n_valid.append(valid - valid % 2)
        counts.append(valid // 2)
        n_blocks.append(full + (rest > 0))
    clip = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(n_valid))
    before = torch.tensor([0, *n_valid]).cumsum(0)[:-1]
    where = torch.arange(sum(n_valid)) - before[clip]
    block_before = torch.tensor([0, *n_blocks]).cumsum(0)[:-1]
    return (block_before[clip] + where // per_block) * stride + where % per_block, counts
