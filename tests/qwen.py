"""Qwen's published vocabulary for tests, without a network."""

from __future__ import annotations

import base64
import functools
import hashlib
import itertools
import lzma
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import Qwen2Tokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

from echo_audio.models import folders

CONTROL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_bos|>", "<|vision_eos|>",
    "<|vision_pad|>", "<|IMAGE|>", "<|VIDEO|>",
)  # fmt: skip
FOLDER_VARIABLE = "ECHO_QWEN_FOLDER"
RANKS = Path(__file__).parent / "models" / "vocabulary" / "qwen.tiktoken.xz"


def qwen_tokenizer() -> Tokenizer:
    """The published tokenizer, from the folder $ECHO_QWEN_FOLDER, or made of the ranks beside the tests."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return folders.tokenizer(Path(folder))
    if not RANKS.is_file():
        pytest.skip(f"{RANKS} is not here (left out of this copy?); or set {FOLDER_VARIABLE} to a Qwen2.5-Omni folder")
    return Tokenizer.from_file(str(_build(RANKS)))


@functools.cache
def _build(ranks_file: Path) -> Path:
    """tokenizer.json of the 151,643 ranks and the control tokens; takes seconds, so it is kept for the next run."""
    packed = ranks_file.read_bytes()
    name = hashlib.blake2b(packed + "".join(CONTROL).encode(), digest_size=8).hexdigest()
    built = Path(tempfile.gettempdir()) / f"echo-qwen-vocabulary-{os.getuid()}-{name}.json"
    if built.is_file():
        return built
    lines = (line.split() for line in lzma.decompress(packed).splitlines())
    ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    symbols = bytes_to_unicode()

    def text(raw: bytes) -> str:
        return "".join(symbols[byte] for byte in raw)

    longer = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    merges = [tuple(map(text, _halves(token, ranks))) for token in longer]
    tokenizer = Qwen2Tokenizer({text(raw): rank for raw, rank in ranks.items()}, merges).backend_tokenizer
    tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in CONTROL])
    part = built.with_suffix(f".{os.getpid()}")
    tokenizer.save(str(part))
    part.replace(built)
    return built


def _halves(token: bytes, ranks: Mapping[bytes, int]) -> list[bytes]:
    """The two tokens that were merged into this one: what its merges of lower rank leave."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while True:
        pairs = [(ranks.get(a + b, ranks[token]), i) for i, (a, b) in enumerate(itertools.pairwise(parts))]
        rank, i = min(pairs)
        if rank >= ranks[token]:
            return parts
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
