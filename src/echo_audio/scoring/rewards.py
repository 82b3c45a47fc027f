"""Rewards: named pure functions of a sampled transcript, and weighted sums of them.

Every function but `audio_gain` gives 0 for nothing and 1 for all of it (or -1 for all of a fault), so that weights compare.
Both published definitions are here, `paper` and `released`; docs/rewards.md tells them case by case.
"""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.errors import ConfigError
from echo_audio.scoring.answers import strict_score
from echo_audio.transcript import Author, Transcript, What, Written

MAX_BREAKS = 5
"""More broken sentences than these cost nothing more (paper: at least -0.5, at -0.1 each)."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What a reward may look at.

    Args:
        transcript: what was sampled, about a question whose answer is known.
        pieces: the text of each sampled id, in order; None where no reward asks for confidence.
        events: what the answer rests on, where the data vouch for it.
        answer_logprobs: natural log-probability of the true answer at the end of this reasoning, with what was heard and with
            it withheld; None where it was not measured.
    """

    transcript: Transcript
    pieces: tuple[str, ...] | None = None
    events: tuple[Segment, ...] = ()
    answer_logprobs: tuple[float, float] | None = None

    @property
    def said(self) -> str:
        """The response without a forced answer: the policy did not choose it, so nothing is paid for it."""
        forced = (note.at_span for note in self.transcript.notes if note.what is What.FORCED_ANSWER)
        spans = self.transcript.spans[: next(forced, None)]
        return "".join(s.text for s in spans if isinstance(s, Written) and s.author is not Author.PROMPT)

    @property
    def truth(self) -> str:
        """The right answer.

        Raises:
            ConfigError: the question has none.
        """
        if self.transcript.question.answer is None:
            raise ConfigError("this reward needs questions with a known answer; give each Question its `answer`")
        return self.transcript.question.answer

    @property
    def logprobs(self) -> tuple[float, ...] | None:
        """Natural log-probability of each sampled id; None when a span has none."""
        spans = [s for s in self.transcript.spans if isinstance(s, Written) and s.author is Author.MODEL]
        known = [s.logprobs for s in spans if s.logprobs is not None]
        return tuple(itertools.chain.from_iterable(known)) if len(known) == len(spans) else None


def format_reward(sample: Sample) -> float:
    """1 for exactly one closed <think> block and exactly one closed <answer> block (released code; paper: R_format).

    As published it does not ask for segments, nor for their order; `tags.check` is the whole grammar.
    """
    said = sample.said
    blocks = ((tags.THINK_OPEN, tags.THINK_CLOSE), (tags.ANSWER_OPEN, tags.ANSWER_CLOSE))
    return float(all(_closed_blocks(said, *pair) == 1 for pair in blocks))


def grammar_reward(sample: Sample) -> float:
    """1 for a response without any `tags.Problem`: the whole grammar, where `format` counts blocks only."""
    return float(not tags.check(sample.said))


def consistency_reward(sample: Sample) -> float:
    """Minus 1/5 for each segment followed by an upper-case letter or "<", at least -1 (paper: R_consist).

    As released: only the very next character counts, and a segment right behind another one is overlooked.
    """
    said = sample.said
    return -min(MAX_BREAKS, sum(_breaks(said[tag.end : tag.end + 1]) for tag in _tags_as_released(said))) / MAX_BREAKS


def consistency_all_reward(sample: Sample) -> float:
    """`consistency` that also sees breaks behind white space, and those at a segment right behind another one."""
    said = sample.said
    return -min(MAX_BREAKS, sum(_breaks(said[tag.end :].lstrip()[:1]) for tag in tags.find_tags(said))) / MAX_BREAKS


def accuracy_reward(sample: Sample) -> float:
    """1 for an answer that equals the truth letter for letter, in the right format (released code; paper: R_acc).

    As released it reads from the first opening tag to the first closing one: a tag inside its own block is part of the answer.
    """
    return float(format_reward(sample) > 0 and tags.first_answer_in(sample.said) == sample.truth)


def accuracy_choice_reward(sample: Sample) -> float:
    """1 for the right choice by the strict rule of `scoring.answers`: case, articles and edge punctuation do not matter."""
    return float(strict_score(sample.said, sample.truth, sample.transcript.question.choices).correct)


def accuracy_confident_reward(sample: Sample) -> float:
    """Accuracy by confidence c: 1 - (1 - c)^2 when right, -c^2 when wrong, 0 out of format (released code, id 6).

    The released code pays flat accuracy in validation; here that is the reward `accuracy`, asked for by its name.

    Raises:
        ConfigError: the confidence is not known.
    """
    return _by_confidence(sample, lambda c: 1 - (1 - c) ** 2, lambda c: -(c**2))


