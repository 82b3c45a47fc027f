"""Readers of labelled data sets, on replicas of their layouts: what fits is given, the rest is counted with its reason."""

from __future__ import annotations

import json
import os
from collections import Counter

import pytest
import replicas
from data_engine import contents, make, settings_of

from echo_audio.data.eaqa.run import entries
from echo_audio.data.eaqa.settings import SourceSettings
from echo_audio.data.sources.audioset_strong import _candidates
from echo_audio.data.sources.base import AudioFolder, Labelled, Skipped
from echo_audio.data.sources.kinds import open_source
from echo_audio.data.sources.musicbench import _listed
from echo_audio.data.store import Store
from echo_audio.data.validate import validate
from echo_audio.errors import AudioError, ConfigError, DataError

LABEL_ID = "/m/"


def opened(kind: str, **where: object):
    return open_source("mine", SourceSettings.model_validate({"kind": kind} | {k: str(v) for k, v in where.items()}))


def parts(source) -> tuple[dict[str, Labelled], Counter[str]]:
    items = list(source.items())
    return {i.id: i for i in items if isinstance(i, Labelled)}, Counter(i.reason for i in items if isinstance(i, Skipped))


@pytest.fixture(params=["files", "parquet"])
def audioset(request, tmp_path):
    labels, names = replicas.audioset_labels(tmp_path)
    audio = replicas.audioset_files(tmp_path) if request.param == "files" else replicas.audioset_parquet(tmp_path)
    return request.param, opened("audioset-strong", labels=labels, names=names, audio=audio)


def test_audioset_strong_finds_clips_under_their_many_names_and_tells_what_is_left(audioset):
    where, source = audioset
    items, skipped = parts(source)
    assert set(items) == set(replicas.SEGMENTS) - {"ddddddddddd_20000"}
    assert [e.label for e in items["-aBc_dE1234_30000"].events] == ["Bark", "Church bell", "Male speech, man speaking"]
    assert all(abs(items[name].load().duration_s - 10.0) < 0.01 for name in list(items)[:3] if name[0] != "e")
    with pytest.raises(AudioError):
        items["eeeeeeeeeee_20000"].load()
    wanted = {
        "a line of the label file is no event: 15": 1,
        "label has no name: /m/nameless": 1,
        "is labelled, but there is no audio of it": 1,
    }
    name = "zzzzzzzzzzz_5000" if where == "files" else "zzzzzzzzzzz"
    assert skipped == wanted | {f"recordings have no labels: 1, {name} among them": 1}


def test_rows_from_audioset_strong_hold_no_label_ids_and_only_events_that_can_be(audioset, tmp_path):
    _, source = audioset
    settings = settings_of(1, sources={"as": {"kind": "audioset-strong"}}, write={"questions": 3})
    made = make(tmp_path / "run", settings, sources={"as": source})
    held = contents(tmp_path / "run")
    assert held["sft"] and not [row for row in held["sft"] + held["rl"] if LABEL_ID in json.dumps(row)]
    events = {e["label"] for row in held["sft"] + held["rl"] if "/bbb" in row["id"] for e in row["events"]}
    assert events == {"Church bell", "Siren"}, "no event without length, none behind the end"
    bad = next(o for o in made.outcomes if o.id.startswith("as/bbb"))
    assert len(bad.notes["events"]) == 2 and "has no length" in bad.notes["events"][0]
    broken = [o for o in made.outcomes if "/eee" in o.id]
    assert {str(o.route) for o in broken} == {"skipped"} and not made.done.failed
    assert validate(Store(tmp_path / "run" / "stores" / "sft")).ok
    again = make(tmp_path / "run", settings, sources={"as": source})
    assert again.routes == made.routes and contents(tmp_path / "run") == held


def test_musicbench_gives_chords_as_events_and_its_caption_as_text(tmp_path):
    labels, audio = replicas.musicbench(tmp_path)
    items, skipped = parts(opened("musicbench", labels=labels, audio=audio))
    assert [(e.label, e.start_s, e.end_s) for e in items["aaa_1"].events] == [
        ("Em chord", 0.4, 3.1),
        ("C chord", 3.1, 6.5),
        ("G chord", 6.5, 10.0),
    ]
    assert items["aaa_1"].texts["key"] == "E minor" and items["aaa_1"].texts["tempo"] == "92 beats a minute"
    assert len(items["bbb_2"].events) == 2 and items["bbb_2"].texts["key"] == "A major", "lists that were written as text"
    assert items["ddd_4"].events == () and skipped == {"is described, but there is no audio of it": 1, "entry has no location": 1}


def test_what_only_looks_like_a_list_or_a_number_ends_no_source():
    assert _listed("[" * 20_000) == _listed("{") == []
    assert list(_candidates("abc_²")) == ["abc_²", "Yabc_²"] and "abc_1.000" in list(_candidates("abc_1000"))


def test_avqa_questions_are_about_recordings_and_become_rl_rows(tmp_path):
    labels, audio = replicas.avqa(tmp_path)
    source = opened("avqa", labels=labels, audio=audio)
    items, skipped = parts(source)
    asked = items["-HG3Omg_89c_000030-1"].asked
    assert asked and asked.question == "What makes the sound in the recording?" and asked.answer == "motorboat"
    assert asked.kind == "which" and sum(skipped.values()) == 3 and "asks about what is not wanted: View" in skipped
    made = make(tmp_path / "run", settings_of(1, sources={"avqa": {"kind": "avqa"}}), sources={"avqa": source})
    assert made.routes == {"sft": 0, "rl": 1, "dropped": 0, "skipped": 3}


