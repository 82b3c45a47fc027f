"""Where vLLM's own process spends its time: the worker of `vllm_engine.py --profile`."""

from __future__ import annotations

import cProfile
import io
import pstats
from pathlib import Path

import torch

from echo_audio.engines.vllm_worker import Receiver


class Profiled(Receiver):
    """What Echo's engine needs, and two profiles: Python's by function, the GPU's by kernel."""

    def echo_profile(self, folder: str, what: str) -> None:
        """Begin: `what` is "python" or "gpu"."""
        self.folder, self.what = Path(folder), what
        if what == "python":
            self.profile = cProfile.Profile()
            self.profile.enable()
        else:
            self.profile = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA])
            self.profile.start()

    def echo_profile_end(self) -> None:
        """Write what was found into the folder."""
        if self.what == "python":
            self.profile.disable()
            write_profile(self.profile, self.folder / "core.txt")
            return
        torch.accelerator.synchronize()
        self.profile.stop()
        averages = self.profile.key_averages()
        busy_s = sum(each.self_device_time_total for each in averages) / 1e6
        table = averages.table(sort_by="self_device_time_total", row_limit=30, max_name_column_width=70)
        (self.folder / "gpu.txt").write_text(f"kernels took {busy_s:.2f} s\n{table}\n")


def write_profile(profile: cProfile.Profile, path: Path) -> None:
    """The functions that took longest, by their own time and with what they called."""
    text = io.StringIO()
    stats = pstats.Stats(profile, stream=text)
    for order in ("tottime", "cumulative"):
        stats.sort_stats(order).print_stats(45)
    path.write_text(text.getvalue())
