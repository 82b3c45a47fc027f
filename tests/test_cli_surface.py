"""The command line as a stranger meets it, in a process of its own. What the verbs do is tested in tests/cli."""

from __future__ import annotations

import json
import resource
import subprocess
import sys

import pytest

VERBS = (
    "ask", "demo", "serve", "view", "doctor", "sft", "grpo", "export", "eval", "data", "score", "report", "compare", "ablation",
)  # fmt: skip


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    script = "from echo_audio.cli import main; main()"
    command = [sys.executable, "-c", f"import sys; sys.argv[0] = 'echo-audio'; {script}", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def processor_s() -> float:
    """Seconds of a processor that ended children took. On shared cores the clock says more of the others."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def fastest_help(*arguments: str) -> tuple[float, str]:
    """Seconds of a processor and output, of the best of three."""
    best_s, out = 60.0, ""
    for _ in range(3):
        start_s = processor_s()
        done = run(*arguments, "--help")
        best_s, out = min(best_s, processor_s() - start_s), done.stdout
        assert done.returncode == 0, done.stderr
        if best_s < 1.0:
            break
    return best_s, out


def test_help_answers_in_under_a_second_and_names_every_verb() -> None:
    fastest_s, out = fastest_help()
    assert not [verb for verb in VERBS if verb not in out]
    assert fastest_s < 1.0


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_in_under_a_second(verb: str) -> None:
    fastest_s, out = fastest_help(verb)
    assert verb in out
    assert fastest_s < 1.0


@pytest.mark.parametrize(
    ("word", "says"),
    [("aks", "did you mean ask?"), ("sing", "the verbs are ask, "), ("--verson", "did you mean --version?")],
)
def test_a_word_that_is_no_verb_is_answered_with_the_nearest(word: str, says: str) -> None:
    done = run(word)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_reader_that_goes_away_is_no_trouble() -> None:
    """As `| head -1` does: no traceback, and the exit code a shell knows."""
    script = """
from types import SimpleNamespace
from echo_audio.cli import main, session
session.load_engine = lambda manner: (SimpleNamespace(close=lambda: None), None)  # nothing gets as far as asking it
main(["ask", "--questions", "/dev/stdin", "--json"])
"""
    rows = json.dumps({"audio": "no-such-file.wav", "question": "x" * 200}) + "\n"
    command = [sys.executable, "-c", script]
    asked = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert asked.stdin and asked.stdout and asked.stderr
    asked.stdin.write(rows * 2000)
    asked.stdin.close()
    asked.stdout.readline()
    asked.stdout.close()
    assert asked.wait(timeout=60) == 141
    assert "Traceback" not in asked.stderr.read()
    asked.stderr.close()


def test_an_error_is_one_message_without_a_traceback() -> None:
    done = run("ask", "no-such-file.wav", "What is heard?")
    assert done.returncode != 0
    assert "does not exist" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout
