"""Receiving what a client sends: no more than a bound, within a time, in memory only."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from echo_audio.errors import RequestError
from echo_audio.studio.house import House

_MORE_THAN_AUDIO = 1 << 20  # for the fields beside it
_PEOPLE = "send a shorter recording, or a compressed one (flac, ogg, mp3)"


class _InMemory(MultiPartParser):
    """Starlette's parser, with files that stay in memory: what is received is bounded before it gets here."""

    spool_max_size = 1 << 62


@dataclass(frozen=True, slots=True)
class Body:
    """What was received: the bytes of a JSON body, or the fields and files of a form.

    Args:
        json: the body, where it is no form.
        fields: name -> text, or texts where it was there several times.
        files: name -> content and the file's name as the client gave it (for people only).
    """

    json: bytes = b""
    fields: dict[str, Any] = field(default_factory=dict)
    files: dict[str, tuple[bytes, str]] = field(default_factory=dict)
    is_form: bool = False


class Bodies:
    """Receives the bodies of all requests.

    Args:
        house: its limits.
    """

    def __init__(self, house: House) -> None:
        self._house = house
        self.n_bytes = 0

    @asynccontextmanager
    async def receive(self, request: Request) -> AsyncIterator[Body]:
        """The body of a request; its bytes count as held until the context is left.

        Raises:
            RequestError: 413 too large, 408 too slow, 429 too many at once, 400 broken off or not a form.
        """
        is_form = request.headers.get("content-type", "").lower().startswith("multipart/form-data")
        most = self._house.max_upload_bytes * (2 if is_form else 4 / 3) + _MORE_THAN_AUDIO  # a form may hold a second file
        self._check_promise(request, most)
        held = _Held(self)
        try:
            try:
                async with asyncio.timeout(self._house.receive_s):
                    body = await self._read(request, is_form, most, held)
            except TimeoutError:
                why = f"the request took longer than {self._house.receive_s:g} s to arrive; send it faster, or send less"
                raise RequestError(why, 408, "too_slow") from None
            except ClientDisconnect:
                raise RequestError("the request broke off", 400, "broken_off") from None
            yield body
        finally:
            self.n_bytes -= held.n_bytes

    def _check_promise(self, request: Request, most: float) -> None:
        length = request.headers.get("content-length", "")
        if length.isdecimal() and (len(length) > 15 or int(length) > most):
            raise self._too_large(most)

    def _too_large(self, most: float) -> RequestError:
        return RequestError(f"the request is larger than {most / 1e6:.0f} MB; {_PEOPLE}", 413, "too_large")

    async def _read(self, request: Request, is_form: bool, most: float, held: _Held) -> Body:
        if not is_form:
            content = bytearray()
            async for chunk in self._counted(request, most, held):
                content += chunk
            return Body(json=bytes(content))
        parser = _InMemory(
            request.headers, self._counted(request, most, held), max_files=2, max_fields=100, max_part_size=_MORE_THAN_AUDIO
        )
        try:
            form = await parser.parse()
        except (MultiPartException, UnicodeError) as error:  # the latter: text that is not in the character set it names
            raise RequestError(f"the form cannot be read: {error}", 400, "bad_form") from None
        try:
            return await _form(form.multi_items())
        finally:
            await form.close()

    async def _counted(self, request: Request, most: float, held: _Held) -> AsyncGenerator[bytes]:
        async for chunk in request.stream():
            held.n_bytes += len(chunk)
            self.n_bytes += len(chunk)
            if held.n_bytes > most:
                raise self._too_large(most)
            if self.n_bytes > self._house.max_bodies_bytes:
                raise RequestError("the server is receiving too much at once; send it again in 5 s", 429, "busy", 5)
            yield chunk


@dataclass(slots=True)
class _Held:
    """What one request holds of the memory for all."""

    bodies: Bodies
    n_bytes: int = 0


async def _form(items: list[tuple[str, UploadFile | str]]) -> Body:
    fields, files = dict[str, Any](), dict[str, tuple[bytes, str]]()
    for name, value in items:
        if isinstance(value, UploadFile):
            if name in files:
                raise RequestError(f"the form holds the file {name[:60]!r} twice; send it once", 400, "bad_form")
            files[name] = (await value.read(), value.filename or "")
        elif name in ("choice", "choices"):
            fields.setdefault("choices", []).append(value)
        elif name in fields:
            raise RequestError(f"the form holds {name[:60]!r} twice; send it once", 400, "bad_form")
        else:
            fields[name] = value
    return Body(fields=fields, files=files, is_form=True)
