"""Where the recording of a saved transcript is. Whatever is found must have the content hash that the transcript names.

So a file of transcripts from somebody else cannot make this machine show a sound that its writer did not have already.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from echo_audio.audio import Recording, load
from echo_audio.data.render import Stock, render
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.store import audio_path
from echo_audio.errors import AudioError, DataError, MissingExtraError
from echo_audio.studio.saved import Opened

_SCENE = re.compile(r"scenes-(train|test)-(\d{1,18})-(\d{1,12})")


class Sources:
    """Finds recordings.

    Args:
        folders: where to look: folders of audio, stores, data of benchmarks.
        stock: the sounds that scenes are drawn from; scenes need no file.
    """

    def __init__(self, folders: Sequence[Path], stock: Stock | None = None) -> None:
        self._folders, self._stock = tuple(folders), stock

    def recording(self, saved: Opened) -> Recording | None:
        """The recording a transcript is about; None where it is not here."""
        wanted = saved.transcript.question.recording_id
        for path in self._places(saved):
            try:
                recording = load(path, allow_silent=True) if path.is_file() else None
            except (AudioError, MissingExtraError, OSError, ValueError):  # ValueError: a path with a null byte
                continue
            if recording is not None and recording.id == wanted:
                return recording
        drawn = self._drawn(saved)
        return drawn if drawn is not None and drawn.id == wanted else None

    def _places(self, saved: Opened) -> Iterator[Path]:
        question, audio = saved.transcript.question, saved.line.get("audio")
        named = audio.get("path") if isinstance(audio, dict) else question.meta.get("audio")
        beside = saved.entry.path.parent
        for folder in (*self._folders, beside):
            with contextlib.suppress(DataError):
                yield audio_path(folder, question.recording_id)
            if isinstance(named, str) and named and "\0" not in named and len(named) < 4096:
                yield folder / named
                yield folder / Path(named).name
        if isinstance(named, str) and named and "\0" not in named and len(named) < 4096:
            yield Path(named)

    def _drawn(self, saved: Opened) -> Recording | None:
        """A scene, drawn again."""
        question = saved.transcript.question
        row, kind = question.meta.get("row"), question.meta.get("kind")
        found = _SCENE.match(row) if isinstance(row, str) else None
        if found is None or not isinstance(kind, str) or self._stock is None:
            return None
        try:
            _, scene = draw_row(int(found[2]), int(found[3]), Split(found[1]), self._stock, kind, question.duration_s)
            return render(scene, self._stock)
        except DataError:
            return None
