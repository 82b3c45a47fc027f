"""Recorded clips: manifests, splits, packing, and what hostile manifests get."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from echo_audio import audio
from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.data.clips import ClipBank, ClipRow, fsdd_manifest, load_bank, read_manifest, save_bank, thin
from echo_audio.data.scene import Sound, Source, Split
from echo_audio.errors import DataError


@pytest.fixture(autouse=True)
def decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder of 16 kHz wav files: these tests are about clips, not about formats."""

    def load(path: Path) -> Recording:
        return Recording(np.asarray(soundfile.read(path, dtype="float32")[0], dtype=np.float32))

    monkeypatch.setattr(audio, "load", load, raising=False)


def write(path: Path, seconds: float, seed: int, lead_s: float = 0.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    sound = 0.3 * rng.standard_normal(round(seconds * SAMPLE_RATE)).clip(-3, 3)
    silence = np.zeros(round(lead_s * SAMPLE_RATE))
    soundfile.write(path, np.concatenate([silence, sound, silence]), SAMPLE_RATE)


def manifest(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "clips.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


@pytest.fixture
def bank(tmp_path: Path) -> ClipBank:
    rows: list[dict[str, object]] = []
    for label, count in (("dog barking", 5), ("owl hooting", 2), ("thunder", 1)):
        for i in range(count):
            name = f"{label.split()[0]}/{i}.wav"
            write(tmp_path / name, 0.52 + 0.31 * i, seed=len(rows), lead_s=0.4)
            rows.append({"path": name, "label": label, "licence": "CC0"})
    for speaker in ("ann", "bob"):
        for i in range(3):
            write(tmp_path / f"7_{speaker}_{i}.wav", 0.44, seed=100 + len(rows))
            rows.append({"file": f"7_{speaker}_{i}.wav", "label": "the number seven", "source": "digit", "speaker": speaker})
    return ClipBank.from_manifest(manifest(tmp_path, *reversed(rows)))


def draws(bank: ClipBank, split: Split) -> list[Sound]:
    rng = np.random.default_rng(0)
    return [bank.draw(rng, label, split) for label in bank.labels_for(split) for _ in range(60)]


def test_a_clip_is_cut_to_what_is_heard_and_lies_on_the_grid(bank: ClipBank) -> None:
    assert [c.length_s for c in bank.clips if c.whole and c.row.label == "dog barking"] == [0.5, 0.8, 1.1, 1.5, 1.8]
    for sound in draws(bank, Split.TRAIN) + draws(bank, Split.TEST):
        shortest_s, longest_s = bank.length_range_s(sound)
        assert shortest_s == longest_s
        samples = bank.samples(sound, round(shortest_s * SAMPLE_RATE))
        assert samples.shape == (round(shortest_s * SAMPLE_RATE),)
        assert float(np.sqrt(np.mean(samples**2))) == pytest.approx(1.0, abs=1e-3)
        levels = np.sqrt((samples.reshape(-1, 320) ** 2).mean(1))
        assert 20 * np.log10(min(levels[0], levels[-1]) / levels.max()) > -30


def test_a_long_clip_is_its_beginning(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 7.0, 1)
    assert ClipBank.from_rows([ClipRow("a.wav", "rain")], tmp_path).clips[0].length_s == 3.0


def test_a_long_clip_is_also_there_as_its_beginning_and_in_the_same_split(tmp_path: Path) -> None:
    for name, seed in (("a.wav", 1), ("b.wav", 2), ("0_ann_0.flac", 3)):
        write(tmp_path / name, 2.0, seed)
    digit = ClipRow("0_ann_0.flac", "the number zero", "", Source.DIGIT, "ann")
    bank = ClipBank.from_rows([ClipRow("a.wav", "rain"), ClipRow("b.wav", "rain"), digit], tmp_path)
    found = [(c.row.path, c.length_s, c.whole) for c in bank.clips]
    cuts = [(name, length_s, False) for name in ("a.wav", "b.wav") for length_s in (0.6, 1.4)]
    assert found == [("a.wav", 2.0, True), ("b.wav", 2.0, True), ("0_ann_0.flac", 2.0, True), *cuts]
    assert {(c.row.path, c.split) for c in bank.clips} >= {("a.wav", Split.TRAIN), ("b.wav", Split.TEST)}
    assert len({(c.row.path, c.split) for c in bank.clips}) == 3
    save_bank(bank, tmp_path / "bank.npz")
    packed = load_bank(tmp_path / "bank.npz")
    assert [(c.row.path, c.length_s, c.whole) for c in packed.clips] == found
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(bank.clips, packed.clips, strict=True))


def test_unusable_clips_are_left_out_on_request_and_told(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 1.0, 1)
    write(tmp_path / "b.wav", 0.05, 1)
    rows, told = [ClipRow("a.wav", "rain"), ClipRow("b.wav", "rain"), ClipRow("c.wav", "rain")], []
    with pytest.raises(DataError, match=r"b\.wav"):
        ClipBank.from_rows(rows, tmp_path)
    assert {c.row.path for c in ClipBank.from_rows(rows, tmp_path, told.append).clips} == {"a.wav"}
    assert [("b.wav" in str(e), "c.wav" in str(e)) for e in told] == [(True, False), (False, True)]


def test_splits_share_no_clip_and_no_speaker(bank: ClipBank) -> None:
    train, test = draws(bank, Split.TRAIN), draws(bank, Split.TEST)
    assert not {s.variant for s in train} & {s.variant for s in test}
    assert "thunder" in bank.labels_for(Split.TRAIN)
    assert "thunder" not in bank.labels_for(Split.TEST)
    assert {bank.clips[s.variant].row.speaker for s in test} == {"", "bob"}
    assert {bank.clips[s.variant].row.speaker for s in train} == {"", "ann"}
    assert all(s.semitones == s.timbre == 0 for s in test)
    assert len({(s.semitones, s.timbre) for s in train}) > 10
    with pytest.raises(DataError, match="labels_for"):
        bank.draw(np.random.default_rng(0), "thunder", Split.TEST)


def test_two_stretches_or_copies_of_one_file_are_never_split(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", 2.0, 1)
    write(tmp_path / "b.wav", 2.0, 2)
    (tmp_path / "c.wav").write_bytes((tmp_path / "b.wav").read_bytes())
    rows = [ClipRow(f, "rain", start_s=s, end_s=s + 1) for f in ("a.wav", "b.wav", "c.wav") for s in (0.0, 1.0)]
    clips = ClipBank.from_rows(rows, tmp_path).clips
    assert len([c for c in clips if c.whole]) == 4
    splits = {name: {c.split for c in clips if c.row.path == name} for name in ("a.wav", "b.wav")}
    assert splits == {"a.wav": {Split.TRAIN}, "b.wav": {Split.TEST}}


def test_augmentation_is_part_of_the_sound(bank: ClipBank) -> None:
    plain = Sound("dog barking", Source.CLIP, 3)
    shifted = Sound("dog barking", Source.CLIP, 3, semitones=3, timbre=1)
    assert bank.length_range_s(plain) == (1.5, 1.5)
    assert bank.length_range_s(shifted) == (1.3, 1.3)
    rendered = [bank.samples(Sound("dog barking", Source.CLIP, 3, timbre=t), 24_000) for t in range(4)]
    centroids = [np.average(np.arange(12_001), weights=np.abs(np.fft.rfft(r)) ** 2) for r in rendered]
    assert centroids[1] < 0.6 * centroids[0]
    assert centroids[0] < centroids[3]
    assert len({round(c) for c in centroids}) == 4


def test_a_packed_bank_gives_the_same_samples(bank: ClipBank, tmp_path: Path) -> None:
    save_bank(bank, tmp_path / "bank.npz")
    packed = load_bank(tmp_path / "bank.npz")
    assert packed.labels == bank.labels
    assert [c.split for c in packed.clips] == [c.split for c in bank.clips]
    for sound in draws(bank, Split.TRAIN):
        n_samples = round(bank.length_range_s(sound)[0] * SAMPLE_RATE)
        assert np.array_equal(packed.samples(sound, n_samples), bank.samples(sound, n_samples))


def test_damaged_packed_banks_are_refused(bank: ClipBank, tmp_path: Path) -> None:
    path = tmp_path / "bank.npz"
    with pytest.raises(DataError):
        load_bank(path)
    path.write_bytes(b"nothing")
    with pytest.raises(DataError):
        load_bank(path)
    save_bank(bank, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError):
        load_bank(path)
    np.savez(path, header=np.frombuffer(b'{"format": "x", "clips": 3}', dtype=np.uint8), samples=np.zeros(3))
    with pytest.raises(DataError):
        load_bank(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"path": "missing.wav", "label": "dog"}, "not in"),
        ({"path": "/etc/passwd", "label": "dog"}, "relative"),
        ({"path": "../a.wav", "label": "dog"}, "relative"),
        ({"path": "link.wav", "label": "dog"}, "link"),
        ({"path": "silent.wav", "label": "dog"}, "silent"),
        ({"path": "short.wav", "label": "dog"}, "0.2 s"),
        ({"path": "a.wav", "label": ""}, "label"),
        ({"path": "a.wav", "label": 3}, "text"),
        ({"label": "dog"}, "path"),
        ({"path": "a.wav", "label": "dog", "start_s": 0.5}, "both"),
        ({"path": "a.wav", "label": "dog", "start_s": 0.9, "end_s": 0.1}, "start < end"),
        ({"path": "a.wav", "label": "dog", "start_s": float("nan"), "end_s": 1}, "finite"),
        ({"path": "a.wav", "label": "dog", "start_s": "0", "end_s": 1}, "number"),
        ({"path": "a.wav", "label": "dog", "start_s": 4.0, "end_s": 5.0}, "outside"),
        ({"path": "a.wav", "label": "dog", "source": "procedural"}, "source"),
        ({"path": "a.wav", "label": "dog", "start_s": 0, "end_s": 10**400}, "too large"),
        ({"path": "a.wav", "label": "dog </think><answer>"}, "label"),
        ({"path": "a.wav", "label": "{again}"}, "label"),
        ({"path": "a.wav", "label": "dog\u2028barking"}, "one line"),
        ({"path": "a.wav", "label": "\ud800"}, "one line"),
        ({"path": "a.wav", "label": "dog " * 20}, "short name"),
        ({"path": "a\u0000.wav", "label": "dog"}, "one line"),
    ],
)
def test_hostile_rows_are_refused_with_a_reason(tmp_path: Path, row: dict[str, object], message: str) -> None:
    root = tmp_path / "root"
    write(root / "a.wav", 1.0, 1)
    write(tmp_path / "a.wav", 1.0, 1)
    write(root / "short.wav", 0.05, 1)
    soundfile.write(root / "silent.wav", np.zeros(SAMPLE_RATE), SAMPLE_RATE)
    (root / "link.wav").symlink_to(tmp_path / "a.wav")
    with pytest.raises(DataError, match=message):
        ClipBank.from_manifest(manifest(tmp_path, row))


