"""The decoder: what it reads, and what it says about what it cannot use."""

from __future__ import annotations

import io
import math
import os
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_audio import audio
from echo_audio.audio import SAMPLE_RATE, Recording, Samples, load
from echo_audio.errors import AudioError, MissingExtraError


def tone(duration_s: float = 1.0, rate_hz: int = 44_100, freq_hz: float = 440.0) -> Samples:
    times_s = np.arange(round(duration_s * rate_hz)) / rate_hz
    return (0.3 * np.sin(2 * np.pi * freq_hz * times_s)).astype(np.float32)


def hiss(duration_s: float = 1.0, rate_hz: int = 44_100, seed: int = 0) -> Samples:
    noise = np.random.default_rng(seed).standard_normal(round(duration_s * rate_hz))
    return (0.1 * noise).astype(np.float32)


def file_bytes(
    samples: Samples, rate_hz: int = 44_100, kind: str = "WAV", subtype: str | None = None, **options: object
) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate_hz, format=kind, subtype=subtype, **options)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------------ what is read


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(("kind", "rate_hz"), [("WAV", 8_000), ("WAV", 16_000), ("FLAC", 96_000), ("WAV", 11_025)])
def test_any_rate_and_channel_count_becomes_16_khz_mono(kind: str, rate_hz: int, channels: int) -> None:
    one = tone(1.0, rate_hz)
    recording = load(file_bytes(np.repeat(one[:, None], channels, axis=1), rate_hz, kind))
    assert recording.samples.dtype == np.float32
    assert recording.samples.ndim == 1
    assert recording.n_samples == SAMPLE_RATE
    middle = slice(1000, -1000)  # resampling rings at the borders
    assert np.abs(recording.samples[middle] - tone(1.0, SAMPLE_RATE)[middle]).max() < 2e-3


@pytest.mark.parametrize(
    ("kind", "subtype"),
    [("WAV", "PCM_U8"), ("WAV", "PCM_24"), ("WAV", "FLOAT"), ("WAV", "DOUBLE"), ("WAV", "ULAW"), ("WAV", "ALAW"),
     ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"),
     ("CAF", "PCM_16"), ("AU", "PCM_16"), ("RF64", "PCM_16"), ("W64", "PCM_16")],
)  # fmt: skip
def test_formats_are_told_by_content_not_by_name(kind: str, subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "song.raw"  # a name that libsndfile would take for headerless samples
    path.write_bytes(file_bytes(tone(1.0, 48_000), 48_000, kind, subtype))
    recording = load(path)
    assert recording.duration_s == pytest.approx(1.0, abs=0.06)
    loudest_hz = np.argmax(np.abs(np.fft.rfft(recording.samples))) / recording.duration_s
    assert loudest_hz == pytest.approx(440, abs=2)


def test_a_path_bytes_an_open_file_and_a_pipe_give_the_same(tmp_path: Path) -> None:
    content = file_bytes(hiss(0.5))
    path = tmp_path / "a.wav"
    path.write_bytes(content)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=(content,))
    feeder.start()
    with path.open("rb") as file:
        file.seek(17)  # wherever it stands, it is read from its start
        recordings = [load(path), load(str(path)), load(content), load(io.BytesIO(content)), load(file), load(pipe)]
        assert not file.closed
    feeder.join()
    assert len({recording.id for recording in recordings}) == 1


def test_an_mp3_behind_a_large_cover_picture_is_read() -> None:
    size = 100_000
    tag = b"ID3\x04\x00\x00" + bytes((size >> shift) & 0x7F for shift in (21, 14, 7, 0)) + bytes(size)
    assert load(tag + file_bytes(hiss(), kind="MP3")).duration_s == pytest.approx(1.0, abs=0.06)


def test_an_mp3_of_varying_bit_rate_without_a_table_of_its_length_is_read_to_its_end() -> None:
    loud_then_quiet = np.concatenate([hiss(5.0), np.zeros(5 * 44_100, np.float32)])
    content = file_bytes(loud_then_quiet, kind="MP3", bitrate_mode="VARIABLE", compression_level=0.2)
    second_frame = content.index(b"\xff\xfb", 10)
    assert b"Xing" in content[:second_frame]
    assert load(content[second_frame:]).duration_s == pytest.approx(10.0, abs=0.1)


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000, 0x8000_0000])
def test_a_wav_written_to_a_pipe_does_not_know_its_length(size: int) -> None:
    content = file_bytes(hiss(), subtype="PCM_16")
    assert load(content[:40] + struct.pack("<I", size) + content[44:]).duration_s == pytest.approx(1.0)


