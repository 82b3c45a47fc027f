"""OpenAI's chat completions: its requests as ours, our events as its chunks. Wire types only; nothing of their library."""

from __future__ import annotations

import json
import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from echo_audio.errors import RequestError
from echo_audio.studio.asked import Ask, Manner
from echo_audio.studio.story import Told
from echo_audio.transcript import Stop, Transcript

_LENGTH = {Stop.TOKEN_LIMIT, Stop.TURN_LIMIT, Stop.AUDIO_LIMIT}


class _Wire(BaseModel):
    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)


class InputAudio(_Wire):
    """`{"data": base64, "format": "wav"}`; the format is not believed."""

    data: str = Field(repr=False)


class AudioUrl(_Wire):
    """`{"url": "data:audio/wav;base64,..."}`."""

    url: str = Field(repr=False)


class FilePart(_Wire):
    """`{"file_id": ...}` or `{"file_data": "data:..."}`."""

    file_id: str | None = None
    file_data: str | None = Field(default=None, repr=False)


class Part(_Wire):
    """A part of a message."""

    type: str
    text: str = ""
    input_audio: InputAudio | None = None
    audio_url: AudioUrl | None = None
    file: FilePart | None = None

    def audio(self) -> str | None:
        """The recording it holds, as a reference for `Uploads.named`; None for text.

        Raises:
            RequestError: it is of a kind that cannot be heard.
        """
        if self.type == "text":
            return None
        if self.type == "input_audio" and self.input_audio:
            return self.input_audio.data
        if self.type == "audio_url" and self.audio_url:
            return self.audio_url.url
        if self.type == "file" and self.file and (self.file.file_id or self.file.file_data):
            return self.file.file_id or self.file.file_data
        raise RequestError(f"a part of type {self.type[:40]!r} cannot be heard; send text, input_audio, audio_url or file")


class Message(_Wire):
    """A message."""

    role: Literal["system", "developer", "user", "assistant", "tool", "function"]
    content: str | list[Part] | None = None

    def parts(self) -> list[Part]:
        """Its content as parts."""
        if isinstance(self.content, str):
            return [Part(type="text", text=self.content)]
        return self.content or []


class StreamOptions(_Wire):
    """Options of a stream."""

    include_usage: bool = False


class Echo(Manner):
    """The options that only Echo has, as the field `echo` of a request (`extra_body={"echo": {...}}` in OpenAI's client)."""


