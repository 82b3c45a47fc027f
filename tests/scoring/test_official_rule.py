"""The official rule against the shared vectors, and against its words written out another way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from echo_audio.scoring.answers import official_match

VECTORS = Path(__file__).parents[3] / "shared" / "data" / "scorer_vectors.json"


@pytest.mark.skipif(not VECTORS.is_file(), reason=f"the official scorer's vectors are not at {VECTORS}")
def test_every_vector_of_the_official_scorer():
    vectors = json.loads(VECTORS.read_text(encoding="utf-8"))
    said = [official_match(v["prediction"], v["answer"], v["choices"]) for v in vectors]
    wrong = [v for v, one in zip(vectors, said, strict=True) if one is not v["official_correct"]]
    assert vectors and not wrong


@pytest.mark.parametrize(
    ("prediction", "answer", "choices", "right"),
    [
        ("two bells", "bell two", ("bell two", "three"), False),
        ("a bell, or two", "two bell", ("two bell", "three"), True),
        ("the 1.3 of it", "3.1", ("3.1", "2"), True),
        ("owl, not a crow", "owl", ("owl", "crow"), False),
        ("owl", "an owl", ("an owl", "a crow"), False),
        ("", "", ("x",), False),
        ("anything", "", ("x",), True),
        ("x", "", ("x",), False),
        ("OWL owl", "Owl", ("owl!", "Owl", "owl owl"), True),
    ],
)
def test_by_hand(prediction, answer, choices, right):
    assert official_match(prediction, answer, choices) is right


def words(text: str) -> list[str]:
    """Runs of word characters, letter by letter."""
    spaced = "".join(c if c.isalnum() or c == "_" else " " for c in text.lower())
    return [word for word in spaced.split(" ") if word]


def by_the_words_of_the_rule(prediction: str, answer: str, choices: list[str]) -> bool:
    said, truth = words(prediction), words(answer)
    if not said:
        return False
    for word in truth:
        if word not in said:
            return False
    for choice in choices:
        same = all(w in truth for w in words(choice)) and all(w in words(choice) for w in truth)
        for word in words(choice):
            if not same and word not in truth and word in said:
                return False
    return True


vocabulary = st.sampled_from(["a", "A", "the", "man", "woman", "2", "5", "_", "é", "İ", "²", "鐘", "ſ"])
gaps = st.sampled_from([" ", "-", ".", "'", "", ", ", "\n"])
texts = st.one_of(
    st.lists(st.tuples(vocabulary, gaps), max_size=4).map(lambda x: "".join(a + b for a, b in x)), st.text(max_size=8)
)


@given(texts, texts, st.lists(texts, max_size=5))
def test_it_agrees_with_the_words_of_the_rule(prediction, answer, others):
    for choices in (others, [answer, *others]):
        expected = by_the_words_of_the_rule(prediction, answer, choices)
        assert official_match(prediction, answer, choices) is expected
