"""MMAR: 1,000 questions, ddlBoJack/MMAR; the old list (.json) and the new lines (.jsonl)."""

from __future__ import annotations

from echo_audio.evaluation.benchmark import Benchmark, Fields, Record, blank_is_none, listed, text_of

MODALITIES = (
    "sound", "music", "speech", "mix-sound-music", "mix-sound-speech", "mix-music-speech", "mix-sound-music-speech",
)  # fmt: skip
LAYERS = ("Signal Layer", "Perception Layer", "Semantic Layer", "Cultural Layer")


def parse(fields: Fields) -> Record:
    """A record. The audio is at `audio_path`, which 46 times is not the id; `language` may be null."""
    return Record(
        key=fields["id"],
        audio=fields["audio_path"],
        question=fields["question"],
        choices=listed(fields["choices"]),
        answer=blank_is_none(fields.get("answer")),
        groups={name: text_of(fields.get(name)) for name in ("modality", "category", "sub-category", "language")},
        fields=fields,
    )


MMAR = Benchmark(
    name="mmar",
    title="MMAR",
    files=("MMAR-meta.jsonl", "MMAR-meta.json"),
    parse=parse,
    versions={
        "1c9a343e7bebf1037482b935c54eacd43cc63df7b2c668724b5560caf1f84fad": "mmar@3bce090a",
        "7240ecca11b252c782ef44d4d19f711dd9b8424656a2bc3f92c548e318d25cee": "mmar@6249700",
    },
    groups={"modality": MODALITIES, "category": LAYERS, "sub-category": ()},
    macro="modality",
    prediction_key="answer_prediction",
    n_published=1000,
    submission="submission.jsonl",
)
