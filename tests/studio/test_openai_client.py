"""OpenAI's own Python client, unchanged, against a server on a socket."""

from __future__ import annotations

import time

import pytest
from studio_helpers import FLAC, OTHER, QUESTION, RESPONSE, Engine, b64, serving

openai = pytest.importorskip("openai", reason="needs the openai package")


@pytest.fixture(scope="module")
def engine():
    return Engine()


@pytest.fixture(scope="module")
def served(engine):
    with serving(engine) as served:
        yield served


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="not needed", max_retries=0, timeout=20) as client:
        yield client


def message(part: dict, text: str = QUESTION) -> list[dict]:
    return [{"role": "user", "content": [{"type": "text", "text": text}, part]}]


SOUND = {"type": "input_audio", "input_audio": {"data": b64(FLAC), "format": "wav"}}


def test_the_model_is_listed(client) -> None:
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.models.retrieve("scripted").owned_by == "echo-audio"


def test_a_completion(client) -> None:
    done = client.chat.completions.create(model="scripted", messages=message(SOUND), seed=4, temperature=0, max_tokens=500)
    (choice,) = done.choices
    assert (choice.message.content, choice.message.role, choice.finish_reason) == (RESPONSE, "assistant", "stop")
    assert done.usage.total_tokens == done.usage.prompt_tokens + done.usage.completion_tokens > 100
    echo = done.model_extra["echo"]
    assert (echo["answer"], echo["segments"]) == ("a bell", [{"start_s": 1.2, "end_s": 1.9, "played": "crop"}])
    assert [event["type"] for event in echo["events"]] == ["open", "segment", "heard", "finished"]


def test_a_stream_has_segments_beside_the_text(client) -> None:
    how = {"stream": True, "stream_options": {"include_usage": True}, "extra_body": {"echo": {"choices": ["a bell", "a dog"]}}}
    text, events, last, usage = "", [], None, None
    with client.chat.completions.create(model="scripted", messages=message(SOUND), **how) as chunks:
        for chunk in chunks:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                text += choice.delta.content or ""
                events += [choice.delta.model_extra["echo"]] if "echo" in choice.delta.model_extra else []
                last = choice.finish_reason or last
    assert (text, last) == (RESPONSE, "stop")
    assert usage.completion_tokens > 50
    by_type = {event["type"]: event for event in events}
    assert (by_type["segment"]["start_s"], by_type["segment"]["text"]) == (1.2, "<seg>1.2, 1.9</seg>")
    assert by_type["heard"]["played"] == "crop" and by_type["finished"]["choice"] == "a bell"


def test_recordings_come_as_data_urls_and_as_uploaded_files(client) -> None:
    url = f"data:audio/flac;base64,{b64(FLAC)}"
    file = client.files.create(file=("door.flac", FLAC), purpose="user_data")
    parts = [
        {"type": "input_audio", "input_audio": {"data": url, "format": "wav"}},
        {"type": "audio_url", "audio_url": {"url": url}},
        {"type": "file", "file": {"file_data": url, "filename": "door.flac"}},
        {"type": "file", "file": {"file_id": file.id}},
    ]
    for part in parts:
        assert client.chat.completions.create(model="scripted", messages=message(part)).choices[0].message.content == RESPONSE
    assert client.files.content(file.id).read() == FLAC
    assert client.files.retrieve(file.id).filename == "door.flac"
    assert client.files.delete(file.id).deleted


def test_a_counterfactual_as_an_extra_field(client) -> None:
    other = client.files.create(file=OTHER, purpose="user_data")
    extra = {"echo": {"played": "swapped", "swap_with": other.id, "mode": "interleaved"}}
    done = client.chat.completions.create(model="scripted", messages=message(SOUND), extra_body=extra)
    assert done.model_extra["echo"]["segments"][0]["played"] == "swapped"


@pytest.mark.parametrize(
    ("change", "kind", "says"),
    [
        ({"model": "gpt-4o-audio-preview"}, openai.NotFoundError, "this server has 'scripted'"),
        ({"n": 2}, openai.BadRequestError, "n: "),
        ({"logprobs": True}, openai.BadRequestError, "logprobs"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, openai.BadRequestError, "tools"),
        ({"messages": [{"role": "user", "content": "What is heard?"}]}, openai.BadRequestError, "hold 0 recordings"),
        ({"messages": message(SOUND, "")}, openai.BadRequestError, "no question"),
        ({"messages": [*message(SOUND), {"role": "assistant", "content": "a"}]}, openai.BadRequestError, "earlier turns"),
        ({"messages": message({"type": "image_url", "image_url": {"url": "x"}})}, openai.BadRequestError, "cannot be heard"),
        ({"extra_body": {"echo": {"mod": "grounded"}}}, openai.BadRequestError, "did you mean 'mode'"),
        ({"extra_body": {"temprature": 1}}, openai.BadRequestError, "did you mean 'temperature'"),
        ({"max_tokens": 1_000_000}, openai.BadRequestError, "4096 at most"),
    ],
)
def test_what_is_not_done_is_refused_not_ignored(client, change, kind, says) -> None:
    with pytest.raises(kind) as refused:
        client.chat.completions.create(**{"model": "scripted", "messages": message(SOUND), **change})
    assert says in refused.value.body["message"]


def test_a_client_that_leaves_the_stream_frees_its_place(client, engine, served) -> None:
    engine.pause_s, before = 0.05, engine.cancelled
    try:
        chunks = client.chat.completions.create(model="scripted", messages=message(SOUND), stream=True)
        next(iter(chunks))
        assert served.studio.gate.n_running == 1
        chunks.close()
        deadline = time.monotonic() + 5
        while served.studio.gate.n_running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.studio.gate.n_running == 0 and engine.cancelled == before + 1
    finally:
        engine.pause_s = 0.0


def test_a_client_that_does_not_wait_for_its_answer_frees_its_place(client, engine, served) -> None:
    engine.pause_s, before = 0.05, engine.cancelled
    try:
        with pytest.raises(openai.APITimeoutError):
            client.with_options(timeout=0.5).chat.completions.create(model="scripted", messages=message(SOUND))
        deadline = time.monotonic() + 5
        while served.studio.gate.n_running and time.monotonic() < deadline:
            time.sleep(0.02)
        assert served.studio.gate.n_running == 0 and engine.cancelled == before + 1
    finally:
        engine.pause_s = 0.0
