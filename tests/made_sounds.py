"""Sounds for a question file whose recordings cannot be had: a short one at the path of each record.

    python tests/made_sounds.py mmar QUESTIONS FOLDER [N]
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from echo_audio.audio import SAMPLE_RATE, Recording, save_wav
from echo_audio.evaluation.benchmark import find_audio, load_benchmark
from echo_audio.evaluation.known import BENCHMARKS


def sound(seed: int) -> Recording:
    """One to four seconds: two tones with a pause between them, in noise; another one for each seed."""
    rng = np.random.default_rng(seed)
    n = int(rng.uniform(1.0, 4.0) * SAMPLE_RATE)
    time_s = np.arange(n) / SAMPLE_RATE
    out = 0.01 * rng.standard_normal(n)
    for part in (slice(n // 8, n // 2), slice(5 * n // 8, 7 * n // 8)):
        out[part] += 0.3 * np.sin(2 * np.pi * rng.uniform(150, 3000) * time_s[part])
    return Recording(out.astype(np.float32))


def make_sounds(benchmark: str, questions: Path, folder: Path, n: int | None = None) -> int:
    """Write the sounds of the first `n` records that are not there yet; how many records have one."""
    records = load_benchmark(BENCHMARKS[benchmark], folder, questions).records[:n]
    for seed, record in enumerate(records):
        path = find_audio(folder, record.audio)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file():
            save_wav(sound(seed), path)
    return len(records)


if __name__ == "__main__":
    name, questions, folder, *n = sys.argv[1:]
    print(make_sounds(name, Path(questions), Path(folder), int(n[0]) if n else None))  # noqa: T201
