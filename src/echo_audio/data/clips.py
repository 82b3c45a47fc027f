"""Recorded clips as a `Bank`: a manifest of labelled files, or one packed file that travels to another machine.

A clip is cut to what is heard and brought to the 0.1 s grid by at most 0.05 s of speed change, so that the end of a
spoken word is not lost. Training and testing never share a file, the same samples under another name, or a speaker.
Variation for training is part of the `Sound`: semitones shift pitch and speed together, timbre is one of four filters.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from echo_audio import audio
from echo_audio.audio import SAMPLE_RATE, Recording, Samples
from echo_audio.data.manifests import ClipRow, by_label_and_path, checked_segment, fsdd_manifest, read_manifest, thin
from echo_audio.data.scene import Sound, Source, Split
from echo_audio.data.sounds import SampleCache, unit_level
from echo_audio.errors import AudioError, DataError

__all__ = ["Clip", "ClipBank", "ClipRow", "fsdd_manifest", "load_bank", "read_manifest", "save_bank", "thin"]

MAX_CLIP_S = 3.0
MIN_CLIP_S = 0.2
CUTS_S = (0.6, 1.4)
"""A long clip is also there as its first 0.6 and 1.4 s: a thunder of 3 s would hardly ever fit into a short recording,
and what is learned of it would be a matter of its length. Words are never cut."""
MAX_SHIFT = 3
"""Largest pitch shift in semitones that training draws use."""
N_FILTERS = 4
"""0 none, 1 low-pass, 2 high-pass, 3 tilted."""

# an edge this far under the loudest 20 ms counts as silence; a word's "s" or "f" is faint and still part of it
_FLOOR_DB = {Source.CLIP: -30.0, Source.DIGIT: -36.0}
_FRAME = SAMPLE_RATE // 50
_PAUSE_FRAMES = 10
_GRID = SAMPLE_RATE // 10
_MAX_PACK_BYTES = 512 * 2**20
_PACK_FORMAT = "echo-audio clips 1"


@dataclass(frozen=True, slots=True, eq=False)
class Clip:
    """A decoded clip, cut to what is heard: int16 samples at 16 kHz, a whole number of tenths of a second."""

    row: ClipRow
    split: Split
    samples: NDArray[np.int16]
    whole: bool = True
    """False for a cut: the beginning of another clip of the bank."""

    @property
    def length_s(self) -> float:
        """Length on the 0.1 s grid."""
        return round(self.samples.size / SAMPLE_RATE, 1)


# ---------------------------------------------------------------------------------------------- decoding


def _file(row: ClipRow, root: Path) -> Path:
    """The file of a row, which must lie inside the root."""
    name = PurePosixPath(row.path)
    if name.is_absolute() or ".." in name.parts or "\\" in row.path or "\0" in row.path:
        raise DataError(f"clip path '{row.path}' must be relative and stay inside {root}; write it without / or .. in front")
    file = (root / name).resolve()
    if not file.is_relative_to(root.resolve()):
        raise DataError(f"clip path '{row.path}' leads out of {root} by a link; copy the file into the folder")
    if not file.is_file():
        raise DataError(f"clip '{row.path}' is not in {root}; correct the path or remove the line")
    return file


def _decoded(row: ClipRow, root: Path, whole_files: dict[Path, Recording]) -> NDArray[np.int16]:
    file = _file(row, root)
    if file not in whole_files:
        whole_files.clear()  # rows are sorted, so only the latest file is worth keeping
        try:
            whole_files[file] = audio.load(file)
        except AudioError as error:
            raise DataError(f"clip '{row.path}': {error}") from error
    recording = whole_files[file]
    if row.start_s is not None and row.end_s is not None:
        if row.start_s >= recording.duration_s or row.end_s > recording.duration_s + 0.1:
            raise DataError(
                f"clip '{row.path}': {row.start_s:g} to {row.end_s:g} s lies outside its {recording.duration_s:.2f} s; "
                "correct start_s and end_s"
            )
        recording = recording.crop(checked_segment(row.start_s, row.end_s, row.path))
    part = _one_word(recording.samples) if row.source is Source.DIGIT else recording.samples
    return _heard(part, row.path, _FLOOR_DB[row.source])


def _frame_levels_db(samples: Samples) -> NDArray[np.floating]:
    """Level of each 20 ms, relative to the loudest."""
    frames = np.pad(samples, (0, -samples.size % _FRAME)).reshape(-1, _FRAME)
    level = np.sqrt(np.mean(frames * frames, axis=1))
    return 20 * np.log10(np.maximum(level, 1e-9) / max(float(level.max()), 1e-9))


def _one_word(samples: Samples) -> Samples:
    """The loudest stretch without a long pause: a digit recording may hold a click or a breath far from the word."""
    levels = _frame_levels_db(samples)
    on = np.flatnonzero(levels > _FLOOR_DB[Source.DIGIT])
    runs = np.split(on, np.flatnonzero(np.diff(on) > _PAUSE_FRAMES) + 1)
    word = max(runs, key=lambda run: float(np.sum(10.0 ** (levels[run] / 10))))
    return samples[word[0] * _FRAME : (word[-1] + 1) * _FRAME]


def _heard(samples: Samples, name: str, floor_db: float) -> NDArray[np.int16]:
    """The audible part on the 0.1 s grid, at most 3 s, audible in its last 20 ms, peak at half of full scale.

    Raises:
        DataError: silent or under 0.15 s.
    """
    if float(np.abs(samples).max()) < 1e-4:
        raise DataError(f"clip '{name}' is silent; remove the line")
    on = np.flatnonzero(_frame_levels_db(samples) > floor_db)
    part = samples[on[0] * _FRAME : (on[-1] + 1) * _FRAME]
    part = part[: round(MAX_CLIP_S * SAMPLE_RATE)]
    on = np.flatnonzero(_frame_levels_db(part) > floor_db)
    part = part[: (on[-1] + 1) * _FRAME]
    tenths = round(part.size / _GRID)
    if tenths < round(MIN_CLIP_S * 10) and part.size < 0.15 * SAMPLE_RATE:
        raise DataError(f"clip '{name}' is heard for {part.size / SAMPLE_RATE:.2f} s only; use clips of 0.2 s or more")
    fitted = _resampled(part, max(tenths, 2) * _GRID, 0)
    return np.rint(fitted * (16_384 / max(float(np.abs(fitted).max()), 1e-9))).astype(np.int16)


def _resampled(samples: NDArray[np.floating], n_samples: int, timbre: int) -> Samples:
    """The samples spread over n_samples by their spectrum, filtered on the way (frequencies as they come out)."""
    if timbre == 0 and samples.size == n_samples:
        return np.asarray(samples, dtype=np.float32)
    spectrum = np.fft.rfft(samples)
    spectrum = np.pad(spectrum[: n_samples // 2 + 1], (0, max(0, n_samples // 2 + 1 - spectrum.size)))
    freq = np.linspace(0.0, SAMPLE_RATE / 2, spectrum.size) + 1.0
    match timbre:
        case 1:
            spectrum = spectrum / np.sqrt(1 + (freq / 1_800) ** 4)
        case 2:  # a shelf, not a wall: what is only low must still be heard
            spectrum = spectrum * np.sqrt((0.02 + (freq / 700) ** 4) / (1 + (freq / 700) ** 4))
        case 3:
            spectrum = spectrum * (freq / 1_000) ** 0.4
        case _:
            pass
    return np.asarray(np.fft.irfft(spectrum, n_samples), dtype=np.float32)


def _held_out(rows: Sequence[ClipRow]) -> list[Split]:
    """The split of each row: the last speaker by name, and of every label the last quarter of its files, at least one."""
    speakers = sorted({row.speaker for row in rows if row.speaker})
    last_speaker = speakers[-1] if len(speakers) > 1 else None
    files: dict[str, list[str]] = {}
    for row in rows:
        if not row.speaker and row.path not in files.setdefault(row.label, []):
            files[row.label].append(row.path)
    # a file that one label holds out is held out for every label
    test = {path for paths in files.values() if len(paths) > 1 for path in sorted(paths)[-max(1, len(paths) // 4) :]}
    return [Split.TEST if (row.speaker == last_speaker if row.speaker else row.path in test) else Split.TRAIN for row in rows]


# ---------------------------------------------------------------------------------------------- the bank


def _with_cuts(clips: list[Clip]) -> list[Clip]:
    """The clips, and behind them the cuts of the long ones, in the same split."""
    cuts: list[Clip] = []
    for clip in clips:
        for cut_s in CUTS_S if clip.row.source is Source.CLIP else ():
            if clip.length_s >= 1.3 * cut_s:
                part = clip.samples[: round(cut_s * SAMPLE_RATE)].astype(np.float32) / np.float32(32_768)
                if float(np.abs(part).max()) >= 0.05:  # a slow beginning is not what the clip sounds like
                    cuts.append(Clip(clip.row, clip.split, _heard(part, clip.row.path, -30.0), whole=False))
    return clips + cuts


def clips_folder(manifest: Path) -> Path:
    """What the paths of a manifest are relative to: the folder `root` beside it, or else its own folder."""
    beside = manifest.parent / "root"
    return beside if beside.is_dir() else manifest.parent


class ClipBank:
    """Recorded clips as a `Bank`; a sound's `variant` is the index into `clips`."""

    labels: tuple[str, ...]

    def __init__(self, clips: Sequence[Clip], cache: SampleCache | None = None) -> None:
        if not clips:
            raise DataError("a bank of clips needs at least one clip")
        self.clips = tuple(clips)
        self.labels = tuple(sorted({clip.row.label for clip in self.clips}))
        self._cache = cache or SampleCache()
        self._variants: dict[tuple[str, Split], list[int]] = {}
        for index, clip in enumerate(self.clips):
            self._variants.setdefault((clip.row.label, clip.split), []).append(index)

    @classmethod
    def from_rows(cls, rows: Iterable[ClipRow], root: Path, on_unusable: Callable[[DataError], None] | None = None) -> ClipBank:
        """Decode the files of the rows under `root`; samples that occur twice are kept once.

        Args:
            on_unusable: told of each row that cannot be used, which is then left out; None refuses the whole bank.

        Raises:
            DataError: a row whose file is missing, outside the root, not audio, silent or too short.
        """
        ordered = sorted(rows, key=by_label_and_path)
        seen: set[bytes] = set()
        kept: list[ClipRow] = []
        samples: list[NDArray[np.int16]] = []
        whole_files: dict[Path, Recording] = {}
        for row in ordered:
            try:
                decoded = _decoded(row, root, whole_files)
            except DataError as error:
                if on_unusable is None:
                    raise
                on_unusable(error)
                continue
            digest = hashlib.blake2b(decoded.tobytes(), digest_size=16).digest()
            if digest not in seen:
                seen.add(digest)
                kept.append(row)
                samples.append(decoded)
        parts = zip(kept, _held_out(kept), samples, strict=True)
        return cls(_with_cuts([Clip(row, split, decoded) for row, split, decoded in parts]))

    @classmethod
    def from_manifest(cls, manifest: Path, root: Path | None = None) -> ClipBank:
        """The clips of a JSONL manifest, with paths relative to `root` (the manifest's folder, or `root` in it)."""
        return cls.from_rows(read_manifest(manifest), root or clips_folder(manifest))

    def labels_for(self, split: Split) -> tuple[str, ...]:
        """Labels that have at least one clip in that split."""
        return tuple(label for label in self.labels if (label, split) in self._variants)

    def draw(self, rng: np.random.Generator, label: str, split: Split) -> Sound:
        """A random clip of that label and split; for training with a random pitch and filter half of the time each.

        Raises:
            DataError: the label has no clip in the split.
        """
        variants = self._variants.get((label, split))
        if not variants:
            raise DataError(f"'{label}' has no clip for {split}; choose from labels_for({split})")
        variant = variants[int(rng.integers(len(variants)))]
        semitones = timbre = 0
        if split is Split.TRAIN:
            semitones = int(rng.integers(-MAX_SHIFT, MAX_SHIFT + 1)) if rng.random() < 0.5 else 0
            timbre = int(rng.integers(1, N_FILTERS)) if rng.random() < 0.5 else 0
        return Sound(label, self.clips[variant].row.source, variant, semitones, timbre)

    def length_range_s(self, sound: Sound) -> tuple[float, float]:
        """The one natural length of that clip at that pitch, twice, on the 0.1 s grid."""
        clip = self._clip(sound)
        length_s = max(MIN_CLIP_S, round(clip.length_s / 2.0 ** (sound.semitones / 12), 1))
        return length_s, length_s

    def samples(self, sound: Sound, n_samples: int) -> Samples:
        """The clip, exactly n_samples long at 16 kHz, root mean square 1.0, read-only.

        Raises:
            DataError: not a sound of this bank, or not its natural length.
        """
        length_s, _ = self.length_range_s(sound)
        if n_samples != round(length_s * SAMPLE_RATE):
            raise DataError(
                f"'{sound.label}' (clip {sound.variant}) lasts {length_s:g} s, not {n_samples / SAMPLE_RATE:g} s; "
                "take the length from length_range_s"
            )
        raw = self.clips[sound.variant].samples
        return self._cache.get(
            (sound, n_samples),
            lambda: unit_level(_resampled(raw.astype(np.float32), n_samples, sound.timbre)),
        )

    def _clip(self, sound: Sound) -> Clip:
        if not 0 <= sound.variant < len(self.clips) or self.clips[sound.variant].row.label != sound.label:
            raise DataError(f"clip {sound.variant} of this bank is not '{sound.label}'; use the bank the sound was drawn from")
        if abs(sound.semitones) > 6 or not 0 <= sound.timbre < N_FILTERS or sound.pulses:
            raise DataError(f"{sound} is out of range for a clip; use semitones -6 to 6, timbre 0 to 3 and 0 pulses")
        return self.clips[sound.variant]


