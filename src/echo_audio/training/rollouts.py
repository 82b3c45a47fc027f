"""Sampling the transcripts of a step by `listen`, and writing each down as it finishes.

A step that is interrupted goes on with what is written: one line of JSON a transcript, a torn last line is dropped.
"""

from __future__ import annotations

import asyncio
import codecs
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from echo_audio.audio import Segment
from echo_audio.data.transcripts import question_of
from echo_audio.engines.local import LocalEngine
from echo_audio.errors import DataError, TrainingError, TranscriptError
from echo_audio.listen import Encoded, Engine, Sampling, listen
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.models.thinker import Thinker
from echo_audio.scoring.rewards import Reward, Rewarded, Sample
from echo_audio.training.grpo_settings import RolloutSettings
from echo_audio.training.prompts import Place, Prompt
from echo_audio.transcript import Author, Stop, Transcript, Written


@dataclass(frozen=True, slots=True)
class Key:
    """Names a transcript of a step: its prompt's slot and attempt, and its number in the group."""

    slot: int
    attempt: int
    number: int


class RolloutLog:
    """The transcripts of one step on one process, a line each.

    Args:
        path: its file; what it holds already is kept, except a last line that was not finished.
        ruled_out: ids that a policy may not write. A transcript with one is not kept, and is sampled anew: the trainer finds it
            impossible, and its update would be NaN whenever the run goes on.

    Raises:
        DataError: a whole line is not a rollout.
    """

    def __init__(self, path: Path, ruled_out: Iterable[int] = ()) -> None:
        self.path = path
        self._ruled_out = frozenset(ruled_out)
        self.done: dict[Key, Transcript] = {}
        self._unwritten: list[str] = []
        if path.is_file():
            raw = path.read_bytes()
            kept = raw[: raw.rfind(b"\n") + 1]
            if len(kept) < len(raw):
                os.truncate(path, len(kept))  # never without what is whole, whenever this is killed
            for line in kept.decode("utf-8").split("\n")[:-1]:
                self._read(line)
        self.n_before = len(self.done)

    def _read(self, line: str) -> None:
        try:
            values = json.loads(line)
            key = Key(values["slot"], values["attempt"], values["number"])
            transcript = Transcript.from_json(json.dumps(values["transcript"]))
        except (ValueError, KeyError, TypeError, TranscriptError) as error:
            why = f"{self.path} holds a line that is no rollout ({error})"
            raise DataError(f"{why}; delete the file, its step is made anew") from None
        if self._ruled_out.isdisjoint(_sampled_ids(transcript)):
            self.done[key] = transcript

    def keep(self, key: Key, transcript: Transcript) -> bool:
        """Take one up, to be written with those that come after it.

        Returns:
            Whether it is the first that waits for `write`.
        """
        name = f'"slot": {key.slot}, "attempt": {key.attempt}, "number": {key.number}'
        self._unwritten.append(f'{{{name}, "transcript": {transcript.to_json()}}}\n')
        self.done[key] = transcript
        return len(self._unwritten) == 1

    def write(self) -> None:
        """Write down what was kept."""
        if not self._unwritten:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write("".join(self._unwritten))
        self._unwritten.clear()


_WRITE_S = 0.05
"""So long a finished transcript may wait to be written with others: a killed run loses no more."""

Told = Callable[[], None]


