"""A row of data: a question about a recording, an optional written reasoning, and where both come from."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class KnownEvent(BaseModel):
    """A labelled span that the source of the row vouches for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: str
    start_s: float
    end_s: float


class Row(BaseModel):
    """One line of a data set.

    Attributes:
        id: unique in its data set.
        kind: kind of question ("order", "loudness", ...), for balance and for scores by kind.
        question: without the choices.
        choices: 2 to 10 texts, or empty for a free answer.
        answer: one of the choices, word for word (or the free answer).
        audio_id: content hash of the recording: `Recording.id`.
        duration_s: of the recording.
        reasoning: what stands between <think> and </think>, with <seg>s, e</seg> tags; None for a row without.
            Removing every " <seg>...</seg>" leaves good English: that is the `conditioned` form.
        events: all labelled events of the recording, by start.
        evidence: the events (or pauses) that the answer rests on, those that the reasoning cites.
        audio_contribution: what the audio gives, 0 to 1: 1 less the share of guesses without it that were right; None
            where nobody guessed.
        provenance: source, seed, scene description, licences: whatever makes the row again.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    kind: str
    question: str
    choices: tuple[str, ...] = ()
    answer: str
    audio_id: str
    duration_s: float = Field(gt=0)
    reasoning: str | None = None
    events: tuple[KnownEvent, ...] = ()
    evidence: tuple[KnownEvent, ...] = ()
    audio_contribution: float | None = None
    provenance: dict[str, Any] = Field(default_factory=dict)
