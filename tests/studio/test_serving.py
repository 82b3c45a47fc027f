"""The server as a process on a socket: slow heads, ending, being killed and started again."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import uvicorn
from studio_helpers import FLAC, QUESTION, Engine, Family, b64, httpx

from echo_audio.errors import ConfigError
from echo_audio.studio.api import make_app
from echo_audio.studio.serving import bound, is_loopback, patient


@contextmanager
def impatient(head_s: float) -> Iterator[int]:
    """The port of a server that waits so long for heads."""
    sock = bound("127.0.0.1", 0)
    config = uvicorn.Config(make_app(Engine(), Family(), "m"), http=patient(head_s), lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([sock])))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join()
        sock.close()


def healthy(used: socket.socket) -> bool:
    """Whether a whole answer comes."""
    used.settimeout(5)
    used.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
    said = b""
    while not said.endswith(b"}"):
        said += used.recv(2000)
    return b"200 OK" in said


def test_a_head_that_trickles_in_ends_the_connection() -> None:
    with impatient(0.3) as port, socket.create_connection(("127.0.0.1", port)) as slow:
        slow.settimeout(5)
        slow.sendall(b"GET /health HTTP/1.1\r\nHost: local")
        assert slow.recv(100) == b""


def test_so_does_one_on_a_connection_that_has_been_used_while_a_quiet_one_stays() -> None:
    with (
        impatient(0.3) as port,
        socket.create_connection(("127.0.0.1", port)) as slow,
        socket.create_connection(("127.0.0.1", port)) as quiet,
    ):
        assert healthy(slow) and healthy(quiet)
        slow.sendall(b"GET /hea")
        assert slow.recv(100) == b""
        assert healthy(quiet)


@pytest.mark.parametrize(("host", "alone"), [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("0.0.0.0", False)])
def test_what_is_loopback(host: str, alone: bool) -> None:
    assert is_loopback(host) is alone


@pytest.mark.parametrize(("host", "port"), [("127.0.0.1", 70_000), ("999.1.1.1", 0), ("192.0.2.1", 0)])
def test_an_address_that_is_not_to_be_had_is_named(host: str, port: int) -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        bound(host, port)


def started(port: int = 0) -> tuple[subprocess.Popen[str], str]:
    command = [sys.executable, "-m", "echo_audio", "serve", "--port", str(port)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)
    assert server.stdout is not None
    found = re.search(r"http://127\.0\.0\.1:\d+", server.stdout.readline())
    assert found is not None
    return server, found[0]


def ended(server: subprocess.Popen[str]) -> tuple[int, str]:
    out, err = server.communicate(timeout=60)
    return server.returncode, out + err


@pytest.mark.slow
def test_a_server_that_is_killed_in_mid_stream_comes_back_on_its_port() -> None:
    server, url = started()
    body = {"question": QUESTION, "audio": b64(FLAC)}
    with httpx.stream("POST", f"{url}/v1/listen", json=body, timeout=60) as answer:
        lines = answer.iter_lines()
        assert any(line.startswith("event: text") for line in lines)
        server.kill()
        with pytest.raises(httpx.TransportError):
            list(lines)
    assert ended(server)[0] == -signal.SIGKILL
    again, same = started(int(url.rpartition(":")[2]))
    assert same == url
    answer = httpx.post(f"{url}/v1/listen", json=body, timeout=60)
    last = [json.loads(line[6:]) for line in answer.text.split("\n") if line.startswith("data: ")][-1]
    assert last["stop"] in ("answered", "end_of_turn", "malformed")
    began = time.monotonic()
    again.send_signal(signal.SIGINT)
    code, said = ended(again)
    assert code in (0, 130) and "Traceback" not in said and time.monotonic() - began < 20
    assert "POST /v1/listen 200" in said and QUESTION not in said
