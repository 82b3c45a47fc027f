"""Arithmetic of crops, segments and resampling; and no bytes make the decoder fail in another way than it says."""

from __future__ import annotations

import functools
import io

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from echo_audio.audio import SAMPLE_RATE, Recording, Segment, load
from echo_audio.errors import AudioError, SegmentError

times_s = st.floats(0, 1e4)
segments = st.tuples(times_s, times_s).filter(lambda pair: pair[0] < pair[1]).map(lambda pair: Segment(*pair))


@functools.cache
def ramp(n_samples: int) -> Recording:
    """Each sample tells its own place."""
    return Recording(np.arange(1, n_samples + 1, dtype=np.float32))


@st.composite
def recordings_and_segments(draw: st.DrawFn) -> tuple[Recording, Segment]:
    recording = ramp(draw(st.integers(1, 40_000)))
    start_s, end_s = sorted(draw(st.lists(st.floats(0, 3), min_size=2, max_size=2, unique=True)))
    return recording, Segment(start_s, end_s)


@given(recordings_and_segments())
def test_a_crop_holds_the_nearest_samples_clamped_or_says_that_there_are_none(pair: tuple[Recording, Segment]) -> None:
    recording, segment = pair
    first = min(round(segment.start_s * SAMPLE_RATE), recording.n_samples)
    last = min(round(segment.end_s * SAMPLE_RATE), recording.n_samples)
    if first == last:
        with pytest.raises(SegmentError, match="outside the recording"):
            recording.crop(segment)
        return
    crop = recording.crop(segment)
    assert crop.n_samples == last - first
    assert crop.samples[0] == first + 1
    assert crop.samples[-1] == last
    assert abs(crop.duration_s - segment.overlap_s(recording.whole)) <= 1.001 / SAMPLE_RATE


@given(st.integers(1, 40_000), st.data())
def test_a_crop_of_a_crop_is_a_crop(n_samples: int, data: st.DataObject) -> None:
    recording = ramp(n_samples)
    bounds = sorted(data.draw(st.lists(st.integers(0, n_samples), min_size=2, max_size=2, unique=True)))
    outer = recording.crop(Segment(bounds[0] / SAMPLE_RATE, bounds[1] / SAMPLE_RATE))
    inner = sorted(data.draw(st.lists(st.integers(0, outer.n_samples), min_size=2, max_size=2, unique=True)))
    direct = Segment((bounds[0] + inner[0]) / SAMPLE_RATE, (bounds[0] + inner[1]) / SAMPLE_RATE)
    assert outer.crop(Segment(inner[0] / SAMPLE_RATE, inner[1] / SAMPLE_RATE)).id == recording.crop(direct).id


@given(st.integers(1, 40_000), st.data())
def test_neighbouring_crops_join_without_gap_or_overlap(n_samples: int, data: st.DataObject) -> None:
    recording = ramp(n_samples)
    cut_s = data.draw(st.floats(0.6 / SAMPLE_RATE, max(0.6, n_samples - 0.6) / SAMPLE_RATE))
    if not 0 < round(cut_s * SAMPLE_RATE) < n_samples:
        return
    parts = [recording.crop(Segment(0, cut_s)), recording.crop(Segment(cut_s, recording.duration_s))]
    assert np.array_equal(np.concatenate([part.samples for part in parts]), recording.samples)


@given(segments, segments)
def test_iou_is_symmetric_within_0_and_1_and_1_for_equals(a: Segment, b: Segment) -> None:
    assert a.iou(b) == pytest.approx(b.iou(a))
    assert 0 <= a.iou(b) <= 1 + 1e-9
    assert a.iou(a) == pytest.approx(1)
    assert a.overlap_s(b) <= min(a.duration_s, b.duration_s) + 1e-9
    if a.end_s <= b.start_s:
        assert a.iou(b) == 0


@given(st.floats(), st.floats())
def test_a_segment_is_a_span_or_an_error(start_s: float, end_s: float) -> None:
    if 0 <= start_s < end_s < float("inf"):
        assert Segment(start_s, end_s).duration_s > 0
    else:
        with pytest.raises(SegmentError):
            Segment(start_s, end_s)


@settings(max_examples=50)
@given(st.integers(1_000, 200_000), st.integers(1, 200_000))
def test_resampling_keeps_the_duration_to_a_sample(rate_hz: int, n_frames: int) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.full(n_frames, 0.1), rate_hz, format="WAV", subtype="PCM_16")
    if n_frames < 0.01 * rate_hz:
        with pytest.raises(AudioError, match=r"0\.01 s or longer"):
            load(buffer.getvalue())
    else:
        assert abs(load(buffer.getvalue()).n_samples - n_frames * SAMPLE_RATE / rate_hz) <= 1


KINDS = ("WAV", "FLAC", "OGG", "MP3", "AIFF", "CAF", "AU")


@functools.cache
def valid_file(kind: str) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.random.default_rng(0).standard_normal(2000) * 0.1, 22_050, format=kind)
    return buffer.getvalue()


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(KINDS), st.data())
def test_a_damaged_file_is_a_recording_or_an_audio_error(kind: str, data: st.DataObject) -> None:
    content = bytearray(valid_file(kind))
    places = st.one_of(st.integers(0, 100), st.integers(0, len(content) - 1))  # most of what matters is at the start
    for place, value in data.draw(st.lists(st.tuples(places, st.integers(0, 255)), max_size=8)):
        content[min(place, len(content) - 1)] = value
    del content[data.draw(st.integers(0, len(content))) :]
    for lenient in (False, True):
        try:
            recording = load(bytes(content), max_duration_s=5, allow_truncated=lenient, allow_silent=lenient)
        except AudioError as error:
            assert str(error)  # noqa: PT017 - it may load as well
        else:
            assert 0.01 <= recording.duration_s <= 5.01


@settings(max_examples=100)
@given(st.binary(max_size=300))
def test_random_bytes_are_not_audio(content: bytes) -> None:
    with pytest.raises((AudioError, ImportError)):
        load(content)
