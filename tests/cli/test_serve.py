"""`echo-audio serve`: who may reach it, and what it says when it cannot begin. What it serves is tested in tests/studio."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

pytest.importorskip("fastapi", reason="needs the extra serve")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_a_server_for_others_needs_a_key_or_a_word(run, engine, monkeypatch, host: str) -> None:
    monkeypatch.delenv("ECHO_AUDIO_API_KEY", raising=False)
    said = run("serve", "--host", host, "--port", "0")
    assert said.code == 2 and "set ECHO_AUDIO_API_KEY" in said.err and "--without-key" in said.err


def test_a_key_that_can_be_guessed_is_refused(run, engine, monkeypatch) -> None:
    monkeypatch.setenv("ECHO_AUDIO_API_KEY", "secret")
    said = run("serve", "--port", "0")
    assert said.code == 2 and "16 or more" in said.err and "secret'" not in said.err


def test_a_port_that_is_taken_is_named(run, engine) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = run("serve", "--port", str(port))
    assert said.code == 2 and f"cannot listen on 127.0.0.1:{port}" in said.err and "--port" in said.err


def test_it_serves_with_what_the_arguments_say(run, engine, monkeypatch) -> None:
    from echo_audio.studio import serving

    seen = []

    def serve(app, sock, house, ready) -> None:
        seen.append((app, house))
        ready()

    monkeypatch.setattr(serving, "serve", serve)
    monkeypatch.setenv("ECHO_AUDIO_API_KEY", "a key that is long enough")
    said = run("serve", "--host", "0.0.0.0", "--port", "0", "--at-once", "7", "--max-upload-mb", "1", "--name", "ours")
    ((app, house),) = seen
    assert (house.key, house.hosts, house.at_once, house.max_upload_bytes) == ("a key that is long enough", (), 7, 1_000_000)
    assert app.state.studio.model == "ours" and engine.closed
    assert "http://localhost:" in said.out and "API key" in said.out and "long enough" not in said.out
    run("serve", "--port", "0", "--without-key")
    assert seen[1][1].key is None and "localhost" in seen[1][1].hosts


@pytest.mark.parametrize("arguments", [["serve"], ["view", "x.jsonl"]])
def test_without_its_packages_it_names_the_extra(arguments) -> None:
    script = f"import sys; sys.modules['fastapi'] = None; from echo_audio.cli import run; sys.exit(run({arguments}))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "pip install 'echo-audio[serve]'" in done.stderr
