"""Log-mel features and frame counts against the stock processor, and token counts against the model's own rule."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import WhisperFeatureExtractor

from echo_audio.models import qwen2_5_omni as family
from echo_audio.models import tiny
from echo_audio.models.logmel import logmel, logmel_batch, logmel_padded
from echo_audio.models.thinker import Thinker

RATE = 16_000
LENGTHS = [321, 400, 479, 480, 481, 1_000, 3_199, 3_200, 3_201, 16_000, 16_001, 31_999, 32_000, 47_777, 80_080, 159_999]


@functools.cache
def stock() -> WhisperFeatureExtractor:
    """The published processor's feature extractor: every clip padded to 300 s."""
    settings = tiny.side_files(tiny.train_tokenizer(["a"], 300), tiny.RANDOM)["preprocessor_config.json"]
    return WhisperFeatureExtractor.from_dict(settings)


def stock_features(samples: NDArray[np.float32]) -> torch.Tensor:
    out = stock()(samples, sampling_rate=RATE, padding="max_length", return_attention_mask=True, return_tensors="pt")
    mask = out["attention_mask"][0].bool()
    return out["input_features"][0][:, mask]


def noise(n_samples: int, seed: int = 0) -> NDArray[np.float32]:
    return (np.random.default_rng(seed).standard_normal(n_samples) * 0.1).astype(np.float32)


def assert_equal_features(samples: NDArray[np.float32]) -> None:
    expected, (ours,) = stock_features(samples), logmel([samples])
    assert ours.dtype == torch.float32
    assert ours.shape == expected.shape == (128, family.n_frames(len(samples)))
    assert float((ours - expected).abs().max()) < 1e-5


@pytest.mark.parametrize("n_samples", LENGTHS)
def test_every_real_frame_equals_the_stock_processor(n_samples: int) -> None:
    assert_equal_features(noise(n_samples))


def test_thirty_seconds() -> None:
    assert_equal_features(noise(30 * RATE))


@pytest.mark.parametrize("length", [3_200, 4_001, 47_777])
@pytest.mark.parametrize(
    "kind", ["silence", "click_at_the_end", "click_at_the_start", "loud", "faint", "tone", "steps"]
)
def test_sounds_at_the_borders(kind: str, length: int) -> None:
    """The last windows reach over the end; a loud sound there also sets the clamp for the whole clip."""
    samples = np.zeros(length, np.float32)
    match kind:
        case "click_at_the_end":
            samples[-1] = 1.0
        case "click_at_the_start":
            samples[0] = -1.0
        case "loud":
            samples = np.sign(noise(length))
        case "faint":
            samples = noise(length) * np.float32(1e-4)
        case "tone":
            samples = np.sin(2 * np.pi * 440 * np.arange(length) / RATE).astype(np.float32)
        case "steps":
            samples[length // 2 :] = 0.5
        case _:
            pass
    assert_equal_features(samples)


def test_many_clips_at_once_equal_each_alone() -> None:
    clips = [noise(n, seed) for seed, n in enumerate(LENGTHS)]
    alone = [logmel([clip])[0] for clip in clips]
    for ours, expected in zip(logmel(clips), alone, strict=True):
        assert torch.equal(ours, expected)


def test_a_padded_batch_equals_each_alone_but_for_rounding() -> None:
    """The road of the GPU: one batch; the clamp is each clip's own, so zeros behind a clip change nothing in it."""
    clips = [noise(n, seed) for seed, n in enumerate(LENGTHS)]
    batch = np.zeros((len(clips), max(LENGTHS)), np.float32)
    for row, clip in zip(batch, clips, strict=True):
        row[: len(clip)] = clip
    for ours, clip in zip(logmel_batch(torch.from_numpy(batch), LENGTHS), clips, strict=True):
        assert float((ours - stock_features(clip)).abs().max()) < 1e-5
    assert logmel_padded(torch.from_numpy(batch)).shape[0] == len(clips)


@pytest.mark.parametrize("n_samples", [1, 159, 160, 161, 320, *LENGTHS])
def test_frame_counts_equal_the_stock_mask(n_samples: int) -> None:
    out = stock()(noise(n_samples), sampling_rate=RATE, padding="max_length", return_attention_mask=True)
    assert family.n_frames(n_samples) == int(np.asarray(out["attention_mask"]).sum())


def test_token_counts_equal_the_models_own(thinker: Thinker) -> None:
    n_samples = torch.cat(
        [torch.arange(1, 40_000, 37), torch.arange(160, 4_800_000, 15_999), torch.tensor([4_800_000])]
    )
    frames = torch.tensor([family.n_frames(n) for n in n_samples.tolist()])
    _, tokens = thinker.audio_tower._get_feat_extract_output_lengths(frames)
    assert [family.n_audio_tokens(n) for n in n_samples.tolist()] == tokens.clamp(min=0).tolist()


def test_the_shortest_clip_gives_a_token_and_one_sample_less_does_not(thinker: Thinker) -> None:
    shortest = family.SHORTEST_CLIP_SAMPLES
    assert family.n_audio_tokens(shortest) == 1
    assert family.n_audio_tokens(shortest - 1) == 0
    (tokens,) = thinker.encode_features(logmel([noise(shortest)]))
    assert tokens.shape == (1, tiny.RANDOM.width)
    assert tokens.isfinite().all()


def test_the_longest_clip_is_what_the_processor_takes_whole() -> None:
    tokenizer = tiny.train_tokenizer(["a"], 300)
    longest = family.Qwen25Omni(tokenizer).longest_clip_samples()
    assert longest == stock().n_samples == 4_800_000
    assert family.n_frames(longest) == stock().nb_max_frames
