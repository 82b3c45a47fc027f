"""`echo-audio ask` about several files, or the questions of a JSONL file."""

from __future__ import annotations

import asyncio
import json
import signal

import pytest

from echo_audio.transcript import Transcript

QUESTION = "What is heard?"
GOOD = {"audio": "door.flac", "question": QUESTION, "choices": ["a bell", "a dog"], "answer": "a bell", "id": 7}


def write(path, *rows):
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_several_files_one_question(run, engine, folder):
    said = run("ask", "door.flac", "bell.flac", QUESTION)
    assert said.code == 0
    lines = sorted(said.out.splitlines())
    assert lines == ["bell.flac  What is heard?  Answer: a bell", "door.flac  What is heard?  Answer: a bell"]
    assert said.err.startswith("2 of 2 answered in ")
    assert "a second" in said.err


def test_a_bad_file_among_good_ones_is_reported_and_the_others_answered(run, engine, folder):
    said = run("ask", "door.flac", "no.flac", ".", QUESTION, "--json")
    assert said.code == 1
    told = {line["place"]: line for line in map(json.loads, said.out.splitlines())}
    assert told[1]["answer"] == "a bell"
    assert "does not exist" in told[2]["error"]
    assert "is a folder" in told[3]["error"]
    assert "1 of 3 answered" in said.err
    assert "2 failed" in said.err


def test_a_file_of_questions_is_scored_where_the_truth_is_known(run, engine, folder):
    (folder / "sub").mkdir()
    (folder / "sub" / "near.flac").write_bytes((folder / "door.flac").read_bytes())
    wrong = {"audio": "near.flac", "question": "Which?", "choices": ["a bell", "a dog"], "answer": "a dog"}
    free = {"audio": "near.flac", "question": "Free?"}
    questions = write(folder / "sub" / "q.jsonl", "\ufeff", {**GOOD, "audio": "../door.flac"}, "", wrong, free)
    said = run("ask", "--questions", questions, "--json")
    assert said.code == 0, said.err
    told = {line["place"]: line for line in map(json.loads, said.out.splitlines())}
    assert {place: line["right"] for place, line in told.items()} == {2: True, 4: False, 5: None}
    assert told[2]["transcript"]["question"]["meta"]["id"] == 7
    assert "1 of 2 right" in said.err


def test_a_line_separator_inside_a_text_does_not_end_the_line(run, engine, folder):
    row = json.dumps({**GOOD, "question": "One\u2028two\x85three?"}, ensure_ascii=False)
    for _ in range(2):  # the second time it is read from the saved transcripts
        said = run("ask", "--questions", write(folder / "q.jsonl", row), "--save", "kept.jsonl", "--resume")
        assert said.code == 0, said.err
    assert "1 were answered before" in said.err


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ("not json", "q.jsonl:2: not JSON"),
        ("[1]", "q.jsonl:2: not a JSON object"),
        ("[" * 100_000, "q.jsonl:2: not JSON"),
        ({"audio": "door.flac"}, "q.jsonl:2: a question needs `audio` and `question`"),
        ({**GOOD, "question": " "}, "q.jsonl:2: a question needs"),
        ({"audio": "door.flac", "question": "x", "choice": ["a", "b"]}, "q.jsonl:2: unknown key 'choice'; did you mean choices?"),
        ({"audio": "door.flac", "qestion": "x"}, "did you mean question?"),
        ({**GOOD, "choices": "a bell"}, "`choices` must be a list of texts"),
        ({**GOOD, "choices": ["a bell", "a bell"]}, "make the choices different"),
        ({**GOOD, "answer": "a horse"}, "'a horse' is none of the choices"),
        ({**GOOD, "answer": 2}, "`answer` must be a text"),
        ({**GOOD, "score": float("nan")}, "NaN is not JSON"),
        ({**GOOD, "note": "\ud83d"}, "half of a character"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_asked(run, engine, folder, row, why):
    said = run("ask", "--questions", write(folder / "q.jsonl", GOOD, row))
    assert (said.code, said.out) == (2, "")
    assert why in said.err
    assert not engine.requests


def test_all_bad_lines_are_named_up_to_five(run, engine, folder):
    said = run("ask", "--questions", write(folder / "q.jsonl", *["no"] * 8))
    assert [f"q.jsonl:{n}:" in said.err for n in range(1, 9)] == [True] * 5 + [False] * 3
    assert "and 3 more lines" in said.err


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--questions", "no.jsonl"), "No such file"),
        (("--questions", "."), "Is a directory"),
        (("--questions", "door.flac"), "is not text in UTF-8"),
        (("--questions", "empty.jsonl"), "holds no questions"),
        (("--questions", "q.jsonl", "door.flac", QUESTION), "everything stands in that file"),
        (("--questions", "q.jsonl", "--choice", "a"), "everything stands in that file"),
        (("--questions", "q.jsonl", "--save", "q.jsonl"), "give a file of its own"),
    ],
)
def test_what_cannot_be_meant_is_refused(run, engine, folder, arguments, why):
    write(folder / "q.jsonl", GOOD)
    (folder / "empty.jsonl").write_text("\n")
    said = run("ask", *arguments)
    assert (said.code, said.out) == (2, "")
    assert why in said.err
    assert said.err.count("\n") == 1


def test_resume_asks_only_what_is_not_answered(run, engine, folder):
    first = write(folder / "q.jsonl", GOOD)
    assert run("ask", "--questions", first, "--save", "kept.jsonl").code == 0
    with (folder / "kept.jsonl").open("a") as kept:
        kept.write('{"question": {"te')  # killed while it wrote
    more = write(folder / "q.jsonl", GOOD, {**GOOD, "question": "And now?"})
    refused = run("ask", "--questions", more, "--save", "kept.jsonl")
    assert (refused.code, "--resume" in refused.err) == (2, True)
    said = run("ask", "--questions", more, "--save", "kept.jsonl", "--resume")
    assert said.code == 0
    assert "1 of 1 answered" in said.err
    assert "1 were answered before" in said.err
    lines = (folder / "kept.jsonl").read_text(encoding="utf-8").splitlines()
    assert [Transcript.from_json(line).question.text for line in lines] == [QUESTION, "And now?"]


@pytest.mark.parametrize("content", ["my notes\n", "my notes", "{}\n"])
def test_resume_leaves_alone_what_it_did_not_write(run, engine, folder, content):
    (folder / "notes.txt").write_text(content)
    said = run("ask", "--questions", write(folder / "q.jsonl", GOOD), "--save", "notes.txt", "--resume")
    assert (said.code, (folder / "notes.txt").read_text()) == (2, content)
    assert "give --save the file of an earlier run" in said.err


def test_ctrl_c_says_how_to_go_on(run, engine, folder, monkeypatch):
    async def stopped(*_):
        signal.raise_signal(signal.SIGINT)
        await asyncio.sleep(60)

    monkeypatch.setattr(engine, "generate", stopped)
    questions = write(folder / "q.jsonl", GOOD, GOOD)
    kept = run("ask", "--questions", questions, "--save", "kept.jsonl")
    assert kept.code == 130
    assert "0 of 2 answered" in kept.err
    assert "the same command with --resume goes on" in kept.err
    assert "with --save FILE.jsonl" in run("ask", "--questions", questions).err
