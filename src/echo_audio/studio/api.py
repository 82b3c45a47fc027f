"""The routes. What they do is done elsewhere: receiving, decoding, listening, writing."""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException

from echo_audio import __version__
from echo_audio.audio import Recording, encode_flac
from echo_audio.encoding import PromptingFamily
from echo_audio.errors import EchoError, RequestError
from echo_audio.listen import Engine
from echo_audio.studio import metrics as numbers
from echo_audio.studio import openai, pages
from echo_audio.studio.asked import Ask, read, read_json
from echo_audio.studio.bodies import Bodies, Body
from echo_audio.studio.guards import Guard, broken, refusal
from echo_audio.studio.house import House
from echo_audio.studio.listening import Opened, Studio
from echo_audio.studio.story import Told
from echo_audio.studio.streams import EventStream, unless_gone
from echo_audio.studio.uploads import Kept, plain_name


def make_app(engine: Engine, family: PromptingFamily, model: str, house: House | None = None) -> FastAPI:
    """The server as an ASGI application.

    Args:
        engine: where tokens come from; it is not closed here.
        family: its tokens and prompt.
        model: what clients call it.
        house: the limits.
    """
    house = house or House()
    studio, bodies = Studio(engine, family, model, house), Bodies(house)
    app = bare_app(house, studio.metrics)
    app.state.studio = studio
    _add_state(app, studio)
    _add_files(app, studio, bodies)
    _add_listen(app, studio, bodies)
    _add_chat(app, studio, bodies)
    _add_examples(app, studio)
    add_page(app, "ask")
    return app


def bare_app(house: House, metrics: numbers.Metrics | None = None) -> FastAPI:
    """An application with its guard, its manner of refusing, and no routes."""
    app = FastAPI(title="Echo", version=__version__, openapi_url=None, docs_url=None, redoc_url=None)

    @app.exception_handler(RequestError)
    def _refused(_: Request, error: RequestError) -> Response:
        return refusal(error)

    @app.exception_handler(EchoError)
    def _failed(_: Request, error: EchoError) -> Response:
        return refusal(RequestError(str(error), 500, "failed"))

    @app.exception_handler(HTTPException)
    def _no_route(request: Request, error: HTTPException) -> Response:
        said = {404: "there is nothing here", 405: f"{request.method} is not possible here"}
        return refusal(RequestError(said.get(error.status_code, str(error.detail)), error.status_code, "no_route"))

    @app.exception_handler(RequestValidationError)
    def _no_value(_: Request, error: RequestValidationError) -> Response:
        where = ".".join(str(part) for part in error.errors()[0]["loc"][1:])
        return refusal(RequestError(f"{where} in the address is not what is expected there", 400, "bad_request"))

    @app.exception_handler(Exception)
    def _broken(_: Request, error: Exception) -> Response:
        return refusal(broken(error))

    app.add_middleware(Guard, house=house, metrics=metrics)
    return app


