"""The two log-probabilities behind `audio_gain`: of the true answer, with what was heard again and with it withheld."""

from __future__ import annotations

import pytest
import torch
from grpo_helpers import lines_of, small

from echo_audio.audio import Segment
from echo_audio.data.transcripts import question_of
from echo_audio.encoding import TranscriptEncoder
from echo_audio.models.thinker import Thinker
from echo_audio.training import grpo
from echo_audio.training.batch import collate, example_of
from echo_audio.training.gains import Gains, with_true_answer, withheld
from echo_audio.training.grpo_settings import PromptSettings
from echo_audio.training.policy import Policy
from echo_audio.training.prompts import DrawnRows, Place, Prompt
from echo_audio.transcript import Author, Mode, Stop, Transcript, Written

HEARD = Segment(0.5, 1.5)


@pytest.fixture
def thinker(folder) -> Thinker:
    torch.set_num_threads(1)
    return Thinker.load(folder)


@pytest.fixture
def prompt(thinker, stock) -> Prompt:
    return Prompt(Place(0, 0), *DrawnRows(PromptSettings(n_rows=5, longest_s=4.5), thinker.family, stock).row(2))


def said(prompt: Prompt, thinker: Thinker, *, answer: str, segment: Segment | None = HEARD) -> Transcript:
    """A reasoning that hears one segment, its ids as an engine would leave them."""
    question = question_of(prompt.row)
    transcript = Transcript.open(question, thinker.family.prompt(question, Mode.INTERLEAVED), Mode.INTERLEAVED)
    for text, heard in (("<think>it is at <seg>0.5, 1.5</seg>", segment), (f", so.</think>\n<answer>{answer}</answer>", None)):
        ids = thinker.family.text_ids(text)
        transcript = transcript.say(Written(text, Author.MODEL, ids, (-1.0,) * len(ids)))
        transcript = transcript.hear(heard) if heard else transcript
    return transcript.finish(Stop.ANSWERED)


def score(thinker: Thinker, prompt: Prompt, transcript: Transcript) -> float:
    """The sum over the answer's tokens, one transcript at a time, out of all that was sampled."""
    example = example_of(TranscriptEncoder(thinker.family, prompt.recording).encode(transcript), thinker.family.token_bytes)
    batch = collate([example])
    with torch.no_grad():
        logprobs, _ = Policy(thinker)(batch)
    return float(logprobs[batch["answers"]].sum())


def test_the_end_is_the_true_answer(prompt, thinker):
    transcript = said(prompt, thinker, answer="nonsense")
    ended = with_true_answer(transcript)
    assert ended.answer == prompt.row.answer and ended.asked == transcript.asked
    assert ended.spans[:-1] == transcript.spans[:-1] and ended.spans[-1].ids is None
    assert with_true_answer(said(prompt, thinker, answer=prompt.row.answer)).response == ended.response
    broken = Transcript.open(transcript.question, "prompt").say(Written("<think>it is", Author.MODEL)).finish(Stop.TOKEN_LIMIT)
    assert with_true_answer(broken) is None


def test_only_what_was_asked_for_is_withheld(prompt, thinker):
    transcript = said(prompt, thinker, answer="x")
    encoder = TranscriptEncoder(thinker.family, prompt.recording)
    full, less = encoder.encode(transcript), encoder.encode(withheld(transcript))
    assert len(full.clips) == 2 and len(less.clips) == 1
    assert sum(full.sampled) == sum(less.sampled)


def test_both_numbers_are_those_of_a_forward_of_its_own(prompt, thinker):
    transcripts = [
        said(prompt, thinker, answer=prompt.row.answer),
        said(prompt, thinker, answer="nonsense"),
        said(prompt, thinker, answer="x", segment=None),
        said(prompt, thinker, answer="x", segment=Segment(1.0, 3.0)),
    ]
    for budget in (1, 4096):
        got = Gains(thinker, bf16=False, budget=budget).measure([(prompt, t) for t in transcripts])
        assert got[2] == (0.0, 0.0), "nothing was heard again"
        assert got[0] == pytest.approx(got[1], abs=1e-5), "the true answer, whatever was answered"
        for transcript, (heard, without) in zip(transcripts, got, strict=True):
            if transcript.asked:
                ended = with_true_answer(transcript)
                assert heard == pytest.approx(score(thinker, prompt, ended), abs=1e-4)
                assert without == pytest.approx(score(thinker, prompt, withheld(ended)), abs=1e-4)
                assert abs(heard - without) > 1e-5


def test_a_run_pays_for_it(folder, tmp_path):
    settings = small(folder, tmp_path / "run", "train.steps=1", "reward.weights={audio_gain=1.0, grammar=0.5}")
    grpo.train(settings)
    (line,) = lines_of(settings.out)
    assert -1.0 <= line["reward/audio_gain"] <= 1.0 and "reward/grammar" in line