# ---------------------------------------------------------------------------------------------- packed banks


def save_bank(bank: ClipBank, path: Path) -> None:
    """Pack a bank into one compressed npz file: all samples end to end as int16, and their rows as JSON; no cuts."""
    whole = [clip for clip in bank.clips if clip.whole]
    rows = [
        {
            "path": c.row.path,
            "label": c.row.label,
            "licence": c.row.licence,
            "source": c.row.source.value,
            "speaker": c.row.speaker,
            "split": c.split.value,
            "n_samples": int(c.samples.size),
        }
        for c in whole
    ]
    header = json.dumps({"format": _PACK_FORMAT, "clips": rows}, ensure_ascii=False).encode()
    packed = io.BytesIO()
    np.savez_compressed(packed, header=np.frombuffer(header, dtype=np.uint8), samples=np.concatenate([c.samples for c in whole]))
    path.write_bytes(packed.getvalue())


def load_bank(path: Path) -> ClipBank:
    """A bank packed by `save_bank`; the same sounds give the same samples.

    Raises:
        DataError: missing, damaged, oversized or not such a file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(info.file_size for info in archive.infolist()) > _MAX_PACK_BYTES:
                raise DataError(f"the packed bank {path} is over {_MAX_PACK_BYTES >> 20} MB; pack fewer clips")
        with np.load(path, allow_pickle=False) as arrays:
            header = json.loads(arrays["header"].tobytes())
            samples = arrays["samples"]
        return ClipBank(_with_cuts(_unpacked(header, samples)))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, TypeError) as error:
        if isinstance(error, DataError):
            raise
        if isinstance(error, FileNotFoundError):
            what = "make it with `echo-audio data bank`, or do without it (in a training: 'data.banks=[]')"
            raise DataError(f"there is no bank of clips at {path}: {what}") from None
        raise DataError(f"{path} is not a packed bank of clips ({error}); make it with `echo-audio data bank`") from error


def _unpacked(header: dict[str, object], samples: NDArray[np.generic]) -> list[Clip]:
    rows = header["clips"]
    if header["format"] != _PACK_FORMAT or samples.dtype != np.int16 or samples.ndim != 1 or not isinstance(rows, list):
        raise ValueError("another format")
    ends = np.cumsum([row["n_samples"] for row in rows])
    if not rows or ends[-1] != samples.size or min(row["n_samples"] for row in rows) < _GRID:
        raise ValueError("lengths do not add up")
    clips: list[Clip] = []
    for row, end in zip(rows, ends, strict=True):
        part = np.asarray(samples[end - row["n_samples"] : end], dtype=np.int16)
        part.setflags(write=False)
        what = ClipRow(row["path"], row["label"], row["licence"], Source(row["source"]), row["speaker"])
        clips.append(Clip(what, Split(row["split"]), part))
    return clips
