"""A run of the data engine in this process, against the test endpoint over a real socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from echo_audio.data.eaqa.annotate import Annotator, EndpointDescriber
from echo_audio.data.eaqa.calls import Calls
from echo_audio.data.eaqa.endpoint import ChatEndpoint
from echo_audio.data.eaqa.guess import EndpointGuesser
from echo_audio.data.eaqa.journal import Journal, Outcome
from echo_audio.data.eaqa.judge import Judge
from echo_audio.data.eaqa.make import Maker, Tools
from echo_audio.data.eaqa.plan import Mix
from echo_audio.data.eaqa.prompts import load_prompts
from echo_audio.data.eaqa.run import Done, Run, entries, finish
from echo_audio.data.eaqa.settings import EaqaSettings
from echo_audio.data.eaqa.test_server import Behaviour, Fault, TestEndpoint, serving
from echo_audio.data.eaqa.write import Writer
from echo_audio.data.sources.base import Source
from echo_audio.data.sources.scenes import SceneSource


def settings_of(n: int, **more: Any) -> EaqaSettings:
    """Settings of `n` scenes with an endpoint that is tried quickly."""
    endpoint = {"wait_s": 0.01, "timeout_s": 0.5, "tries": 4}
    values: dict[str, Any] = {
        "sources": {"scenes": {"kind": "scenes", "n": n, "longest_s": 8.0}},
        "annotate": {"by": "endpoint", "endpoint": endpoint},
        "write": {"endpoint": endpoint},
        "judge": {"endpoint": endpoint},
        "guess": {"by": "endpoint", "endpoint": endpoint},
    }
    return EaqaSettings.model_validate(values | more)


@dataclass
class Made:
    """What came of a run."""

    folder: Path
    done: Done
    outcomes: list[Outcome]
    server: TestEndpoint

    @property
    def routes(self) -> dict[str, int]:
        """Rows by route."""
        return {r: sum(str(o.route) == r for o in self.outcomes) for r in ("sft", "rl", "dropped", "skipped")}


def make(
    folder: Path, settings: EaqaSettings, behaviour: Behaviour | None = None, sources: Mapping[str, Source] | None = None,
    key: str = "", spent: Callable[[Calls], float] = lambda _: 0.0,
) -> Made:
    """Run to the end and make the stores."""
    given = sources or {"scenes": SceneSource(settings.sources["scenes"].n, 1, longest_s=settings.sources["scenes"].longest_s)}
    calls, journal, prompts = Calls(folder / "calls.jsonl"), Journal(folder / "journal.jsonl"), load_prompts()
    try:
        with serving(behaviour or Behaviour({Fault.MISTAKE: 0.3})) as server:

            async def work() -> Done:
                made: list[ChatEndpoint] = []

                def ask(endpoint: Any) -> ChatEndpoint:
                    made.append(ChatEndpoint(endpoint, calls, server.url, key))
                    return made[-1]

                s = settings
                tools = Tools(
                    Mix(prompts.kinds, s.write.mix),
                    Writer(ask(s.write.endpoint), prompts, s.write, s.checks, s.seed),
                    Judge(ask(s.judge.endpoint), prompts, s.judge.tries, s.seed),
                    Annotator(EndpointDescriber(ask(s.annotate.endpoint)), prompts, s.annotate.tries, s.seed),
                    EndpointGuesser(ask(s.guess.endpoint), prompts),
                )
                try:
                    return await Run(entries(given, s), Maker(folder, s, tools, journal), spent=lambda: spent(calls)).work()
                finally:
                    for one in made:
                        await one.close()

            done = asyncio.run(work())
        return Made(folder, done, finish(folder, settings, journal, prompts.hashes), server)
    finally:
        calls.close()
        journal.close()


def contents(folder: Path) -> dict[str, Any]:
    """All that the stores of a run hold, to be compared."""
    stores = folder / "stores"
    out: dict[str, Any] = {}
    for route in ("sft", "rl"):
        tables = [pq.read_table(path) for path in sorted((stores / route).glob("*.parquet"))]
        out[route] = pa.concat_tables(tables).to_pylist() if tables else []
        out[f"{route} audio"] = sorted(path.name for path in (stores / route / "audio").rglob("*.flac"))
    for route in ("dropped", "skipped"):
        out[route] = [json.loads(line) for line in (stores / f"{route}.jsonl").read_text().splitlines()]
    return out