def _add_state(app: FastAPI, studio: Studio) -> None:
    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok", "running": studio.gate.n_running, "waiting": studio.gate.n_waiting}

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(studio.metrics.text(), media_type=numbers.CONTENT_TYPE)

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        return {"object": "list", "data": [_model(studio)]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        if name != studio.model:
            raise RequestError(f"there is no such model here; this server has {studio.model!r}", 404, "model_not_found")
        return _model(studio)


def _model(studio: Studio) -> dict[str, Any]:
    house = studio.house
    limits = {
        "max_duration_s": studio.longest_s,
        "max_upload_bytes": house.max_upload_bytes,
        "max_new_tokens": house.max_new_tokens,
        "max_relistens": house.max_relistens,
        "max_relisten_s": house.max_relisten_s,
    }
    values = {"id": studio.model, "object": "model", "created": int(studio.began_s), "owned_by": "echo-audio"}
    return {**values, "version": __version__, "limits": limits}


def _add_files(app: FastAPI, studio: Studio, bodies: Bodies) -> None:
    @app.post("/v1/files")
    async def upload(request: Request) -> dict[str, Any]:
        async with bodies.receive(request) as body:
            if "file" not in body.files:
                raise RequestError("the form holds no `file`; send the recording under that name", 400, "bad_form")
            content, name = body.files["file"]
            recording = await studio.uploads.decode(content, name)
            return _file(studio.uploads.keep(recording, name, len(content)))

    @app.get("/v1/files/{file_id}")
    async def about(file_id: str) -> dict[str, Any]:
        return _file(studio.uploads.kept(file_id))

    @app.get("/v1/files/{file_id}/content")
    async def content(file_id: str) -> Response:
        """What the model hears: 16 kHz, mono."""
        return await flac(studio.uploads.kept(file_id).recording)

    @app.delete("/v1/files/{file_id}")
    async def forget(file_id: str) -> dict[str, Any]:
        if not studio.uploads.drop(file_id):
            raise RequestError("there is no such file here (any more)", 404, "no_such_file")
        return {"id": file_id, "object": "file", "deleted": True}


async def flac(recording: Recording) -> Response:
    """A recording as a response that a page may play."""
    content = await asyncio.to_thread(encode_flac, recording)
    return Response(content, media_type="audio/flac", headers={"cache-control": "private, max-age=3600"})


def _file(kept: Kept) -> dict[str, Any]:
    values = {"id": kept.id, "object": "file", "bytes": kept.n_bytes, "created_at": int(kept.created_s)}
    told = {"filename": kept.name or "recording", "purpose": "user_data", "status": "processed"}
    return {**values, **told, "duration_s": kept.recording.duration_s, "recording_id": kept.recording.id}


def add_page(app: FastAPI, kind: str, title: str = "Echo studio") -> None:
    """The page and what it loads."""

    @app.get("/")
    async def page() -> Response:
        text, policy = pages.served(kind, title)
        return HTMLResponse(text, headers={"content-security-policy": policy, "cache-control": "no-store"})

    @app.get("/page/shell.html")
    async def shell() -> Response:
        return HTMLResponse(pages.in_a_file(), headers={"cache-control": "no-store"})

    @app.get("/page/{name:path}")
    async def asset(name: str) -> Response:
        if name not in pages.assets():
            raise RequestError("there is nothing here", 404, "no_route")
        content, kind = pages.assets()[name]
        return Response(content, media_type=kind, headers={"cache-control": "no-cache"})


def _add_examples(app: FastAPI, studio: Studio) -> None:
    folder = resources.files("echo_audio") / "demo"
    lines = (folder / "questions.jsonl").read_text(encoding="utf-8").splitlines() if folder.is_dir() else []
    examples = [json.loads(line) for line in lines]

    @app.get("/v1/examples")
    async def listed() -> dict[str, Any]:
        shown = ({"number": n, "question": one["question"], "choices": one["choices"]} for n, one in enumerate(examples))
        return {"object": "list", "data": list(shown)}

    @app.post("/v1/examples/{number}")
    async def taken(number: int) -> dict[str, Any]:
        """As if it had been uploaded."""
        if not 0 <= number < len(examples):
            raise RequestError("there is no such example", 404, "no_such_file")
        name = examples[number]["audio"]
        content = (folder / name).read_bytes()
        return _file(studio.uploads.keep(await studio.uploads.decode(content, name), name, len(content)))


def _add_listen(app: FastAPI, studio: Studio, bodies: Bodies) -> None:
    @app.post("/v1/listen")
    async def listen(request: Request) -> Response:
        studio.gate.check()
        async with bodies.receive(request) as body:
            opened = await _opened(studio, body)
        ticket = studio.gate.ticket()

        return EventStream(
            studio.house, lambda tell: studio.run(opened, ticket, tell), Told.frame, _complaint, after=ticket.drop
        )


def _complaint(error: RequestError) -> str:
    """An error in a stream whose status has been sent already."""
    return Told("error", {"message": str(error), "code": error.code, "status": error.status}).frame()


async def _opened(studio: Studio, body: Body) -> Opened:
    """The question of a JSON body, or of a form whose files are the recordings."""
    if not body.is_form:
        return await _named(studio, await read_json(Ask, body.json))
    ask = read(Ask, {**body.fields, **({"swap_with": "a file"} if "swap_with" in body.files else {})})
    if unknown := set(body.files) - {"audio", "swap_with"}:
        raise RequestError(f"the form holds the file {min(unknown)[:60]!r}; the recording goes under `audio`", 400, "bad_form")
    ask.check()
    if "audio" not in body.files:
        return await _named(studio, ask)
    content, name = body.files["audio"]
    recording = await studio.uploads.decode(content, name)
    other = None
    if "swap_with" in body.files:
        other = await studio.uploads.decode(*body.files["swap_with"])
    elif ask.swap_with:
        other, _ = await studio.uploads.named(ask.swap_with, "swap_with")
    return studio.open(ask, recording, other, plain_name(name))


async def _named(studio: Studio, ask: Ask) -> Opened:
    """A question whose recordings are named by its fields."""
    ask.check()
    if not ask.audio:
        raise RequestError("audio is missing: the recording as base64, a data: URL, or the id of an uploaded file")
    recording, name = await studio.uploads.named(ask.audio, "audio")
    other = (await studio.uploads.named(ask.swap_with, "swap_with"))[0] if ask.swap_with else None
    return studio.open(ask, recording, other, name)


def _add_chat(app: FastAPI, studio: Studio, bodies: Bodies) -> None:
    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        studio.gate.check()
        async with bodies.receive(request) as body:
            if body.is_form:
                raise RequestError("chat completions take JSON; upload the file to /v1/files and name its id", 415, "bad_form")
            asked = await read_json(openai.Chat, body.json)
            opened = await _named(studio, asked.ask(studio.model))
        ticket = studio.gate.ticket()
        with_usage = asked.stream_options is not None and asked.stream_options.include_usage
        completion = openai.Completion(opened.id, studio.model, opened.n_prompt, with_usage)
        if asked.stream:
            return EventStream(
                studio.house,
                lambda tell: studio.run(opened, ticket, tell),
                completion.chunk,
                completion.complaint,
                openai.DONE,
                ticket.drop,
            )
        try:
            transcript = await unless_gone(request, studio.run(opened, ticket, completion.hear))
        finally:
            ticket.drop()
        if transcript is None:
            return Response(status_code=499)  # nobody reads it
        return JSONResponse(completion.whole(transcript))
