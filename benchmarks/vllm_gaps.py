"""When a GPU has nothing to do, and what the process that feeds it does meanwhile. For `vllm_engine.py --profile`."""

from __future__ import annotations

import sys
import threading
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import CodeType, FrameType

EDGES_MS = (0.1, 1.0, 5.0, 20.0)
SHOWN = 40


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took time. `start_ns` and `end_ns` are on the clock of time.time_ns()."""

    name: str
    start_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True)
class Stack:
    """Where a thread was: its functions, innermost first, and the line of that one. Named only when it is read."""

    line: int
    codes: tuple[CodeType, ...]

    @property
    def own(self) -> str:
        """The line."""
        return f"{named(self.codes[0])}:{self.line}"

    @property
    def within(self) -> set[str]:
        """All functions."""
        return {named(code) for code in self.codes}


@dataclass(frozen=True, slots=True)
class Look:
    """Where each thread was, by its name."""

    at_ns: int
    stacks: dict[str, Stack]


@cache
def named(code: CodeType) -> str:
    """A function, with the end of its file's path."""
    return f"{'/'.join(Path(code.co_filename).parts[-2:])}:{code.co_name}"


class Watch:
    """Looks every few milliseconds where all threads are.

    Args:
        every_s: seconds between two looks.
    """

    def __init__(self, every_s: float = 0.002) -> None:
        self.every_s, self.looks = every_s, list[Look]()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._end.wait(self.every_s):
            names = {thread.ident: thread.name for thread in threading.enumerate() if thread is not self._thread}
            now, frames = time.time_ns(), sys._current_frames()
            self.looks.append(Look(now, {name: stack_of(frames[i]) for i, name in names.items() if i in frames}))

    def stop(self) -> list[Look]:
        """What was seen."""
        self._end.set()
        self._thread.join()
        return self.looks


def stack_of(frame: FrameType) -> Stack:
    """Where a thread is. Cheap: while this runs, the thread cannot."""
    line, codes, at = frame.f_lineno, list[CodeType](), frame
    while at is not None:
        codes.append(at.f_code)
        at = at.f_back
    return Stack(line, tuple(codes))


def gaps_of(kernels: Iterable[Span]) -> list[Span]:
    """The times between two kernels in which none runs; each is named after the kernel that ends it."""
    found, busy_until = list[Span](), 0
    for kernel in sorted(kernels, key=lambda span: span.start_ns):
        if busy_until and kernel.start_ns > busy_until:
            found.append(Span(kernel.name, busy_until, kernel.start_ns))
        busy_until = max(busy_until, kernel.end_ns)
    return found


def report(kernels: Sequence[Span], calls: Sequence[Span], looks: Sequence[Look]) -> str:
    """What the GPU waited for, as text.

    Args:
        kernels: all that ran on the GPU, copies too.
        calls: of CUDA's runtime, on the host.
        looks: at the threads of the process.
    """
    gaps = gaps_of(kernels)
    if not gaps:
        return "no gap between kernels\n"
    begin, end = min(k.start_ns for k in kernels), max(k.end_ns for k in kernels)
    idle = sum(gap.end_ns - gap.start_ns for gap in gaps)
    lines = [f"{(end - begin) / 1e9:.2f} s from the first kernel to the last, {idle / 1e9:.2f} s of them without one", ""]
    lines += _by_length(gaps)
    starts = [gap.start_ns for gap in gaps]
    in_gap = Counter[str]()
    for call in calls:
        in_gap[call.name] += _shared(call, gaps, starts)
    lines += ["", "CUDA's runtime, s within gaps", *(f"{ns / 1e9:8.3f}  {name}" for name, ns in in_gap.most_common(12) if ns)]
    within = [look for look in looks if _inside(look.at_ns, gaps, starts)]
    for thread in sorted({name for look in looks for name in look.stacks}):
        lines += shares(thread, within, " within gaps")
    lines += ["", "the longest: at, length, kernel that ends it, where the main thread was"]
    longest = sorted(gaps, key=lambda gap: gap.start_ns - gap.end_ns)[:SHOWN]
    lines += [_line(gap, begin, looks) for gap in sorted(longest, key=lambda gap: gap.start_ns)]
    return "\n".join(lines) + "\n"


def _by_length(gaps: Sequence[Span]) -> list[str]:
    edges = (0.0, *EDGES_MS, float("inf"))
    lengths = [(gap.end_ns - gap.start_ns) / 1e6 for gap in gaps]
    parts = [[ms for ms in lengths if low <= ms < high] for low, high in pairwise(edges)]
    return [
        f"{low:5g} ms to {high:5g} ms: {len(part):6d} gaps, {sum(part) / 1e3:6.3f} s"
        for low, high, part in zip(edges[:-1], edges[1:], parts, strict=True)
    ]


def _inside(at_ns: int, gaps: Sequence[Span], starts: Sequence[int]) -> bool:
    i = bisect_right(starts, at_ns) - 1
    return i >= 0 and at_ns < gaps[i].end_ns


def _shared(call: Span, gaps: Sequence[Span], starts: Sequence[int]) -> int:
    """Nanoseconds of a call within gaps."""
    i, found = max(0, bisect_right(starts, call.start_ns) - 1), 0
    while i < len(gaps) and gaps[i].start_ns < call.end_ns:
        found += max(0, min(call.end_ns, gaps[i].end_ns) - max(call.start_ns, gaps[i].start_ns))
        i += 1
    return found


def shares(thread: str, looks: Sequence[Look], when: str = "") -> list[str]:
    """Where a thread was: by line, and by function with all that it calls.

    Args:
        when: said beside the number of looks.
    """
    stacks = [look.stacks[thread] for look in looks if thread in look.stacks]
    own = Counter(stack.own for stack in stacks)
    within = Counter(place for stack in stacks for place in stack.within)
    n = max(1, len(stacks))
    lines = ["", f"thread {thread}, {len(stacks)} looks{when}: on this line"]
    lines += [f"{count / n:6.1%}  {place}" for place, count in own.most_common(SHOWN)]
    lines += ["in this function and what it calls"]
    return lines + [f"{count / n:6.1%}  {place}" for place, count in within.most_common(2 * SHOWN)]


def _line(gap: Span, begin: int, looks: Sequence[Look]) -> str:
    places = Counter(
        " < ".join([look.stacks["MainThread"].own, *map(named, look.stacks["MainThread"].codes[1:3])]) for look in looks
        if gap.start_ns <= look.at_ns < gap.end_ns and "MainThread" in look.stacks
    )  # fmt: skip
    where = "; ".join(f"{count} x {place}" for place, count in places.most_common(2))
    return f"{(gap.start_ns - begin) / 1e9:7.3f} s {(gap.end_ns - gap.start_ns) / 1e6:8.2f} ms  {gap.name[:40]:<40} {where}"
