"""Recordings and segments. The only decoder: everything else gets 16 kHz mono float32 from here."""

from __future__ import annotations

import hashlib
import io
import math
import os
import re
import stat
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self, TypeAlias

import numpy as np
import soxr  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from echo_audio import formats
from echo_audio.errors import AudioError, MissingAudioError, SegmentError
from echo_audio.formats import Stream

SAMPLE_RATE = 16_000
"""Samples per second of every recording in Echo."""

Samples = NDArray[np.float32]

Source: TypeAlias = str | Path | bytes | BinaryIO
"""What `load` reads: a path, the bytes of a file, or an open binary file."""


@dataclass(frozen=True, slots=True, order=True)
class Segment:
    """A span of a recording in seconds, 0 <= start_s < end_s, both finite.

    Raises:
        SegmentError: the two numbers do not make a span.
    """

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.start_s) and math.isfinite(self.end_s)):
            raise SegmentError(f"segment ({self.start_s}, {self.end_s}) is not finite; give two numbers of seconds")
        if not 0 <= self.start_s < self.end_s:
            raise SegmentError(f"segment ({self.start_s}, {self.end_s}) must satisfy 0 <= start < end, in seconds")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.end_s - self.start_s

    def overlap_s(self, other: Segment) -> float:
        """Seconds that both spans share."""
        return max(0.0, min(self.end_s, other.end_s) - max(self.start_s, other.start_s))

    def iou(self, other: Segment) -> float:
        """Intersection over union of the two spans, 0 to 1."""
        shared = self.overlap_s(other)
        return shared / (self.duration_s + other.duration_s - shared)


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Mono float32 samples at 16 kHz; `id` is a hash of the samples.

    Args:
        samples: shape (n_samples,), finite, read-only after construction.

    Raises:
        AudioError: not one-dimensional, empty or not finite.
    """

    samples: Samples
    id: str = field(default="")

    def __post_init__(self) -> None:
        samples = np.ascontiguousarray(self.samples, dtype=np.float32)
        if samples.ndim != 1 or samples.size == 0:
            raise AudioError(f"a recording is a non-empty one-dimensional array of samples, not shape {samples.shape}")
        if not np.isfinite(samples).all():
            raise AudioError("the recording holds NaN or infinite samples; export it again from its source")
        if samples.flags.writeable:
            samples = samples.copy() if samples is self.samples else samples
            samples.setflags(write=False)
        object.__setattr__(self, "samples", samples)
        object.__setattr__(self, "id", self.id or _content_hash(samples))

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return int(self.samples.size)

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.n_samples / SAMPLE_RATE

    @property
    def whole(self) -> Segment:
        """The segment that covers the recording."""
        return Segment(0.0, self.duration_s)

    def crop(self, segment: Segment) -> Self:
        """The samples round(start * 16000) to round(end * 16000), clamped to the recording.

        Raises:
            SegmentError: nothing of the segment lies inside the recording.
        """
        start = min(round(segment.start_s * SAMPLE_RATE), self.n_samples)
        end = min(round(segment.end_s * SAMPLE_RATE), self.n_samples)
        if start >= end:
            span = f"segment {segment.start_s:g} to {segment.end_s:g} s"
            raise SegmentError(f"{span} lies outside the recording of {self.duration_s:.2f} s")
        return type(self)(self.samples[start:end])


def _content_hash(samples: Samples) -> str:
    return hashlib.blake2b(samples.data.cast("B"), digest_size=16).hexdigest()


# ---------------------------------------------------------------------------------------------- reading


MIN_DURATION_S = 0.01
"""Shorter files are refused: they hold no sound that could be asked about."""
_RATES_HZ = (1_000, 768_000)
_MAX_CHANNELS = 64
_MAX_BYTES = 1 << 30  # of a stream or pipe, which is read into memory; files on disk are decoded from there
_MAX_PEAK = 100.0  # float files may go over full scale (1.0), but not by so much
_CANCELLED = 1e-4  # of the loudest channel: what 16 bits leave when its opposite is added
_SILENT_PEAK = 1e-6  # -120 dB below full scale: under the last bit of 16-bit audio
_TOLERANCE_S = 0.25  # by this the lengths in headers of compressed files may be off


def load(
    source: Source, *, max_duration_s: float = 3600.0, allow_truncated: bool = False, allow_silent: bool = False
) -> Recording:
    """Decode any audio file to a recording: all channels mixed to one, resampled to 16 kHz (soxr HQ).

    WAV, FLAC, Ogg (Vorbis, Opus), MP3, AIFF, AU and CAF are read by libsndfile; m4a, mp4, aac, webm, wma and amr need
    the extra `m4a`. What a file is, is told by its first bytes, not by its name. Memory is bounded by `max_duration_s`
    (64 kB a second), whatever the file says about itself.

    Args:
        source: a path, the bytes of a file, or an open binary file (read from its start if it can seek; left open).
        max_duration_s: longer recordings are refused, in seconds.
        allow_truncated: use what can be decoded of a file that breaks off or is damaged.
        allow_silent: accept a recording without any sound.

    Raises:
        AudioError: missing, empty, not audio, cut off, damaged, silent, too long, too short, or not finite.
        MissingExtraError: the format needs the extra `m4a`.
    """
    name = _name(source)
    with _opened(source, name) as file, formats.decoding(file, name) as stream:
        samples, n_decoded, loudest = _mono_16k(stream, name, max_duration_s)
    if not allow_truncated:
        _check_whole(stream, n_decoded, name)
    if n_decoded < MIN_DURATION_S * stream.rate_hz:
        raise AudioError(f"{name} holds only {n_decoded} samples; give a recording of {MIN_DURATION_S} s or longer")
    if not allow_silent:
        _check_sound(samples, loudest, name)
    samples.setflags(write=False)  # nobody else holds it: the recording need not copy it
    return Recording(samples)


def rate_and_channels(source: Source) -> tuple[int, int]:
    """Samples a second and number of channels that a file has before it is loaded.

    Raises:
        AudioError: as `load`, for what can be told from the beginning.
        MissingExtraError: the format needs the extra `m4a`.
    """
    name = _name(source)
    with _opened(source, name) as file, formats.decoding(file, name) as stream:
        return stream.rate_hz, stream.n_channels


def _mono_16k(stream: Stream, name: str, max_duration_s: float) -> tuple[Samples, int, float]:
    """All samples at 16 kHz, the number of frames decoded for them, and the highest absolute value in any channel."""
    _check_header(stream, name, max_duration_s)
    same_rate = stream.rate_hz == SAMPLE_RATE
    resampler = soxr.ResampleStream(stream.rate_hz, SAMPLE_RATE, 1, dtype="float32", quality="HQ")
    gathered = bytearray()  # grows in place: joining a list of blocks would need twice the memory at the end
    n_frames, loudest = 0, 0.0
    for block in stream.blocks:
        if n_frames + len(block) > max_duration_s * stream.rate_hz:
            raise _too_long(name, "goes on", max_duration_s)
        loudest = max(loudest, _checked_peak(block, n_frames / stream.rate_hz, name))
        n_frames += len(block)
        mono = block.mean(axis=1, dtype=np.float32)
        gathered += (mono if same_rate else resampler.resample_chunk(mono)).tobytes()
    if not same_rate:
        gathered += resampler.resample_chunk(np.zeros(0, np.float32), last=True).tobytes()
    return np.frombuffer(gathered, dtype=np.float32), n_frames, loudest


def _check_header(stream: Stream, name: str, max_duration_s: float) -> None:
    low, high = _RATES_HZ
    if not low <= stream.rate_hz <= high:
        raise AudioError(f"{name} claims {stream.rate_hz} samples a second; convert it to a rate from {low} to {high}")
    if not 1 <= stream.n_channels <= _MAX_CHANNELS:
        raise AudioError(f"{name} has {stream.n_channels} channels; mix it to {_MAX_CHANNELS} or fewer")
    if stream.n_promised is not None and stream.n_promised > max_duration_s * stream.rate_hz:
        raise _too_long(name, f"lasts {stream.n_promised / stream.rate_hz:.1f} s", max_duration_s)


def _checked_peak(block: Samples, start_s: float, name: str) -> float:
    """Highest absolute value of a block. Float files can hold what no recording does."""
    peak = float(np.abs(block).max())
    if not math.isfinite(peak):
        raise AudioError(f"{name} holds NaN or infinite samples after {start_s:.2f} s; export it again from its source")
    if peak > _MAX_PEAK:
        raise AudioError(f"{name} holds samples up to {peak:.3g}, where full scale is 1; scale it to the range -1 to 1")
    return peak


def _too_long(name: str, what: str, max_duration_s: float) -> AudioError:
    return AudioError(
        f"{name} {what}, over the limit of {max_duration_s:g} s; raise max_duration_s, or cut the file: "
        f"ffmpeg -i IN -t {max_duration_s:g} -ac 1 OUT.wav"
    )


def _check_whole(stream: Stream, n_decoded: int, name: str) -> None:
    """Refuse a file that breaks off: an answer about half a recording looks like one about all of it."""
    got_s = n_decoded / stream.rate_hz
    promised_s = got_s if stream.n_promised is None else stream.n_promised / stream.rate_hz
    if stream.broken:
        what = f"is damaged or cut off after {got_s:.2f} s ({stream.broken})"
    elif promised_s - got_s > _TOLERANCE_S:
        what = f"is cut off: it should last {promised_s:.2f} s but holds {got_s:.2f} s"
    else:
        return
    raise AudioError(f"{name} {what}; download or export it again, or use what is there with allow_truncated=True")


def _check_sound(samples: Samples, loudest: float, name: str) -> None:
    if max(float(samples.max()), -float(samples.min())) >= max(_SILENT_PEAK, _CANCELLED * loudest):
        return
    if loudest >= _SILENT_PEAK:
        raise AudioError(f"{name}: its channels cancel each other out when mixed to one; export a single channel")
    raise AudioError(
        f"{name} is silent for all of its {samples.size / SAMPLE_RATE:.2f} s; check the microphone or the export, "
        "or load it with allow_silent=True"
    )


# ---------------------------------------------------------------------------------------------- opening


def _name(source: Source) -> str:
    if isinstance(source, str | Path):
        return f"'{source}'"
    return "the audio data" if isinstance(source, bytes) else "the audio stream"


@contextmanager
def _opened(source: Source, name: str) -> Generator[BinaryIO]:
    """A seekable binary file that holds at least one byte, at its start."""
    if isinstance(source, str | Path):
        with _open_path(source, name) as file:
            yield file if file.seekable() else _in_memory(file, name)
    elif isinstance(source, bytes):
        yield _in_memory(io.BytesIO(source), name)
    else:
        if source.seekable():
            source.seek(0)
        yield _in_memory(source, name)


def _open_path(source: str | Path, name: str) -> BinaryIO:
    if re.match(r"[a-z][a-z0-9+]+://", str(source)):
        raise AudioError(f"{name} is a web address; download it first and give the file")
    path = Path(source).expanduser()
    try:
        status = path.stat()
        if stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode):
            return path.open("rb")
    except FileNotFoundError:
        raise MissingAudioError(f"{name} does not exist (looked in '{path.absolute().parent}'); check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise AudioError(f"{name} cannot be read: {error}; check the path and its permissions") from None
    if stat.S_ISDIR(status.st_mode):
        raise AudioError(f"{name} is a folder; give a file inside it")
    raise AudioError(f"{name} is a device or socket; give an audio file")


def _in_memory(file: BinaryIO, name: str) -> BinaryIO:
    """The content of a file whose seeking cannot be relied on, up to a bound."""
    content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise AudioError(f"{name} is larger than {_MAX_BYTES >> 20} MiB; save it to a file and give its path")
    return io.BytesIO(content)


# ---------------------------------------------------------------------------------------------- writing


def encode_flac(recording: Recording) -> bytes:
    """A recording as a FLAC file, 16 bit. Decoding gives the samples rounded to 1/32768 and clipped to -1..1.

    What was rounded once stays: `load(encode_flac(r))` and its own encoding have one id.
    """
    return formats.encoded(recording.samples, SAMPLE_RATE, "FLAC")


def save_wav(recording: Recording, path: str | Path) -> None:
    """Write a recording as a 16-bit WAV file; the file appears whole or not at all.

    Raises:
        AudioError: it cannot be written there.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(formats.encoded(recording.samples, SAMPLE_RATE, "WAV"))
        part.replace(path)
    except OSError as error:
        raise AudioError(f"'{path}' cannot be written: {error.strerror}; check folder and permissions") from None
    finally:
        part.unlink(missing_ok=True)
