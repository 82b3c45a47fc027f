"""`echo-audio ask` about one recording: what is shown, what is saved, and what hostile input is told."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import sys

import numpy as np
import pytest

from echo_audio.audio import SAMPLE_RATE, Recording, encode_flac
from echo_audio.cli.engines import EngineName, open_engine
from echo_audio.engines.scripted import ScriptedFamily
from echo_audio.errors import ConfigError, EngineError, MissingExtraError
from echo_audio.transcript import Stop, Transcript

QUESTION = "What is heard?"
CHOICES = ("--choice", "a bell", "--choice", "a dog")


def test_it_shows_question_reasoning_picture_and_answer(run, engine, folder):
    said = run("ask", "door.flac", QUESTION, *CHOICES)
    assert said.code == 0
    first, *_ = said.out.splitlines()
    assert first == "door.flac  4.0 s"
    assert "    - a bell\n    - a dog\n" in said.out
    assert "<think>I look for the bell <seg>1.2, 1.9</seg>♪, and it is bright.</think>" in said.out
    assert "1.2–1.9 s ♪" in said.out
    assert said.out.rstrip().endswith("Answer: a bell")
    assert engine.closed


def test_without_choices_it_answers_freely(run, engine, folder):
    engine.turns = ("<think>short</think>\n<answer>rain, then steps</answer>",)
    said = run("ask", "door.flac", QUESTION)
    assert said.code == 0
    assert said.out.rstrip().endswith("Answer: rain, then steps")


def test_json_is_one_object(run, engine, folder):
    said = run("ask", "door.flac", QUESTION, *CHOICES, "--json")
    told = json.loads(said.out)
    assert (told["audio"], told["answer"], told["choice"]) == ("door.flac", "a bell", "a bell")
    assert told["truth"] is told["right"] is None
    assert told["segments"] == [{"start_s": 1.2, "end_s": 1.9, "heard": True}]
    assert Transcript.from_json(json.dumps(told["transcript"])).stop is Stop.ANSWERED
    assert said.err == ""


def test_save_appends_transcripts_with_the_settings_that_made_them(run, engine, folder):
    for _ in range(2):
        assert run("ask", "door.flac", QUESTION, "--save", "kept.jsonl", "--seed", "5", "--temperature", "0.7").code == 0
    kept = [Transcript.from_json(line) for line in (folder / "kept.jsonl").read_text().splitlines()]
    assert len(kept) == 2
    assert kept[0].question.meta["seed"] == 5
    assert kept[0].question.meta["temperature"] == 0.7
    assert engine.requests[0].sampling.seed == 5


def test_modes_and_relistens_reach_the_loop(run, engine, folder):
    grounded = run("ask", "door.flac", QUESTION, "--mode", "grounded")
    assert "♪" not in grounded.out
    assert not engine.requests[0].stop
    none = run("ask", "door.flac", QUESTION, "--max-relistens", "0")
    assert "(not heard: no re-listens left)" in none.out


def test_an_answer_that_is_none_of_the_choices_is_said_so(run, engine, folder):
    engine.turns = ("<think>x</think>\n<answer>a horse</answer>",)
    said = run("ask", "door.flac", QUESTION, *CHOICES)
    assert said.code == 0
    assert "(none of the choices)" in said.out


@pytest.mark.parametrize(
    ("turns", "why"),
    [
        (("I say nothing.",), "the model stopped without giving one"),
        ((EngineError("the GPU is on fire"),), "the engine failed: the GPU is on fire"),
    ],
)
def test_no_answer_is_exit_code_one_and_says_why(run, engine, folder, turns, why):
    engine.turns = turns
    said = run("ask", "door.flac", QUESTION)
    assert said.code == 1
    assert f"No answer: {why}" in said.out


def test_what_a_model_or_a_file_says_does_not_steer_the_terminal(run, engine, folder):
    engine.turns = ("<think>\x1b[31mred\x07 \u202e</think>\n<answer>\x1b]0;title\x07</answer>",)
    (folder / "\x1b[31m.flac").write_bytes((folder / "door.flac").read_bytes())
    said = run("ask", "\x1b[31m.flac", "\x1b[2J?")
    assert not set(said.out) & set("\x1b\x07\u202e")


def test_bytes_that_are_no_text_do_not_end_the_work(run, engine, folder):
    """Arguments in a locale other than UTF-8, and file names in no encoding, reach Python as surrogates."""
    odd = "bad\udcff.flac"
    (folder / odd).write_bytes((folder / "door.flac").read_bytes())
    said = run("ask", odd, "Grille-t-on l\udcc3\udca9t\udcc3\udca9?", "--save", "kept.jsonl", "--json")
    assert said.code == 0, said.err
    told = json.loads(said.out)
    assert told["question"] == "Grille-t-on lété?"
    assert told["audio"] == "bad\N{REPLACEMENT CHARACTER}.flac"
    assert Transcript.from_json((folder / "kept.jsonl").read_text(encoding="utf-8")).question.text == told["question"]


def test_a_terminal_without_unicode_gets_ascii(run, engine, folder, monkeypatch, capsys):
    sys.stdout.reconfigure(encoding="ascii")  # errors="replace" is the command line's own business
    said = run("ask", "door.flac", "Où?", *CHOICES)
    assert said.code == 0
    assert "[---" in said.out
    assert "1.2-1.9 s *" in said.out
    assert json.loads(run("ask", "door.flac", "Où?", "--json").out)["question"] == "Où?"


@pytest.mark.parametrize("columns", ["8", "20", "34", "300"])
def test_any_width_will_do(run, engine, folder, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    said = run("ask", "door.flac", QUESTION, *CHOICES)
    assert said.code == 0
    picture = [line for line in said.out.splitlines() if set(line) & set("┴█")]
    assert picture
    assert max(map(len, picture)) <= max(20, min(int(columns), 100))


BAD = {
    "one choice": (("door.flac", QUESTION, "--choice", "a bell"), "give two or more"),
    "the same choice twice": (("door.flac", QUESTION, "--choice", "a", "--choice", "a"), "make the choices different"),
    "an empty choice": (("door.flac", QUESTION, "--choice", "", "--choice", "a"), "a choice is empty"),
    "no file": ((QUESTION,), 'ask FILE "QUESTION"'),
    "no question": (("door.flac", "bell.flac"), "put the question behind the files"),
    "an empty question": (("door.flac", " "), "the question is empty"),
    "a missing file": (("dor.flac", QUESTION), "does not exist"),
    "a folder": ((".", QUESTION), "is a folder; give a file inside it"),
    "a device": (("/dev/zero", QUESTION), "is a device"),
    "no sound": (("notes.txt", QUESTION), "is not audio"),
    "an empty file": (("empty.wav", QUESTION), "is empty"),
    "half a file": (("half.flac", QUESTION), "download or export it again"),
    "silence": (("silent.flac", QUESTION), "check the microphone or the export\n"),
    "a misspelt option": (("door.flac", QUESTION, "--chioce", "a"), "did you mean --choice?"),
    "an abbreviated option": (("door.flac", QUESTION, "--temp", "1"), "did you mean --temperature?"),
    "a file that looks like an option": (("-door.flac", QUESTION), "write ./-door.flac"),
    "a misspelt mode": (("door.flac", QUESTION, "--mode", "interlaced"), "did you mean interleaved?"),
    "a bad seed": (("door.flac", QUESTION, "--seed", "x"), "whole number of at least 0"),
    "a temperature that is none": (("door.flac", QUESTION, "--temperature", "nan"), "number of at least 0"),
    "too large a top-p": (("door.flac", QUESTION, "--top-p", "1.5"), "at most 1"),
    "negative re-listens": (("door.flac", QUESTION, "--max-relistens", "-1"), "at least 0"),
    "no tokens": (("door.flac", QUESTION, "--max-new-tokens", "0"), "at least 1"),
    "a swap with nothing": (("door.flac", QUESTION, "--played", "swapped"), "--swap-with FILE"),
    "resuming nothing": (("door.flac", QUESTION, "--resume"), "give --save FILE.jsonl too"),
    "saving into no folder": (("door.flac", QUESTION, "--save", "no/where.jsonl"), "check the folder"),
    "saving over the recording": (("door.flac", QUESTION, "--save", "./door.flac"), "give a file of its own"),
    "saving behind half a line": (("door.flac", QUESTION, "--save", "broken.jsonl"), "ends within a line"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_gets_one_sentence_with_the_cure(run, engine, folder, name):
    (folder / "notes.txt").write_text("no sound at all\n" * 30)
    (folder / "empty.wav").touch()
    (folder / "silent.flac").write_bytes(encode_flac(Recording(np.zeros(SAMPLE_RATE, np.float32))))
    (folder / "half.flac").write_bytes((folder / "door.flac").read_bytes()[:30_000])
    (folder / "-door.flac").write_bytes((folder / "door.flac").read_bytes())
    (folder / "broken.jsonl").write_text('{"question')
    arguments, cure = BAD[name]
    said = run("ask", *arguments)
    assert said.code == 2
    assert said.out == ""
    assert said.err.startswith("echo-audio: ")
    assert said.err.count("\n") == 1
    assert cure in said.err
    assert (folder / "broken.jsonl").read_text() == '{"question'


def test_a_recording_of_the_wrong_length_is_refused_before_anything_is_shown(run, engine, folder, monkeypatch):
    monkeypatch.setattr(ScriptedFamily, "longest_clip_samples", lambda _: 16_000)
    said = run("ask", "door.flac", QUESTION)
    assert (said.code, said.out) == (2, "")
    assert "hears 1 s at most" in said.err


@pytest.mark.parametrize(("device", "cure"), [("cuda:99", "Leave --device out"), ("gpu", "cpu, cuda")])
def test_a_device_that_is_not_here_is_named(run, folder, device, cure):
    said = run("ask", "door.flac", QUESTION, "--device", device)
    assert (said.code, said.out) == (2, "")
    assert cure in said.err


def test_ctrl_c_is_130_and_no_traceback(run, engine, folder, monkeypatch):
    async def stopped(*_):
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(engine, "generate", stopped)
    said = run("ask", "door.flac", QUESTION)
    assert said.code == 130
    assert said.err == "\nStopped.\n"


@pytest.mark.skipif(importlib.util.find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_engine_that_is_not_installed_is_named_with_its_cure():
    with pytest.raises(MissingExtraError, match=r"echo-audio\[vllm\]"):
        open_engine(EngineName.VLLM, "tiny", None, 1)


def test_vllm_takes_no_other_device():
    with pytest.raises(ConfigError, match="--engine vllm takes the first GPU, not cpu"):
        open_engine(EngineName.VLLM, "tiny", "cpu", 1)