def test_a_folder_has_labels_beside_its_recordings(tmp_path):
    items, skipped = parts(opened("folder", audio=replicas.folder(tmp_path)))
    assert [(e.label, e.start_s, e.end_s) for e in items["door.wav"].events] == [
        ("door", 0.5, 1.75),
        ("a point", 2.0, 2.0),
        ("dog bark", 3.0, 4.0),
        ("footsteps", 4.5, 5.5),
    ]
    assert [e.label for e in items["street.wav"].events] == ["car", "bird"]
    assert items["street.wav"].texts == {"caption": "A quiet street."}
    assert skipped["has no labels"] == 1 and sum(skipped.values()) == 2
    assert any("broken.json is no JSON" in why for why in skipped)


def test_a_folder_may_have_one_label_file_for_all(tmp_path):
    audio = replicas.folder(tmp_path)
    told = {"door": [{"label": "door", "start_s": 1, "end_s": "2"}], "gone.wav": [], "street.wav": {"events": [{"label": " "}]}}
    labels = replicas.put(tmp_path / "all.json", json.dumps(told))
    items, skipped = parts(opened("folder", audio=audio, labels=labels))
    assert set(items) == {"door.wav"} and skipped["is labelled, but there is no audio of it"] == 1
    assert skipped["labels cannot be read: an event of street.wav has no label"] == 1 and skipped["has no labels"] == 2


def test_an_id_that_occurs_twice_and_a_limit(tmp_path):
    labels, audio = replicas.avqa(tmp_path)
    entry = json.loads(labels.read_text())[0]
    labels.write_text(json.dumps([entry] * 3))
    settings = settings_of(1, sources={"avqa": {"kind": "avqa", "n": 1}})
    found = entries({"avqa": opened("avqa", labels=labels, audio=audio)}, settings)
    assert [type(e.item).__name__ for e in found] == ["Labelled"]
    settings = settings_of(1, sources={"avqa": {"kind": "avqa"}})
    found = entries({"avqa": opened("avqa", labels=labels, audio=audio)}, settings)
    assert [e.item.id for e in found][1:] == ["-HG3Omg_89c_000030-1/skipped-1", "-HG3Omg_89c_000030-1/skipped-2"]


def test_half_a_character_leaves_out_one_recording(tmp_path):
    audio = replicas.folder(tmp_path)
    told = {"events": [{"label": "half \ud83d", "start_s": 1, "end_s": 2}]}
    replicas.put(audio / "street.json", json.dumps(told))
    (audio / "bare.wav").rename(audio / os.fsdecode(b"caf\xe9.wav"))
    settings = settings_of(1, sources={"mine": {"kind": "folder"}})
    found = [entry.item for entry in entries({"mine": opened("folder", audio=audio)}, settings)]
    assert [item.id for item in found if isinstance(item, Labelled)] == ["door.wav"]
    skipped = {item.id: item.reason for item in found if isinstance(item, Skipped)}
    assert skipped["street.wav/skipped-1"] == "holds half a character"
    assert skipped["caf\\udce9.wav/skipped-1"] == "has no labels"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes on this system")
def test_a_pipe_among_recordings_or_labels_is_not_waited_for(tmp_path):
    audio = replicas.folder(tmp_path)
    os.mkfifo(audio / "pipe.wav")
    replicas.put(audio / "pipe.json", '{"events": []}')
    items, _ = parts(opened("folder", audio=audio))
    assert "pipe.wav" not in items and "door.wav" in items and "pipe" not in AudioFolder(audio).files
    os.mkfifo(tmp_path / "all.json")
    with pytest.raises(DataError, match="is no file"):
        opened("folder", audio=audio, labels=tmp_path / "all.json")


@pytest.mark.parametrize("kind", ["audioset-strong", "musicbench", "avqa", "folder"])
def test_what_a_source_needs_is_named(kind, tmp_path):
    with pytest.raises(ConfigError, match=f"{kind} needs"):
        opened(kind)
    empty = replicas.put(tmp_path / "empty.txt", "")
    with pytest.raises(DataError):
        opened(kind, labels=empty, names=empty, audio=tmp_path / "nowhere")


def test_a_file_of_another_shape_is_refused(tmp_path):
    labels, names = replicas.audioset_labels(tmp_path)
    audio = replicas.audioset_files(tmp_path)
    other = replicas.put(tmp_path / "other.tsv", "/m/other\tOther\n")
    with pytest.raises(DataError, match="names none of the labels"):
        opened("audioset-strong", labels=labels, names=other, audio=audio)
    with pytest.raises(DataError, match="has the columns"):
        opened("audioset-strong", labels=names, names=names, audio=audio)
    deep = replicas.put(tmp_path / "deep.json", "[" * 100_000)
    with pytest.raises(DataError, match="no JSON"):
        opened("avqa", labels=deep, audio=audio)
    bad = replicas.put(tmp_path / "p" / "x.parquet", b"PAR1 not")
    with pytest.raises(DataError, match="cannot be read as parquet"):
        opened("audioset-strong", labels=labels, names=names, audio=bad.parent)