class Chat(BaseModel):
    """The body of `/v1/chat/completions`. What would change the answer and is not done is refused, not ignored."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    messages: list[Message] = Field(min_length=1, max_length=1000)
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    temperature: float | None = Field(default=None, ge=0, le=100)
    top_p: float | None = Field(default=None, gt=0, le=1)
    seed: int | None = Field(default=None, ge=0, lt=1 << 63)
    max_tokens: int | None = Field(default=None, ge=1)
    max_completion_tokens: int | None = Field(default=None, ge=1)
    echo: Echo = Field(default_factory=Echo)

    n: Literal[1] | None = None
    stop: Literal[""] | list[Any] | None = Field(default=None, max_length=0)
    tools: list[Any] | None = Field(default=None, max_length=0)
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    logit_bias: dict[str, Any] | None = Field(default=None, max_length=0)
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    response_format: dict[str, Any] | None = None
    modalities: list[Literal["text"]] | None = None

    # These change nothing about the answer.
    user: Any = None
    metadata: Any = None
    store: Any = None
    service_tier: Any = None
    tool_choice: Any = None
    parallel_tool_calls: Any = None
    reasoning_effort: Any = None
    safety_identifier: Any = None
    prompt_cache_key: Any = None
    verbosity: Any = None

    def ask(self, model: str) -> Ask:
        """The question in it.

        Raises:
            RequestError: another model, no recording or several, or a conversation.
        """
        if self.model != model:
            raise RequestError(f"there is no model {self.model[:80]!r} here; this server has {model!r}", 404, "model_not_found")
        if self.response_format not in (None, {"type": "text"}):
            raise RequestError("response_format: the model writes text; leave it out")
        if any(message.role not in ("system", "developer", "user") for message in self.messages):
            raise RequestError(
                "the model answers one question about one recording and knows nothing of earlier turns; "
                "send one user message, without the assistant's"
            )
        parts = [part for message in self.messages for part in message.parts()]
        audios = [audio for part in parts if (audio := part.audio()) is not None]
        if len(audios) != 1:
            how = "put one input_audio part into the user message"
            raise RequestError(f"the messages hold {len(audios)} recordings, and a question is about one; {how}")
        question = "\n\n".join(part.text for part in parts if part.type == "text" and part.text.strip())
        if not question:
            raise RequestError("the messages hold no question; put a text part beside the recording")
        if len(question) > 8000:
            raise RequestError(f"the question has {len(question)} characters, and 8000 are read at most; shorten it")
        given = {
            "seed": self.seed,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "max_new_tokens": self.max_completion_tokens or self.max_tokens,
        }
        how = {name: value for name, value in given.items() if value is not None}
        return Ask(question=question, audio=audios[0], **self.echo.model_dump(), **how)


class Completion:
    """Writes the events of one listening as OpenAI's objects.

    Args:
        id: of the completion.
        model: its name.
        n_prompt: tokens of the prompt, audio included.
        with_usage: whether a stream ends with the usage.
    """

    def __init__(self, id: str, model: str, n_prompt: int, with_usage: bool) -> None:
        self._head = {"id": f"chatcmpl-{id.removeprefix('echo-')}", "created": int(time.time()), "model": model}
        self._n_prompt, self._with_usage = n_prompt, with_usage
        self._begun = False
        self._told: list[Told] = []

    def hear(self, told: Told) -> None:
        """Remember an event for `whole`."""
        self._told.append(told)

    def whole(self, transcript: Transcript) -> dict[str, Any]:
        """The completion, when it is over.

        Raises:
            RequestError: 500, the engine failed.
        """
        end = next(told.data for told in self._told if told.name == "finished")
        if transcript.stop is Stop.ENGINE_ERROR:
            raise RequestError(end["says"], 500, "engine_error")
        message = {"role": "assistant", "content": transcript.response, "refusal": None}
        events = [_event(told) for told in self._told if told.name not in ("text", "mark")]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _reason(end["stop"])}
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": self._usage(end),
            "echo": {**end, "events": events},
        }

    def chunk(self, told: Told) -> str:
        """The frames for an event: text as it is written; segments and what becomes of them beside it, as `delta.echo`."""
        if told.name == "finished":
            if told.data["stop"] == Stop.ENGINE_ERROR.value:
                return self.complaint(RequestError(told.data["says"], 500, "engine_error"))
            return self._frame({"echo": _event(told)}, _reason(told.data["stop"])) + self._last(told.data)
        delta: dict[str, Any] = {} if self._begun else {"role": "assistant"}
        self._begun = True
        if "text" in told.data:
            delta["content"] = told.data["text"]
        if told.name not in ("text", "mark"):
            delta["echo"] = _event(told)
        return self._frame(delta, None)

    def complaint(self, error: RequestError) -> str:
        """The frame for an error in a stream."""
        return f"data: {json.dumps(complaint(error), ensure_ascii=False)}\n\n"

    def _frame(self, delta: dict[str, Any], reason: str | None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
        return self._data({"choices": [choice]})

    def _last(self, end: dict[str, Any]) -> str:
        return self._data({"choices": [], "usage": self._usage(end)}) if self._with_usage else ""

    def _data(self, values: dict[str, Any]) -> str:
        chunk = {**self._head, "object": "chat.completion.chunk", **values}
        return f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n"

    def _usage(self, end: dict[str, Any]) -> dict[str, int]:
        n = end["n_tokens"]
        return {"prompt_tokens": self._n_prompt, "completion_tokens": n, "total_tokens": self._n_prompt + n}


DONE = "data: [DONE]\n\n"


def _event(told: Told) -> dict[str, Any]:
    return {"type": told.name, **told.data}


def _reason(stop: str) -> str:
    return "length" if Stop(stop) in _LENGTH else "stop"


def complaint(error: RequestError) -> dict[str, Any]:
    """An error as OpenAI's clients read it, and ours."""
    kind = "invalid_request_error" if error.status < 500 else "server_error"
    return {"error": {"message": str(error), "type": kind, "param": None, "code": error.code}}
