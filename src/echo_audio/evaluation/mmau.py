"""MMAU: test-mini (1,000 questions with answers) and test (9,000 without), Sakshi113/MMAU."""

from __future__ import annotations

from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, blank_is_none, text_of

_GROUPS = {"task": ("sound", "music", "speech"), "difficulty": ("easy", "hard", "medium"), "sub-category": ()}


def parse(fields: Fields) -> Record:
    """A record of either file. The audio is at `audio_id`, which is a path; `category` may be a list."""
    return Record(
        key=fields["id"],
        audio=fields["audio_id"],
        question=fields["question"],
        choices=tuple(fields["choices"]),
        answer=blank_is_none(fields.get("answer")),
        groups={name: text_of(fields.get(name)) for name in (*_GROUPS, "category", "dataset")},
        fields=fields,
    )


MINI_VERSIONS = {"9f18fda99f8dbc2bc5ecd6323fb5063309f54969810b5c6f1caeb3b8d904cf1c": "mmau-v05.15.25@110127f5"}

MMAU_MINI = Benchmark(
    name="mmau-mini",
    title="MMAU test-mini",
    files=("mmau-test-mini.json",),
    parse=parse,
    versions=MINI_VERSIONS,
    groups=_GROUPS,
    macro="task",
    prediction_key="model_output",
    n_published=1000,
)

MMAU = Benchmark(
    name="mmau",
    title="MMAU test",
    files=("mmau-test.json",),
    parse=parse,
    versions={},  # the file was not at hand when this was written: every hash is reported as unknown
    groups=_GROUPS,
    macro="task",
    prediction_key="model_output",
    n_published=9000,
)
