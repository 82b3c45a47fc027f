"""The server of `echo-audio view`: the page on saved transcripts."""

from __future__ import annotations

import asyncio
import base64
from collections import OrderedDict
from collections.abc import Sequence
from datetime import date
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import Response

from echo_audio.audio import encode_flac
from echo_audio.errors import RequestError
from echo_audio.studio import pages
from echo_audio.studio.api import add_page, bare_app
from echo_audio.studio.house import House
from echo_audio.studio.saved import Entry, Opened, Saved
from echo_audio.studio.sources import Sources

_MOST_LISTED = 200
_MOST_SOUNDS = 32


def view_app(saved: Saved, sources: Sources, title: str, house: House) -> FastAPI:
    """The viewer as an ASGI application.

    Args:
        saved: what is shown.
        sources: where recordings are looked for.
        title: what it is, for the page's head.
        house: key and host names.
    """
    app = bare_app(house)
    sounds = _Sounds(saved, sources)

    @app.get("/health")
    async def health() -> dict[str, Any]:
        return {"status": "ok"}

    @app.get("/v1/saved")
    async def about() -> dict[str, Any]:
        return {"title": title, "total": len(saved.entries), "filters": saved.filters()}

    @app.get("/v1/saved/transcripts")
    async def listed(request: Request, offset: int = 0, limit: int = 50) -> dict[str, Any]:
        if offset < 0 or not 1 <= limit <= _MOST_LISTED:
            raise RequestError(f"offset counts from 0, limit from 1 to {_MOST_LISTED}")
        wanted = {name: value for name, value in request.query_params.items() if name not in ("offset", "limit", "text")}
        found = await asyncio.to_thread(saved.find, request.query_params.get("text", ""), wanted)
        some = found[offset : offset + limit]
        return {"total": len(found), "data": [_line(number, saved.entries[number]) for number in some]}

    @app.get("/v1/saved/transcripts/{number}")
    async def one(number: int) -> dict[str, Any]:
        opened = _open(saved, number)
        has_audio = await asyncio.to_thread(sounds.of, number) is not None
        return _whole(opened) | {"number": number, "has_audio": has_audio}

    @app.get("/v1/saved/transcripts/{number}/audio")
    async def audio(number: int) -> Response:
        _open(saved, number)
        sound = await asyncio.to_thread(sounds.of, number)
        if sound is None:
            raise RequestError("the recording of this transcript is not here; name its folder with --audio", 404, "no_audio")
        return Response(sound, media_type="audio/flac")

    add_page(app, "view", f"{title} · Echo")
    return app


def _open(saved: Saved, number: int) -> Opened:
    if not 0 <= number < len(saved.entries):
        raise RequestError("there is no such transcript", 404, "no_such_transcript")
    return saved.open(number)


def _line(number: int, entry: Entry) -> dict[str, Any]:
    told = {"question": entry.question, "answer": entry.answer, "verdict": entry.verdict, "about": list(entry.about)}
    return {"number": number, **told}


def _whole(opened: Opened) -> dict[str, Any]:
    events = [[told.name, told.data] for told in opened.events()]
    truth = opened.transcript.question.answer
    return {"name": opened.name, "truth": truth, "about": list(opened.entry.about), "events": events}


class _Sounds:
    """The last few recordings, as FLAC; looking for one may take a while."""

    def __init__(self, saved: Saved, sources: Sources) -> None:
        self._saved, self._sources = saved, sources
        self._known: OrderedDict[int, bytes | None] = OrderedDict()

    def of(self, number: int) -> bytes | None:
        """The sound of a transcript; None where it is not here."""
        if number not in self._known:
            recording = self._sources.recording(self._saved.open(number))
            self._known[number] = None if recording is None else encode_flac(recording)
            while len(self._known) > _MOST_SOUNDS:
                self._known.popitem(last=False)
        return self._known[number]


def in_a_file(saved: Saved, sources: Sources, numbers: Sequence[int], title: str) -> str:
    """Some transcripts with their recordings as one HTML file that needs no server."""
    places: dict[str, int] = {}
    recordings: list[dict[str, str]] = []
    groups: list[list[dict[str, Any]]] = []
    for number in numbers:
        opened = saved.open(number)
        known = opened.transcript.question.recording_id
        if known not in places:
            recording = sources.recording(opened)
            sound = "" if recording is None else base64.b64encode(encode_flac(recording)).decode()
            places[known] = len(recordings)
            recordings.append({"name": opened.name, "flac": sound})
        groups.append([_whole(opened) | {"recording": places[known]}])
    data = {"made": date.today().isoformat(), "recordings": recordings, "groups": groups}
    return pages.in_a_file(data, f"{title} · Echo")
