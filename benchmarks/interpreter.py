"""What a small call of an engine's thread costs while other threads are at work.

    python benchmarks/interpreter.py

`add` and `copy` are an addition of 256 numbers, and a clip of 10 s (log-mel, float32) put into bfloat16, pinned where there is a
GPU. First beside a thread of Python, by the time for which Python lets a thread keep the interpreter (`engines/interpreter.py`);
then copies alone and by eight threads at once, by the number of threads that torch gives to each. Microseconds, means. The last
line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pickle
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

from echo_audio.engines.interpreter import SWITCH_S

SECONDS = 1.0
"""For which each call is repeated."""


def mean_us(call: Callable[[], object]) -> float:
    """Over many calls."""
    n, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < SECONDS:
        call()
        n += 1
    return 1e6 * took / n


@contextmanager
def beside_python() -> Iterator[None]:
    """Another thread hashes, as vLLM's does for the blocks of a request."""
    end = threading.Event()

    def work() -> None:
        digest = b""
        while not end.is_set():
            for _ in range(40):
                digest = hashlib.sha256(pickle.dumps((digest, tuple(range(16))))).digest()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def calls() -> dict[str, Callable[[], object]]:
    """An addition, and a clip's copy."""
    a, b, clip = torch.zeros(256), torch.ones(256), torch.randn(128, 1000)
    there = torch.empty(128, 1000, dtype=torch.bfloat16, pin_memory=torch.cuda.is_available())
    return {"add": lambda: a.add_(b), "copy": lambda: there.copy_(clip)}


def beside(switch_s: float) -> dict[str, float]:
    """Both calls beside a thread of Python."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(switch_s)
    try:
        with beside_python():
            return {name: mean_us(call) for name, call in calls().items()}
    finally:
        sys.setswitchinterval(before)


def by_threads(n: int) -> dict[str, float]:
    """Copies with so many threads of torch: alone, and by eight threads at once."""

    def one() -> float:
        torch.set_num_threads(n)
        return mean_us(calls()["copy"])

    with ThreadPoolExecutor(8) as pool:
        return {"alone": one(), "eight": statistics.median(pool.map(lambda _: one(), range(8)))}


def main() -> None:
    """Measure and print."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    sides = {f"interpreter kept for {1e3 * s:g} ms": beside(s) for s in (5e-3, SWITCH_S)}
    helped = {f"torch with {k} threads": by_threads(k) for k in sorted({1, n}, reverse=True)}
    print(f"{platform.machine()}, {os.cpu_count()} cores")
    for name, times in (sides | helped).items():
        print(f"{name}: " + ", ".join(f"{what} {us:.0f}" for what, us in times.items()))
    before, after = sides.values()
    ratios = {what: before[what] / after[what] for what in before}
    print("times faster beside Python: " + ", ".join(f"{what} {ratio:.0f}" for what, ratio in ratios.items()))
    print(json.dumps({"benchmark": "interpreter", "us": sides | helped, "ratio": ratios}))


if __name__ == "__main__":
    main()
