"""Every question has the answer of its scene, every reasoning is true and well formed, no cue gives it away."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import pytest

from echo_audio.data import cues
from echo_audio.data.questions import KINDS
from echo_audio.data.questions.doubt import with_doubt, with_spoilt_audio
from echo_audio.data.render import Stock
from echo_audio.data.rows import KnownEvent, Row
from echo_audio.data.scene import Event, Scene, Sound, Source, Split
from echo_audio.data.scenes import KIND_NAMES, default_weights, draw_row, plan
from echo_audio.data.sounds import LABELS, ProceduralBank
from echo_audio.data.wording import NUMBERS, ORDINALS, TIMBRES, bare, loudness_text, pitch_text


class FakeDigits:
    """Spoken numbers without audio."""

    labels = tuple(f"the number {word}" for word in NUMBERS[:10])

    def labels_for(self, split: Split) -> tuple[str, ...]:
        return self.labels

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        return Sound(label, Source.DIGIT, variant=int(rng.integers(0, 5)))

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        return 0.3 + 0.1 * (sound.variant % 3), 0.3 + 0.1 * (sound.variant % 3)

    def samples(self, sound: Sound, n_samples: int) -> np.ndarray:
        raise NotImplementedError


STOCK = Stock({Source.PROCEDURAL: ProceduralBank(), Source.DIGIT: FakeDigits()})
ASKED = tuple(name for name, kind in KINDS.items() if not kind.training_only)
TAG = re.compile(r" <seg>(\d+\.\d), (\d+\.\d)</seg>")


@cache
def rows(kind: str, n: int = 200, split: Split = Split.TRAIN) -> tuple[tuple[Row, Scene], ...]:
    return tuple(draw_row(21, index, split, STOCK, kind) for index in range(n))


# ---------------------------------------------------------------------------------------------- form


@pytest.mark.parametrize("kind", KINDS)
def test_choices_hold_the_answer_once(kind: str) -> None:
    for row, _ in rows(kind):
        if KINDS[kind].training_only:
            assert row.choices == () and row.answer
        else:
            assert 2 <= len(row.choices) <= 5 and row.choices.count(row.answer) == 1
            assert len(set(row.choices)) == len(row.choices)


@pytest.mark.parametrize("kind", KINDS)
def test_segments_are_the_evidence_in_order(kind: str) -> None:
    for row, scene in rows(kind):
        assert row.reasoning is not None
        cited = [(float(a), float(b)) for a, b in TAG.findall(row.reasoning)]
        assert cited == [(event.start_s, event.end_s) for event in row.evidence]
        there = {(e.label, e.start_s, e.end_s) for e in scene.events}
        assert cited
        for e in row.evidence:
            if kind == "gap":  # pauses are listened to: from the end of one event to the start of the next, nothing within
                assert e.label == "silence"
                assert {e.start_s} <= {end for _, _, end in there} and {e.end_s} <= {start for _, start, _ in there}
                assert not [name for name, start, end in there if start < e.end_s and end > e.start_s]
            else:
                assert (e.label, e.start_s, e.end_s) in there
        assert row.reasoning.count("<seg>") == len(cited)


@pytest.mark.parametrize("kind", KINDS)
def test_reasoning_reads_on_after_a_segment_and_without_it(kind: str) -> None:
    for row, _ in rows(kind):
        assert row.reasoning is not None
        for found in TAG.finditer(row.reasoning):
            rest = row.reasoning[found.end() :]
            assert rest[0] in ",.;:" or rest[:2] == f" {rest[1].lower()}" or rest.startswith(" I "), row.reasoning
            assert row.reasoning[: found.start()].strip(), "a segment needs a reason before it"
        plain = TAG.sub("", row.reasoning)
        assert "<" not in plain and "{" not in plain and "  " not in plain
        assert re.fullmatch(r"[A-Z0-9][^<>]*\.", plain), plain
        assert all(sentence[:1].isupper() or sentence[:1].isdigit() for sentence in re.split(r"(?<=[a-z])\. ", plain)), plain
        assert not re.search(r" [,.;:]|\b(\w+) \1\b", plain), plain


def test_reasonings_have_the_length_of_speech() -> None:
    words = [len((row.reasoning or "").split()) for kind in ASKED for row, _ in rows(kind)]
    assert 40 <= np.median(words) <= 60
    assert np.percentile(words, 2) >= 18 and max(words) <= 140


def test_no_template_is_common() -> None:
    kinds, _ = plan(5, 4_000, Split.TRAIN, default_weights(STOCK, Split.TRAIN))
    drawn = [draw_row(5, index, Split.TRAIN, STOCK, KIND_NAMES[kind])[0] for index, kind in enumerate(kinds)]
    labels = "|".join([*LABELS, *(bare(label) for label in FakeDigits.labels)])
    shapes = Counter(re.sub(rf"\b({labels})\b", "_", cues.masked(row.reasoning or "", row)) for row in drawn)
    assert shapes.most_common(1)[0][1] / len(drawn) <= 0.02, shapes.most_common(3)


@pytest.mark.parametrize("kind", KINDS)
def test_no_template_is_common_within_a_kind(kind: str) -> None:
    shapes = Counter(cues.masked(row.reasoning or "", row) for row, _ in rows(kind))
    assert shapes.most_common(1)[0][1] / 200 <= (0.1 if KINDS[kind].training_only else 0.03), shapes.most_common(2)


@pytest.mark.parametrize("kind", KINDS)
def test_questions_are_worded_in_six_ways_or_more(kind: str) -> None:
    assert len({cues.masked(row.question, row) for row, _ in rows(kind)}) >= 6


# ------------------------------------------------------------------------------- truth, found again from the scene


def named(text: str, scene: Scene) -> list[str]:
    """Labels of the scene in the order in which a text names them."""
    found = [
        (match.start(), label)
        for label in {e.label for e in scene.events}
        if (match := re.search(rf"\b{re.escape(label)}\b", text, re.I))
    ]
    return [label for _, label in sorted(found)]


def only(label: str, scene: Scene) -> Event:
    (event,) = [e for e in scene.events if e.label == label]
    return event


def after(row: Row, scene: Scene) -> str:
    anchor = only(named(row.question, scene)[0], scene)
    return bare(min((e for e in scene.events if e.start_s >= anchor.end_s), key=lambda e: e.start_s).label)


def before(row: Row, scene: Scene) -> str:
    anchor = only(named(row.question, scene)[0], scene)
    return bare(max((e for e in scene.events if e.end_s <= anchor.start_s), key=lambda e: e.end_s).label)


def between(row: Row, scene: Scene) -> str:
    left, right = sorted((only(label, scene) for label in named(row.question, scene)), key=lambda e: e.start_s)
    (inside,) = [e for e in scene.events if left.end_s <= e.start_s and e.end_s <= right.start_s]
    return bare(inside.label)


def extreme(key: Callable[[Event], float]) -> Callable[[Row, Scene], str]:
    return lambda row, scene: bare(min((e for e in scene.events if bare(e.label) in row.choices), key=key).label)


def at_time(row: Row, scene: Scene) -> str:
    (time,) = re.findall(r"\d+\.\d", row.question)
    (event,) = [e for e in scene.events if e.start_s < float(time) < e.end_s]
    return bare(event.label)


def together(row: Row, scene: Scene) -> str:
    anchor = only(named(row.question, scene)[0], scene)
    (other,) = [e for e in scene.events if e is not anchor and e.segment.overlap_s(anchor.segment) > 0.01]
    return bare(other.label)


def sized(row: Row, scene: Scene, size: Callable[[str], float]) -> str:
    if re.search(r"\blonger\b|\bshorter\b", row.question):
        return (max if "longer" in row.question else min)(row.choices, key=size)
    reference = row.question if "between" in row.question else bare(named(row.question, scene)[0])
    (match,) = [choice for choice in row.choices if abs(size(choice) - size(reference)) < 0.01]
    return match


def duration(row: Row, scene: Scene) -> str:
    def size(choice: str) -> float:
        (event,) = [e for e in scene.events if bare(e.label) == choice]
        return event.end_s - event.start_s

    return sized(row, scene, size)


def gap(row: Row, scene: Scene) -> str:
    def size(text: str) -> float:
        left, right = sorted((only(label, scene) for label in named(text, scene)), key=lambda e: e.start_s)
        assert not [e for e in scene.events if left.end_s <= e.start_s and e.end_s <= right.start_s]
        return right.start_s - left.end_s

    return sized(row, scene, size)


def count(row: Row, scene: Scene) -> str:
    return NUMBERS[sum(e.label == named(row.question, scene)[0] for e in scene.events)]


def heard(values: Callable[[Event], float], more: str, less: str) -> Callable[[Row, Scene], str]:
    """The answer about a sound that is heard more than once."""

    def answer(row: Row, scene: Scene) -> str:
        repeats = [e for e in scene.events if e.label == row.evidence[0].label]
        got = [values(e) for e in repeats]
        if set(re.findall(r"\w+", row.question)) & {more, less}:
            rank = got.index(
                (
                    max
                    if more in row.question.split() or f"{more}?" in row.question.split() or f"{more}," in row.question
                    else min
                )(got)
            )
        elif "ifferent" in " ".join(row.choices):
            same = got[0] == got[1]
            (fit,) = [c for c in row.choices if ("same" in c) == same]
            return fit
        else:
            (rank,) = [i for i, value in enumerate(got) if i > 0 and value == got[0]]
        (fit,) = [c for c in row.choices if ORDINALS[rank] in c]
        return fit

    return answer


def pulses(row: Row, scene: Scene) -> str:
    return NUMBERS[only(named(row.question, scene)[0], scene).sound.pulses]


def rhythm(row: Row, scene: Scene) -> str:
    return only(named(row.question, scene)[0], scene).sound.rhythm.value


def faint(row: Row, scene: Scene) -> str:
    loud = only(named(row.question, scene)[0], scene)
    return after(row, scene) if re.search(r"\bafter\b", row.question) else before(row, scene) if loud else ""


def digit(row: Row, scene: Scene) -> str:
    if re.search(r"\d", row.question):
        return at_time(row, scene)
    return after(row, scene) if re.search(r"\bafter\b", row.question) else before(row, scene)


ORACLES: dict[str, Callable[[Row, Scene], str]] = {
    "after": after,
    "before": before,
    "between": between,
    "first": extreme(lambda e: e.start_s),
    "last": extreme(lambda e: -e.start_s),
    "at_time": at_time,
    "together": together,
    "duration": duration,
    "gap": gap,
    "count": count,
    "loudness": heard(lambda e: e.level_db, "louder", "softer"),
    "timbre": heard(lambda e: e.sound.timbre, "-", "-"),
    "pitch": heard(lambda e: e.sound.semitones, "higher", "lower"),
    "pulses": pulses,
    "rhythm": rhythm,
    "faint": faint,
    "digit": digit,
}


@pytest.mark.parametrize("kind", ORACLES)
def test_the_answer_is_what_the_scene_says(kind: str) -> None:
    for row, scene in rows(kind):
        assert ORACLES[kind](row, scene) == row.answer, (row.question, row.choices, row.events)


def test_counts_between_are_what_the_scene_says() -> None:
    for row, scene in rows("count_between"):
        words = r"the ((?:number )?\w+)"
        patterns = [
            rf"{words}.*(?:between|From) {words} and {words}",
            rf"Between {words} and {words}.*hear {words}",
            rf"After {words} and before {words}.*is {words}",
            rf"Once {words} is over and until {words} starts.*is {words}",
            rf"From {words} to {words}.*times {words}",
        ]
        at = next(
            i
            for i, pattern in enumerate(patterns)
            if re.search(pattern, row.question) and (i or not row.question.startswith(("Between", "From")))
        )
        found = re.search(patterns[at], row.question)
        assert found is not None
        x, y, z = found.groups() if at == 0 else (found[3], found[1], found[2])
        full = {e.label.removeprefix("the "): e.label for e in scene.events}
        left, right = only(full[y], scene), only(full[z], scene)
        inside = [e for e in scene.events if left.start_s < e.start_s < right.start_s and e.label == full.get(x)]
        assert NUMBERS[len(inside)] == row.answer


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("loudness", lambda e: loudness_text(e.level_db)),
        ("timbre", lambda e: TIMBRES[e.sound.timbre]),
        ("pitch", lambda e: pitch_text(e.sound.semitones)),
        ("digit", lambda e: bare(e.label)),
    ],
)
def test_what_is_heard_is_named_after_each_segment(kind: str, name: Callable[[Event], str]) -> None:
    for row, scene in rows(kind):
        assert row.reasoning is not None
        spans = {(e.start_s, e.end_s): e for e in scene.events}
        parts = TAG.split(row.reasoning)
        for start, end, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            event = spans[float(start), float(end)]
            if kind != "digit" or event.sound.source is Source.DIGIT:
                assert re.search(rf"\b{name(event)}\b", text), (row.reasoning, event)


@pytest.mark.parametrize("kind", ASKED)
def test_what_is_said_of_length_and_place_is_true(kind: str) -> None:
    for row, scene in rows(kind):
        spans = {(e.start_s, e.end_s): e for e in scene.events}
        parts = TAG.split(row.reasoning or "")
        for start, end, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            if kind == "gap":
                assert f" {float(end) - float(start):.1f} s" in text
                continue
            event = spans[float(start), float(end)]
            said = re.split(r"(?<=[a-z])\. (?!(?:It|The|This|That) (?:is|sounds|sound)\b)", text)[0].lower()
            lasts = event.end_s - event.start_s
            middle = (event.start_s + event.end_s) / 2 / scene.duration_s
            words = set(re.findall(r"medium long|\bshort\b|\blong\b|early on|in the middle|near the end", said))
            word = "short" if lasts < 0.65 else "long" if lasts > 1.45 else "medium long"
            lies = "early on" if middle < 0.33 else "in the middle" if middle < 0.67 else "near the end"
            assert words <= {word, lies}, (row.reasoning, text)


def test_a_faint_sound_is_where_one_can_know_it_and_nowhere_else() -> None:
    for row, scene in rows("faint"):
        loud, soft = (next(e for e in scene.events if (e.label, e.start_s) == (k.label, k.start_s)) for k in row.evidence)
        distance = soft.start_s - loud.end_s if soft.start_s > loud.start_s else loud.start_s - soft.end_s
        assert abs(distance - 0.2) < 1e-6 and abs(soft.end_s - soft.start_s - 1.0) < 1e-6
        assert 68 <= loud.level_db - soft.level_db <= 76 and scene.background_db < soft.level_db - 20
        assert [bare(e.label) for e in scene.events if bare(e.label) in row.choices] == [row.answer]


def test_the_list_names_every_event() -> None:
    for row, scene in rows("list"):
        assert [(e.start_s, e.end_s) for e in row.evidence] == [(e.start_s, e.end_s) for e in scene.events]
        assert re.split(r", | and ", row.answer) == [bare(e.label) for e in scene.events]
    for row, _ in rows("locate"):
        assert row.answer == f"{row.evidence[0].start_s:.1f} to {row.evidence[0].end_s:.1f} s"


# ---------------------------------------------------------------------------------------------- balance and cues


@pytest.mark.parametrize("kind", ASKED)
def test_answers_stand_at_every_place_equally_often(kind: str) -> None:
    drawn = rows(kind, 2_000, Split.TEST)
    for width in {len(row.choices) for row, _ in drawn}:
        places = Counter(row.choices.index(row.answer) for row, _ in drawn if len(row.choices) == width)
        total = sum(places.values())
        if total >= 100:
            spread = 4 * np.sqrt(total * (1 / width) * (1 - 1 / width))
            assert all(abs(places[i] - total / width) < spread for i in range(width))


@pytest.mark.parametrize("kind", ASKED)
def test_neither_the_text_nor_a_single_cue_tells_the_answer(kind: str) -> None:
    """Within three standard errors of chance; the best rules are chosen on other rows than they are tested on."""
    drawn = rows(kind, 2_000, Split.TEST)
    for cue in (cues.text_cue(kind, drawn), cues.sound_cue(kind, drawn)):
        assert cue.excess < 3.0, cue


@pytest.mark.parametrize("kind", ASKED)
def test_a_single_cue_with_the_question_gains_little(kind: str) -> None:
    """Of two numbers from a bounded range the larger one is more often the larger: some points cannot be avoided."""
    cue = cues.sound_cue(kind, rows(kind, 2_000, Split.TEST), with_question=True)
    assert cue.accuracy < cue.chance + 0.08, cue


def test_the_cue_table_finds_a_planted_cue() -> None:
    def planted(pair: tuple[Row, Scene]) -> tuple[Row, Scene]:
        """The first is said to be louder where the second is soft: its level alone tells."""
        row, scene = pair
        _, second = (e for e in scene.events if e.label == row.evidence[0].label)
        answer = ("the first", "the second")[second.level_db > -34.0]
        return row.model_copy(update={"choices": ("the first", "the second"), "answer": answer}), scene

    pairs = [
        planted(p)
        for p in rows("loudness", 2_000, Split.TEST)
        if sum(e.label == p[0].evidence[0].label for e in p[1].events) == 2
    ]
    assert cues.sound_cue("loudness", pairs).excess > 3
    always_first = [(row.model_copy(update={"answer": row.choices[0]}), scene) for row, scene in rows("after", 2_000, Split.TEST)]
    assert cues.text_cue("after", always_first).accuracy > 0.95


# ---------------------------------------------------------------------------------------------- doubt


def sounding(row: Row, start_s: float, end_s: float) -> Sequence[KnownEvent]:
    return [e for e in row.events if min(e.end_s, end_s) - max(e.start_s, start_s) > 0.01]


@pytest.mark.parametrize("kind", KINDS)
def test_doubt_puts_one_wrong_segment_first_and_says_so(kind: str) -> None:
    rng = np.random.default_rng(4)
    for row, _ in rows(kind)[:80]:
        doubted = with_doubt(row, rng)
        if doubted is None:
            continue
        assert doubted.reasoning is not None
        tags = [(float(a), float(b)) for a, b in TAG.findall(doubted.reasoning)]
        at = doubted.provenance["doubt"]
        start_s, end_s = tags.pop(at)
        right = row.evidence[at]
        assert tags == [(e.start_s, e.end_s) for e in row.evidence]
        assert 0 <= start_s < end_s <= row.duration_s and (start_s, end_s) != (right.start_s, right.end_s)
        remark = TAG.split(doubted.reasoning)[3 * at + 3]
        there = sounding(row, start_s, end_s)
        if re.search("nothing|empty|only background|no sound|pause", remark):
            assert not there
        elif re.search("cut off|only a part|borders|not hear all|not complete", remark):
            assert right in there
        else:
            assert len(there) == 1 and there[0].label in remark
        assert doubted.answer == row.answer and not re.search(r"[{}]", doubted.reasoning)


def test_spoilt_audio_is_marked_and_only_where_the_answer_is_still_known() -> None:
    rng = np.random.default_rng(4)
    for kind in KINDS:
        for row, _ in rows(kind)[:40]:
            spoilt = with_spoilt_audio(row, rng)
            if KINDS[kind].in_sound or KINDS[kind].training_only:
                assert spoilt is None
            elif spoilt is not None:
                ((at, how),) = spoilt.provenance["corrupt"].items()
                assert how in ("silence", "swap") and 0 <= int(at) < len(row.evidence)
                assert spoilt.answer == row.answer and spoilt.reasoning is not None
                assert re.search("first|memory", TAG.split(spoilt.reasoning)[3 * int(at) + 3])
