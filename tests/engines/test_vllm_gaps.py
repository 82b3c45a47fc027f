"""What a profile of vLLM's process says of the times in which its GPU has nothing to do."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "vllm_gaps.py"
MS = 1_000_000


@pytest.fixture(scope="module")
def gaps() -> ModuleType:
    spec = importlib.util.spec_from_file_location("vllm_gaps", SCRIPT)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["vllm_gaps"] = made  # a dataclass looks its module up
    spec.loader.exec_module(made)
    return made


def test_gaps_lie_between_kernels_of_all_streams(gaps: ModuleType) -> None:
    spans = [("c", 30, 40), ("a", 10, 20), ("b", 12, 15), ("d", 39, 50), ("e", 50, 51)]
    found = gaps.gaps_of(gaps.Span(*span) for span in spans)
    assert [(gap.name, gap.start_ns, gap.end_ns) for gap in found] == [("c", 20, 30)]


def test_the_report_counts_what_falls_into_gaps(gaps: ModuleType) -> None:
    kernels = [gaps.Span("a", 0, 10 * MS), gaps.Span("b", 12 * MS, 20 * MS), gaps.Span("c", 50 * MS, 60 * MS)]
    calls = [gaps.Span("launch", 11 * MS, 14 * MS), gaps.Span("copy", 19 * MS, 55 * MS), gaps.Span("free", 1 * MS, 2 * MS)]
    here = gaps.stack_of(sys._getframe())
    looks = [gaps.Look(at * MS, {"MainThread": here}) for at in (5, 11, 30, 55)]
    text = gaps.report(kernels, calls, looks)
    assert "0.06 s from the first kernel to the last, 0.03 s of them without one" in text
    assert "  1 ms to     5 ms:      1 gaps,  0.002 s" in text and " 20 ms to   inf ms:      1 gaps,  0.030 s" in text
    assert "   0.001  launch" in text and "   0.030  copy" in text and "free" not in text
    assert "thread MainThread, 2 looks within gaps" in text and here.own in text
    assert gaps.report(kernels[:1], calls, looks) == "no gap between kernels\n"


def test_a_watch_sees_where_a_thread_waits(gaps: ModuleType) -> None:
    watch = gaps.Watch(0.001)
    time.sleep(0.05)
    looks = watch.stop()
    assert looks and any("test_a_watch_sees" in place for place in looks[0].stacks["MainThread"].within)
    text = "\n".join(gaps.shares("MainThread", looks))
    assert f"thread MainThread, {len(looks)} looks: on this line" in text and "100.0%" in text
    assert gaps.shares("nobody", looks)[1] == "thread nobody, 0 looks: on this line"
