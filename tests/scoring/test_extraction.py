"""Every step of the extraction, the order of the steps, and what is never guessed."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_audio.scoring.answers import Verdict, official_match, strict_choice, strict_score
from echo_audio.scoring.extraction import Step, extract, extract_upstream, trimmed

PEOPLE = ("Man", "Woman", "Child", "Robot")
KEYS = ("C", "D", "G", "A")


def read(answer: str, choices=PEOPLE):
    return extract(f"<think>Man Woman</think><answer>{answer}</answer>", choices)


@pytest.mark.parametrize(
    ("answer", "choices", "choice", "step"),
    [
        ("Woman", PEOPLE, "Woman", Step.EXACT),
        (" **woman**. ", PEOPLE, "Woman", Step.EXACT),
        ("“Woman.”", PEOPLE, "Woman", Step.EXACT),
        ("the woman", PEOPLE, "Woman", Step.EXACT),
        ("B. Woman", PEOPLE, "Woman", Step.LABELLED),
        ("(b) woman", PEOPLE, "Woman", Step.LABELLED),
        ("**B:** Woman", PEOPLE, "Woman", Step.LABELLED),
        ("Option B) Woman", PEOPLE, "Woman", Step.LABELLED),
        ("A. Woman", PEOPLE, "Woman", Step.LABELLED),  # the text counts, as in the official rule
        ("B", PEOPLE, "Woman", Step.LETTER),
        ("(d).", PEOPLE, "Robot", Step.LETTER),
        ("E", PEOPLE, None, Step.UNPARSED),
        ("It is a woman, I think", PEOPLE, "Woman", Step.CONTAINED),
        ("a man, not a woman", PEOPLE, None, Step.UNPARSED),
        ("women", PEOPLE, None, Step.UNPARSED),
        ("I cannot tell", PEOPLE, None, Step.UNPARSED),
        ("Female", ("Male", "Female"), "Female", Step.EXACT),
        ("It must be table tennis!", ("Tennis", "Table Tennis", "Golf"), "Table Tennis", Step.CONTAINED),
        ("Tennis or table tennis", ("Tennis", "Table Tennis"), None, Step.UNPARSED),
        ("about 2.5 s", ("2", "5", "2.5"), "2.5", Step.CONTAINED),
        ("about 2.5 s", ("2", "5"), None, Step.UNPARSED),
        ("C", KEYS, "C", Step.EXACT),
        ("B", KEYS, None, Step.UNPARSED),  # no place in the list where the choices are letters
        ("A", KEYS, "A", Step.EXACT),
        ("D. A", KEYS, "A", Step.LABELLED),
        ("C. A", KEYS, None, Step.UNPARSED),
        ("It is a G", KEYS, "G", Step.CONTAINED),
        ("It is a chord", KEYS, None, Step.UNPARSED),
        ("it is C#", ("C", "D"), None, Step.UNPARSED),
        ("it is C, not sharp", ("C", "D"), "C", Step.CONTAINED),
        ("«Woman»", PEOPLE, "Woman", Step.EXACT),
        ("_Woman_", PEOPLE, "Woman", Step.EXACT),
        ("男。", ("男", "女"), "男", Step.EXACT),
        ("**Cm7**", ("CM7", "Cm7"), "Cm7", Step.EXACT),
        (".5 seconds", ("5 seconds", "0.5 seconds"), None, Step.UNPARSED),
        ("10²", ("102", "103"), None, Step.UNPARSED),
        ("１０", ("10", "11"), "10", Step.EXACT),
        ("A chord", KEYS, None, Step.UNPARSED),
        ("A D", KEYS, None, Step.UNPARSED),
        ("minor", ("A minor", "B minor"), None, Step.UNPARSED),
        ("man", ("A man", "A woman"), "A man", Step.EXACT),
        ("Man", ("Man", "Woman", "Man"), "Man", Step.EXACT),
        ("c", ("x", "Man", "Woman"), None, Step.UNPARSED),
        ("b", ("Woman", "Man", "Woman"), "Man", Step.LETTER),
        ("H", tuple("12345678"), "8", Step.LETTER),
        ("", PEOPLE, None, Step.NO_ANSWER),
        ("a bell", (), "a bell", Step.FREE),
        ("Connor", ("Connor ", "Andrew "), "Connor ", Step.EXACT),
        ("it is loud\nand  long", ("loud and long", "short"), "loud and long", Step.CONTAINED),
    ],
)
def test_the_steps(answer, choices, choice, step):
    got = read(answer, choices)
    exact = strict_score(f"<answer>{answer}</answer>", choice or "?", choices)
    assert exact.choice == (choice if step in (Step.EXACT, Step.FREE) else None)
    assert (got.choice, got.step) == (choice, step)
    assert got.step.found is (choice is not None)


@pytest.mark.parametrize(
    ("response", "choice", "closed"),
    [
        ("<answer>Man</answer> no: <answer>Woman</answer>", "Woman", True),
        ("<answer>Man</answer> no: <answer>Woman", "Man", True),
        ("<think>hm</think><answer>Woman", "Woman", False),
        ("<think>hm</think><answer>Woman</ans", "Woman", False),
        ("<answer>Woman</answer></answer>", "Woman", True),
        ("Woman", None, False),
        ("<think>Woman", None, False),
    ],
)
def test_which_block_is_read(response, choice, closed):
    got = extract(response, PEOPLE)
    assert (got.choice, got.closed) == (choice, closed)


def test_upstream_reads_as_the_released_code_does():
    assert extract_upstream("<answer>Female</answer>", ("Male", "Female")).choice == "Male"
    assert extract_upstream("<answer>Man</answer><answer>Woman</answer>", PEOPLE).choice == "Man"
    nothing = extract_upstream("I do not know", PEOPLE)
    assert (nothing.choice, nothing.step, nothing.closed) == ("Man", Step.UPSTREAM_GUESS, False)
    unclosed = extract_upstream("<think>a robot</think><answer>Child", PEOPLE)
    assert (unclosed.choice, unclosed.step) == ("Child", Step.UPSTREAM), "without a closed block all of it is searched"
    assert extract_upstream("a robot\nassistant\n<think>x</think>", PEOPLE).choice == "Man"
    assert extract_upstream("<answer>Child</answer>\nassistant\n<answer>Robot</answer>", PEOPLE).choice == "Robot"
    assert extract_upstream("<answer> </answer> Child", PEOPLE).step is Step.UPSTREAM_GUESS
    assert extract_upstream("<answer>yes</answer>", ()).choice == "yes"


def test_the_strict_rule_counts_equal_choices_once():
    response = "<answer>Man</answer>"
    assert strict_score(response, "Man", ("Man", "Woman", "Man")).verdict is Verdict.CORRECT
    assert strict_score(response, "Man", ("man", "MAN")).verdict is Verdict.UNPARSED
    assert strict_choice("A B", ("A", "B")) is None
    assert strict_choice("«Woman»", PEOPLE) == "Woman", "whoever asks, not only the rules"
    assert strict_score("<answer>Connor</answer>", "Connor ", ("Connor ", "Andrew ")).correct


HOSTILE = ('"', "*", " ", ".", "[", "(A) ", "Man ", "option ", "<seg>", "<answer>", "</answer>", "<answer>x</answer>", "e\u0301")


@pytest.mark.timeout(60)
@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("around", ["{}", "<answer>{}</answer>", "<answer>{}"])
def test_no_response_takes_long(text, around):
    response = around.format(text * 50_000)
    began_s = time.process_time()
    for read_by in (extract, extract_upstream):
        got = read_by(response, PEOPLE)
        assert got.choice is None or got.choice in PEOPLE
    strict_score(response, "Man", PEOPLE)
    assert time.process_time() - began_s < 5


def by_looking_at_all_pairs(text: str, choices: list[str]) -> set[str]:
    """The choices in a text of words, none of them inside a longer one; a choice does not overlap itself."""
    words, spans = text.split(), []
    for choice in choices:
        n, free = len(choice.split()), 0
        for i in range(len(words) - n + 1):
            if i >= free and words[i : i + n] == choice.split():
                spans.append((i, i + n, choice))
                free = i + n
    return {c for a, b, c in spans if not any(x <= a and b <= y and y - x > b - a for x, y, _ in spans)}


some_words = st.lists(st.sampled_from(["red", "dog", "big", "cat"]), min_size=1, max_size=3).map(" ".join)


more_words = st.lists(st.sampled_from(["red", "dog", "big", "cat", "so"]), min_size=2, max_size=9)


@given(more_words, st.sets(some_words, min_size=2, max_size=5))
def test_what_is_contained_is_the_one_choice_that_is_in_no_longer_one(words, choices):
    text = "so " + " ".join(words)
    named = by_looking_at_all_pairs(text, sorted(choices))
    assert read(text, tuple(sorted(choices))).choice == (named.pop() if len(named) == 1 else None)


texts = st.text(alphabet="aAbB .,*\"'()2é", max_size=6)


@given(texts, st.lists(texts, min_size=2, max_size=5))
def test_what_is_read_is_one_of_the_choices_and_both_rules_agree_on_a_right_one(answer, choices):
    got = read(answer, tuple(choices))
    assert got.choice is None or got.choice in choices
    for truth in choices:
        strict = strict_score(f"<answer>{answer}</answer>", truth, choices)
        if strict.correct:
            assert got.step is Step.EXACT and got.choice is not None and got.choice.strip() == truth.strip()
            assert official_match(got.choice, truth, choices) or not any(c.isalnum() for c in truth)


long_texts = st.text(alphabet="abcdefgh ", min_size=3, max_size=8).filter(lambda t: len(t.strip()) > 2)


@given(st.lists(long_texts, min_size=2, max_size=8))
def test_a_choice_given_verbatim_is_read(choices):
    for choice in choices:
        got = read(choice, tuple(choices))
        assert got.step is Step.EXACT and got.choice is not None and got.choice.strip() == choice.strip()


@given(texts)
def test_trimming_twice_is_trimming_once(text):
    assert trimmed(trimmed(text)) == trimmed(text)
