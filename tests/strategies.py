"""Random text in the tag language, random turns, and random histories of a transcript (hypothesis)."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from echo_audio import tags
from echo_audio.audio import Segment
from echo_audio.listen import Limits, Turn, TurnStop, advance
from echo_audio.transcript import Author, Stop, Transcript, What, Written

DURATION_S = 10.0

Operation = Callable[[Transcript], Transcript]

fragments = st.one_of(
    st.sampled_from(
        ["<think>", "</think>", "<seg>", "</seg>", "</seg", ">", ">.", "<answer>", "</answer>", "1.2", ", ", "3.4",
         "-1", "1.2.3", "99", "\n", " ", "<", "nan", "a dog", "<seg>1, 2</seg>", "<seg>8, 12</seg>", "<seg>3, 2</seg>"]
    ),
    st.text(max_size=4),
)  # fmt: skip
texts = st.lists(fragments, max_size=12).map("".join)

segments = st.tuples(st.floats(0, DURATION_S - 0.1), st.floats(0.05, DURATION_S)).map(
    lambda pair: Segment(pair[0], min(DURATION_S, pair[0] + pair[1]))
)
_ids = st.integers(0, 200_000)
_logprobs = st.floats(-50, 0)


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    """What an engine may hand back: pieces up to the one that completes `</seg>`, or an end, or a limit."""
    pieces = draw(st.lists(fragments, max_size=8))
    stop = draw(st.sampled_from([TurnStop.END, TurnStop.LENGTH]))
    for i in range(1, len(pieces) + 1):
        if tags.SEG_CLOSE in "".join(pieces[:i]):
            pieces, stop = pieces[:i], TurnStop.TEXT
            break
    if stop is TurnStop.END:
        pieces = [*pieces, ""]
    n = len(pieces)
    ids, logprobs = draw(st.lists(_ids, min_size=n, max_size=n)), draw(st.lists(_logprobs, min_size=n, max_size=n))
    return Turn(tuple(ids), tuple(logprobs), tuple(pieces), stop)


limits = st.builds(
    Limits,
    max_turns=st.integers(1, 6),
    max_relistens=st.integers(0, 3),
    max_relisten_s=st.floats(0, 30),
    max_new_tokens=st.integers(1, 40),
    min_segment_s=st.floats(0.025, 1),
    skip_repeats=st.booleans(),
)


@st.composite
def written(draw: st.DrawFn) -> Written:
    """Text of the model or of the harness, with or without ids and log-probabilities."""
    author = draw(st.sampled_from([Author.MODEL, Author.HARNESS]))
    ids = draw(st.none() | st.lists(_ids, max_size=5).map(tuple))
    given = ids is not None and draw(st.booleans())
    logprobs = tuple(draw(_logprobs) for _ in ids or ()) if given else None
    return Written(draw(texts), author, ids, logprobs)


def _operation(make: Callable[..., Operation], *parts: st.SearchStrategy[object]) -> st.SearchStrategy[Operation]:
    return st.tuples(*parts).map(lambda values: make(*values))


operations: st.SearchStrategy[Operation] = st.one_of(
    _operation(lambda turn, how: lambda t: advance(t, turn, how), turns(), limits),
    _operation(lambda span: lambda t: t.say(span), written()),
    _operation(lambda segment: lambda t: t.hear(segment), segments),
    _operation(lambda what, detail: lambda t: t.note(what, detail), st.sampled_from(What), texts),
    _operation(lambda stop: lambda t: t.finish(stop), st.sampled_from(Stop)),
)