def accuracy_linear_reward(sample: Sample) -> float:
    """Accuracy by confidence c: c when right, -c when wrong, 0 out of format (released code, id 10).

    Raises:
        ConfigError: the confidence is not known.
    """
    return _by_confidence(sample, lambda c: c, lambda c: -c)


def segment_reward(sample: Sample) -> float:
    """1 for a right answer that cites at least one segment (paper: R_seg)."""
    return accuracy_reward(sample) * bool(_tags_as_released(sample.said))


def segment_confident_reward(sample: Sample) -> float:
    """What `accuracy_confident` pays, once more, when that is positive and a segment is cited (released code, id 6)."""
    return max(0.0, accuracy_confident_reward(sample)) * bool(_tags_as_released(sample.said))


def non_overlap_reward(sample: Sample) -> float:
    """Seconds cited at least once over all seconds cited, 0 to 1; 0 without segments (released code, ids 11 and 12).

    Segments are cut to the recording, so that nothing is earned behind its end.
    """
    cited = sample.transcript.cited
    total_s = sum(segment.duration_s for segment in cited)
    return union_s(cited) / total_s if total_s else 0.0


def event_overlap_reward(sample: Sample) -> float:
    """Seconds both cited and in a known event, over seconds in either; 0 when nothing is cited or known."""
    cited, events = sample.transcript.cited, sample.events
    either_s = union_s((*cited, *events))
    return (union_s(cited) + union_s(events) - either_s) / either_s if either_s else 0.0


def audio_gain_reward(sample: Sample) -> float:
    """By how much what was heard again raises the log-probability of the true answer, held to [-1, 1] nats.

    Of the true one, whatever was answered: being made surer of a wrong answer is nothing to be paid for.

    Raises:
        ConfigError: the two log-probabilities were not measured.
    """
    if sample.answer_logprobs is None:
        raise ConfigError("audio_gain needs Sample.answer_logprobs: score the answer with the segments heard and withheld")
    return max(-1.0, min(1.0, audio_gain(*sample.answer_logprobs)))


def audio_gain(heard: float, withheld: float) -> float:
    """Log-probability of the answer with what was heard, minus that with it withheld, in nats.

    Raises:
        ConfigError: one of them is not finite.
    """
    if not (math.isfinite(heard) and math.isfinite(withheld)):
        raise ConfigError(f"log-probabilities must be finite, not {heard} and {withheld}; score the answer in float32")
    return heard - withheld


def union_s(segments: Sequence[Segment]) -> float:
    """Seconds that lie in at least one of the segments."""
    total_s, reached_s = 0.0, 0.0
    for segment in sorted(segments):
        total_s += max(0.0, segment.end_s - max(segment.start_s, reached_s))
        reached_s = max(reached_s, segment.end_s)
    return total_s


def deciding_token(pieces: Sequence[str], truth: str, *, right: bool) -> int | None:
    """Index of the token whose probability is the confidence in the answer, as the released code chooses it.

    A right answer: the first token with text behind `<answer>`. A wrong one: the first token with which it can no longer
    become the truth, be it that it leaves it or that it follows all of it.

    Returns:
        None when nothing follows `<answer>`; the released code then takes the last token, whatever that is.
    """
    texts = list(itertools.accumulate(pieces))
    opened = texts[-1].find(tags.ANSWER_OPEN) if texts else -1
    if opened < 0:
        return None
    begin = opened + len(tags.ANSWER_OPEN)
    begun = [i for i, text in enumerate(texts) if len(text) > begin]
    if right:
        return next(iter(begun), None)
    left = (i for i in begun if not truth.startswith(texts[i][begin:]))
    return next(left, begun[-1] if begun else None)


def _closed_blocks(text: str, opening: str, closing: str) -> int:
    """How many blocks a reader finds who goes on behind each closing tag; stray tags do not count."""
    found, at = 0, 0
    while (opened := text.find(opening, at)) >= 0 and (closed := text.find(closing, opened + len(opening))) >= 0:
        found, at = found + 1, closed + len(closing)
    return found


def _breaks(follower: str) -> bool:
    """Whether a sentence is broken off where this character follows a segment."""
    return follower.isupper() or follower == "<"


