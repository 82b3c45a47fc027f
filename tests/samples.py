"""Samples written by hand, for the tests of scores and pages."""

from __future__ import annotations

import json
from dataclasses import replace

from helpers import noise

from echo_audio.data.rows import Row
from echo_audio.evaluation.base import Item, Sample, Status
from echo_audio.evaluation.run import judge
from echo_audio.transcript import Author, Mode, Question, Stop, Transcript, Written

ABOUT = {"n": 4, "macro": "task", "has_truth": True, "config": "c", "title": "A test"}


def sample(key: str, said: str, *, task: str = "sound", answer: str = "Man", heard: tuple = (), **changes) -> Sample:
    """A sample about 10 s of noise; `heard` are segments heard before the answer."""
    choices = changes.pop("choices", ("Man", "Woman", "Child", "Robot"))
    recording = noise(10.0)
    row = Row(id=key, kind=task, question="Who?", choices=choices, answer=answer, audio_id=recording.id, duration_s=10.0)
    question = Question("Who?", recording.id, 10.0, choices, answer)
    transcript = Transcript.open(question, "Who?", Mode.INTERLEAVED)
    for segment in heard:
        text = f"<seg>{segment.start_s}, {segment.end_s}</seg>"
        transcript = transcript.say(Written(text, Author.MODEL)).hear(segment)
    transcript = transcript.say(Written(said, Author.MODEL)).finish(Stop.ANSWERED)
    made = judge(Item(row, recording, None, {"task": task}), transcript, 1.0)
    return replace(made, **{"config": "c", "index": int(key[1:]), **changes})


def failed(key: str, status: Status, task: str = "sound") -> Sample:
    """A sample that could not be asked."""
    nothing = {"status": status, "transcript": {}, "official": False, "duration_s": 0.0}
    return replace(sample(key, "", task=task), **nothing)


def old_line(one: Sample) -> str:
    """The line of a run from before there were steps, groups and statuses."""
    kept = ("key", "kind", "duration_s", "verdict", "given", "well_formed", "iou", "n_heard", "heard_s", "n_words", "elapsed_s",
            "transcript")  # fmt: skip
    return json.dumps({name: value for name, value in json.loads(one.to_line()).items() if name in kept})
