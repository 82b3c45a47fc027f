"""Real question files, the shipped model, sounds made for it: killed again and again, a run loses and doubles nothing."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from made_sounds import make_sounds

from echo_audio.evaluation.files import read_lines
from echo_audio.evaluation.known import BENCHMARKS
from echo_audio.models import folders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here"),
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this system"),
]
N = 24


def file_of(name: str, question_files: Path, folder: Path) -> Path:
    """The question file; the old list of MMAR is made from the new lines."""
    if name != "mmar-old":
        return question_files / {"mmau-mini": "mmau-test-mini.json", "mmar": "MMAR-meta.jsonl"}[name]
    lines = (question_files / "MMAR-meta.jsonl").read_text(encoding="utf-8").split("\n")
    old = [{k: v for k, v in json.loads(line).items() if k not in ("thinking", "cue", "rubric")} for line in lines if line]
    path = folder / "MMAR-meta.json"
    path.write_text(json.dumps(old, ensure_ascii=False, indent=4), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["mmau-mini", "mmar", "mmar-old"])
def test_killed_at_any_moment_it_goes_on(name, question_files, tmp_path):
    questions, benchmark = file_of(name, question_files, tmp_path), BENCHMARKS[name.removesuffix("-old")]
    make_sounds(benchmark.name, questions, tmp_path, N)
    out = tmp_path / "run"
    command = [
        sys.executable, "-m", "echo_audio", "eval", benchmark.name, "--data", tmp_path, "--questions", questions, "--out", out,
        "--n", N, "--device", "cpu", "--max-new-tokens", 160, "--in-flight", 8,
    ]  # fmt: skip
    samples = out / "samples.jsonl"
    before: list[bytes] = []
    for wanted in (1, 10):  # lines there when the kill comes
        process = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end_s = time.monotonic() + 240
            while not samples.is_file() or samples.read_bytes().count(b"\n") < wanted:
                assert process.poll() is None and time.monotonic() < end_s
                time.sleep(0.01)
        finally:
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        there = samples.read_bytes()
        assert there.split(b"\n")[: len(before)] == before, "what was there stays as it was"
        before = there[: there.rfind(b"\n") + 1].split(b"\n")[:-1]
        with samples.open("ab") as file:  # and as if it had died within a line
            file.write(before[0][: 17 * wanted])
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = read_lines(samples)
    assert Counter(line.ask for line in lines).most_common(1)[0][1] == 1 and len(lines) == N
    assert samples.read_bytes().split(b"\n")[: len(before)] == before
    records = json.loads((out / "scores.json").read_text())
    assert records["official"]["n"] == N and not records["missing"]
    assert not (out / benchmark.submission).exists(), "a part of the questions is nothing to hand in"