def test_a_flac_that_does_not_know_its_length_is_read() -> None:
    content = bytearray(file_bytes(hiss(), kind="FLAC"))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    assert load(bytes(content)).duration_s == pytest.approx(1.0)


def test_resampling_in_blocks_is_resampling_at_once() -> None:
    import soxr

    samples = hiss(5.0)
    whole = soxr.resample(samples, 44_100, SAMPLE_RATE, quality="HQ")
    content = file_bytes(samples, subtype="FLOAT")
    assert np.abs(load(content).samples - whole).max() < 1e-6


# ------------------------------------------------------------------------------------------ what is refused


REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "is empty"),
    "text": (lambda: b"hello world " * 100, "not audio that can be read"),
    "zeros": (lambda: bytes(5000), "not audio that can be read"),
    "noise": (lambda: np.random.default_rng(0).bytes(5000), "not audio that can be read"),
    "picture": (lambda: b"\x89PNG\r\n\x1a\n" + bytes(100), "a PNG picture"),
    "html": (lambda: b"<!DOCTYPE html><html></html>", "a failed download"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "archive": (lambda: b"PK\x03\x04" + bytes(100), "unpack it"),
    "avi": (lambda: b"RIFF\x00\x00\x00\x00AVI " + bytes(100), "not audio that can be read"),
    "utf-16 text": (lambda: "hello".encode("utf-16"), "is damaged or not audio"),
    "header only": (lambda: file_bytes(np.zeros(0, np.float32)), "holds only 0 samples"),
    "one sample": (lambda: file_bytes(hiss()[:1]), "holds only 1 samples"),
    "5 ms": (lambda: file_bytes(hiss(0.005)), "0.01 s or longer"),
    "silent": (lambda: file_bytes(np.zeros(44_100, np.float32)), "is silent for all of its 1.00 s"),
    "silent mp3": (lambda: file_bytes(np.zeros(44_100, np.float32), kind="MP3"), "is silent"),
    "cancelling in 16 bits": (lambda: file_bytes(np.stack([hiss(), -hiss()], 1)), "cancel each other out"),
    "cancelling": (lambda: file_bytes(np.stack([hiss(), -hiss()], 1), subtype="FLOAT"), "cancel each other out"),
    "nan": (lambda: file_bytes(np.append(hiss(), np.nan), subtype="FLOAT"), "NaN or infinite samples after 0."),
    "inf": (lambda: file_bytes(np.append(hiss(), np.inf), subtype="FLOAT"), "NaN or infinite"),
    "huge": (lambda: file_bytes(hiss() * 1e30, subtype="DOUBLE"), "full scale is 1"),
    "unscaled": (lambda: file_bytes(hiss() * 32768, subtype="FLOAT"), "full scale is 1"),
    "slow": (lambda: file_bytes(hiss(), rate_hz=10), "claims 10 samples a second"),
    "fast": (lambda: file_bytes(hiss(), rate_hz=2_000_000_000), "claims 2000000000 samples a second"),
    "wide": (lambda: file_bytes(np.ones((100, 200), np.float32)), "has 200 channels"),
    "bad wav": (lambda: b"RIFF\xff\xff\xff\xffWAVEfmt " + bytes(20), "is damaged or not audio"),
    "bad flac": (lambda: b"fLaC" + bytes(100), "is damaged or not audio"),
    "bad ogg": (lambda: b"OggS" + bytes(100), "is damaged or not audio"),
    "bad mp3": (lambda: b"ID3" + bytes(100), "is damaged or not audio"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_with_a_message(case: str) -> None:
    make, message = REFUSED[case]
    with pytest.raises(AudioError, match=message):
        load(make())


CUT: list[tuple[str, str]] = [
    ("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"),
    ("MP3", "MPEG_LAYER_III"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "subtype"), CUT)
def test_a_file_that_breaks_off_is_refused_unless_allowed(kind: str, subtype: str) -> None:
    content = file_bytes(hiss(4.0, 48_000), 48_000, kind, subtype)
    cut = content[: len(content) * 6 // 10]
    with pytest.raises(AudioError, match=r"cut off.*allow_truncated"):
        load(cut)
    assert 1.5 < load(cut, allow_truncated=True).duration_s < 2.7
    assert load(content).duration_s == pytest.approx(4.0, abs=0.1)


@pytest.mark.parametrize(("kind", "subtype"), [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III")])
def test_two_files_joined_to_one_are_not_silently_cut_to_the_first(kind: str, subtype: str) -> None:
    one = file_bytes(hiss(4.0, 48_000), 48_000, kind, subtype)
    with pytest.raises(AudioError, match="several recordings one after another"):
        load(one + one if kind == "MP3" else one + file_bytes(hiss(4.0, 48_000, 1), 48_000, kind, subtype))
    assert load(one + one, allow_truncated=True).duration_s > 3.9
    short, long = (file_bytes(hiss(seconds, 48_000), 48_000, kind, subtype) for seconds in (0.5, 30.0))
    for joined in (one + one, one + short, long + short, one + short + one):  # with one serial number, or few bytes
        with pytest.raises(AudioError, match="several recordings one after another"):
            load(joined)
    assert load(long).duration_s == pytest.approx(30.0, abs=0.1)
    tag = b"TAG" + bytes(125)  # what programs append to an MP3 is no second one
    assert kind != "MP3" or load(one + b"APETAGEX" + bytes(40_000) + tag).duration_s == pytest.approx(4.0, abs=0.1)


def test_a_silent_recording_may_be_allowed() -> None:
    assert not load(file_bytes(np.zeros(1000, np.float32)), allow_silent=True).samples.any()


def test_missing_files_folders_addresses_devices_and_forbidden_names(tmp_path: Path) -> None:
    for source, message in [
        (tmp_path / "no.wav", "does not exist .looked in"),
        (tmp_path, "is a folder"),
        ("https://example.org/a.wav", "download it first"),
        ("/dev/zero", "is a device"),
        ("a\0b", "cannot be read"),
        ("x" * 5000, "cannot be read"),
    ]:
        with pytest.raises(AudioError, match=message):
            load(source)


def test_too_long_says_the_limit_and_how_to_cut() -> None:
    with pytest.raises(AudioError, match=r"lasts 2\.0 s, over the limit of 1 s; .*ffmpeg -i IN -t 1 "):
        load(file_bytes(hiss(2.0)), max_duration_s=1)


def test_a_header_that_promises_too_little_does_not_lift_the_limit() -> None:
    """The MP3 has no table of its length, so only decoding tells."""
    content = file_bytes(hiss(4.0), kind="MP3", bitrate_mode="VARIABLE")
    with pytest.raises(AudioError, match="goes on, over the limit of 2 s"):
        load(content[content.index(b"\xff\xfb", 10) :], max_duration_s=2)


def test_a_header_that_promises_days_costs_nothing() -> None:
    content = bytearray(file_bytes(hiss(), kind="FLAC"))
    content[21] |= 0x0F
    content[22:26] = b"\xff" * 4
    with pytest.raises(AudioError, match="over the limit"):
        load(bytes(content))


def test_hours_of_sound_need_bounded_memory(tmp_path: Path) -> None:
    """Two hours of 8 kHz, 57 MB of nothing on disk (sparse), and a FLAC of under 1 MB that unpacks to three hours."""
    sparse = tmp_path / "long.wav"
    header = file_bytes(np.zeros(0, np.float32), 8_000, subtype="ULAW")
    with sparse.open("wb") as file:
        n = 2 * 3600 * 8_000
        file.write(header.replace(b"data\x00\x00\x00\x00", b"data" + struct.pack("<I", n)))
        file.truncate(len(header) + n)
    bomb = tmp_path / "bomb.flac"
    with soundfile.SoundFile(bomb, "w", 8_000, 1, format="FLAC") as out:
        for _ in range(3 * 36):
            out.write(np.zeros(100 * 8_000, np.int16))
    content = bytearray(bomb.read_bytes())
    content[21] &= 0xF0
    content[22:26] = bytes(4)  # it does not tell its length
    bomb.write_bytes(content)
    script = (
        "import resource, sys\n"
        "from echo_audio.audio import load\n"
        "from echo_audio.errors import AudioError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load(path, max_duration_s=600)\n"
        "        sys.exit(f'{path} was accepted')\n"
        "    except AudioError as error:\n"
        "        assert 'over the limit' in str(error), error\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, sparse, bomb], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 120_000  # kB; 600 s of result are 38,400


# ------------------------------------------------------------------------------------------ m4a and the like


def test_without_the_extra_m4a_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    for head in (b"\x00\x00\x00\x20ftypM4A ", b"\x1a\x45\xdf\xa3", b"\xff\xf1\x50\x80"):
        with pytest.raises(MissingExtraError, match=r"echo-audio\[m4a\]"):
            load(head + bytes(100))


def av_bytes(samples: Samples, container: str, codec: str, rate_hz: int = 48_000) -> bytes:
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as out:
        stream = out.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None], format="fltp", layout="mono")
        frame.sample_rate = rate_hz
        resampler = av.AudioResampler(format=stream.codec_context.format or "fltp", layout="mono", rate=rate_hz)
        for part in resampler.resample(frame):
            out.mux(stream.encode(part))
        out.mux(stream.encode(None))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("container", "codec"), [("mp4", "aac"), ("adts", "aac"), ("webm", "libopus"), ("ipod", "alac")]
)
def test_m4a_mp4_aac_and_webm_are_read_with_the_extra(container: str, codec: str) -> None:
    recording = load(av_bytes(tone(2.0, 48_000), container, codec))
    assert recording.duration_s == pytest.approx(2.0, abs=0.1)
    loudest_hz = np.argmax(np.abs(np.fft.rfft(recording.samples))) / recording.duration_s
    assert loudest_hz == pytest.approx(440, abs=2)


def test_a_damaged_or_long_mp4_is_refused() -> None:
    content = av_bytes(hiss(4.0, 48_000), "mp4", "aac")
    with pytest.raises(AudioError, match="is damaged or not audio"):
        load(content[:2000])
    with pytest.raises(AudioError, match="over the limit of 1 s"):
        load(content, max_duration_s=1)
    with pytest.raises(AudioError, match="is damaged or not audio"):
        load(b"\x00\x00\x00\x20ftypM4A " + bytes(100))


def test_a_raw_aac_that_begins_quietly_is_not_taken_for_cut_off_or_endless() -> None:
    """libav guesses its length from the first bytes: 218 s for these 40."""
    samples = np.concatenate([np.zeros(30 * 48_000, np.float32), hiss(10.0, 48_000)])
    assert load(av_bytes(samples, "adts", "aac"), max_duration_s=60).duration_s == pytest.approx(40, abs=0.1)


def test_an_aac_that_changes_its_rate_on_the_way_is_refused_unless_allowed() -> None:
    content = av_bytes(hiss(2.0, 48_000), "adts", "aac") + av_bytes(hiss(2.0, 22_050), "adts", "aac", 22_050)
    with pytest.raises(AudioError, match="sample rate or number of channels changes"):
        load(content)
    assert load(content, allow_truncated=True).duration_s == pytest.approx(2.0, abs=0.1)


def test_a_webm_that_breaks_off_is_refused_unless_allowed() -> None:
    content = av_bytes(hiss(4.0, 48_000), "webm", "libopus")
    with pytest.raises(AudioError, match=r"cut off.*allow_truncated"):
        load(content[: len(content) // 2])
    assert 1 < load(content[: len(content) // 2], allow_truncated=True).duration_s < 3
    assert load(content).duration_s == pytest.approx(4.0, abs=0.1)


# ------------------------------------------------------------------------------------------ writing, and Recording


def test_flac_keeps_what_16_bits_hold_exactly() -> None:
    source = load(file_bytes(hiss(0.5, SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16"))
    assert load(audio.encode_flac(source)).id == source.id
    loud = Recording(np.array([-2.0, -1.0, 0.0, 0.5, 1.0, 2.0] * 100, np.float32))
    once = load(audio.encode_flac(loud))
    assert np.abs(once.samples - np.clip(loud.samples, -1, 1)).max() <= 1 / 32768
    assert load(audio.encode_flac(once)).id == once.id


def test_a_wav_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    recording = load(file_bytes(hiss(0.5, SAMPLE_RATE), SAMPLE_RATE, subtype="PCM_16"))
    audio.save_wav(recording, path)
    assert load(path).id == recording.id
    audio.save_wav(recording, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.wav"]
    with pytest.raises(AudioError, match="cannot be written"):
        audio.save_wav(recording, tmp_path / "no" / "a.wav")
    (tmp_path / "folder").mkdir()
    with pytest.raises(AudioError, match="cannot be written"):
        audio.save_wav(recording, tmp_path / "folder")
    assert {entry.name for entry in tmp_path.iterdir()} == {"a.wav", "folder"}


def test_a_recording_owns_read_only_samples_and_its_id_is_their_hash() -> None:
    samples = hiss(0.1)
    recording = Recording(samples)
    samples[0] = 9.0
    assert recording.samples[0] != 9.0
    with pytest.raises(ValueError, match="read-only"):
        recording.samples[0] = 0.0
    assert recording.id == Recording(recording.samples.copy()).id != Recording(samples).id
    assert recording.crop(recording.whole).id == recording.id
    for bad in (np.zeros(0), np.zeros((2, 2)), np.array([math.nan])):
        with pytest.raises(AudioError):
            Recording(bad.astype(np.float32))
