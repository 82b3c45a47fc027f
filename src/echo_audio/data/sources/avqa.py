"""AVQA: questions about videos, with choices and without times; those about what is heard are taken as they are, for RL.

A JSON list: video_name, question_text, multi_choice, answer (its index), question_relation (View, Sound, Both), question_type.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from echo_audio.data.sources.base import Asked, AudioFolder, Labelled, Skipped, loader, read_entries
from echo_audio.errors import DataError

_VIDEO = re.compile(r"\bvideos?\b", re.IGNORECASE)


class Avqa:
    """Questions of AVQA.

    Args:
        labels: train_qa.json.
        audio: the folder of the videos' sound; files are called as the videos are, with or without the letter Y before.
        relations: which questions to take, by what they are about.

    Raises:
        DataError: a file is missing or holds something else.
    """

    def __init__(self, labels: Path, audio: Path, relations: tuple[str, ...] = ("Sound", "Both")) -> None:
        self.entries, self.folder, self.relations = read_entries(labels), AudioFolder(audio), relations
        if not any(isinstance(entry, dict) and "question_text" in entry for entry in self.entries):
            raise DataError(f"{labels} holds no entries with question_text; give AVQA's train_qa.json")

    def items(self) -> Iterator[Labelled | Skipped]:
        """Each question."""
        for number, entry in enumerate(self.entries, 1):
            name = entry.get("video_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name:
                yield Skipped(f"entry-{number}", "entry has no video_name")
                continue
            item_id = f"{name}-{entry.get('id', number)}"
            relation = str(entry.get("question_relation"))
            path = self.folder.find((name, f"Y{name}"))
            asked = _asked(entry)
            if relation not in self.relations:
                yield Skipped(item_id, f"asks about what is not wanted: {relation}")
            elif asked is None:
                yield Skipped(item_id, "question has no choices, or no answer among them")
            elif path is None:
                yield Skipped(item_id, "is asked about, but there is no audio of it")
            else:
                origin = {"data": "AVQA", "video": name, "relation": relation}
                yield Labelled(item_id, loader(path), asked=asked, origin=origin)


def _asked(entry: Mapping[str, Any]) -> Asked | None:
    """The question, about a recording instead of a video; None where it does not hold together."""
    text, choices, answer = (entry.get(key) for key in ("question_text", "multi_choice", "answer"))
    if not isinstance(text, str) or not isinstance(choices, list) or not isinstance(answer, int) or isinstance(answer, bool):
        return None
    texts = tuple(" ".join(str(choice).split()) for choice in choices)
    if not text.strip() or not 0 <= answer < len(texts):
        return None
    kind = str(entry.get("question_type") or "asked").lower()
    return Asked(_VIDEO.sub(_recording, " ".join(text.split())), texts, texts[answer], kind)


def _recording(found: re.Match[str]) -> str:
    word = "recordings" if found[0].lower().endswith("s") else "recording"
    return word.capitalize() if found[0][0].isupper() else word
