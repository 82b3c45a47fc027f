"""The recordings that ship with Echo: four drawn scenes with a question each, made here from procedural sounds.

`echo-audio demo --write src/echo_audio/demo` writes them. They are ours and in the public domain (CC0-1.0). Their
sounds are of the test split, so no training has seen these variants; the draws were chosen by hand, to be short, of
different kinds, and such that the shipped model answers them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from echo_audio.audio import encode_flac
from echo_audio.data.render import Stock, render
from echo_audio.data.rows import Row
from echo_audio.data.scene import Source, Split
from echo_audio.data.scenes import draw_row, with_audio
from echo_audio.data.sounds import ProceduralBank

LICENCE = "CC0-1.0"
QUESTIONS = "questions.jsonl"
SEED = 4_611
"""Of the demo alone: neither training nor the published test draws from it."""


@dataclass(frozen=True, slots=True)
class Pick:
    """One recording of the demo: the arguments of `draw_row`."""

    name: str
    kind: str
    index: int
    duration_s: float


PICKS = (
    Pick("what-comes-after", "after", 0, 6.0),
    Pick("which-is-as-loud", "loudness", 5, 7.0),
    Pick("which-pitch-again", "pitch", 1, 8.0),
    Pick("which-sounds-alike", "timbre", 6, 8.0),
)


def write_demo(folder: Path) -> tuple[Row, ...]:
    """Draw and write the recordings (FLAC) and `questions.jsonl`, in the form that `echo-audio ask --questions` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    stock = Stock({Source.PROCEDURAL: ProceduralBank()})
    rows: list[Row] = []
    lines: list[str] = []
    for pick in PICKS:
        row, scene = draw_row(SEED, pick.index, Split.TEST, stock, pick.kind, pick.duration_s)
        recording = render(scene, stock)
        (folder / f"{pick.name}.flac").write_bytes(encode_flac(recording))
        rows.append(with_audio(row, recording.id))
        lines.append(json.dumps(_line(pick, rows[-1]), ensure_ascii=False))
    (folder / QUESTIONS).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return tuple(rows)


def _line(pick: Pick, row: Row) -> dict[str, Any]:
    return {
        "audio": f"{pick.name}.flac",
        "question": row.question,
        "choices": list(row.choices),
        "answer": row.answer,
        "kind": row.kind,
        "audio_id": row.audio_id,
        "licence": LICENCE,
    }
