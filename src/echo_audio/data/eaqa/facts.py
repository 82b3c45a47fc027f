"""What is known about a recording: five kinds of facts, as the writer and the judge read them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from echo_audio import tags
from echo_audio.data.eaqa.texts import cut_off, degenerate, is_english, words_of
from echo_audio.data.rows import KnownEvent

ANNOTATIONS = ("description", "speech", "music")
"""Texts from an audio model, by the prompt that asks for them."""

_NOTHING = {"speech": "no speech", "music": "no music"}
_SPEECH = re.compile(
    r"\b(?:speech|speaking|speaker|conversation|narration|monologue|talk\w*|shout\w*|whisper\w*|yell\w*|sing\w*|rap\w*|vocal\w*|voices?|"
    r"babbling|chatter|hubbub|zero|one|two|three|four|five|six|seven|eight|nine)\b",
    re.IGNORECASE,
)
_MUSIC = re.compile(r"\b(?:music\w*|songs?|sing\w*|guitar|piano|violin|orchestra|rap\w*|jingle|tune)\b", re.IGNORECASE)
_SILENCE = re.compile(
    r"\b(?:(?:is|was|remains|completely|entirely) silent|complete silence|nothing (?:is|can be) heard|no sounds?)\b", re.I
)


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a writer knows about a recording.

    Args:
        duration_s: of the recording.
        events: labelled spans, by start.
        texts: from an audio model ("description", "speech", "music"), and what the source itself says.
    """

    duration_s: float
    events: tuple[KnownEvent, ...] = ()
    texts: Mapping[str, str] = field(default_factory=dict)

    def told(self) -> str:
        """The facts as the prompts show them."""
        lines = [f"Length of the recording: {tags.format_seconds(self.duration_s)} s"]
        if self.events:
            lines.append("Sounds, each from its start to its end in seconds:")
            seconds = tags.format_seconds
            lines += [f"- {seconds(e.start_s)} to {seconds(e.end_s)}: {e.label}" for e in self.events]
        lines += [f"{name.capitalize()}: {' '.join(text.split())}" for name, text in self.texts.items()]
        return "\n".join(lines)


def says_nothing(name: str, text: str) -> bool:
    """Whether a text says that there is no speech, or no music."""
    return " ".join(words_of(text)) == _NOTHING.get(name)


def text_problem(name: str, text: str, whole: bool, events: Sequence[KnownEvent], exhaustive: bool) -> str:
    """What is wrong with an audio model's text, in words; empty when nothing is.

    Args:
        name: "description", "speech" or "music".
        whole: False where the model was cut off.
        events: what the source vouches for.
        exhaustive: whether the source labels everything that is heard.
    """
    labels = [event.label for event in events]
    if any(tag in text for tag in (tags.THINK_OPEN, tags.SEG_OPEN, tags.ANSWER_OPEN)):
        return f"{name} holds tags"
    if not whole or (cut_off(text) and not says_nothing(name, text)):
        return f"{name} is cut off"
    if says_nothing(name, text):
        heard = _SPEECH if name == "speech" else _MUSIC
        return f"{name} denies what is labelled" if any(heard.search(label) for label in labels) else ""
    if wrong := degenerate(text):
        return f"{name} {wrong}"
    if not is_english(text):
        return f"{name} is not English"
    if events and _SILENCE.search(text):
        return f"{name} denies what is labelled"
    if any(_denies(text, label) for label in labels):
        return f"{name} denies what is labelled"
    if name == "speech" and exhaustive and events and not any(_SPEECH.search(label) for label in labels):
        return "speech is told of that is not labelled"
    return ""


def _denies(text: str, label: str) -> bool:
    """Whether a text says that a labelled sound is not there."""
    names = {" ".join(words_of(part)) for part in (label, label.split(",")[0], label.split("(")[0])} - {""}
    plain = " ".join(words_of(text))
    return any(re.search(rf"\b(?:no|not any|without|without any) {re.escape(name)}s?\b", plain) for name in names)
