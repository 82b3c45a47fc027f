"""A writer, a judge, a describer and a guesser without a model: rules that read the prompts that ship and answer them.

For trying the data engine, for its tests, and for rows about recordings whose event times are exactly known. They sometimes
err on purpose, so that everything that catches errors has something to catch.
"""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import wave
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.data.eaqa.plan import seed_of
from echo_audio.data.eaqa.rules_questions import Posed, pose, truth
from echo_audio.data.rows import KnownEvent

_EVENT = re.compile(r"^- ([\d.]+) to ([\d.]+): (.+)$", re.MULTILINE)
_LENGTH = re.compile(r"^Length of the recording: ([\d.]+) s$", re.MULTILINE)
_KIND = re.compile(r"^Kind of question: (\w+)$", re.MULTILINE)
_N_CHOICES = re.compile(r"^- choices: (\d+) short", re.MULTILINE)

_OPENINGS = (
    "The question turns on when things happen, so I go through the recording with that in mind.",
    "To settle this I have to listen for each sound by itself and note where it lies.",
    "I start from what is asked and look for the places in the recording that decide it.",
    "Guessing does not help here; the order and the length of the sounds decide.",
    "Let me go through it step by step, one sound at a time.",
    "First I need to know where in the recording the sounds in question are.",
    "I keep an ear on the timing, because that is what the question is about.",
    "What matters is where each of the sounds begins and where it ends.",
)
_FIRST = (
    "I listen for the {name} {seg}, which is clearly there and {how}.",
    "At first I look for the {name} {seg}; it is easy to make out and {how}.",
    "The first thing to find is the {name} {seg}, and what I hear there {how}.",
    "My attention goes to the {name} {seg} where the sound stands out and {how}.",
    "I turn to the {name} {seg} and hear it plainly; it {how}.",
)
_NEXT = (
    "Then I listen for the {name} {seg}, and this one {how}.",
    "After that I check the {name} {seg}; this sound {how}.",
    "Next comes the search for the {name} {seg}, which turns out to be there and {how}.",
    "To compare, I go on to the {name} {seg} and notice that it {how}.",
    "The other piece of evidence is the {name} {seg}, a sound that {how}.",
)
_CLOSINGS = (
    "Putting this together, the answer is {answer}.",
    "So what I have heard leads to one answer: {answer}.",
    "From these times it follows that the answer is {answer}.",
    "That leaves only {answer}.",
    "All of this points to {answer}.",
    "Therefore I choose {answer}.",
)
_GERMAN = (
    "Ich höre zuerst das eine Geräusch und danach das andere, also muss die Antwort ganz klar das erste sein, denn es klingt "
    "früher und heller als alles andere in dieser Aufnahme, und mehr ist dazu wirklich nicht zu sagen."
)


def reply_to(messages: Sequence[Mapping[str, Any]], seed: int, mistakes: float = 0.0, language: float = 0.0) -> str:
    """The text that answers the messages of one request.

    Args:
        seed: of the request; the same request is always answered the same.
        mistakes: share of rows that hold one on purpose.
        language: share of rows in another language.
    """
    prompt, wav = _parts(messages)
    rng = np.random.default_rng([seed, seed_of(prompt)])
    if wav is not None:
        return _described(prompt, wav, rng)
    if _KIND.search(prompt):
        return _written(prompt, rng, mistakes, language)
    if "\nExample:\n" in prompt:
        return _judged(prompt)
    choices = [line[2:] for line in prompt.splitlines() if line.startswith("- ")]
    return json.dumps({"answer": choices[int(rng.integers(len(choices)))] if choices else ""})


def _parts(messages: Sequence[Mapping[str, Any]]) -> tuple[str, bytes | None]:
    """The text of the last message, and its audio."""
    content = messages[-1]["content"]
    if isinstance(content, str):
        return content, None
    text = "\n".join(str(part["text"]) for part in content if part.get("type") == "text")
    audio = [part["input_audio"]["data"] for part in content if part.get("type") == "input_audio"]
    try:
        return text, base64.b64decode(audio[0], validate=True) if audio else None
    except binascii.Error:
        return text, b""


def n_tokens(messages: Sequence[Mapping[str, Any]]) -> int:
    """Tokens of a request, about: a quarter of its characters, and 25 for a second of audio."""
    text, wav = _parts(messages)
    return len(text) // 4 + (25 * len(wav) // 32_000 if wav else 0)


def _facts(prompt: str) -> tuple[list[KnownEvent], float]:
    told = prompt.partition("\nFacts:\n")[2].partition("\nExample:\n")[0]
    events = [KnownEvent(label=name, start_s=float(a), end_s=float(b)) for a, b, name in _EVENT.findall(told)]
    length = _LENGTH.search(told)
    return events, float(length[1]) if length else max((e.end_s for e in events), default=1.0)


# ---------------------------------------------------------------------------------------------- writing


def _written(prompt: str, rng: np.random.Generator, mistakes: float, language: float) -> str:
    events, duration_s = _facts(prompt)
    kind, wanted = _KIND.search(prompt), _N_CHOICES.search(prompt)
    posed = pose(kind[1], events, duration_s, rng) if kind and events else None
    if posed is None:
        return json.dumps({"question": "", "choices": [], "answer": "", "reasoning": ""})
    n_wrong = min(len(posed.wrong), int(wanted[1]) - 1 if wanted else 3)
    wrong = [posed.wrong[int(i)] for i in rng.permutation(len(posed.wrong))[:n_wrong]]
    if kind and kind[1] in ("order", "length"):
        wrong = list(posed.wrong)[:1]
    row = {
        "question": posed.text,
        "choices": [posed.answer, *wrong],
        "answer": posed.answer,
        "reasoning": _reasoning(posed, duration_s, rng),
    }
    if rng.random() < language:
        row["reasoning"] = _GERMAN
    elif rng.random() < mistakes:
        _spoil(row, posed, rng)
    return json.dumps(row, ensure_ascii=False)


