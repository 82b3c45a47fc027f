"""`POST /v1/listen`: the native event stream, what it refuses, and in which words."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from studio_helpers import FLAC, OTHER, QUESTION, RESPONSE, Client, Engine, asked, b64, events_of

from echo_audio.audio import Recording, encode_flac
from echo_audio.errors import EngineError
from echo_audio.studio.house import House
from echo_audio.transcript import Played, Transcript


def run(coroutine):
    return asyncio.run(coroutine)


async def listen(client, **more):
    answer = await client.post("/v1/listen", json=asked(**more))
    assert answer.status_code == 200, answer.text
    return events_of(answer.text)


def test_the_events_tell_the_whole_story_in_order(client: Client) -> None:
    async def scene() -> None:
        async with client() as studio:
            events = await listen(studio, choices=["a bell", "a dog"], seed=3)
        names = [name for name, _ in events]
        assert names[0] == "open" and names[-1] == "finished"
        order = [name for name in names if name not in ("text", "mark")]
        assert order == ["open", "segment", "heard", "finished"]
        assert "".join(data.get("text", "") for _, data in events) == RESPONSE
        told = dict(events)
        assert told["open"]["recording"]["duration_s"] == 4.0 and told["open"]["seed"] == 3
        assert told["segment"] | {"text": ""} == {"text": "", "index": 0, "start_s": 1.2, "end_s": 1.9}
        assert told["heard"] == {"index": 0, "start_s": 1.2, "end_s": 1.9, "played": "crop"}
        assert [told["finished"][name] for name in ("answer", "choice", "stop")] == ["a bell", "a bell", "answered"]

    run(scene())


def test_a_segment_that_cannot_be_played_is_told_with_its_reason(client: Client, engine: Engine) -> None:
    engine.turns = ("<think>a <seg>3.9, 3.2</seg>", " b <seg>one</seg>", " c <seg>3.5, 99</seg>", " d</think><answer>x</answer>")

    async def scene() -> None:
        async with client() as studio:
            events = await listen(studio)
        assert [data["what"] for name, data in events if name == "unheard"] == ["reversed", "unparseable"]
        assert [(data["index"], data["end_s"]) for name, data in events if name == "heard"] == [(2, 4.0)]
        assert [data["what"] for name, data in events if name == "note"] == ["clamped"]
        spans = [(data["start_s"], data["end_s"]) for name, data in events if name == "segment"]
        assert spans == [(None, None), (None, None), (3.5, 4.0)]

    run(scene())


def test_all_options_of_ask_reach_the_engine(client: Client, engine: Engine) -> None:
    async def scene() -> None:
        async with client() as studio:
            how = {"mode": "interleaved", "played": "swapped", "swap_with": b64(OTHER), "seed": 9, "temperature": 0.7,
                   "top_p": 0.9, "max_new_tokens": 200, "max_relistens": 2, "with_transcript": True}  # fmt: skip
            events = await listen(studio, **how)
        transcript = Transcript.from_json(json.dumps(dict(events)["finished"]["transcript"]))
        assert transcript.played is Played.SWAPPED and transcript.response == RESPONSE
        request = engine.requests[0]
        assert (request.sampling.seed, request.sampling.temperature, request.sampling.top_p) == (9, 0.7, 0.9)
        assert request.max_new_tokens == 200
        assert transcript.question.meta["seed"] == 9

    run(scene())


@pytest.mark.parametrize(("mode", "heard"), [("grounded", 0), ("conditioned", 0), ("interleaved", 1)])
def test_the_three_modes(client: Client, engine: Engine, mode: str, heard: int) -> None:
    engine.turns = (RESPONSE,) if mode != "interleaved" else engine.turns

    async def scene() -> None:
        async with client() as studio:
            events = await listen(studio, mode=mode)
        assert sum(name == "heard" for name, _ in events) == heard
        assert sum(name == "segment" for name, _ in events) == 1

    run(scene())


def test_a_form_with_files_does_the_same(client: Client) -> None:
    async def scene() -> None:
        async with client() as studio:
            files = {"audio": ("../../etc/passwd", FLAC, "text/html"), "swap_with": ("b.flac", OTHER)}
            fields = {"question": QUESTION, "choice": ["a bell", "a dog"], "played": "swapped", "with_transcript": "true"}
            answer = await studio.post("/v1/listen", data=fields, files=files)
        told = dict(events_of(answer.text))
        assert told["open"]["choices"] == ["a bell", "a dog"] and told["heard"]["played"] == "swapped"
        assert told["finished"]["transcript"]["question"]["meta"]["audio"] == "passwd"

    run(scene())


def test_a_recording_is_uploaded_once_and_asked_about_often(client: Client) -> None:
    async def scene() -> None:
        async with client() as studio:
            file = (await studio.post("/v1/files", files={"file": ("door.flac", FLAC)}, data={"purpose": "user_data"})).json()
            assert (file["filename"], file["duration_s"], file["object"]) == ("door.flac", 4.0, "file")
            for _ in range(2):
                assert (await listen(studio, audio=file["id"]))[-1][0] == "finished"
            sound = await studio.get(f"/v1/files/{file['id']}/content")
            assert sound.content == FLAC and sound.headers["content-type"] == "audio/flac"
            assert (await studio.delete(f"/v1/files/{file['id']}")).json()["deleted"]
            gone = await studio.post("/v1/listen", json=asked(audio=file["id"]))
            assert gone.status_code == 404 and "upload it again" in gone.json()["error"]["message"]

    run(scene())


def test_kept_recordings_make_room_for_newer_ones(client: Client) -> None:
    async def scene() -> None:
        async with client(House(max_kept_bytes=600_000)) as studio:
            ids = [(await studio.post("/v1/files", files={"file": FLAC})).json()["id"] for _ in range(4)]
            found = [(await studio.get(f"/v1/files/{one}")).status_code for one in ids]
        assert found == [404, 404, 200, 200]

    run(scene())


def test_an_engine_that_fails_is_told_in_the_stream(client: Client, engine: Engine) -> None:
    engine.turns = ("<think>I look <seg>1.0, 2.0</seg>", EngineError("the model's output is not finite"))

    async def scene() -> None:
        async with client() as studio:
            end = (await listen(studio))[-1]
        assert end[0] == "finished" and end[1]["stop"] == "engine_error"
        assert "not finite" in end[1]["says"]

    run(scene())


def silence() -> bytes:
    return encode_flac(Recording(np.zeros(16_000, np.float32)))


WRONG = [
    ({"question": ""}, 400, "question"),
    ({"question": "  "}, 400, "it is empty"),
    ({"question": 3}, 400, "question"),
    ({"audio": ""}, 400, "audio is missing"),
    ({"audio": "!!!"}, 400, "neither base64"),
    ({"audio": "data:audio/wav,abc"}, 400, "must hold base64"),
    ({"audio": "https://example.org/a.wav"}, 400, "fetches none"),
    ({"audio": "file:///etc/passwd"}, 400, "fetches none"),
    ({"audio": "file-" + "0" * 32}, 404, "upload it again"),
    ({"audio": b64(b"<html>no</html>")}, 415, "HTML page"),
    ({"audio": b64(FLAC[:3000])}, 400, "damaged or cut off"),
    ({"audio": b64(silence())}, 400, "silent"),
    ({"sed": 1}, 400, "did you mean 'seed'"),
    ({"seed": -1}, 400, "seed"),
    ({"temperature": -0.1}, 400, "temperature"),
    ({"top_p": 0}, 400, "top_p"),
    ({"mode": "sung"}, 400, "mode"),
    ({"mode": "grounded", "played": "withheld"}, 400, "in mode grounded nothing is"),
    ({"played": "swapped"}, 400, "swap_with belong together"),
    ({"choices": ["one"]}, 400, "one choice is no choice"),
    ({"choices": ["a", "a"]}, 400, "twice"),
    ({"max_new_tokens": 100_000}, 400, "gives 4096 at most"),
    ({"max_relistens": 1000}, 400, "gives 32 at most"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "status", "says"), WRONG, ids=[f"{status}-{says}" for _, status, says in WRONG])
def test_what_is_wrong_is_refused_in_a_sentence(client: Client, more: dict, status: int, says: str) -> None:
    async def scene() -> None:
        async with client() as studio:
            answer = await studio.post("/v1/listen", json=asked(**more))
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (status, "invalid_request_error")
        assert says in error["message"] and "\n" not in error["message"] and len(error["message"]) < 400

    run(scene())


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000, b'{"question": "\\ud800"}'])
def test_what_is_no_request_is_refused(client: Client, body: bytes) -> None:
    async def scene() -> None:
        async with client() as studio:
            answer = await studio.post("/v1/listen", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 400 and answer.json()["error"]["message"]

    run(scene())


def test_recordings_that_are_too_long_too_large_or_too_dense_are_refused(client: Client) -> None:
    def wav(rate_hz: int, n_channels: int, n_frames: int) -> bytes:
        import io

        import soundfile

        out = io.BytesIO()
        soundfile.write(out, np.full((n_frames, n_channels), 0.1), rate_hz, format="WAV", subtype="PCM_16")
        return out.getvalue()

    async def scene() -> None:
        async with client(House(max_duration_s=2.0, max_upload_bytes=200_000)) as studio:
            for content, status, says in (
                (FLAC, 413, "the limit is 2 s"),
                (wav(16_000, 1, 150_000), 413, "larger than"),
                (wav(16_000, 9, 1000), 413, "channels"),
                (wav(400_000, 1, 1000), 413, "samples a second"),
            ):
                answer = await studio.post("/v1/files", files={"file": content})
                assert (answer.status_code, says in answer.json()["error"]["message"]) == (status, True), answer.text
            whole = await studio.post("/v1/listen", content=b" " * 2_000_000)
            assert whole.status_code == 413

    run(scene())


def test_a_body_that_is_promised_too_large_is_refused_before_it_is_sent(client: Client) -> None:
    async def scene() -> None:
        async with client() as studio:
            headers = {"content-length": "2000000000"}
            answer = await studio.post("/v1/listen", content=b"{}", headers=headers)
        assert answer.status_code == 413

    run(scene())


def test_a_client_that_sends_slowly_is_told_so(client: Client) -> None:
    async def trickle():
        while True:
            yield b" "
            await asyncio.sleep(0.02)

    async def scene() -> None:
        async with client(House(receive_s=0.2)) as studio:
            answer = await studio.post("/v1/listen", content=trickle())
            assert answer.status_code == 408 and "longer than 0.2 s" in answer.json()["error"]["message"]

    run(scene())


def test_when_all_places_are_taken_the_next_is_told_to_come_back(client: Client, engine: Engine) -> None:
    engine.pause_s = 0.02

    async def scene() -> None:
        async with client(House(at_once=1, waiting=1)) as studio:
            first = asyncio.create_task(studio.post("/v1/listen", json=asked()))
            await asyncio.sleep(0.2)
            second = asyncio.create_task(studio.post("/v1/listen", json=asked()))
            await asyncio.sleep(0.2)
            third = await studio.post("/v1/listen", json=asked())
            assert third.status_code == 429 and int(third.headers["retry-after"]) >= 1
            assert "ask again" in third.json()["error"]["message"]
            assert [name for name, _ in events_of((await second).text)][1] == "queued"
            assert (await first).status_code == 200
            assert (studio.studio.gate.n_running, studio.studio.gate.n_waiting) == (0, 0)

    run(scene())


def test_a_reasoning_that_takes_too_long_is_stopped(client: Client, engine: Engine) -> None:
    engine.pause_s = 0.05

    async def scene() -> None:
        async with client(House(listen_s=0.3)) as studio:
            events = await listen(studio)
            assert events[-1][0] == "error" and events[-1][1]["status"] == 504
            assert studio.studio.gate.n_running == 0
        assert engine.cancelled == 1 and len(engine.released) == 1

    run(scene())


def test_a_server_that_is_asked_for_nothing_it_has(client: Client) -> None:
    async def scene() -> None:
        async with client() as studio:
            assert (await studio.get("/v1/nothing")).status_code == 404
            wrong = await studio.get("/v1/listen")
            assert wrong.status_code == 405 and "GET is not possible here" in wrong.json()["error"]["message"]
            assert (await studio.get("/health")).json() == {"status": "ok", "running": 0, "waiting": 0}

    run(scene())
