"""Log-mel features of the Qwen2.5-Omni family, on the real frames only.

The stock processor pads every clip to 300 s before the Fourier transform. The same values come from padding just past
the reach of the last window: `tests/parity/test_logmel.py`, `benchmarks/logmel.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from echo_audio.audio import SAMPLE_RATE, Samples
from echo_audio.models.qwen2_5_omni import HOP_LENGTH, n_frames

N_MELS = 128
_N_FFT = 400
_TAIL = 400
"""Zeros behind the signal: every window that touches the signal sees the zeros the stock padding shows it."""

_BLOCK = 768
"""Frames computed at once on a CPU: what is worked on then stays in its cache."""


def logmel(clips: Sequence[Samples], device: torch.device | str = "cpu") -> list[Tensor]:
    """Features of clips of any lengths.

    Args:
        clips: mono samples at 16 kHz.
        device: where to compute, and where the result stays.

    Returns:
        One float32 tensor (128, n_frames(clip)) for each clip.
    """
    if torch.device(device).type == "cpu":  # one by one: no padding
        return [_features(torch.from_numpy(np.array(c))[None], [len(c)])[0] for c in clips]
    longest = max(len(clip) for clip in clips)
    batch = np.zeros((len(clips), longest), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    pinned = torch.from_numpy(batch).pin_memory()  # so that the copy does not wait for the work in flight
    return logmel_batch(pinned.to(device, non_blocking=True), [len(clip) for clip in clips])


def logmel_batch(samples_BT: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """Features of a zero-padded batch (batch, samples), float32, on its device: (128, n_frames) for each row."""
    return _features(samples_BT, lengths)


def _features(samples_BT: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    return [row[:, : n_frames(n)] for row, n in zip(logmel_padded(samples_BT), lengths, strict=True)]


def logmel_padded(samples_BT: Tensor) -> Tensor:
    """Features (batch, 128, frames) of zero-padded samples (batch, samples); frames behind a row's end mean nothing."""
    half, n_total = _N_FFT // 2, (samples_BT.shape[1] + _TAIL) // HOP_LENGTH
    padded = torch.nn.functional.pad(samples_BT, (half, _TAIL + half))
    padded[:, :half] = padded[:, half + 1 : _N_FFT + 1].flip(1)  # frames are centred; the signal is mirrored before it
    frames = padded.unfold(1, _N_FFT, HOP_LENGTH)[:, :n_total]
    power = frames.new_empty(len(frames), N_MELS, n_total)
    if frames.device.type == "cpu":
        for line, out in zip(frames, power, strict=True):
            for begin in range(0, n_total, _BLOCK):
                _mel_power(line[begin : begin + _BLOCK], out[:, begin : begin + _BLOCK])
    else:
        _mel_power(frames, power)
    log_power = power.clamp_(min=1e-10).log10_()
    loudest = log_power.amax(dim=(1, 2), keepdim=True)
    return log_power.clamp_(min=loudest - 8.0).add_(4.0).div_(4.0)


def _mel_power(frames: Tensor, out: Tensor) -> None:
    """Mel power (..., 128, frames) of frames (..., frames, 400), written to `out`."""
    window, bands = _constants(frames.device)
    # Real and imaginary part side by side: the filters, given twice, add up the squares on the way.
    squares = torch.view_as_real(torch.fft.rfft(frames * window)).flatten(-2).square_()
    row = 0
    for first, weights in bands:
        n_filters, n_values = weights.shape
        torch.matmul(weights, squares[..., first : first + n_values].mT, out=out[..., row : row + n_filters, :])
        row += n_filters


@functools.lru_cache(maxsize=8)
def _constants(device: torch.device) -> tuple[Tensor, list[tuple[int, Tensor]]]:
    """Hann window (400,), and the Slaney mel filters in bands: index of the first value, weights (filters, values).

    A filter is zero outside a few bins, so on a CPU neighbours are multiplied with their own stretch of the spectrum
    only, a fifth of the work. A GPU prefers one large product.
    """
    from transformers.audio_utils import mel_filter_bank

    n_bins, highest = 1 + _N_FFT // 2, SAMPLE_RATE / 2
    bank = mel_filter_bank(n_bins, N_MELS, 0.0, highest, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    filters = torch.from_numpy(bank.T.astype(np.float32))
    bands: list[tuple[int, Tensor]] = []
    for some in filters.chunk(8 if device.type == "cpu" else 1):
        used = some.sum(0).nonzero()
        first, last = int(used.min()), int(used.max())
        bands.append((2 * first, some[:, first : last + 1].repeat_interleave(2, dim=1).contiguous().to(device)))
    return torch.hann_window(_N_FFT, device=device), bands