def _tags_as_released(text: str) -> list[tags.Tag]:
    """The segments the released code counts: times without sign or outer space, none right behind another one.

    Its pattern swallows up to two characters behind a segment: one that is no line break, and one that is no "<".
    """
    counted: list[tags.Tag] = []
    at = 0
    for tag in tags.find_tags(text):
        body = text[tag.begin + len(tags.SEG_OPEN) : tag.end - len(tags.SEG_CLOSE)]
        if tag.begin < at or tag.times_s is None or not _plain(body):
            continue
        counted.append(tag)
        at = tag.end + (text[tag.end : tag.end + 1] not in ("", "\n"))
        at += text[at : at + 1] not in ("", "<")
    return counted


def _plain(body: str) -> bool:
    start, _, end = body.partition(",")
    return all(number.replace(".", "").isdecimal() for number in (start, end.lstrip()))


def _by_confidence(sample: Sample, right: Callable[[float], float], wrong: Callable[[float], float]) -> float:
    if not format_reward(sample):
        return 0.0
    correct = accuracy_reward(sample) > 0
    confidence = _confidence(sample, right=correct)
    return right(confidence) if correct else wrong(confidence)


def _confidence(sample: Sample, *, right: bool) -> float:
    """Probability of the deciding token, 0 to 1.

    Raises:
        ConfigError: pieces or log-probabilities are missing, or do not belong together.
    """
    logprobs = sample.logprobs
    if sample.pieces is None or not logprobs:
        missing = "Sample.pieces" if sample.pieces is None else "the log-probabilities of what was sampled"
        raise ConfigError(f"confidence needs {missing}; give them, or take the reward accuracy, which needs none")
    if len(sample.pieces) != len(logprobs):
        raise ConfigError(f"{len(sample.pieces)} pieces for {len(logprobs)} sampled ids; decode each sampled id by itself")
    index = deciding_token(sample.pieces, sample.truth, right=right)
    # as the released code does it; only where the model's `<answer>` tag is not in its own tokens
    return min(1.0, math.exp(logprobs[-1 if index is None else index]))


REWARDS: dict[str, Callable[[Sample], float]] = {
    "format": format_reward,
    "grammar": grammar_reward,
    "consistency": consistency_reward,
    "consistency_all": consistency_all_reward,
    "accuracy": accuracy_reward,
    "accuracy_choice": accuracy_choice_reward,
    "accuracy_confident": accuracy_confident_reward,
    "accuracy_linear": accuracy_linear_reward,
    "segment": segment_reward,
    "segment_confident": segment_confident_reward,
    "non_overlap": non_overlap_reward,
    "event_overlap": event_overlap_reward,
    "audio_gain": audio_gain_reward,
}
"""Every reward by the name that a TOML file gives it."""


@dataclass(frozen=True, slots=True)
class Rewarded:
    """The reward of one sample.

    Args:
        total: sum of the parts.
        parts: by name, weights included.
    """

    total: float
    parts: dict[str, float]


@dataclass(frozen=True, slots=True)
class Reward:
    """A weighted sum of named rewards.

    Args:
        weights: (name, weight), each name once.

    Raises:
        ConfigError: a name that is unknown or comes twice, a weight that is not finite.
    """

    weights: tuple[tuple[str, float], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.weights]
        for name, weight in self.weights:
            if name not in REWARDS:
                near = difflib.get_close_matches(name, REWARDS, 1)
                raise ConfigError(f"no reward is called {name!r}; " + (f"did you mean {near[0]!r}?" if near else _ALL))
            if names.count(name) > 1:
                raise ConfigError(f"the reward {name!r} is there twice; give it one weight")
            if not math.isfinite(weight):
                raise ConfigError(f"the weight of {name!r} is {weight}; give a finite number")

    def __call__(self, sample: Sample) -> Rewarded:
        """Total and parts for one sample."""
        parts = {name: weight * REWARDS[name](sample) for name, weight in self.weights}
        return Rewarded(math.fsum(parts.values()), parts)


_ALL = f"there are {', '.join(REWARDS)}"

PAPER = Reward((("format", 0.5), ("consistency", 0.5), ("accuracy", 0.5), ("segment", 0.5)))
"""R = R_format + R_consist + R_acc + R_seg of the paper (multiturn_rl_3 of the released code)."""

RELEASED = Reward((("format", 0.5), ("consistency", 0.5), ("accuracy_confident", 0.5), ("segment_confident", 0.5)))
"""What the released script trains with (multiturn_rl_6): accuracy and segment weighted by confidence."""

PRESETS: dict[str, Reward] = {"paper": PAPER, "released": RELEASED}
