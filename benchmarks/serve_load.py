"""The studio under load and abuse, on loopback with the shipped model: are answers right, memory bounded, does it come back?

    python benchmarks/serve_load.py                    five minutes of load, then faults, a kill, and fuzz
    python benchmarks/serve_load.py --seconds 30

1. Each of some questions is asked alone. 2. Many clients ask them at random, all at once, over /v1/listen and over chat
completions; every answer must be the one it gave alone. Among them are clients that go away, send garbage, send 2 GB, send
slowly. 3. The server is killed with streams open, and started again. 4. Fuzzed requests: no 500, no hang.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import json
import os
import platform
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx2 as httpx

import echo_audio

DEMO = Path(echo_audio.__file__).parent / "demo"
MANNERS = (
    {},
    {"mode": "grounded"},
    {"mode": "conditioned"},
    {"played": "silenced"},
    {"played": "withheld"},
    {"temperature": 0.7, "seed": 1},
    {"temperature": 1.0, "seed": 2},
)
RETRY_S = 0.5


class Server:
    """`echo-audio serve` in a process of its own."""

    def __init__(self, log: Path, port: int = 0) -> None:
        self.log = log.open("ab")
        command = [sys.executable, "-m", "echo_audio", "serve", "--port", str(port), "--waiting", "256"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log, text=True)
        line = self.process.stdout.readline()
        self.url = re.search(r"http://[\d.]+:\d+", line)[0]
        self.port = int(self.url.rpartition(":")[2])

    def rss_mb(self) -> float:
        text = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024

    def end(self, how: int = signal.SIGTERM) -> None:
        self.process.send_signal(how)
        self.process.wait(30)
        self.process.stdout.close()
        self.log.close()


def questions() -> list[dict[str, Any]]:
    """Bodies of /v1/listen: each demo question in each manner."""
    lines = [json.loads(line) for line in (DEMO / "questions.jsonl").read_text().splitlines()]
    asks = []
    for line in lines:
        audio = base64.b64encode((DEMO / line["audio"]).read_bytes()).decode()
        asks += [{"question": line["question"], "choices": line["choices"], "audio": audio, **manner} for manner in MANNERS]
    return asks


async def listen(client: httpx.AsyncClient, ask: dict[str, Any]) -> str:
    """The answer over the native stream: all that was written, and all that was heard."""
    told = []
    async with client.stream("POST", "/v1/listen", json=ask) as answer:
        if answer.status_code != 200:
            return f"status {answer.status_code}"
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                told.append(json.loads(line[6:]))
    heard = [(one["start_s"], one["end_s"]) for one in told if "played" in one and "index" in one]
    return "".join(one.get("text", "") for one in told) + f" heard {heard}"


async def chat(client: httpx.AsyncClient, ask: dict[str, Any]) -> str:
    """The same over chat completions."""
    parts = [{"type": "text", "text": ask["question"]}, {"type": "input_audio", "input_audio": {"data": ask["audio"]}}]
    own = {name: ask[name] for name in ("choices", "mode", "played") if name in ask}
    rest = {name: ask[name] for name in ("temperature", "seed") if name in ask}
    body = {"model": "tiny", "messages": [{"role": "user", "content": parts}], "echo": own, **rest}
    answer = await client.post("/v1/chat/completions", json=body)
    if answer.status_code != 200:
        return f"status {answer.status_code}"
    whole = answer.json()
    heard = [(one["start_s"], one["end_s"]) for one in whole["echo"]["segments"]]
    return whole["choices"][0]["message"]["content"] + f" heard {heard}"


async def load(url: str, asks: list[dict[str, Any]], alone: list[str], n: int, seconds: float, server: Server) -> dict[str, Any]:
    """All clients at once; what came of it."""
    took_s: list[float] = []
    other: list[tuple[int, str]] = []
    counts: Counter[str] = Counter()
    until = time.monotonic() + seconds

    async def one(number: int) -> None:
        rng = random.Random(number)
        async with httpx.AsyncClient(base_url=url, timeout=300) as client:
            while time.monotonic() < until:
                which, way = rng.randrange(len(asks)), rng.choice((listen, chat))
                began = time.monotonic()
                said = await way(client, asks[which])
                if said == "status 429":
                    counts["told to come back"] += 1
                    await asyncio.sleep(RETRY_S)
                    continue
                took_s.append(time.monotonic() - began)
                counts["answers"] += 1
                if said != alone[which]:
                    other.append((which, said))

    async def watch() -> None:
        while time.monotonic() < until:
            await asyncio.sleep(min(30, seconds / 4))
            at_s = seconds - max(0, until - time.monotonic())
            print(f"  {at_s:5.0f} s: {counts['answers']} answers, RSS {server.rss_mb():.0f} MB", flush=True)

    abuse = asyncio.gather(*(faulty(url, until, counts) for faulty in (vanish, vanish, garbage, huge, slow, slow)))
    await asyncio.gather(watch(), *(one(number) for number in range(n)))
    await abuse
    return {"took_s": sorted(took_s), "other": other, "counts": counts}


async def vanish(url: str, until: float, counts: Counter[str]) -> None:
    """Asks, reads a little, and is gone."""
    ask, rng = questions()[0], random.Random(1)
    while time.monotonic() < until:
        async with httpx.AsyncClient(base_url=url, timeout=60) as client, client.stream("POST", "/v1/listen", json=ask) as answer:
            async for _ in answer.aiter_bytes():
                if rng.random() < 0.2:
                    break
        counts["vanished"] += 1
        await asyncio.sleep(0.2)


async def garbage(url: str, until: float, counts: Counter[str]) -> None:
    """Bytes that are no HTTP, and connections that say nothing."""
    host, port = url.removeprefix("http://").split(":")
    rng = random.Random(2)
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(rng.randbytes(rng.randrange(1, 5000)))
        with contextlib.suppress(ConnectionError):
            await asyncio.wait_for(reader.read(), 60)
        writer.close()
        counts["garbage"] += 1
        await asyncio.sleep(0.5)


async def huge(url: str, until: float, counts: Counter[str]) -> None:
    """2 GB, in chunks without a length."""
    host, port = url.removeprefix("http://").split(":")
    chunk = b"10000\r\n" + b"A" * 0x10000 + b"\r\n"
    while time.monotonic() < until:
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 2 << 30:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
                if reader.at_eof() or len(reader._buffer):  # it has answered
                    break
            status = (await asyncio.wait_for(reader.readline(), 60)).split()[1].decode()
        except (ConnectionError, IndexError):
            status = "closed"
        counts[f"2 GB: {status} after {sent / 1e6:.0f} MB" if counts["huge"] == 0 else "huge again"] += 1
        counts["huge"] += 1
        writer.close()
        await asyncio.sleep(5)


async def slow(url: str, until: float, counts: Counter[str]) -> None:
    """A byte a second: of the head, then of the body."""
    host, port = url.removeprefix("http://").split(":")
    for head in (b"", b"POST /v1/listen HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(head)
        began = time.monotonic()
        try:
            while time.monotonic() < until and not reader.at_eof() and not len(reader._buffer):
                writer.write(b"P")
                await writer.drain()
                await asyncio.sleep(1)
        except ConnectionError:
            pass
        ended = "ended" if reader.at_eof() or len(reader._buffer) else "still on"
        counts[f"slow {'body' if head else 'head'}: {ended} after {time.monotonic() - began:.0f} s"] += 1
        writer.close()


async def killed(server: Server, log: Path, asks: list[dict[str, Any]], alone: list[str]) -> Server:
    """Kill it with streams open, start it again, ask again."""
    counts: Counter[str] = Counter()

    async def one(which: int) -> None:
        try:
            async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
                said = await listen(client, asks[which])
                counts["whole" if said == alone[which] else "broken"] += 1
        except httpx.TransportError as error:
            counts[type(error).__name__] += 1

    tasks = [asyncio.create_task(one(which % len(asks))) for which in range(40)]
    await asyncio.sleep(3)
    server.end(signal.SIGKILL)
    await asyncio.wait_for(asyncio.gather(*tasks), 60)
    began = time.monotonic()
    again = Server(log, server.port)
    async with httpx.AsyncClient(base_url=again.url, timeout=60) as client:
        right = sum([await listen(client, asks[which]) == alone[which] for which in range(4)])
    print(f"killed with 40 streams open: {dict(counts)}; on the same port again after {time.monotonic() - began:.1f} s, "
          f"{right} of 4 answers as before")  # fmt: skip
    return again


PATHS = (
    *("/v1/listen", "/v1/chat/completions", "/v1/files") * 6,
    "/v1/models", "/v1/models/x", "/v1/examples/1", "/v1/examples/-1", "/v1/examples/x", "/v1/files/x", "/v1/files/x/content",
    "/", "/page/../../etc/passwd", "/page/%2e%2e/x", "/metrics", "/health", "/%00", "/\u202e",
)  # fmt: skip


def mutated(rng: random.Random, asks: list[dict[str, Any]]) -> tuple[str, str, bytes, dict[str, str]]:
    """A request that is somehow wrong, or not."""
    path = rng.choice(PATHS)
    usual = "POST" if path in ("/v1/listen", "/v1/chat/completions", "/v1/files") or "examples" in path else "GET"
    method = usual if rng.random() < 0.9 else rng.choice(("POST", "GET", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "BREW"))
    kinds = ("application/json", "multipart/form-data; boundary=x", "multipart/form-data", "text/plain", "x" * 2000, "")
    headers = {"content-type": rng.choice(kinds)}
    strange = (None, -1, 1e999, "", "x" * 10_000, [], {}, True, "\x00", "é\u202e", [[]] * 50, 2**70, "file-" + "0" * 32)
    ask = dict(rng.choice(asks))
    if path.endswith("completions"):
        parts = [{"type": "text", "text": "?"}, {"type": "input_audio", "input_audio": {"data": ask["audio"]}}]
        stream = rng.random() < 0.5
        ask = {"model": "tiny", "messages": [{"role": "user", "content": parts[rng.randrange(2) :]}], "stream": stream}
    for _ in range(rng.randrange(3)):
        name = rng.choice((*ask, "seed", "mode", "echo", "max_new_tokens", "top_p", "messages", "choices", "nonsense"))
        ask[name] = rng.choice(strange)
    body = json.dumps(ask).encode()
    if rng.random() < 0.3:
        at = rng.randrange(len(body))
        body = body[:at] + rng.randbytes(rng.randrange(20)) + body[at + rng.randrange(20) :]
    if rng.random() < 0.3:
        flac = bytearray((DEMO / "what-comes-after.flac").read_bytes())
        for _ in range(rng.randrange(20)):
            flac[rng.randrange(len(flac))] = rng.randrange(256)
        name = rng.choice((b"audio", b"file", rng.randbytes(4)))
        head = b'--x\r\nContent-Disposition: form-data; name="' + name + b'"; filename="'
        fields = b'--x\r\nContent-Disposition: form-data; name="question"\r\n\r\nWhat?\r\n' if rng.random() < 0.5 else b""
        body = fields + head + rng.choice((b"../../a", b"b.wav", rng.randbytes(9))) + b'"\r\n\r\n' + bytes(flac) + b"\r\n--x--"
        body = body[: rng.randrange(len(body))] if rng.random() < 0.3 else body
        headers = {"content-type": "multipart/form-data; boundary=x"}
    return method, path, body, headers


async def fuzz(url: str, asks: list[dict[str, Any]], n: int) -> Counter[str]:
    """Fuzzed requests, sixteen at a time; each must be answered within a minute."""
    counts: Counter[str] = Counter()
    numbers = iter(range(n))

    async def some(client: httpx.AsyncClient) -> None:
        for number in numbers:
            rng = random.Random(number)
            method, path, body, headers = mutated(rng, asks)
            try:
                answer = await client.request(method, path, content=body, headers=headers)
                counts[str(answer.status_code)] += 1
                if answer.status_code >= 500:
                    print(f"  request {number}: {method} {path}: {answer.status_code} {answer.text[:200]}")
            except (httpx.ReadTimeout, httpx.ConnectTimeout):
                counts["hang"] += 1
                print(f"  request {number}: {method} {path} hangs")
            except httpx.TransportError as error:
                counts[type(error).__name__] += 1

    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        await asyncio.gather(*(some(client) for _ in range(16)))
    return counts


async def under_load(server: Server, asks: list[dict[str, Any]], alone: list[str], n: int, seconds: float) -> None:
    """Load, and what it says."""
    start_mb = server.rss_mb()
    done = await load(server.url, asks, alone, n, seconds, server)
    took_s, other, counts = done["took_s"], done["other"], done["counts"]
    print(f"{n} clients for {seconds:.0f} s: {len(took_s)} answers, {len(took_s) / seconds:.1f} a second; "
          f"p50 {statistics.median(took_s):.2f} s, p99 {took_s[int(0.99 * len(took_s))]:.2f} s")  # fmt: skip
    known = set(alone)
    print(f"not as alone: {len(other)}, of these the answer to another question: {sum(said in known for _, said in other)}")
    for which, said in other[:5]:
        at = next((i for i, (a, b) in enumerate(zip(said, alone[which], strict=False)) if a != b), 0)
        shown = {name: value for name, value in asks[which].items() if name not in ("audio", "choices", "question")}
        print(f"  {shown}: ...{said[max(0, at - 30) : at + 40]!r} where alone ...{alone[which][max(0, at - 30) : at + 40]!r}")
    print(f"RSS {start_mb:.0f} MB before, {server.rss_mb():.0f} MB after; {dict(counts)}")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        print(f"then: {(await client.get('/health')).json()}")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clients", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=300, help="0 leaves the load out")
    parser.add_argument("--fuzz", type=int, default=2000)
    args = parser.parse_args()
    log = Path(tempfile.mkdtemp()) / "server.log"
    server, asks = Server(log), questions()
    machine = f"{platform.processor() or platform.machine()}, {len(os.sched_getaffinity(0))} cores"
    print(f"{machine}, load {os.getloadavg()[0]:.1f}; log in {log}")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        alone = [await listen(client, ask) for ask in asks]
        again = [await chat(client, ask) for ask in asks]
    print(f"{len(asks)} questions asked alone, over both ways: {sum(a == b for a, b in zip(alone, again, strict=True))} equal")
    if args.seconds:
        await under_load(server, asks, alone, args.clients, args.seconds)
    server = await killed(server, log, asks, alone)
    counts = await fuzz(server.url, asks, args.fuzz)
    failures = log.read_text(errors="replace").count(" failure ")
    print(f"{args.fuzz} fuzzed requests: {dict(sorted(counts.items()))}; causes in the log: {failures}")
    async with httpx.AsyncClient(base_url=server.url, timeout=60) as client:
        print(f"then: {(await client.get('/health')).json()}, RSS {server.rss_mb():.0f} MB")
    server.end()


if __name__ == "__main__":
    asyncio.run(main())
