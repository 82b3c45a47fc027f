"""Transcript -> Encoded: the one place where a transcript becomes tokens.

Each span is encoded on its own and the parts are joined, so the encoding of a prefix is a prefix, and ids that an
engine sampled are passed through untouched.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from echo_audio.audio import Recording, Segment
from echo_audio.errors import TranscriptError
from echo_audio.listen import Clip, Encoded
from echo_audio.transcript import Author, Heard, Mode, Played, Question, Span, Stop, Transcript, Why, Written


class Family(Protocol):
    """What encoding must know of a model family."""

    @property
    def end_of_turn(self) -> int:
        """Id that ends the assistant's turn."""
        ...

    def head_ids(self) -> tuple[int, ...]:
        """Before the user's content."""
        ...

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The user's text up to where the assistant begins."""
        ...

    def audio_ids(self, n_tokens: int) -> tuple[int, ...]:
        """A clip's ids; the placeholders begin at index 1."""
        ...

    def text_ids(self, text: str) -> tuple[int, ...]:
        """Ids of plain text."""
        ...

    def n_audio_tokens(self, n_samples: int) -> int:
        """Placeholders that a clip takes."""
        ...

    def longest_clip_samples(self) -> int:
        """Longest clip that may be encoded."""
        ...


class PromptingFamily(Family, Protocol):
    """Token rules, and the family's prompt."""

    def prompt(self, question: Question, mode: Mode) -> str:
        """The user's text."""
        ...


@dataclass(frozen=True)
class TranscriptEncoder:
    """Encodes transcripts about one recording.

    Args:
        family: token rules.
        recording: what the questions are about.
        other: another recording, played where a counterfactual transcript asks for Played.SWAPPED.
    """

    family: Family
    recording: Recording
    other: Recording | None = None
    _clips: dict[tuple[Segment, Played], Recording] = field(default_factory=dict, repr=False, compare=False)
    _prompts: dict[str, tuple[int, ...]] = field(default_factory=dict, repr=False, compare=False)

    def encode(self, transcript: Transcript) -> Encoded:
        """Ids, mask, log-probabilities and clips of a transcript.

        Raises:
            TranscriptError: it is about another recording, one that is too short or too long to be heard, or asks for a
                swap without another recording.
        """
        if transcript.question.recording_id != self.recording.id:
            raise TranscriptError("the transcript is about another recording than this encoder's")
        build = _Builder(list(self.family.head_ids()))
        build.close(0)
        for span in transcript.spans:
            self._add(span, build)
        last = transcript.spans[-1]
        if transcript.stop in _TURN_ENDED and isinstance(last, Written) and last.ids is None:
            build.ids.append(self.family.end_of_turn)  # a written reasoning: ending the turn is learned too
            build.close(last.author is Author.MODEL)
        return Encoded(tuple(build.ids), tuple(build.sampled), tuple(build.logprobs), tuple(build.clips))

    def _add(self, span: Span, build: _Builder) -> None:
        if isinstance(span, Heard):
            self._add_clip(span, build)
        elif span.author is Author.PROMPT:
            build.ids.extend(self._prompt_ids(span.text))
            build.close(False)
        else:
            build.ids.extend(span.ids if span.ids is not None else self.family.text_ids(span.text))
            build.close(span.author is Author.MODEL, span.logprobs)

    def _prompt_ids(self, text: str) -> tuple[int, ...]:
        """Tokenized once: every turn of every transcript begins with it."""
        if text not in self._prompts:
            self._prompts[text] = self.family.prompt_ids(text)
        return self._prompts[text]

    def _add_clip(self, heard: Heard, build: _Builder) -> None:
        if heard.played is Played.WITHHELD:
            return
        clip = self._clip(heard)
        n_tokens = self.family.n_audio_tokens(clip.n_samples)
        if n_tokens < 1:
            raise TranscriptError(f"{clip.duration_s:.3f} s of audio is too short to be heard; give a longer recording")
        build.clips.append(Clip(len(build.ids) + 1, n_tokens, clip))
        build.ids.extend(self.family.audio_ids(n_tokens))
        build.close(False)

    def _clip(self, heard: Heard) -> Recording:
        """What is really played for a segment; cropped and hashed once."""
        if heard.why is Why.GIVEN:
            if self.recording.n_samples > self.family.longest_clip_samples():
                longest_s = self.family.longest_clip_samples() / 16_000
                lasts_s = self.recording.duration_s
                raise TranscriptError(
                    f"the recording lasts {lasts_s:.0f} s and this model hears {longest_s:.0f} s at most; cut it"
                )
            return self.recording
        key = (heard.segment, heard.played)
        if key not in self._clips:
            self._clips[key] = self._play(heard)
        return self._clips[key]

    def _play(self, heard: Heard) -> Recording:
        crop = self.recording.crop(heard.segment)
        if heard.played is Played.SILENCED:
            return Recording(np.zeros(crop.n_samples, np.float32))
        if heard.played is not Played.SWAPPED:
            return crop
        if self.other is None:
            raise TranscriptError("a swapped listening needs another recording: give the encoder `other`")
        return Recording(np.resize(self.other.samples, self.recording.n_samples)).crop(heard.segment)


_TURN_ENDED = (Stop.ANSWERED, Stop.END_OF_TURN, Stop.MALFORMED)


@dataclass(slots=True)
class _Builder:
    """An encoding while it grows; `close` extends mask and log-probabilities over the ids just added."""

    ids: list[int]
    sampled: list[bool] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    clips: list[Clip] = field(default_factory=list)

    def close(self, sampled: bool | int, logprobs: tuple[float, ...] | None = None) -> None:
        added = len(self.ids) - len(self.sampled)
        self.sampled.extend([bool(sampled)] * added)
        self.logprobs.extend(logprobs if sampled and logprobs is not None else [0.0] * added)
