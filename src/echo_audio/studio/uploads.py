"""Recordings out of requests: sniffed before they are decoded, bounded while they are; and those kept for later.

Nothing here opens a file: what a client calls its recording is text to show, never a path.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import re
import secrets
import time
import unicodedata
from collections import OrderedDict
from dataclasses import dataclass, field

from echo_audio.audio import Recording, load, rate_and_channels
from echo_audio.errors import EchoError, RequestError
from echo_audio.studio.house import House

_FILE_ID = re.compile(r"file-[0-9a-f]{32}")
_DATA_URL = re.compile(r"data:[a-zA-Z0-9.+/;= _\"-]{0,200},", re.ASCII)
_DECODERS = 2  # at once: decoding takes a core and memory


def plain_name(name: str) -> str:
    """A client's name for a file as text to show: its last part, without control characters, not long."""
    last = re.split(r"[/\\]", name)[-1]
    return "".join(c for c in last if unicodedata.category(c)[0] != "C")[:120]


@dataclass(frozen=True, slots=True)
class Kept:
    """A recording that was uploaded to be asked about.

    Args:
        id: hard to guess; whoever knows it may ask about the recording.
        name: as the client called it.
        n_bytes: of the file it came from.
        created_s: seconds since 1970.
    """

    id: str
    name: str
    recording: Recording
    n_bytes: int
    created_s: float = field(default_factory=time.time)


class Uploads:
    """Decodes recordings, and keeps some.

    Args:
        house: its limits.
        max_duration_s: of a recording.
    """

    def __init__(self, house: House, max_duration_s: float) -> None:
        self._house, self.max_duration_s = house, max_duration_s
        self._decoding = asyncio.Semaphore(_DECODERS)
        self._kept: OrderedDict[str, tuple[Kept, float]] = OrderedDict()  # by last use

    async def decode(self, content: bytes, name: str = "") -> Recording:
        """The recording in a file's bytes.

        Raises:
            RequestError: 413 too large or too long, 415 not audio, 400 damaged or silent.
        """
        if len(content) > self._house.max_upload_bytes:
            most = f"{self._house.max_upload_bytes / 1e6:.0f} MB"
            raise RequestError(f"the recording is larger than {most}; send a shorter or a compressed one", 413, "too_large")
        async with self._decoding:
            return await asyncio.to_thread(self._decode, content, plain_name(name))

    def _decode(self, content: bytes, name: str) -> Recording:
        try:
            rate_hz, n_channels = rate_and_channels(content)
            if rate_hz > self._house.max_rate_hz or n_channels > self._house.max_channels:
                most = f"{self._house.max_rate_hz} Hz and {self._house.max_channels} channels"
                what = f"the recording has {rate_hz} samples a second and {n_channels} channels, and the server takes {most}"
                raise RequestError(f"{what}; convert it first", 413, "too_dense")
            return load(content, max_duration_s=self.max_duration_s)
        except RequestError:
            raise
        except EchoError as error:
            raise _refusal(error.plain, name, self.max_duration_s) from None

    async def named(self, text: str, what: str) -> tuple[Recording, str]:
        """The recording that a field names (the id of a kept one, a data: URL, or base64), and what to call it.

        Raises:
            RequestError: it names none.
        """
        if _FILE_ID.fullmatch(text):
            kept = self.kept(text)
            return kept.recording, kept.name
        if text.startswith("data:"):
            head = _DATA_URL.match(text[:300])
            if head is None or ";base64" not in head[0]:
                raise RequestError(f"{what}: the data: URL must hold base64, as in data:audio/wav;base64,UklG...")
            text = text[head.end() :]
        elif re.match(r"[a-z][a-z0-9+.-]{1,20}://", text[:40], re.IGNORECASE):
            raise RequestError(f"{what} is a web address, and the server fetches none; send the recording itself")
        return await self.decode(await asyncio.to_thread(_from_base64, text, what)), ""

    def keep(self, recording: Recording, name: str, n_bytes: int) -> Kept:
        """Keep a recording; the ones not used for longest are forgotten when there are too many."""
        self._forget_old()
        size = recording.samples.nbytes
        while self._kept and self.n_kept_bytes + size > self._house.max_kept_bytes:
            self._kept.popitem(last=False)
        kept = Kept(f"file-{secrets.token_hex(16)}", plain_name(name), recording, n_bytes)
        self._kept[kept.id] = (kept, time.monotonic())
        return kept

    def kept(self, file_id: str) -> Kept:
        """A kept recording, by its id.

        Raises:
            RequestError: 404.
        """
        self._forget_old()
        found = self._kept.pop(file_id, None)
        if found is None:
            raise RequestError("there is no such file here (any more); upload it again", 404, "no_such_file")
        self._kept[file_id] = (found[0], time.monotonic())
        return found[0]

    def drop(self, file_id: str) -> bool:
        """Forget a recording; whether it was there."""
        return self._kept.pop(file_id, None) is not None

    @property
    def n_kept_bytes(self) -> int:
        """Memory that kept recordings take."""
        return sum(kept.recording.samples.nbytes for kept, _ in self._kept.values())

    def _forget_old(self) -> None:
        before = time.monotonic() - self._house.kept_s
        while self._kept and next(iter(self._kept.values()))[1] < before:
            self._kept.popitem(last=False)


def _from_base64(text: str, what: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(f"{what} is neither base64, nor a data: URL, nor the id of an uploaded file") from None


def _refusal(said: str, name: str, max_duration_s: float) -> RequestError:
    """What `load` says, for somebody who cannot call it with other arguments."""
    said = said.replace("the audio data", f"'{name}'" if name else "the recording")
    if "over the limit of" in said:
        return RequestError(f"{said.partition(', over the limit')[0]}; the limit is {max_duration_s:g} s", 413, "too_long")
    return RequestError(said, 415 if "not audio that can be read" in said else 400, "bad_audio")