def _reasoning(posed: Posed, duration_s: float, rng: np.random.Generator) -> str:
    def one(texts: Sequence[str]) -> str:
        return texts[int(rng.integers(len(texts)))]

    said = [one(_OPENINGS)]
    for i, event in enumerate(posed.rests_on):
        seg = f"<seg>{tags.format_seconds(event.start_s)}, {tags.format_seconds(min(event.end_s, duration_s))}</seg>"
        how = one(_manners(event, posed, i, duration_s))
        said.append(one(_NEXT if i else _FIRST).format(name=event.label, seg=seg, how=how))
    return " ".join([*said, one(_CLOSINGS).format(answer=posed.answer)])


def _manners(event: KnownEvent, posed: Posed, index: int, duration_s: float) -> list[str]:
    """What may be said of an event: true of its times, without telling them."""
    span_s, at = event.end_s - event.start_s, event.start_s / duration_s
    length = "goes on for a good while" if span_s > 2 else "lasts for about a second" if span_s > 0.7 else "is over in a moment"
    place = "comes early" if at < 1 / 3 else "comes late in the recording" if at > 2 / 3 else "lies near the middle"
    said = [length, place, f"{place} and {length}", f"{length} and {place}"]
    if index:
        before = posed.rests_on[index - 1]
        apart = event.start_s >= before.end_s
        said.append("begins only when that one is over" if apart else "sets in while that one still sounds")
    return said


def _spoil(row: dict[str, Any], posed: Posed, rng: np.random.Generator) -> None:
    """One mistake."""
    wrong = posed.wrong[0]
    match int(rng.integers(7)):
        case 0:
            row["answer"] = row["choices"][-1]
            row["reasoning"] = row["reasoning"].replace(f"{posed.answer}.", f"{row['answer']}.")
        case 1:
            row["reasoning"] = re.sub(r"[^.:;]*[.]$", f" So it must be {wrong}.", row["reasoning"])
        case 2:
            first, text = tags.find_tags(row["reasoning"])[0], row["reasoning"]
            row["reasoning"] = text[: first.begin] + tags.format_segment(Segment(990.0, 991.5)) + text[first.end :]
        case 3:
            row["reasoning"] = "It is " + posed.answer + "."
        case 4:
            row["answer"] = "none of them"
        case 5:
            row["question"] = f"{row['question'][:-1]} according to the annotations?"
        case _:
            row["reasoning"] = row["reasoning"].replace("</seg>", "", 1)


# ---------------------------------------------------------------------------------------------- judging


def _judged(prompt: str) -> str:
    events, duration_s = _facts(prompt)
    example = prompt.partition("\nExample:\n")[2]
    question, answer = (_line(example, name) for name in ("Question", "Answer"))
    reasoning = example.partition("\nReasoning: ")[2]
    right = truth(question, events, duration_s)
    valid = right is None or right == answer
    why = "the facts settle it and give this answer" if valid else "the facts give another answer"
    fine, because = _reasoning_verdict(reasoning, answer, events)
    said = {"qa_reason": why, "qa_valid": valid, "reasoning_reason": because, "reasoning_valid": valid and fine}
    return json.dumps(said)


def _line(example: str, name: str) -> str:
    found = re.search(rf"^{name}: (.*)$", example, re.MULTILINE)
    return found[1] if found else ""


def _reasoning_verdict(reasoning: str, answer: str, events: Sequence[KnownEvent]) -> tuple[bool, str]:
    if not tags.segments_in(reasoning):
        return False, "there is no reasoning that cites the recording"
    last = re.split(r"(?<=[.!?])\s", reasoning.strip())[-1]
    if answer.lower() not in last.lower() and answer.lower() not in reasoning[-len(answer) - 20 :].lower():
        return False, "its last sentence does not say the answer"
    ends = {(round(e.start_s, 2), round(e.end_s, 2)) for e in events}
    off = [s for s in tags.segments_in(reasoning) if (round(s.start_s, 2), round(s.end_s, 2)) not in ends]
    if off:
        return False, "a segment is not that of any sound"
    return True, "each step follows from the facts"


# ---------------------------------------------------------------------------------------------- describing


def _described(prompt: str, wav: bytes, rng: np.random.Generator) -> str:
    """A text about the loudness of the recording; no speech and no music are ever heard."""
    if "No speech" in prompt:
        return "No speech."
    if "No music" in prompt:
        return "No music."
    try:
        with wave.open(io.BytesIO(wav)) as file:
            rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32_768
    except (wave.Error, EOFError):
        return "The recording cannot be opened."
    steps = np.array_split(samples, max(1, round(2 * len(samples) / rate)))
    loud = np.array([float(np.sqrt(np.mean(step**2))) if len(step) else 0.0 for step in steps])
    peaks = int(((loud[1:] > 2 * loud[:-1] + 1e-3)).sum()) + 1
    third = ("first", "middle", "last")[min(2, int(3 * int(loud.argmax()) / len(loud)))]
    scene = ("a quiet room", "an open space", "a workshop", "a street corner")[int(rng.integers(4))]
    return (
        f"The recording has {'several' if peaks > 3 else 'few'} separate sounds that stand out from the background. "
        f"The loudest of them is in the {third} part. Between them it becomes quieter, and the whole suggests {scene}."
    )
