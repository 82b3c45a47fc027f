"""What choosing an attention backend by itself costs on a GPU when every batch has its own shape.

PyTorch sends attention to cuDNN on some GPUs; cuDNN plans each new shape on the host. `Thinker.load` turns that off.
Prints a table and, last, one JSON object. Needs a CUDA GPU: python benchmarks/attention.py
"""

from __future__ import annotations

import json
import statistics
import sys
import time

import torch
from torch.nn.functional import scaled_dot_product_attention

SHAPES = [(100 + 7 * i, 300 + 11 * i) for i in range(12)]
WARM_UP = 3


def call_ms(batch: int, length: int) -> tuple[float, float]:
    """Until the call returns, and until forward and backward are done, in ms."""
    query = torch.randn(batch, 6, length, 64, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    torch.cuda.synchronize()
    began = time.perf_counter()
    out = scaled_dot_product_attention(query, query, query, is_causal=True)
    returned = time.perf_counter()
    out.sum().backward()
    torch.cuda.synchronize()
    return 1e3 * (returned - began), 1e3 * (time.perf_counter() - began)


def measure() -> tuple[float, float]:
    """Medians over shapes that are each seen once."""
    times = [call_ms(*shape) for shape in SHAPES][WARM_UP:]
    host, whole = zip(*times, strict=True)
    return statistics.median(host), statistics.median(whole)


def main() -> int:
    if not torch.cuda.is_available():
        print(json.dumps({"benchmark": "attention", "skipped": "no CUDA GPU on this machine"}))
        return 0
    chosen = measure()
    torch.backends.cuda.enable_cudnn_sdp(False)
    flash = measure()
    print(f"{'backend':20} {'call returns':>14} {'fwd and bwd':>14}")
    for name, (host, whole) in (("PyTorch's choice", chosen), ("without cuDNN", flash)):
        print(f"{name:20} {host:11.2f} ms {whole:11.2f} ms")
    print(json.dumps({
        "benchmark": "attention", "gpu": torch.cuda.get_device_name(), "torch": torch.__version__,
        "chosen_ms": chosen, "without_cudnn_ms": flash, "ratio": chosen[1] / flash[1],
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
