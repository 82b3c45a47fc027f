"""Saved transcripts: read from what every verb writes, filtered, found again with their sounds, told as events."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path

import pytest
from helpers import noise, play
from samples import sample
from studio_helpers import RESPONSE, httpx

from echo_audio import cli
from echo_audio.audio import Segment, encode_flac, load
from echo_audio.data.render import render
from echo_audio.data.scene import Split
from echo_audio.data.scenes import draw_row
from echo_audio.data.stock import make_stock
from echo_audio.data.store import write_audio
from echo_audio.errors import DataError
from echo_audio.studio.house import House
from echo_audio.studio.saved import Saved
from echo_audio.studio.sources import Sources
from echo_audio.studio.story import replay
from echo_audio.studio.viewing import in_a_file, view_app
from echo_audio.transcript import Author, Mode, Question, Stop, Transcript, Written

TURNS = ("<think>I look for the bell <seg>1.2, 1.9</seg>", ", and it is bright.</think>\n<answer>a bell</answer>")


def written(path: Path, *lines: object) -> Path:
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


def about(transcript: Transcript, **changes) -> Transcript:
    return dataclasses.replace(transcript, question=dataclasses.replace(transcript.question, **changes))


@pytest.mark.parametrize(
    "turns",
    [
        TURNS,
        ("<think>a <seg>3.9, 3.2</seg>", " b <seg>one</seg>", " c <seg>9.5, 99</seg>", " d</think><answer>x</answer>"),
        (["<think>a <seg>1, 2</se", "g>, and"], " so</think><answer>x</answer>"),
        ("no tags at all < or >",),
    ],
)
def test_a_transcript_is_told_as_it_was_when_it_happened(turns) -> None:
    from echo_audio.studio.story import Story

    events, live = [], []
    transcript = play(turns, events=events)
    story = Story(10.0)
    for event in events:
        live += story.tell(event)

    def text_of(told):
        return "".join(one.data.get("text", "") for one in told)

    def rest_of(told):
        return [(one.name, one.data) for one in told if one.name not in ("text", "mark")]

    assert text_of(replay(transcript)) == text_of(live) == transcript.response
    assert sorted(map(str, rest_of(replay(transcript)))) == sorted(map(str, rest_of(live)))


def test_lines_of_every_verb_are_read_and_others_left_out(tmp_path: Path) -> None:
    plain = json.loads(play(TURNS).to_json())
    rollout = {"step": 3, "reward": 1.5, "advantage": -0.2, "transcript": plain}
    evaluated = json.loads(sample("k0", RESPONSE, heard=(Segment(1.0, 2.0),)).to_line())
    path = written(tmp_path / "all.jsonl", plain, rollout, evaluated, {"metrics": 1}, "no json", "[]", {"transcript": {}})
    path.write_text(path.read_text() + '{"torn', encoding="utf-8")
    saved = Saved([path])
    assert (len(saved.entries), saved.n_strange) == (3, 5)
    assert saved.entries[1].about == ("reward 1.50", "advantage -0.20", "step 3", "1 segment")
    assert [entry.verdict for entry in saved.entries] == ["unknown", "unknown", "wrong"]
    assert saved.find("bell", {}) == [0, 1, 2] and saved.find("bell nowhere", {}) == []
    assert saved.find("", {"step": "3"}) == [1] and saved.find("", {"verdict": "wrong"}) == [2]
    assert dict(saved.filters())["verdict"] == [("unknown", 2), ("wrong", 1)]
    assert [saved.open(number).transcript.answer for number in range(3)] == ["a bell"] * 3


def test_the_files_of_a_run_folder_are_found(tmp_path: Path) -> None:
    line = play(TURNS).to_json()
    written(tmp_path / "eval" / "samples-1-of-2.jsonl", line)
    written(tmp_path / "eval" / "samples-2-of-2.jsonl", line, line)
    written(tmp_path / "eval" / "speed.jsonl", {"n": 1})
    written(tmp_path / "scenes" / "crop.jsonl", line)
    written(tmp_path / "scenes" / "withheld.jsonl", line)
    written(tmp_path / "grpo" / "metrics.jsonl", {"loss": 1})
    written(tmp_path / "grpo" / "transcripts.jsonl", line)
    assert len(Saved([tmp_path / "eval"]).entries) == 3
    assert [entry.facts["from"] for entry in Saved([tmp_path / "scenes"]).entries] == ["crop", "withheld"]
    both = Saved([tmp_path / "scenes", tmp_path / "grpo"])
    assert [entry.facts["from"] for entry in both.entries] == ["scenes/crop", "scenes/withheld", "grpo"]
    (tmp_path / "empty").mkdir()
    for wrong in (tmp_path / "none.jsonl", tmp_path / "empty", written(tmp_path / "x.jsonl", {"a": 1})):
        with pytest.raises(DataError, match="give"):
            Saved([wrong])


def test_a_recording_is_found_by_name_by_store_or_drawn_again(tmp_path: Path) -> None:
    recording = load(encode_flac(noise(10.0)))
    base = about(play(TURNS), recording_id=recording.id)
    (tmp_path / "sounds").mkdir()
    (tmp_path / "sounds" / "door.flac").write_bytes(encode_flac(recording))
    write_audio(tmp_path / "store", recording)
    row, scene = draw_row(5, 7, Split.TRAIN, make_stock())
    drawn = render(scene, make_stock())
    meta = {"row": row.id, "kind": row.kind}
    question = Question(row.question, drawn.id, row.duration_s, row.choices, row.answer, meta)
    scenes = Transcript.open(question, "?", Mode.GROUNDED).say(Written(RESPONSE, Author.MODEL)).finish(Stop.ANSWERED)
    lines = (
        about(base, meta={"audio": "elsewhere/door.flac"}),
        base,
        scenes,
        about(base, recording_id="0" * 32, meta={"audio": "sounds/door.flac"}),
    )
    saved = Saved([written(tmp_path / "all.jsonl", *(line.to_json() for line in lines))])
    opened = [saved.open(number) for number in range(4)]

    def found(sources: Sources) -> list[bool]:
        return [sources.recording(one) is not None for one in opened]

    assert found(Sources([])) == [False] * 4
    assert found(Sources([tmp_path / "sounds"])) == [True, False, False, False]
    assert found(Sources([tmp_path / "store"])) == [True, True, False, False]
    assert found(Sources([tmp_path / "sounds"], make_stock())) == [True, False, True, False], "only with the hash that is named"


@pytest.mark.parametrize("name", ["/etc/passwd", "../../../../etc/passwd", "/dev/zero", "a\0b", "x" * 5000, "", "."])
def test_hostile_names_of_recordings_lead_nowhere(tmp_path: Path, name: str) -> None:
    path = written(tmp_path / "all.jsonl", about(play(TURNS), meta={"audio": name}).to_json())
    assert Sources([tmp_path]).recording(Saved([path]).open(0)) is None


def test_the_viewer_lists_filters_tells_and_plays(tmp_path: Path) -> None:
    recording = load(encode_flac(noise(10.0)))
    (tmp_path / "door.flac").write_bytes(encode_flac(recording))
    known = about(play(TURNS), recording_id=recording.id, answer="a bell", meta={"audio": "door.flac", "seed": 3})
    path = written(tmp_path / "all.jsonl", known.to_json(), play(TURNS, mode=Mode.GROUNDED).to_json())
    app = view_app(Saved([path]), Sources([]), "all", House(hosts=("localhost",)))

    async def scene() -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as client:
            assert (await client.get("/v1/saved")).json()["filters"]["mode"] == [["grounded", 1], ["interleaved", 1]]
            some = (await client.get("/v1/saved/transcripts?mode=interleaved&text=bright")).json()
            assert (some["total"], some["data"][0]["verdict"], some["data"][0]["answer"]) == (1, "right", "a bell")
            one = (await client.get("/v1/saved/transcripts/0")).json()
            assert (one["name"], one["truth"], one["has_audio"], one["events"][0][1]["seed"]) == ("door.flac", "a bell", True, 3)
            names = [name for name, _ in one["events"] if name not in ("text", "mark")]
            assert names == ["open", "segment", "heard", "finished"]
            assert (await client.get("/v1/saved/transcripts/0/audio")).content == encode_flac(recording)
            assert (await client.get("/v1/saved/transcripts/1/audio")).status_code == 404
            assert (await client.get("/v1/saved/transcripts/9")).status_code == 404
            for wrong in ("x", "0?limit=x", "-1"):
                assert (await client.get(f"/v1/saved/transcripts/{wrong}")).status_code in (200, 400, 404)
            assert (await client.get("/v1/saved/transcripts?limit=100000")).status_code == 400
            page = await client.get("/")
            assert 'content="view"' in page.text and "default-src 'none'" in page.headers["content-security-policy"]
            assert (await client.get("/", headers={"host": "evil.example"})).status_code == 421

    asyncio.run(scene())


def test_a_page_in_a_file_holds_nothing_that_could_run(tmp_path: Path) -> None:
    evil = "</script><script>alert(1)</script><!--"
    path = written(tmp_path / "all.jsonl", about(play((f"<think>{evil}</think><answer>a</answer>",)), text=evil).to_json())
    page = in_a_file(Saved([path]), Sources([]), [0], evil)
    assert "alert(1)</script>" not in page and page.count("<script") == 3
    data = page.partition('id="saved">')[2].partition("</script>")[0]
    assert json.loads(data)["groups"][0][0]["events"][0][1]["question"] == evil


def test_view_writes_a_file_and_says_what_it_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path / "all.jsonl", *[play(TURNS).to_json()] * 3, {"a": 1})
    out = tmp_path / "page.html"
    assert cli.run(["view", str(path), "--out", str(out), "--at-most", "2"]) == 0
    assert "the first 2 of 3 transcripts, 1 lines left out" in capsys.readouterr().out
    assert len(json.loads(out.read_text().partition('id="saved">')[2].partition("</script>")[0])["groups"]) == 2
    assert cli.run(["view", str(tmp_path / "nothing")]) == 2
    assert "does not exist" in capsys.readouterr().err
