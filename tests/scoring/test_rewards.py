"""Every reward against values computed by hand; docs/rewards.md line by line."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_audio.audio import Segment
from echo_audio.errors import ConfigError
from echo_audio.scoring.rewards import (
    PAPER,
    PRESETS,
    RELEASED,
    REWARDS,
    Reward,
    Sample,
    audio_gain,
    deciding_token,
    union_s,
)
from echo_audio.transcript import Author, Question, Stop, Transcript, What, Written

PAGE = (Path(__file__).parents[2] / "docs/rewards.md").read_text(encoding="utf-8")
QUESTION = Question("What is it?", "0", 10.0, ("a dog", "a bell"), "a bell")


def sample(text: str, confidence: float | None = None, **more) -> Sample:
    """A response whose every character is a token of that probability."""
    ids = None if confidence is None else tuple(range(len(text)))
    logprobs = None if ids is None else (math.log(confidence),) * len(text)
    transcript = Transcript.open(QUESTION, "").say(Written(text, Author.MODEL, ids, logprobs))
    return Sample(transcript, None if ids is None else tuple(text), **more)


def right(thought: str) -> str:
    return f"<think>{thought}</think><answer>a bell</answer>"


def cases() -> list[tuple[str, list[float]]]:
    lines = [line.split("|")[1:-1] for line in PAGE.splitlines() if line.startswith("| `<think>")]
    return [(cells[0].strip(" `"), [float(cell) for cell in cells[1:]]) for cells in lines]


@pytest.mark.parametrize(("response", "numbers"), cases())
def test_the_table_of_cases(response, numbers):
    paper, released = PAPER(sample(response, 0.8)), RELEASED(sample(response, 0.8))
    said = [*paper.parts.values(), paper.total, *list(released.parts.values())[2:], released.total]
    assert said == pytest.approx(numbers)
    assert list(released.parts.values())[:2] == list(paper.parts.values())[:2]


def test_the_page_has_cases_and_every_name():
    assert len(cases()) == 15
    others = set(re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE))
    assert others == set(REWARDS) - {name for preset in PRESETS.values() for name, _ in preset.weights}


@pytest.mark.parametrize(
    ("thought", "released", "everything"),
    [
        ("a <seg>1, 2</seg>, b", 0, 0),
        ("a <seg>1, 2</seg>B", -0.2, -0.2),
        ("a <seg>1, 2</seg> B", 0, -0.2),
        ("a <seg>1, 2</seg>\nB", 0, -0.2),
        ("<seg>1, 2</seg><seg>3, 4</seg><seg>5, 6</seg>", -0.4, -0.6),  # the second is swallowed
        ("<seg>1, 2</seg>x<seg>3, 4</seg>B", -0.2, -0.2),
        ("<seg>1, 2</seg>B" * 4, -0.8, -0.8),
        ("<seg>1, 2</seg>B" * 5, -1, -1),
        ("<seg>1, 2</seg>B" * 9, -1, -1),
        ("<seg> 1, 2</seg>B", 0, -0.2),  # the released pattern takes no space before the times
        ("<seg>1, 2</seg>É", -0.2, -0.2),
    ],
)
def test_consistency(thought, released, everything):
    assert REWARDS["consistency"](sample(right(thought))) == pytest.approx(released)
    assert REWARDS["consistency_all"](sample(right(thought))) == pytest.approx(everything)


def test_format_counts_blocks_and_grammar_sees_all():
    swapped = "<answer>a bell</answer><think>so</think>"
    assert REWARDS["format"](sample(swapped)) == 1 and REWARDS["grammar"](sample(swapped)) == 0
    assert REWARDS["grammar"](sample(right("so"))) == 1
    assert REWARDS["format"](sample("</think>" + right("so"))) == 1  # a stray tag, as published


def test_accuracy_by_choice_forgives_capitals():
    loud = "<think>so</think><answer>A Bell.</answer>"
    assert REWARDS["accuracy"](sample(loud)) == 0 and REWARDS["accuracy_choice"](sample(loud)) == 1
    assert REWARDS["accuracy_choice"](sample("<think>so</think><answer>a dog</answer>")) == 0


def test_confidence():
    wrong = "<think>so</think><answer>a dog</answer>"
    assert REWARDS["accuracy_confident"](sample(right("so"), 0.5)) == pytest.approx(0.75)
    assert REWARDS["accuracy_confident"](sample(wrong, 0.5)) == pytest.approx(-0.25)
    assert REWARDS["accuracy_linear"](sample(right("so"), 0.5)) == pytest.approx(0.5)
    assert REWARDS["accuracy_linear"](sample(wrong, 0.5)) == pytest.approx(-0.5)
    for name in ("accuracy_confident", "accuracy_linear", "segment_confident"):
        with pytest.raises(ConfigError, match=r"confidence needs Sample\.pieces"):
            REWARDS[name](sample(right("so")))
    with pytest.raises(ConfigError, match="confidence needs the log-probabilities"):
        REWARDS["accuracy_confident"](Sample(sample(wrong).transcript, ("a",)))
    assert REWARDS["accuracy_confident"](sample("no format at all")) == 0, "out of format nothing is asked of it"
    with pytest.raises(ConfigError, match="decode each sampled id"):
        REWARDS["accuracy_confident"](Sample(sample(wrong, 0.5).transcript, ("a",)))


@pytest.mark.parametrize(
    ("pieces", "index_right", "index_wrong"),
    [
        (["<answer>", "a", " bell", "</answer>"], 1, 3),  # all of the truth, then something more
        (["<answer>", "a", " dog", "</answer>"], 1, 2),
        (["<ans", "wer>a", " do", "g"], 1, 2),  # the tag shares a token with the answer
        (["<answer>", "the", " bell"], 1, 1),
        (["x", "<answer>", "a"], 2, 2),  # cut off while it still could be right
        (["<answer>"], None, None),
        (["a bell"], None, None),
        ([], None, None),
    ],
)
def test_deciding_token(pieces, index_right, index_wrong):
    assert deciding_token(pieces, "a bell", right=True) == index_right
    assert deciding_token(pieces, "a bell", right=False) == index_wrong


def test_a_forced_answer_earns_nothing():
    cut = Transcript.open(QUESTION, "").say(Written("<think>so", Author.MODEL)).finish(Stop.TOKEN_LIMIT)
    forced = cut.note(What.FORCED_ANSWER).say(Written("</think><answer>a bell</answer>", Author.HARNESS))
    assert forced.answer == "a bell" and PAPER(Sample(forced)).total == 0


def test_non_overlap():
    thought = "<seg>1, 3</seg>, <seg>2, 4</seg>, <seg>8, 12</seg>"  # 2 + 2 + 2 s cited, 3 + 2 s covered
    assert REWARDS["non_overlap"](sample(right(thought))) == pytest.approx(5 / 6)
    assert REWARDS["non_overlap"](sample(right("so"))) == 0


def test_event_overlap():
    said = right("<seg>1, 3</seg>, <seg>2, 4</seg>")  # 1 to 4
    assert REWARDS["event_overlap"](sample(said, events=(Segment(3, 5),))) == pytest.approx(1 / 4)
    assert REWARDS["event_overlap"](sample(said, events=(Segment(1, 4),))) == pytest.approx(1)
    assert REWARDS["event_overlap"](sample(said, events=(Segment(5, 6),))) == pytest.approx(0)
    assert REWARDS["event_overlap"](sample(said)) == 0
    assert REWARDS["event_overlap"](sample(right("so"))) == 0


def test_audio_gain():
    assert audio_gain(-0.5, -2.0) == pytest.approx(1.5)
    assert REWARDS["audio_gain"](sample("", answer_logprobs=(-0.5, -0.75))) == pytest.approx(0.25)
    assert REWARDS["audio_gain"](sample("", answer_logprobs=(-9.0, -0.5))) == -1
    with pytest.raises(ConfigError, match="answer_logprobs"):
        REWARDS["audio_gain"](sample(""))
    with pytest.raises(ConfigError, match="finite"):
        audio_gain(-math.inf, -1.0)


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 9)), max_size=6))
def test_union_counts_each_second_once(spans):
    seconds = {second for start, length in spans for second in range(start, start + length)}
    assert union_s([Segment(start, start + length) for start, length in spans]) == pytest.approx(len(seconds))


def test_a_reward_is_checked_when_it_is_made():
    with pytest.raises(ConfigError, match="'accuracy'"):
        Reward((("acuracy", 1.0),))
    with pytest.raises(ConfigError, match="there are format"):
        Reward((("zzz", 1.0),))
    with pytest.raises(ConfigError, match="twice"):
        Reward((("format", 1.0), ("format", 0.5)))
    with pytest.raises(ConfigError, match="finite"):
        Reward((("format", math.nan),))


def test_a_question_without_a_truth_is_refused():
    unknown = Transcript.open(Question("?", "0", 10.0), "").say(Written(right("so"), Author.MODEL))
    with pytest.raises(ConfigError, match="known answer"):
        PAPER(Sample(unknown))
