"""Log-mel features: ours against the stock processor, which pads every clip to 300 s. Both sides in this process.

    python benchmarks/logmel.py [--repeats 20] [--threads 1]

Prints a table; the last line is one JSON object. `ratio` is the stock time over ours, medians of the repeats.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch
from transformers import WhisperFeatureExtractor

from echo_audio.audio import SAMPLE_RATE, Samples
from echo_audio.models.logmel import logmel

DURATIONS_S = (3, 10, 30)

PUBLISHED = {
    "chunk_length": 300, "feature_size": 128, "hop_length": 160, "n_fft": 400, "sampling_rate": SAMPLE_RATE,
    "dither": 0.0, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
}  # fmt: skip
"""The audio part of Qwen2.5-Omni's preprocessor_config.json."""


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--repeats", type=int, default=20)
    arguments.add_argument("--threads", type=int, default=1, help="of torch, for both sides; 1 is one CPU core")
    given = arguments.parse_args()
    torch.set_num_threads(given.threads)
    stock = WhisperFeatureExtractor(**PUBLISHED)
    rows: list[dict[str, float]] = []
    print(f"{'clip':>6} {'stock ms':>10} {'ours ms':>9} {'ratio':>7} {'max difference':>15}")
    for duration_s in DURATIONS_S:
        samples = np.random.default_rng(duration_s).standard_normal(duration_s * SAMPLE_RATE).astype(np.float32) * 0.1
        row = compare(stock, samples, given.repeats) | {"clip_s": duration_s}
        rows.append(row)
        line = f"{row['stock_ms']:>10.1f} {row['ours_ms']:>9.2f} {row['ratio']:>7.1f} {row['max_difference']:>15.1e}"
        print(f"{duration_s:>4} s {line}")
    machine = {"cpu": cpu_name(), "cores": os.cpu_count(), "threads": given.threads, "torch": torch.__version__}
    least = min(row["ratio"] for row in rows)
    print(json.dumps({"benchmark": "logmel", "least_ratio": least, "clips": rows, "machine": machine}))


def compare(stock: WhisperFeatureExtractor, samples: Samples, repeats: int) -> dict[str, float]:
    """Times in ms of both sides for one clip, and how much their features differ."""

    def stock_features() -> torch.Tensor:
        out = stock(
            samples, sampling_rate=SAMPLE_RATE, padding="max_length", return_attention_mask=True, return_tensors="pt"
        )
        return out["input_features"][0][:, out["attention_mask"][0].bool()]

    def our_features() -> torch.Tensor:
        return logmel([samples])[0]

    difference = float((stock_features() - our_features()).abs().max())
    theirs, ours = (median(timed(side) for _ in range(repeats)) for side in (stock_features, our_features))
    return {"stock_ms": theirs, "ours_ms": ours, "ratio": theirs / ours, "max_difference": difference}


def timed(work: Callable[[], torch.Tensor]) -> float:
    """Milliseconds."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def cpu_name() -> str:
    """As the system calls it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


if __name__ == "__main__":
    main()
