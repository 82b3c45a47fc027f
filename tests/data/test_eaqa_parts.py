"""Parts of the data engine: the endpoint's client over a real socket, its cache, and the checks that need no model."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from echo_audio.data.eaqa import checks, similar, texts
from echo_audio.data.eaqa.calls import Calls, JsonLines
from echo_audio.data.eaqa.endpoint import ChatEndpoint, Pace, check_url
from echo_audio.data.eaqa.prompts import load_prompts
from echo_audio.data.eaqa.settings import CheckSettings, EndpointSettings
from echo_audio.data.rows import KnownEvent
from echo_audio.data.sources.base import usable_events
from echo_audio.data.sources.scenes import SceneSource
from echo_audio.errors import ConfigError, DataError, EngineError

KEY = "sk-secret-123"
ASK = [{"role": "user", "content": "hi"}]
REPLY = json.dumps(
    {
        "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2},
    }
).encode()
ENDLESS = b'{"choices": [{"message": {"content": "x"}}], "usage": {"prompt_tokens": 1e400}}'


class Server(ThreadingHTTPServer):
    """Answers as planned, then well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.plan: list[int | str] = []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        what = self.server.plan.pop(0) if self.server.plan else "well"
        status = what if isinstance(what, int) else 200
        said = f"bad key {self.headers['Authorization']}".encode()
        odd = {"half": REPLY[:20], "broken": REPLY[:20], "deep": b"[" * 100_000, "endless": ENDLESS}
        body = ({"well": REPLY, "drops": REPLY} | odd).get(str(what), said)
        self.send_response(status)
        self.send_header("Content-Length", str(len(REPLY) if what == "half" else len(body)))
        self.end_headers()
        for drop in body[:8] if what == "drops" else (body,):
            self.wfile.write(bytes([drop]) if isinstance(drop, int) else drop)
            if what == "drops":
                time.sleep(0.1)
        self.close_connection = what == "half"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def ask(server: Server, path, plan: list[int | str], seed: int = 1, tries: int = 6, timeout_s: float = 60.0) -> str:
    """The reply's text; whatever the plan still holds was not asked for."""

    async def once() -> str:
        calls = Calls(path)
        settings = EndpointSettings(tries=tries, wait_s=0.01, key_env="MY_KEY", timeout_s=timeout_s)
        endpoint = ChatEndpoint(settings, calls, server.url, KEY)
        try:
            return (await endpoint.chat("write", ASK, seed)).text
        finally:
            await endpoint.close()
            calls.close()

    server.plan[:] = plan
    return asyncio.run(once())


def test_an_endpoint_that_fails_for_a_while_is_asked_again(server, tmp_path):
    assert ask(server, tmp_path / "calls.jsonl", [429, 500, "half", "broken", "deep", "endless"], tries=7) == "hello"
    assert server.plan == []


def test_an_endpoint_that_fails_for_good_is_an_error(server, tmp_path):
    with pytest.raises(EngineError, match="failed 3 times; last: HTTP 503"):
        ask(server, tmp_path / "calls.jsonl", [503] * 3, tries=3)


def test_what_was_answered_once_is_never_paid_for_again(server, tmp_path):
    path = tmp_path / "calls.jsonl"
    assert ask(server, path, []) == ask(server, path, [500]) == "hello"
    assert server.plan == [500], "the second came from the file"
    with path.open("a") as file:
        file.write('{"half a li')
    ask(server, path, [], seed=2)
    calls = Calls(path)
    assert calls.spent == {("write", "rules"): [2, 6, 4]}
    calls.close()


def test_a_reply_that_comes_drop_by_drop_or_never_ends_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr("echo_audio.data.eaqa.endpoint.MOST_BYTES", 20)
    with pytest.raises(EngineError, match="no chat completion"):
        ask(server, tmp_path / "calls.jsonl", [], tries=1)
    monkeypatch.undo()
    with pytest.raises(EngineError, match=r"no reply within 0\.3 s"):
        ask(server, tmp_path / "calls.jsonl", ["drops"], tries=1, timeout_s=0.3)


def test_requests_keep_their_pace():
    async def five() -> float:
        pace, begin = Pace(1200), time.monotonic()
        await asyncio.gather(*(pace.wait() for _ in range(5)))
        return time.monotonic() - begin

    assert asyncio.run(five()) >= 0.19


def test_the_key_appears_nowhere(server, tmp_path):
    with pytest.raises(ConfigError, match="MY_KEY") as refused:
        ask(server, tmp_path / "calls.jsonl", [401])
    assert KEY not in str(refused.value) and "[key]" in str(refused.value)
    ask(server, tmp_path / "calls.jsonl", [500])
    assert KEY not in (tmp_path / "calls.jsonl").read_text()


@pytest.mark.parametrize("url", ["https://me:secret@host/v1", "https://host/v1?key=secret", "host/v1"])
def test_a_url_that_may_hold_a_secret_is_refused_without_repeating_it(url):
    with pytest.raises(ConfigError) as refused:
        check_url(url)
    assert "secret" not in str(refused.value)


