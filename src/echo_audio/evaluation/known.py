"""The benchmarks by name."""

from __future__ import annotations

from echo_audio.evaluation.benchmark import Benchmark
from echo_audio.evaluation.mmar import MMAR
from echo_audio.evaluation.mmau import MMAU, MMAU_MINI
from echo_audio.evaluation.mmau_pro import MMAU_PRO
from echo_audio.evaluation.mmsu import MMSU

BENCHMARKS: dict[str, Benchmark] = {b.name: b for b in (MMAU_MINI, MMAU, MMAR, MMSU, MMAU_PRO)}
