"""Where vLLM's own process spends its time: the worker of `vllm_engine.py --profile`."""

from __future__ import annotations

import gc
import time
from pathlib import Path
from typing import Any

import torch
from vllm_gaps import Span, Watch, report, shares

from echo_audio.engines.vllm_worker import Receiver


class Steps:
    """Notes every step of a model runner: when it came, what was in it, how long the host took; and Python's collections.

    Args:
        runner: vLLM's model runner.
    """

    def __init__(self, runner: Any) -> None:
        self.lines, self._runner, self._began = list[str](), runner, time.perf_counter()
        self._execute, self._collecting = runner.execute_model, 0.0
        runner.execute_model = self._step
        gc.callbacks.append(self._collect)

    def _step(self, plan: Any, *args: Any, **kwargs: Any) -> Any:
        began = time.perf_counter()
        made = self._execute(plan, *args, **kwargs)
        took = 1e3 * (time.perf_counter() - began)
        counts = len(plan.num_scheduled_tokens), plan.total_num_scheduled_tokens, len(plan.scheduled_new_reqs)
        at = 1e3 * (began - self._began)
        had = f"{counts[0]:4d} rows, {counts[1]:5d} ids, {counts[2]:3d} new"
        self.lines.append(f"{at:8.1f} ms: {had}, launched in {took:6.1f} ms")
        return made

    def _collect(self, phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter()
        if phase == "stop" and now - self._collecting > 1e-3:
            self.lines.append(f"    garbage of generation {info['generation']}: {1e3 * (now - self._collecting):.1f} ms")
        self._collecting = now

    def stop(self) -> str:
        """What was noted."""
        gc.callbacks.remove(self._collect)
        self._runner.execute_model = self._execute
        return "\n".join([f"{len(self.lines)} lines", *self.lines]) + "\n"


class Profiled(Receiver):
    """What Echo's engine needs, and two profiles: Python's by function, the GPU's by kernel and what it waits for."""

    def echo_profile(self, folder: str, what: str) -> None:
        """Begin: `what` is "python" or "gpu"."""
        self.folder, self.what = Path(folder), what
        if what == "gpu":
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profile.start()
        self.steps = Steps(self.model_runner)
        self.watch = Watch()

    def echo_profile_end(self) -> None:
        """Write what was found into the folder."""
        looks = self.watch.stop()
        (self.folder / f"steps-{self.what}.txt").write_text(self.steps.stop())
        if self.what == "python":
            (self.folder / "core.txt").write_text("\n".join(shares("MainThread", looks)))
            return
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
