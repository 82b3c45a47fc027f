"""Our own engines as describers and guessers of the data engine, which may not know them: it needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from echo_audio.audio import Recording
from echo_audio.cli import session
from echo_audio.cli.engines import ClosingEngine, EngineName
from echo_audio.data.eaqa.calls import Calls, Reply, key_of
from echo_audio.data.rows import Row
from echo_audio.encoding import PromptingFamily, TranscriptEncoder
from echo_audio.errors import EngineError
from echo_audio.listen import Limits, Sampling, listen
from echo_audio.models import folders
from echo_audio.transcript import Mode, Question, Stop, Transcript


@dataclass(frozen=True, slots=True)
class OwnEngine:
    """An engine with a memory of what it has answered.

    Args:
        name: the model as it was named, with a hash of its weights.
    """

    engine: ClosingEngine
    family: PromptingFamily
    calls: Calls
    name: str
    max_new_tokens: int

    @classmethod
    def load(cls, model: str, engine_name: str, calls: Calls, max_new_tokens: int, at_once: int) -> OwnEngine:
        """Load a model.

        Args:
            engine_name: local or vllm.
            at_once: requests in flight; the engine batches them.

        Raises:
            ModelError: there is none, or it is not of the family.
        """
        manner = session.Manner(model=model, engine=EngineName(engine_name), at_once=at_once)
        engine, family = session.load_engine(manner)
        name = f"{model} {folders.fingerprint(folders.resolve(model))}"
        return cls(engine, family, calls, name, max_new_tokens)

    async def ask(self, stage: str, question: Question, prompt: str, recording: Recording, seed: int, tagged: bool) -> Reply:
        """The engine's reply, from the cache where it was given before.

        Args:
            tagged: whether the prompt asks for the tags of a reasoning; then the reply is the answer in them.

        Raises:
            EngineError: it failed.
        """
        key = key_of({"engine": self.name, "prompt": prompt, "audio": recording.id, "seed": seed, "most": self.max_new_tokens})
        known = self.calls.get(key)
        if known is not None:
            return known
        limits = Limits(max_new_tokens=self.max_new_tokens, max_turn_tokens=self.max_new_tokens, force_answer=tagged)
        opened = Transcript.open(question, prompt, Mode.CONDITIONED)
        encoder = TranscriptEncoder(self.family, recording)
        done = await listen(opened, self.engine, encoder, limits, Sampling(0.7, 1.0, seed))
        if done.stop is Stop.ENGINE_ERROR:
            raise EngineError(f"{self.name} failed: {'; '.join(note.detail for note in done.notes) or 'no reason given'}")
        text = (done.answer or "") if tagged else done.response
        reply = Reply(text, done.stop is not Stop.TOKEN_LIMIT, 0, done.n_sampled)
        self.calls.put(key, stage, self.name, reply)
        return reply

    async def describe(self, stage: str, prompt: str, recording: Recording, seed: int) -> Reply:
        """What the model says about a recording.

        Raises:
            EngineError: it failed.
        """
        question = Question(prompt, recording.id, recording.duration_s)
        return await self.ask(stage, question, prompt, recording, seed, tagged=False)

    async def guess(self, row: Row, choices: Sequence[str], seed: int) -> str:
        """What the model answers when it hears silence of the same length.

        Raises:
            EngineError: it failed.
        """
        silence = Recording(np.zeros(max(1, round(row.duration_s * 16_000)), np.float32))
        question = Question(row.question, silence.id, silence.duration_s, tuple(choices))
        prompt = self.family.prompt(question, Mode.CONDITIONED)
        return (await self.ask("guess", question, prompt, silence, seed, tagged=True)).text
