"""What the reward `audio_gain` needs: how likely the true answer is with what was heard again, and with it withheld.

The reasoning stays as it was sampled; only its end is replaced by the true answer, and for the second number what was heard again
is taken out. Two forwards a transcript, without gradient, by the weights that sampled it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from echo_audio import tags
from echo_audio.encoding import TranscriptEncoder
from echo_audio.models.thinker import Thinker
from echo_audio.training.batch import Example, collate, example_of
from echo_audio.training.policy import Policy
from echo_audio.training.prompts import Prompt
from echo_audio.training.update import micro_batches_of
from echo_audio.transcript import Author, Heard, Played, Stop, Transcript, Why, Written

Gain = tuple[float, float]
"""Log-probability of the true answer with what was heard, and with it withheld."""


def with_true_answer(transcript: Transcript) -> Transcript | None:
    """The same reasoning, ended by the true answer; None where it opened no answer.

    What stands behind the last segment is encoded anew from its text, for the answer may share a token with its tag.
    """
    answer = transcript.question.answer
    for i, span in enumerate(transcript.spans):
        if answer is None or not isinstance(span, Written) or span.author is Author.PROMPT or tags.ANSWER_OPEN not in span.text:
            continue
        before = span.text.partition(tags.ANSWER_OPEN)[0]
        ended = Written(f"{before}{tags.ANSWER_OPEN}{answer}{tags.ANSWER_CLOSE}", Author.MODEL)
        return replace(transcript, spans=(*transcript.spans[:i], ended), stop=Stop.ANSWERED, notes=())
    return None


def withheld(transcript: Transcript) -> Transcript:
    """The same transcript with nothing played for the segments it asked for."""

    def taken(span: Written | Heard) -> Written | Heard:
        return replace(span, played=Played.WITHHELD) if isinstance(span, Heard) and span.why is Why.ASKED else span

    return replace(transcript, spans=tuple(map(taken, transcript.spans)))


@dataclass(frozen=True, slots=True)
class Gains:
    """Measures gains with a whole model on one device.

    Args:
        thinker: the weights that sampled.
        bf16: compute in bfloat16, as the trainer does.
        budget: positions of one forward, padding included.
    """

    thinker: Thinker
    bf16: bool
    budget: int

    def measure(self, asked: Sequence[tuple[Prompt, Transcript]]) -> list[Gain]:
        """A pair of log-probabilities for each transcript; equal ones where nothing was heard again, or no answer begun."""
        pairs: dict[int, tuple[Example, Example]] = {}
        for i, (prompt, transcript) in enumerate(asked):
            ended = with_true_answer(transcript)
            if ended is not None and ended.asked:
                encoder = TranscriptEncoder(self.thinker.family, prompt.recording)
                pairs[i] = (self._example(encoder, ended), self._example(encoder, withheld(ended)))
        values = iter(self._scores([example for pair in pairs.values() for example in pair]))
        found = {i: (next(values), next(values)) for i in pairs}
        return [found.get(i, (0.0, 0.0)) for i in range(len(asked))]

    def _example(self, encoder: TranscriptEncoder, transcript: Transcript) -> Example:
        """Only the answer's tokens are looked at."""
        example = example_of(encoder.encode(transcript), self.thinker.family.token_bytes)
        return replace(example, sampled=example.answers) if example.answers.any() else example

    @torch.no_grad()
    def _scores(self, examples: Sequence[Example]) -> list[float]:
        """Sum of the log-probabilities of each example's answer; 0 where the answer has no token of its own."""
        policy = Policy(self.thinker, bf16=self.bf16)
        scores = [0.0] * len(examples)
        for part in micro_batches_of([len(example.ids) for example in examples], self.budget):
            batch = self._on_device(collate([examples[i] for i in part]))
            logprobs, _ = policy(batch)
            sums = torch.zeros(len(part), device=logprobs.device).index_add_(0, batch["rows"], logprobs * batch["answers"])
            for i, value in zip(part, sums.tolist(), strict=True):
                scores[i] = value
        return scores

    def _on_device(self, batch: dict[str, Any]) -> dict[str, Any]:
        device = self.thinker.device
        return {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
