"""The command line as a stranger meets it. What each verb does is tested beside the verb."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("echo_audio.cli") is None, reason="no command line yet")

VERBS = ("ask", "demo", "doctor", "sft", "eval", "data")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "from echo_audio.cli import main; main()"
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'echo-audio'; {script}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_help_answers_in_under_a_second_and_names_every_verb() -> None:
    fastest_s, out = 60.0, ""
    for _ in range(3):  # the cores are shared: the best of three counts
        start_s = time.perf_counter()
        done = run("--help")
        fastest_s, out = min(fastest_s, time.perf_counter() - start_s), done.stdout
        assert done.returncode == 0, done.stderr
    assert not [verb for verb in VERBS if verb not in out]
    assert fastest_s < 1.0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str) -> None:
    done = run(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert verb in done.stdout


def test_an_error_is_one_message_without_a_traceback() -> None:
    done = run("ask", "no-such-file.wav", "What is heard?")
    assert done.returncode != 0
    assert "does not exist" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
