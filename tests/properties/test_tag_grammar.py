"""The tag language: what is written can be read back, and nothing a model writes raises."""

from __future__ import annotations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import segments, texts

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.tags import Problem

modest = settings(max_examples=80, deadline=None)
plain = st.text(st.characters(exclude_characters="<>", exclude_categories=["Cs"]), max_size=12)


@modest
@given(segments)
def test_a_segment_is_read_back_within_half_a_hundredth(segment: Segment) -> None:
    tag = tags.format_segment(segment)
    (found,) = tags.find_tags(f"listen{tag}.")
    assert found.times_s is not None
    assert found.times_s == pytest.approx((segment.start_s, segment.end_s), abs=0.0050001)
    assert found.times_s == tags.last_times(f"listen{tag}")
    assert (found.begin, found.end) == (6, 6 + len(tag))


@modest
@given(st.integers(0, 99_999), st.integers(1, 9_999))
def test_hundredths_are_read_back_exactly(start: int, length: int) -> None:
    segment = Segment(start / 100, (start + length) / 100)
    assert tags.segments_in(tags.format_segment(segment)) == (segment,)


def test_how_times_are_written() -> None:
    assert tags.format_segment(Segment(1.2, 3.4)) == "<seg>1.2, 3.4</seg>"
    assert tags.format_segment(Segment(0, 10)) == "<seg>0.0, 10.0</seg>"
    assert tags.format_segment(Segment(1.25, 1.5)) == "<seg>1.25, 1.5</seg>"


@pytest.mark.parametrize(
    ("body", "times"),
    [("1.2, 3.4", (1.2, 3.4)), ("1,2", (1, 2)), (" .5 , 2. ", (0.5, 2)), ("-1, +2", (-1, 2)), ("007, 8", (7, 8)),
     ("1.2.3", None), ("1", None), ("1, 2, 3", None), ("", None), ("1 2", None), ("1e2, 3", None), ("nan, inf", None),
     ("1" * 400 + ", 2", None),
     ("0.30000000000000004, 1.2", (0.30000000000000004, 1.2)), ("0, 9999999999", (0, 9999999999)),
     ("1,\n2", (1, 2)), ("a1, 2", None)],
)  # fmt: skip
def test_bodies(body: str, times: tuple[float, float] | None) -> None:
    assert tags.parse_times(body) == times


@modest
@given(texts)
def test_nothing_raises(text: str) -> None:
    assert isinstance(tags.check(text), frozenset)
    assert tags.in_thought(text) in (True, False)
    for value in (tags.answer_in(text), tags.thought_in(text)):
        assert value is None or value in text
    tags.last_times(text)
    tags.last_times(text + tags.SEG_CLOSE)
    assert len(tags.segments_in(text)) <= len(tags.find_tags(text))
    assert tags.find_tags(tags.without_segments(text)) == () or "<seg>" in text.replace("<seg>", "", 1)


@modest
@given(texts)
def test_tags_lie_in_order_and_parts_join(text: str) -> None:
    found = tags.find_tags(text)
    ends = [0, *(at for tag in found for at in (tag.begin, tag.end))]
    assert ends == sorted(ends)
    for tag in found:
        assert text[tag.begin : tag.end].startswith(tags.SEG_OPEN)
        assert text[tag.begin : tag.end].endswith(tags.SEG_CLOSE)
    parts = tags.split_at_segments(text)
    assert "".join(parts) == text
    assert len(parts) in (len(found), len(found) + 1)
    assert all(part.endswith(tags.SEG_CLOSE) for part in parts[:-1])


@modest
@given(st.lists(st.tuples(plain, segments), max_size=4), plain, plain)
def test_what_is_composed_is_well_formed(spoken: list[tuple[str, Segment]], rest: str, answer: str) -> None:
    assume(answer.strip())
    reasoning = "".join(f"{text} {tags.format_segment(segment)}" for text, segment in spoken) + rest
    response = tags.compose(reasoning, answer)
    assert tags.check(response) == frozenset()
    assert tags.thought_in(response) == reasoning
    assert tags.answer_in(response) == answer.strip()
    assert len(tags.find_tags(response)) == len(spoken)
    assert tags.without_segments(response) == tags.compose("".join(text for text, _ in spoken) + rest, answer)


GOOD = "<think>I hear <seg>1, 2</seg>.</think>\n<answer>a dog</answer>"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        (GOOD, set()),
        ("", {Problem.NO_THINK, Problem.NO_ANSWER}),
        (GOOD.replace("<think>", ""), {Problem.NO_THINK}),
        (GOOD.replace("</answer>", ""), {Problem.NO_ANSWER}),
        (GOOD.replace("a dog", " \n"), {Problem.EMPTY_ANSWER}),
        (GOOD + GOOD, {Problem.NO_THINK, Problem.NO_ANSWER}),
        ("<answer>a</answer><think>x</think>", {Problem.ORDER}),
        ("so " + GOOD, {Problem.ORDER}),
        (GOOD + " so", {Problem.ORDER}),
        (GOOD.replace("\n", " so "), {Problem.ORDER}),
        ("<think><answer></think>a</answer>", {Problem.ORDER}),
        ("<think><answer>a</answer></think>", {Problem.ORDER}),
        ("</think>x<think><answer>a</answer>", {Problem.NO_THINK}),
        ("</answer><think>x</think><answer>", {Problem.NO_ANSWER}),
        (GOOD.replace("</seg>", ""), {Problem.SEGMENT_BROKEN}),
        (GOOD.replace("<seg>", ""), {Problem.SEGMENT_BROKEN}),
        (GOOD.replace("1, 2", "1.2.3"), {Problem.SEGMENT_UNPARSEABLE}),
        (GOOD.replace("a dog", "<seg>1, 2</seg>"), {Problem.SEGMENT_OUTSIDE}),
        ("<think></think><answer><seg>1, 2</seg></answer>", {Problem.SEGMENT_OUTSIDE}),
    ],
)
def test_problems(text: str, problems: set[Problem]) -> None:
    assert tags.check(text) == problems


def test_a_hostile_text_costs_no_more_than_its_length() -> None:
    n = 40_000
    for text in (
        "<seg>" * n, "</seg>" * n, f"<seg>1{' ' * n}</seg>", f"<seg>{'1' * n}</seg>", f"<seg>{'-.' * n}, 1</seg>",
    ):  # fmt: skip
        assert tags.segments_in(text) == ()
        assert tags.check(text)


BITS = ("<", "<seg>", "</seg>", "1.2, 3.4", "x" * 50, "<think>", "</think>", "<answer>", "ab", ">")


@modest
@given(st.lists(st.sampled_from(BITS), max_size=12), st.integers(1, 7))
def test_cutting_loses_nothing_and_does_not_depend_on_the_pieces(words: list[str], length: int) -> None:
    text = "".join(words)
    whole, bits = tags.Cutter(), tags.Cutter()
    at_once = [*whole.feed(text), *whole.finish()]
    slowly = [part for at in range(0, len(text), length) for part in bits.feed(text[at : at + length])] + bits.finish()
    assert "".join(part.text for part in slowly) == text
    assert _joined(at_once) == _joined(slowly)


def _joined(parts: list[tags.Part]) -> list[tuple[str, str]]:
    """Neighbouring texts as one."""
    out: list[tuple[str, str]] = []
    for part in parts:
        if out and part.kind is tags.Kind.TEXT and out[-1][0] == part.kind:
            out[-1] = (part.kind, out[-1][1] + part.text)
        else:
            out.append((part.kind, part.text))
    return out