@dataclass
class Sampler:
    """Samples groups of transcripts.

    Args:
        engine: where tokens come from; its weights are those of the policy.
        thinker: the model whose tokens they are; exact rollouts sample from it alone, so it must be whole here.
        settings: how to sample.
        seed: of the run. The draws of a transcript follow from it, its place and its number, and from nothing else.
    """

    engine: Engine
    thinker: Thinker
    settings: RolloutSettings
    seed: int

    def sample(self, prompts: Sequence[Prompt], log: RolloutLog, told: Told | None = None) -> None:
        """Bring the log to the whole groups of these prompts.

        Args:
            told: called whenever one is done.

        Raises:
            TrainingError: the engine fails on a transcript, twice.
        """
        try:
            asyncio.run(self._sample(prompts, log, told))
        finally:
            log.write()

    async def _sample(self, prompts: Sequence[Prompt], log: RolloutLog, told: Told | None) -> None:
        gate = asyncio.Semaphore(1 if self.settings.exact else self.settings.in_flight)

        async def one(prompt: Prompt, key: Key) -> None:
            async with gate:
                transcript = await self._listen(prompt, key)
            if log.keep(key, transcript):
                asyncio.get_running_loop().call_later(_WRITE_S, log.write)
            if told is not None:
                told()

        async with asyncio.TaskGroup() as group:
            for prompt in prompts:
                for number in range(self.settings.group):
                    key = Key(prompt.place.slot, prompt.place.attempt, number)
                    if key not in log.done:
                        group.create_task(one(prompt, key))

    async def _listen(self, prompt: Prompt, key: Key) -> Transcript:
        """One transcript; an engine that fails is asked once more."""
        thinker = self.thinker
        question, how = question_of(prompt.row), self.settings
        sampling = Sampling(how.temperature, seed=self._seed(prompt.place, key.number))
        encoder = prompt.encoder(thinker.family)
        for _ in range(2):
            alone = LocalEngine(thinker) if how.exact else None
            opened = Transcript.open(question, thinker.family.prompt(question, how.mode), how.mode)
            try:
                transcript = await listen(opened, alone or self.engine, encoder, how.limits, sampling)
            finally:
                if alone is not None:
                    alone.close()
            if transcript.stop is not Stop.ENGINE_ERROR:
                return transcript
        raise TrainingError(f"a transcript about {prompt.row.id} cannot be sampled: {transcript.notes[-1].detail}")

    def _seed(self, place: Place, number: int) -> int:
        entropy = [self.seed, place.step, place.slot, place.attempt, number]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])


@dataclass(frozen=True, slots=True)
class Rollout:
    """A transcript with what the update needs of it.

    Args:
        key: its name in the step.
        prompt: its question and recording.
        encoded: it as the model sees it, with the engine's log-probabilities.
        reward: what it earned.
    """

    key: Key
    prompt: Prompt
    transcript: Transcript
    encoded: Encoded
    reward: Rewarded


def evidence_of(prompt: Prompt) -> tuple[Segment, ...]:
    """The spans that the answer rests on, as far as the row knows them."""
    return tuple(Segment(event.start_s, event.end_s) for event in prompt.row.evidence)


def rewarded(
    prompt: Prompt,
    key: Key,
    transcript: Transcript,
    reward: Reward,
    family: Qwen25Omni,
    answer_logprobs: tuple[float, float] | None = None,
) -> Rollout:
    """Score a transcript.

    Args:
        answer_logprobs: of `gains.Gains`, where a reward asks for them.
    """
    sample = Sample(transcript, pieces_of(transcript, family), evidence_of(prompt), answer_logprobs)
    encoded = prompt.encoder(family).encode(transcript)
    return Rollout(key, prompt, transcript, encoded, reward(sample))


def pieces_of(transcript: Transcript, family: Qwen25Omni) -> tuple[str, ...]:
    """The text of each sampled id; a character of several ids belongs to the last of them, a control id to none."""
    ids = _sampled_ids(transcript)
    texts = [family.token_texts[i] for i in ids]
    if None not in texts:
        return tuple(text or "" for text in texts)
    utf8 = codecs.getincrementaldecoder("utf-8")("replace")
    return tuple("" if i in family.ends else utf8.decode(family.token_bytes[i]) for i in ids)


def _sampled_ids(transcript: Transcript) -> list[int]:
    spans = (s for s in transcript.spans if isinstance(s, Written) and s.author is Author.MODEL)
    return [i for s in spans for i in s.ids or ()]
