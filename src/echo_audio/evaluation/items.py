"""The questions of a benchmark with their audio, decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from echo_audio.audio import load, rate_and_channels
from echo_audio.data.rows import Row
from echo_audio.errors import AudioError, DataError, QuestionError
from echo_audio.evaluation.base import Item
from echo_audio.evaluation.benchmark import Loaded, Record, find_audio


class BenchmarkItems:
    """Items over a question file.

    Args:
        loaded: the question file.
        n: ask the first `n` questions only.
        max_duration_s: longer recordings are refused, in seconds.
    """

    def __init__(self, loaded: Loaded, n: int | None = None, *, max_duration_s: float = 3600.0) -> None:
        self.loaded, self.max_duration_s = loaded, max_duration_s
        self.records: Sequence[Record] = loaded.records[:n]

    def __len__(self) -> int:
        """Number of questions."""
        return len(self.records)

    def key(self, index: int) -> str:
        """Id of the record."""
        return self.records[index].key

    def groups(self, index: int) -> dict[str, str]:
        """The groups of a question, without touching its audio."""
        return self.records[index].groups

    def item(self, index: int, with_other: bool = False) -> Item:
        """The question with its recording; the other recording is the next question's.

        Raises:
            QuestionError: the record is no question.
            AudioError: the recording is missing or cannot be used.
            DataError: its path leads out of the folder.
            MissingExtraError: its format needs the extra `m4a`.
        """
        record = self.records[index]
        if record.trouble:
            raise QuestionError(f"{record.trouble}; mend the question file")
        path = self._file(record)
        recording = load(path, max_duration_s=self.max_duration_s, allow_silent=True)
        rate_hz, n_channels = rate_and_channels(path)
        row = Row(
            id=record.key,
            kind=record.groups.get(self.loaded.benchmark.macro, ""),
            question=record.question,
            choices=record.choices,
            answer=record.answer or "",
            audio_id=recording.id,
            duration_s=recording.duration_s,
        )
        other = None
        if with_other:
            other = load(self._file(self._next(index)), max_duration_s=self.max_duration_s, allow_silent=True)
        facts = {"path": record.audio, "rate_hz": rate_hz, "n_channels": n_channels}
        return Item(row, recording, other, record.groups, facts, self.loaded.benchmark.rule)

    def _next(self, index: int) -> Record:
        """The next question of which there is one."""
        some = [*self.records[index + 1 :], *self.records[: index + 1]]
        return next(record for record in some if not record.trouble)

    def _file(self, record: Record) -> Path:
        """Where the recording of a question lies.

        Raises:
            AudioError: something else lies there, such as a pipe, on which reading would wait for ever.
            DataError: the path leads out of the folder.
        """
        path = find_audio(self.loaded.folder, record.audio)
        if not _is_there(path) and _exists(path):
            raise AudioError(f"'{path}' is no file; put the recording there")
        return path

    def missing(self) -> list[str]:
        """Paths of the recordings that are not there, or may not be read."""
        return [record.audio for record in self.records if not record.trouble and not self._has(record)]

    def why_missing(self) -> str:
        """Of the first that is missing: that it is not there, or why it may not be read."""
        path = self.missing()[0]
        try:
            find_audio(self.loaded.folder, path)
        except DataError as error:
            return str(error)
        return f"{path} is not in {self.loaded.folder}"

    def _has(self, record: Record) -> bool:
        try:
            return _is_there(find_audio(self.loaded.folder, record.audio))
        except DataError:
            return False


def _is_there(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that is too long
        return False


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return False