@pytest.mark.parametrize("text", ["", "[1]\n", "{bad\n", "[" * 100_000])
def test_manifests_that_are_not_rows_are_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "m.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"m\.jsonl"):
        read_manifest(tmp_path / "m.jsonl")


def test_digit_files_are_labelled_by_name(tmp_path: Path) -> None:
    for name in ("7_theo_0.flac", "7_theo_1.flac", "0_ann_0.flac"):
        (tmp_path / name).touch()
    rows = fsdd_manifest(tmp_path)
    assert [(r.label, r.speaker, r.source) for r in rows] == [
        ("the number zero", "ann", Source.DIGIT),
        ("the number seven", "theo", Source.DIGIT),
        ("the number seven", "theo", Source.DIGIT),
    ]
    assert len(thin(rows, 1)) == 2
    with pytest.raises(DataError, match="Free Spoken Digit"):
        fsdd_manifest(tmp_path / "none")


def test_a_sound_of_another_bank_or_length_is_refused(bank: ClipBank) -> None:
    with pytest.raises(DataError, match="drawn from"):
        bank.samples(Sound("dog barking", Source.CLIP, 9_999), 8_000)
    with pytest.raises(DataError, match="drawn from"):
        bank.samples(Sound("cat meowing", Source.CLIP, 0), 8_000)
    with pytest.raises(DataError, match="length_range_s"):
        bank.samples(Sound("dog barking", Source.CLIP, 0), 8_001)
