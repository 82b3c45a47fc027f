"""File formats: what a file is, and its samples as they come. The only place that names soundfile and av.

Nothing here trusts a header: blocks are small, and `n_promised` is only what the file says of itself.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, BinaryIO, cast

import numpy as np
import soundfile  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

from echo_audio.errors import AudioError, MissingExtraError

if TYPE_CHECKING:
    from av import AudioFrame, AudioResampler, AudioStream
    from av.container import InputContainer

_BLOCK = 1 << 14  # samples over all channels; what is decoded of a block is lost when decoding breaks off in it


@dataclass(slots=True)
class Stream:
    """Decoded audio as it comes, in blocks of shape (n_frames, n_channels).

    `n_promised` is the header's number of frames where it can be believed; `broken` says why decoding ended early.
    """

    rate_hz: int
    n_channels: int
    n_promised: int | None
    blocks: Iterator[NDArray[np.float32]] = field(default_factory=lambda: iter(()))
    broken: str = ""


def decoding(file: BinaryIO, name: str) -> AbstractContextManager[Stream]:
    """The samples of a seekable file, whose kind is told by its first bytes; `name` is for messages.

    Raises:
        AudioError: empty, not audio, or damaged so that nothing can be decoded.
        MissingExtraError: the format needs the extra `m4a`.
    """
    head = file.read(4096)
    return _libav(file, name) if _needs_libav(head, name) else _libsndfile(file, head, name)


def encoded(samples: NDArray[np.float32], rate_hz: int, container: str) -> bytes:
    """Mono samples as a 16-bit file (container "FLAC" or "WAV"), rounded to 1/32768 and clipped to -1..1."""
    # Rounded here: libsndfile scales by 32767 when it writes and by 32768 when it reads, so samples would shrink.
    rounded = np.clip(np.round(samples * 32768.0), -32768, 32767).astype(np.int16)
    buffer = io.BytesIO()
    soundfile.write(buffer, rounded, rate_hz, format=container, subtype="PCM_16")
    return buffer.getvalue()


# ---------------------------------------------------------------------------------------------- what a file is


_SNDFILE_STARTS = (b"fLaC", b"OggS", b"ID3", b"FORM", b"caff", b".snd", b"RF64", b"RIFX", b"riff\x2e\x91\xcf\x11")
_LIBAV_STARTS = (b"\x1a\x45\xdf\xa3", b"\x30\x26\xb2\x75", b"ADIF", b"#!AMR")  # Matroska and WebM, ASF, AAC, AMR
_NOT_AUDIO = (
    (b"version https://git-lfs", "a Git LFS pointer, so run: git lfs pull"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"%PDF", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive, so unpack it"),
    (b"\x1f\x8b", "a gzip archive, so unpack it"),
    (b"<!DOCTYPE", "an HTML page, perhaps a failed download"),
    (b"<html", "an HTML page, perhaps a failed download"),
    (b"MThd", "a MIDI file: notes, not sound"),
)


def _needs_libav(head: bytes, name: str) -> bool:
    """Whether the file is of a kind that only libav reads.

    Raises:
        AudioError: it is empty, or of no kind that can be read.
    """
    if not head:
        raise AudioError(f"{name} is empty (0 bytes); record, export or download it again")
    mpeg_frame = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0
    aac_frame = mpeg_frame and head[1] & 0xF6 == 0xF0
    if head[4:8] == b"ftyp" or aac_frame or head.startswith(_LIBAV_STARTS):
        return True
    if mpeg_frame or head.startswith(_SNDFILE_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WAVE"):
        return False
    seems = next((f" (it seems to be {what})" for start, what in _NOT_AUDIO if head.startswith(start)), "")
    raise AudioError(f"{name} is not audio that can be read{seems}; give a wav, flac, ogg, mp3 or m4a file")


# ---------------------------------------------------------------------------------------------- libsndfile


_SIZES = re.compile(r"^\s*(?:data|SSND|Data Size)\s*: (\d+) \(should be (\d+)\)", re.MULTILINE)
_STREAMED_SIZES = (1 << 31, 1 << 32)  # about these, in bytes, are written by programs that write to a pipe


@contextmanager
def _libsndfile(file: BinaryIO, head: bytes, name: str) -> Generator[Stream]:
    measured, broken = True, ""
    if head.startswith((b"ID3", b"\xff")):
        measured, broken = _mp3_length(file, head)
    elif head.startswith(b"OggS"):
        broken = _ogg_end(file, head)
    file.seek(0)
    try:
        with _Forward(cast("BinaryIO", _Virtual(file, measured))) as sound:
            stream = Stream(sound.samplerate, sound.channels, _promised(sound) if measured else None)
            stream.blocks = _sound_blocks(sound, stream)
            yield stream
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        raise AudioError(f"{name} is damaged or not audio ({reason}); export or download it again") from None
    stream.broken = stream.broken or broken


class _Forward(soundfile.SoundFile):
    """A sound file read once from start to end.

    Otherwise soundfile seeks after each block, which fails in a FLAC whose length is not known.
    """

    def seekable(self) -> bool:
        return False


def _sound_blocks(sound: soundfile.SoundFile, stream: Stream) -> Iterator[NDArray[np.float32]]:
    n_frames = max(1, _BLOCK // sound.channels)
    while True:
        try:
            block = sound.read(n_frames, dtype="float32", always_2d=True)
        except soundfile.LibsndfileError as error:
            stream.broken = error.error_string.removeprefix("Error : ").rstrip(".") or "it cannot be decoded"
            return
        if not len(block):
            return
        yield block.astype(np.float32, copy=False)


def _promised(sound: soundfile.SoundFile) -> int | None:
    """Frames that the header speaks of. libsndfile quietly corrects the headers of plain formats: its log tells."""
    if sound.frames >= 1 << 62:  # unknown
        return None
    corrected = _SIZES.search(sound.extra_info)
    if corrected is None:
        return sound.frames
    said, found = int(corrected[1]), int(corrected[2])
    streamed = any(abs(said - size) <= 1 << 16 for size in _STREAMED_SIZES)
    return sound.frames if streamed else sound.frames * said // max(found, 1)


class _Virtual(io.RawIOBase):
    """A file without a name, and, unless `measured`, without an honest end.

    libsndfile takes a name on .raw for headerless audio. Of an MP3 with no table of its length it guesses a number of
    frames from the file's size, and stops there even when the file goes on; a size far too large cures that.
    """

    def __init__(self, file: BinaryIO, measured: bool) -> None:
        super().__init__()
        self._file, self._measured = file, measured

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        if whence == os.SEEK_END and offset == 0 and not self._measured:
            return self._file.seek(64 * self._file.seek(0, os.SEEK_END))
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1, /) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview, /) -> int:  # pyright: ignore[reportIncompatibleMethodOverride]
        content = self._file.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)


_SEVERAL = "it holds several recordings one after another, of which only the first is read"


def _mp3_length(file: BinaryIO, head: bytes) -> tuple[bool, str]:
    """Whether the first frame, behind any ID3 tag, is a table that tells the length; and whether another MP3 follows."""
    start = 0
    if head.startswith(b"ID3") and len(head) >= 10:
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(head[6:10], (21, 14, 7, 0), strict=True))
    file.seek(start)
    first = file.read(512)
    at = max(first.find(b"Xing"), first.find(b"Info"))
    if at < 0:
        return first.startswith(b"fLaC") or b"VBRI" in first, ""
    flags, n_bytes = first[at + 7] if len(first) > at + 7 else 0, int.from_bytes(first[at + 12 : at + 16])
    if flags & 3 != 3:
        return True, ""
    n_left = file.seek(0, os.SEEK_END) - start - n_bytes
    file.seek(start + n_bytes)
    after = file.read(512)
    frame = len(after) > 1 and after[0] == 0xFF and after[1] & 0xE0 == 0xE0
    goes_on = after.startswith(b"ID3") or (frame and (n_left >= _LONGEST_TAIL or b"Xing" in after or b"Info" in after))
    return True, _SEVERAL if goes_on else ""


_LONGEST_TAIL = 1 << 14
"""Bytes behind the counted ones that are no second recording: encoders disagree by a frame on what to count."""


def _ogg_end(file: BinaryIO, head: bytes) -> str:
    """What is wrong with the end of an Ogg file: it ends within a page, or on a page of another stream than its first."""
    size = file.seek(0, os.SEEK_END)
    start = file.seek(max(0, size - (1 << 17)))  # a page is at most 65,307 bytes
    end = file.read()
    at = end.rfind(b"OggS")
    n_parts = end[at + 26] if 0 <= at < len(end) - 26 else 0
    lengths = end[at + 27 : at + 27 + n_parts]
    if at < 0 or len(lengths) < n_parts or n_parts == 0 or start + at + 27 + n_parts + sum(lengths) > size:
        return "its last page is incomplete"
    return _SEVERAL if end[at + 14 : at + 18] != head[14:18] or _begins_again(file) else ""


def _begins_again(file: BinaryIO) -> bool:
    """Whether a stream begins behind a page that was no beginning: joined files may share a serial number."""
    at, begun = 0, False
    while True:
        file.seek(at)
        page = file.read(27 + 255)
        if len(page) < 27 or page[:4] != b"OggS":
            return False
        if page[5] & 2 and begun:
            return True
        begun = begun or not page[5] & 2
        at += 27 + page[26] + sum(page[27 : 27 + page[26]])


# ---------------------------------------------------------------------------------------------- libav


@contextmanager
def _libav(file: BinaryIO, name: str) -> Generator[Stream]:
    try:
        import av
        from av.error import FFmpegError
    except ImportError:
        raise MissingExtraError("Reading m4a/mp4 audio", "m4a") from None
    file.seek(0)
    try:
        with av.open(file, mode="r", metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise AudioError(f"{name} has no sound track; give a file with sound")
            audio = container.streams.audio[0]
            frames = container.decode(audio)
            first = next(frames, None)
            if first is None:
                raise AudioError(f"{name} holds no samples; record, export or download it again")
            # The first frame knows rate and channels better than the header does (HE-AAC doubles the rate).
            stream = Stream(first.sample_rate, first.layout.nb_channels, None)
            stream.n_promised = _av_promised(container, audio, first.sample_rate)
            resampler = av.AudioResampler(format="flt", layout=first.layout, rate=first.sample_rate)
            stream.blocks = _av_blocks(itertools.chain((first,), frames), resampler, stream)
            yield stream
    except FFmpegError as error:
        raise AudioError(f"{name} is damaged or not audio ({error.strerror}); export or download it again") from None


def _av_promised(container: InputContainer, audio: AudioStream, rate_hz: int) -> int | None:
    """Frames that the header speaks of. Raw AAC has none: libav guesses from the rate of the first bytes."""
    if container.format.name == "aac":
        return None
    if audio.duration is not None and audio.time_base is not None:
        return int(audio.duration * audio.time_base * rate_hz)
    # WebM knows only the length of the whole, which is that of the sound where there is nothing else.
    if container.duration is None or len(container.streams) > 1:
        return None
    return container.duration * rate_hz // 1_000_000


def _av_blocks(
    frames: Iterator[AudioFrame], resampler: AudioResampler, stream: Stream
) -> Iterator[NDArray[np.float32]]:
    """Blocks of the frames, in float; the resampler changes nothing but the number format."""
    from av.error import FFmpegError

    rate_hz, n_channels = stream.rate_hz, stream.n_channels
    try:
        for frame in itertools.chain(frames, (None,)):
            if frame is not None and (frame.sample_rate, frame.layout.nb_channels) != (rate_hz, n_channels):
                stream.broken = "its sample rate or number of channels changes on the way"
                return
            for part in resampler.resample(frame):
                yield part.to_ndarray().reshape(-1, stream.n_channels).astype(np.float32, copy=False)
    except FFmpegError as error:
        stream.broken = str(error.strerror)
