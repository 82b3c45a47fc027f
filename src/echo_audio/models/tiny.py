"""Small models of the family's architecture: the one that ships with Echo, and random ones for tests.

A folder made here has the same files as a published thinker, so everything that loads the one loads the other.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|vision_bos|>", "<|vision_eos|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How the family cuts text before merging: words, single digits, runs of punctuation, white space."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Sizes of a small thinker."""

    width: int = 384
    layers: int = 6
    heads: int = 6
    kv_heads: int = 2
    feed_forward: int = 1024
    audio_width: int = 256
    audio_layers: int = 4
    audio_heads: int = 4
    audio_feed_forward: int = 1024
    max_positions: int = 8192


RANDOM = Sizes(
    width=64, layers=2, heads=4, kv_heads=2, feed_forward=96,
    audio_width=32, audio_layers=2, audio_heads=2, audio_feed_forward=48,
)  # fmt: skip
"""Sizes for tests: a forward takes a millisecond."""


def train_tokenizer(texts: Iterable[str], vocabulary: int = 1024) -> Tokenizer:
    """A byte-level BPE tokenizer with the family's rules and control tokens, fitted to texts.

    Args:
        texts: what it should write in few tokens; anything else still works, byte by byte.
        vocabulary: number of ids, control tokens included.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIALS), initial_alphabet=sorted(alphabet), show_progress=False, special_tokens=[]
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in SPECIALS])
    return tokenizer


def config_of(tokenizer: Tokenizer, sizes: Sizes) -> dict[str, Any]:
    """The thinker's config.json for a tokenizer and sizes."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIALS}
    size = -(-tokenizer.get_vocab_size(with_added_tokens=True) // 64) * 64
    quarter = sizes.width // sizes.heads // 8
    sections = [quarter, quarter * 3 // 2, quarter * 3 // 2]
    rope = {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": sections}
    text = {
        "model_type": "qwen2_5_omni_text", "vocab_size": size, "hidden_size": sizes.width,
        "num_hidden_layers": sizes.layers, "num_attention_heads": sizes.heads, "num_key_value_heads": sizes.kv_heads,
        "intermediate_size": sizes.feed_forward, "max_position_embeddings": sizes.max_positions,
        "rope_parameters": rope, "rope_theta": 10_000.0, "rope_scaling": rope | {"type": "default"},
        "use_sliding_window": False, "tie_word_embeddings": True,
        "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
    }  # fmt: skip
    audio = {
        "model_type": "qwen2_5_omni_audio_encoder", "d_model": sizes.audio_width, "encoder_layers": sizes.audio_layers,
        "encoder_attention_heads": sizes.audio_heads, "encoder_ffn_dim": sizes.audio_feed_forward,
        "output_dim": sizes.width, "n_window": 100, "num_mel_bins": 128,
    }  # fmt: skip
    vision = {
        "model_type": "qwen2_5_omni_vision_encoder", "depth": 1, "hidden_size": 8, "intermediate_size": 8,
        "num_heads": 1, "out_hidden_size": sizes.width, "fullatt_block_indexes": [0],
    }  # fmt: skip
    return {
        "model_type": "qwen2_5_omni_thinker", "architectures": ["Qwen2_5OmniThinkerForConditionalGeneration"],
        "text_config": text, "audio_config": audio, "vision_config": vision, "tie_word_embeddings": True,
        "audio_token_index": ids["<|AUDIO|>"], "image_token_index": ids["<|IMAGE|>"],
        "video_token_index": ids["<|VIDEO|>"], "audio_start_token_id": ids["<|audio_bos|>"],
        "audio_end_token_id": ids["<|audio_eos|>"], "vision_start_token_id": ids["<|vision_bos|>"],
        "vision_end_token_id": ids["<|vision_eos|>"], "user_token_id": 0,
        "pad_token_id": ids["<|endoftext|>"], "eos_token_id": ids["<|im_end|>"],
    }  # fmt: skip


CHAT_TEMPLATE = (
    "{% for m in messages %}{% if loop.first and m['role'] != 'system' %}<|im_start|>system\n"
    "You are a helpful assistant.<|im_end|>\n{% endif %}<|im_start|>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{% if c['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% elif c['type'] == 'text' %}{{ c['text'] }}"
    "{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_PROCESSOR = {
    "processor_class": "Qwen2_5OmniProcessor", "feature_extractor_type": "WhisperFeatureExtractor",
    "image_processor_type": "Qwen2VLImageProcessor", "chunk_length": 300, "n_samples": 4_800_000,
    "nb_max_frames": 30_000, "feature_size": 128, "hop_length": 160, "n_fft": 400, "sampling_rate": 16_000,
    "dither": 0.0, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
    "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip


def side_files(tokenizer: Tokenizer, sizes: Sizes) -> dict[str, dict[str, Any]]:
    """Every small JSON file of a model folder, by name (the tokenizer's own file excepted)."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIALS}
    named = {
        "image_token": "<|IMAGE|>", "audio_token": "<|AUDIO|>", "video_token": "<|VIDEO|>",
        "vision_bos_token": "<|vision_bos|>", "vision_eos_token": "<|vision_eos|>",
        "audio_bos_token": "<|audio_bos|>", "audio_eos_token": "<|audio_eos|>",
    }  # fmt: skip
    about = {
        "tokenizer_class": "Qwen2Tokenizer", "processor_class": "Qwen2_5OmniProcessor", "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "model_max_length": sizes.max_positions, "add_prefix_space": False,
        "extra_special_tokens": named,
    }  # fmt: skip
    stop = {"eos_token_id": [ids["<|im_end|>"], ids["<|endoftext|>"]], "pad_token_id": ids["<|endoftext|>"]}
    return {
        "config.json": config_of(tokenizer, sizes),
        "generation_config.json": stop,
        "tokenizer_config.json": about | named,
        "preprocessor_config.json": _PROCESSOR,
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }


def write_folder(folder: Path, tokenizer: Tokenizer, sizes: Sizes, seed: int = 0) -> None:
    """A complete model folder with random weights."""
    import torch
    from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

    from echo_audio.models.qwen2_5_omni import Qwen25Omni
    from echo_audio.models.thinker import Thinker, save_weights

    folder.mkdir(parents=True, exist_ok=True)
    files = side_files(tokenizer, sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5OmniThinkerForConditionalGeneration(Qwen2_5OmniThinkerConfig.from_dict(files["config.json"]))
    save_weights(Thinker(model, Qwen25Omni(tokenizer)), folder / "model.safetensors", torch.float32)
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
