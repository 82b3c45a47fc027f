"""What the studio allows: sizes, times and numbers, in one place."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class House:
    """The limits of a server.

    Args:
        key: what a client must show as `Authorization: Bearer KEY`; None lets everybody in.
        hosts: names it answers to, without port; empty for any. Guards a server on loopback against pages that point a
            name of theirs at it.
        at_once: reasonings in the engine's batch.
        waiting: more that may wait for a place; further ones are refused with 429.
        max_upload_bytes: of one recording.
        max_bodies_bytes: of all requests that are being received.
        max_kept_bytes: of decoded recordings that were uploaded to be asked about later.
        kept_s: seconds after which such a recording is forgotten, counted from its last use.
        max_duration_s: of a recording; the model's own limit holds too.
        max_rate_hz, max_channels: of a file; more would take long to decode.
        max_new_tokens: of one reasoning.
        max_relistens, max_relisten_s: segments, and seconds, that one reasoning may hear again.
        receive_s: seconds in which a request must have arrived.
        head_s: seconds in which its head must have arrived.
        send_s: seconds for which a client may leave a piece of an answer in the pipe.
        listen_s: seconds that one reasoning may take once it has its place.
        wait_s: seconds it may wait for its place.
        silence_s: an event stream that has said nothing for so long says that it is alive.
    """

    key: str | None = None
    hosts: tuple[str, ...] = ()
    at_once: int = 64
    waiting: int = 256
    max_upload_bytes: int = 64 << 20
    max_bodies_bytes: int = 512 << 20
    max_kept_bytes: int = 512 << 20
    kept_s: float = 3600.0
    max_duration_s: float = 300.0
    max_rate_hz: int = 192_000
    max_channels: int = 8
    max_new_tokens: int = 4096
    max_relistens: int = 32
    max_relisten_s: float = 600.0
    receive_s: float = 60.0
    head_s: float = 20.0
    send_s: float = 30.0
    listen_s: float = 600.0
    wait_s: float = 600.0
    silence_s: float = 10.0
