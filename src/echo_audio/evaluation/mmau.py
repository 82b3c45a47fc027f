"""MMAU: test-mini (1,000 questions with answers) and test (9,000 without), Sakshi113/MMAU."""

from __future__ import annotations

from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, blank_is_none, listed, text_of

_GROUPS = {"task": ("sound", "music", "speech"), "difficulty": ("easy", "hard", "medium"), "sub-category": ()}


def parse(fields: Fields) -> Record:
    """A record of either file. The audio is at `audio_id`, which is a path; `category` may be a list."""
    return Record(
        key=fields["id"],
        audio=fields["audio_id"],
        question=fields["question"],
        choices=listed(fields["choices"]),
        answer=blank_is_none(fields.get("answer")),
        groups={name: text_of(fields.get(name)) for name in (*_GROUPS, "category", "dataset")},
        fields=fields,
    )


MINI_VERSIONS = {
    "9f18fda99f8dbc2bc5ecd6323fb5063309f54969810b5c6f1caeb3b8d904cf1c": "mmau-v05.15.25@110127f5",
    "3940399a013d5f6d528ad4f5d1701cce29cdb5b19ccd4e6ab2800e0665dd6ac9": "mmau-v05.15.25@82f34fd",
    "5c63fe8f2de12e848be146e48436567c2022fe84ea0012da560003c30a24b2b7": "mmau-v05.15.25@b070fb3",
    "0bbabee60dcbd76815948394ac2dd31c41d18ab1215fe6fd6f93e0e510f78d7a": "mmau-v05.15.25@0a30c30",
    "e0042de8b99492539b0a17997b6c12fff90a6d42a47ad5fd8801c80dcb52b405": "mmau-v05.15.25@8415fc1",
    "157f1968a686c9e7ffb3669e13296349af72afe78af19c049e5d459ccb59d402": "mmau-v05.15.25@65c0574",
    "cc59d9e3fad1a675f311f341b53b05079b94e735e5bc8992ac881ebeda2976f5": "mmau-v05.15.25@8f62d71",
    "cafecebbb4e48b9eb83fd88916911a853245379812e08f118984510340b2dc5b": "mmau-v05.15.25@77fbb89",
    "ea9f3f53085a2dfcf9ea7f5b2fca76a6634cd212af084bbb4cd8bf22c8903537": "mmau-v05.15.25@2dcf44d",
    "9da96f00e43890adfbac3628b7b0dab3a32a6d6ec2d0a800b892ee261d35b818": "mmau-v05.15.25@f2017e3",
    "d35ec10bc3097fc605661b0eed00a487da74a6e7d9e23736567312c632347400": "mmau-v05.15.25@6674fa1",
    "e8cc09223b497191781756212cb616315690aaa6ea7ac359db1b65d97d1e2433": "mmau@1f675a9",
}
"""The current file and those it replaced, by their commits: "v05.15.25" is not one file, and scores on two of them differ."""

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
