"""Where vLLM's own process spends its time: the worker of `vllm_engine.py --profile`."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from pathlib import Path
from types import FrameType

import torch
from vllm_gaps import Span, Watch, report, stack_of

from echo_audio.engines.vllm_worker import Receiver


class Sampler:
    """Looks every few milliseconds where a thread is. Unlike a tracing profile it leaves the balance between processes alone.

    Args:
        thread: identifier of the thread; the one that makes this by default.
        every_s: seconds between two looks.
    """

    def __init__(self, thread: int | None = None, every_s: float = 0.003) -> None:
        self.thread, self.every_s = thread or threading.get_ident(), every_s
        self.own: Counter[str] = Counter()
        self.within: Counter[str] = Counter()
        self.n = 0
        self._end = threading.Event()
        self._looking = threading.Thread(target=self._look, daemon=True)
        self._looking.start()

    def _look(self) -> None:
        while not self._end.wait(self.every_s):
            frame = sys._current_frames().get(self.thread)
            if frame is not None:
                self._count(frame)

    def _count(self, frame: FrameType) -> None:
        stack = stack_of(frame)
        self.n += 1
        self.own[stack.own] += 1
        self.within.update(stack.within)

    def write(self, path: Path) -> None:
        """Stop, and write the shares of time: by line, and by function with all it calls."""
        self._end.set()
        self._looking.join()
        lines = [f"{self.n} looks, every {self.every_s * 1000:.0f} ms at best"]
        for title, counts in (("on this line", self.own), ("in this function and what it calls", self.within)):
            lines += ["", title, *(f"{count / max(self.n, 1):6.1%}  {place}" for place, count in counts.most_common(70))]
        path.write_text("\n".join(lines) + "\n")


class Profiled(Receiver):
    """What Echo's engine needs, and two profiles: Python's by function, the GPU's by kernel and what it waits for."""

    def echo_profile(self, folder: str, what: str) -> None:
        """Begin: `what` is "python" or "gpu"."""
        self.folder, self.what = Path(folder), what
        if what == "python":
            self.sampler = Sampler()
        else:
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profile.start()
            self.watch = Watch()

    def echo_profile_end(self) -> None:
        """Write what was found into the folder."""
        if self.what == "python":
            self.sampler.write(self.folder / "core.txt")
            return
        looks = self.watch.stop()
        torch.accelerator.synchronize()
        self.profile.stop()
        averages = self.profile.key_averages()
        busy_s = sum(each.self_device_time_total for each in averages) / 1e6
        table = averages.table(sort_by="self_device_time_total", row_limit=30, max_name_column_width=70)
        (self.folder / "gpu.txt").write_text(f"kernels took {busy_s:.2f} s\n{table}\n")
        kernels, calls = list[Span](), list[Span]()
        for event in self.profile.profiler.kineto_results.events():
            on_gpu = event.device_type() == torch.autograd.DeviceType.CUDA
            (kernels if on_gpu else calls).append(Span(event.name(), event.start_ns(), event.start_ns() + event.duration_ns()))
        (self.folder / "gaps.txt").write_text(report(kernels, calls, looks))
