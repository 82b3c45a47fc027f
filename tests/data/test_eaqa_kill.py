"""A run of the data engine that is killed without warning; the whole of it, 50 kills, is benchmarks/kill_eaqa.py."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "kill_eaqa.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_ends_as_the_unbroken_one() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--kills", "4", "--n", "12"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every run ended as the unbroken one" in done.stdout