def test_a_line_that_does_not_fit_on_the_disk_is_taken_back(tmp_path, monkeypatch):
    lines = JsonLines(tmp_path / "lines.jsonl")
    lines.append({"a": 1})
    true_write, left = os.write, [5]

    def full(file: int, data: bytes) -> int:
        if not left:
            raise OSError(28, "No space left on device")
        return true_write(file, data[: left.pop()])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(OSError, match="No space"):
            lines.append({"b": 2})
    lines.append({"c": 3})
    assert lines.lines() == [{"a": 1}, {"c": 3}]
    lines.close()


# ---------------------------------------------------------------------------------------------- checks

EVENTS = (KnownEvent(label="bell", start_s=1, end_s=2), KnownEvent(label="horn", start_s=3, end_s=4))
GOOD = (
    "I want to know which of them begins first, so I listen for the bell <seg>1.0, 2.0</seg> which rings early on and is "
    "bright. Then I turn to the horn <seg>3.0, 4.0</seg> and it only starts after that. So the answer is bell."
)


AROUND = "a segment without reason before or analysis after it"


def written(reasoning: str = GOOD, question: str = "Which sound comes first?", answer: str = "bell", choices=("bell", "horn")):
    return checks.Written(question, choices, answer, reasoning)


def problems(row: checks.Written) -> list[str]:
    return [*checks.question_problems(row), *checks.reasoning_problems(row, EVENTS, 5.0, CheckSettings())]


def test_a_good_row_has_no_problem():
    assert problems(written()) == []


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (written(GOOD.replace("1.0, 2.0", "3.0, 4.0")), "a segment does not hold the sound it is cited for"),
        (written(GOOD.replace("4.0<", "9.0<")), "a segment lies outside the recording"),
        (written(GOOD.replace("which rings early on and is bright. Then I turn to the horn <", "<")), AROUND),
        (written(GOOD.replace(" which rings early on and is bright. Then I turn", ", I turn")), ""),
        (written("The bell."), "reasoning is too short or too long"),
        (written(GOOD.replace("So the answer", "As the labels say the answer")), "reasoning speaks of its sources"),
        (written(GOOD.replace("the horn", "the /m/07qv4k0")), "a label id leaks"),
        (written(GOOD.replace("</seg> and", " and")), "tags are not well formed"),
        (written(question="What comes first, as the bell does?"), "question tells its answer"),
        (written(answer="drum"), "answer is not exactly one of the choices"),
        (written(choices=("bell", "Bell.")), "choices are not different texts"),
        (written(question="What starts at 1.0 s in it?"), "question tells a time"),
    ],
)
def test_each_fault_is_named(row, problem):
    found = problems(row)
    assert problem in found if problem else not found


def test_a_reply_is_read_whatever_stands_around_its_json():
    row = {"question": "What\u0007 is\nheard?", "choices": ["a ", "b"], "answer": "a", "reasoning": " I {think}. "}
    plain = checks.Written("What is heard?", ("a", "b"), "a", "I {think}.")
    for text in ("%s", "```json\n%s\n```", "<think>Is it {a}? Or {b}?</think>\nHere: %s"):
        assert checks.read_written(text % json.dumps(row)) == plain
    deep = '{"a":' * 3000 + "1" + "}" * 3000
    wrong = [json.dumps(row | more) for more in ({"answer": "\ud83d"}, {"choices": [1]})]
    for broken in ('{"question": 1}', "no", "[1]", deep, *wrong):
        with pytest.raises(DataError):
            checks.read_written(broken)


def test_degenerate_texts_and_other_languages():
    assert texts.degenerate("a a a a a a a a") and texts.degenerate("x" * 20 + " yes") and texts.degenerate("1 2 3 4 5 a 6 7 8")
    assert not texts.degenerate(GOOD) and texts.is_english(GOOD)
    german = "Ich höre zuerst die Glocke und danach das Horn, also muss die Antwort ganz klar die Glocke sein, denn sie klingt"
    assert not texts.is_english(f"{german} früher und heller als alles andere") and not texts.is_english("什么声音最先出现？")


def test_near_duplicates_and_templates():
    seen = similar.NearDuplicates(0.8)
    assert seen.add(GOOD) and not seen.add(GOOD.replace("So the", "Hence the")) and seen.add("Something else altogether, is it?")
    other = GOOD.replace("bell", "drum").replace("1.0, 2.0", "0.5, 1.0")
    assert similar.template_of(GOOD, ["bell", "horn"]) == similar.template_of(other, ["drum", "horn"])


def test_events_that_no_recording_can_hold_are_left_out():
    spans = [(1, 2), (3, 3), (4, 3), (-1, 2), (9, 12), (9.5, 10.05), (float("nan"), 1)]
    kept, wrong = usable_events([KnownEvent(label="x", start_s=a, end_s=b) for a, b in spans], 10.0)
    assert [(e.start_s, e.end_s) for e in kept] == [(1, 2), (9.5, 10.0)] and len(wrong) == 5


def test_prompts_fill_only_their_own_places():
    prompts = load_prompts()
    assert "a {{kind}} b" in prompts.fill("write", kind="order", facts="a {{kind}} b")
    assert all(kind.about and kind.events >= 1 for kind in prompts.kinds.values())


def test_scenes_are_a_source_with_times_that_hold():
    first, again = (list(SceneSource(3, 1).items()) for _ in range(2))
    assert [item.id for item in first] == [item.id for item in again]
    assert len(usable_events(first[0].events, first[0].load().duration_s)[0]) == len(first[0].events) > 0
