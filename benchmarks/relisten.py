"""What listening again costs: the kept key-value cache against re-submitting the whole context every turn.

    python benchmarks/relisten.py [--shapes small|tiny|7b] [--device cpu|cuda] [--relistens 8] [--transcripts 1]

Both sides run the same engine, the same listening loop and the same dictated tokens (a random model writes no tags);
the second forgets its cache and its encoded audio before each turn, as a server that is sent the conversation anew
would. Prints a table; the last line is one JSON object:

    context_ratio_at_3   time spent until each turn's first token, kept cache over re-submitting, in a reasoning with 3
                         re-listens, its first turn included: the target is a third
    relisten_ratio_at_3  the same for the 3 turns after a re-listen alone
    ratio_at_3           the same for the whole reasoning; both sides decode the same tokens in it, at the same speed
    flatness             kept cache: time until the first token in the last turn over that in the first re-listened turn
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from transformers import Qwen2_5OmniThinkerConfig, Qwen2_5OmniThinkerForConditionalGeneration

from echo_audio.audio import SAMPLE_RATE, Recording
from echo_audio.encoding import TranscriptEncoder
from echo_audio.engines.jobs import Job
from echo_audio.engines.local import LocalEngine
from echo_audio.listen import Limits, OnPiece, Request, Sampling, Turn, listen
from echo_audio.models.qwen2_5_omni import Qwen25Omni
from echo_audio.models.thinker import Thinker
from echo_audio.models.tiny import RANDOM, Sizes, config_of, train_tokenizer
from echo_audio.transcript import Mode, Question, Transcript

QWEN_7B = Sizes(
    width=3584, layers=28, heads=28, kv_heads=4, feed_forward=18_944,
    audio_width=1280, audio_layers=32, audio_heads=20, audio_feed_forward=5120, max_positions=32_768,
)  # fmt: skip
SHAPES = {"small": RANDOM, "tiny": Sizes(), "7b": QWEN_7B}
QWEN_VOCABULARY = 152_064

WORDS = "I listen to the bell again, because it may be louder than the dog that is heard "
ENDING = " so it is the bell.</think>\n<answer>the bell</answer>"
LINE = (
    "{relistens:>10}  {kept_s:<6.3f} {anew_s:<6.3f} {ratio:<7.2f} {kept_context_s:<6.3f} {anew_context_s:<6.3f} "
    "{context_ratio:<7.2f} {kept_tokens:<8} {anew_tokens:<8} {token_ratio:.2f}"
)
TEXTS = [f"<think>{WORDS}<seg>12.34, 56.78</seg></think>\n<answer>{ENDING}</answer>" + " 0.9" * 3] * 20


@dataclass(slots=True)
class Cost:
    """What a whole reasoning took; times in seconds, by turn."""

    first_token_s: list[float] = field(default_factory=list)
    turn_s: list[float] = field(default_factory=list)
    tokens: int = 0

    @property
    def total_s(self) -> float:
        """All turns."""
        return sum(self.turn_s)


class Dictated(LocalEngine):
    """Writes n segments, one a turn, then answers. With `forgetful`, every turn begins with empty caches."""

    def __init__(self, thinker: Thinker, n_relistens: int, segment_s: float, *, forgetful: bool) -> None:
        super().__init__(thinker)
        starts = [1.3 * i for i in range(n_relistens)]
        texts = [f"{WORDS}<seg>{start:.2f}, {start + segment_s:.2f}</seg>" for start in starts]
        self.turns = [thinker.family.text_ids(text) for text in ["<think>" + texts[0], *texts[1:], ENDING]]
        self.turns[-1] = (*self.turns[-1], thinker.family.end_of_turn)
        self.forgetful = forgetful
        self.first_at: dict[int, float] = {}

    def _dictate(self, job: Job, number: int) -> int:
        turn = self.turns[job.request.turn]
        return turn[number] if number < len(turn) else -1

    def _accept(self, job: Job, ids: list[int], logprobs: list[float], now: float) -> None:
        self.first_at.setdefault(job.request.turn, time.perf_counter())
        super()._accept(job, ids, logprobs, now)

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """One turn, as a new conversation if forgetful."""
        if self.forgetful:
            self._rows.release(f"{request.session}-{request.turn - 1}")
            request = replace(request, session=f"{request.session}-{request.turn}")
            self._rows.forget()
            self._clips.clear()
        return await super().generate(request, on_piece)


class Timed:
    """An engine that notes how long each turn took, for transcripts that go side by side."""

    def __init__(self, engine: Dictated) -> None:
        self.engine, self.cost = engine, Cost()
        self.begun: dict[int, float] = {}
        self.ended: dict[int, float] = {}

    async def generate(self, request: Request, on_piece: OnPiece | None = None) -> Turn:
        """One turn."""
        self.begun.setdefault(request.turn, time.perf_counter())
        turn = await self.engine.generate(request, on_piece)
        self.ended[request.turn] = time.perf_counter()
        return turn

    def release(self, session: str) -> None:
        """Passed on."""
        self.engine.release(session)

    def read(self) -> Cost:
        """The costs so far."""
        for turn, begun in sorted(self.begun.items()):
            self.cost.first_token_s.append(self.engine.first_at[turn] - begun)
            self.cost.turn_s.append(self.ended[turn] - begun)
        self.cost.tokens = self.engine.counters.prefilled + self.engine.counters.decoded
        return self.cost


def make_thinker(shapes: str, device: str, dtype: torch.dtype) -> Thinker:
    """A random model of these sizes, made in place."""
    sizes, tokenizer = SHAPES[shapes], train_tokenizer(TEXTS, 512)
    settings = config_of(tokenizer, sizes)
    if shapes == "7b":
        settings["text_config"]["vocab_size"] = QWEN_VOCABULARY
        settings["text_config"]["tie_word_embeddings"] = settings["tie_word_embeddings"] = False
    config = Qwen2_5OmniThinkerConfig.from_dict(settings)
    torch.manual_seed(0)
    with torch.device(device):
        model = Qwen2_5OmniThinkerForConditionalGeneration._from_config(config, dtype=dtype, attn_implementation="sdpa")
    return Thinker(model, Qwen25Omni(tokenizer, max_positions=sizes.max_positions)).to(device).eval()


async def reason(thinker: Thinker, recordings: Sequence[Recording], n: int, segment_s: float, forgetful: bool) -> Cost:
    """One reasoning with n re-listens about each recording, side by side."""
    engine = Dictated(thinker, n, segment_s, forgetful=forgetful)
    timed = Timed(engine)
    limits = Limits(max_relistens=n, max_turns=n + 2, force_answer=False, max_relisten_s=1e9)

    async def one(recording: Recording) -> Transcript:
        question = Question("Which is louder?", recording.id, recording.duration_s, ("the bell", "the dog"))
        begun = Transcript.open(question, thinker.family.prompt(question, Mode.INTERLEAVED))
        return await listen(begun, timed, TranscriptEncoder(thinker.family, recording), limits, Sampling())

    transcripts = await asyncio.gather(*(one(recording) for recording in recordings))
    engine.close()
    if any(len(transcript.asked) != n for transcript in transcripts):
        raise SystemExit(f"not every transcript listened again {n} times; is --recording-s too short?")
    return timed.read()


def measure(thinker: Thinker, recordings: Sequence[Recording], n: int, given: argparse.Namespace) -> list[Cost]:
    """Both sides, kept and anew, taken in turns; of each turn the quickest of its repeats, since machines are shared."""
    runs = [
        [asyncio.run(reason(thinker, recordings, n, given.segment_s, forgetful)) for forgetful in (False, True)]
        for _ in range(given.repeats)
    ]
    return [quickest(side) for side in zip(*runs, strict=True)]


def quickest(costs: Sequence[Cost]) -> Cost:
    """Turn by turn the least of several runs."""
    first_token_s = [min(times) for times in zip(*(cost.first_token_s for cost in costs), strict=True)]
    turn_s = [min(times) for times in zip(*(cost.turn_s for cost in costs), strict=True)]
    return Cost(first_token_s, turn_s, costs[0].tokens)


def main() -> None:
    """Measure and print."""
    given = parse()
    dtype = torch.bfloat16 if given.device.startswith("cuda") else torch.float32
    torch.set_num_threads(given.threads)
    thinker = make_thinker(given.shapes, given.device, dtype)
    rng = np.random.default_rng(0)
    n_samples = round(given.recording_s * SAMPLE_RATE)
    recordings = [
        Recording((rng.standard_normal(n_samples) * 0.1).astype(np.float32)) for _ in range(given.transcripts)
    ]
    asyncio.run(reason(thinker, recordings, 1, given.segment_s, forgetful=False))  # warm
    print(
        f"{given.shapes} shapes on {given.device}, {given.transcripts} transcripts, recordings of {given.recording_s} s"
    )
    print("            time, s               until first tokens, s         tokens computed")
    print("re-listens  kept   anew   ratio   kept   anew   ratio   kept     anew     ratio")
    rows: list[dict[str, float]] = []
    for n in range(1, given.relistens + 1):
        kept, anew = measure(thinker, recordings, n, given)
        rows.append(compared(n, kept, anew))
        print(LINE.format(**rows[-1]))
    print("until the first token, ms, by turn:")
    for name, cost in (("kept", kept), ("anew", anew)):
        print(f"  {name}  " + "  ".join(f"{1e3 * s:.1f}" for s in cost.first_token_s))
    at_3 = rows[2]
    result = {
        "benchmark": "relisten", "shapes": given.shapes, "context_ratio_at_3": at_3["context_ratio"],
        "relisten_ratio_at_3": at_3["relisten_ratio"], "ratio_at_3": at_3["ratio"],
        "token_ratio_at_3": at_3["token_ratio"], "target_met": at_3["context_ratio"] <= 1 / 3,
        "flatness": kept.first_token_s[-1] / kept.first_token_s[1],
        "kept_first_token_ms": [1e3 * s for s in kept.first_token_s],
        "anew_first_token_ms": [1e3 * s for s in anew.first_token_s],
        "rows": rows, "settings": vars(given), "machine": machine(given.device),
    }  # fmt: skip
    print(json.dumps(result))


def compared(n: int, kept: Cost, anew: Cost) -> dict[str, float]:
    """One line of the table."""
    contexts, again = ([sum(cost.first_token_s[begin:]) for cost in (kept, anew)] for begin in (0, 1))
    return {
        "relistens": n, "kept_s": kept.total_s, "anew_s": anew.total_s, "ratio": kept.total_s / anew.total_s,
        "kept_context_s": contexts[0], "anew_context_s": contexts[1], "context_ratio": contexts[0] / contexts[1],
        "relisten_ratio": again[0] / again[1],
        "kept_tokens": kept.tokens, "anew_tokens": anew.tokens, "token_ratio": kept.tokens / anew.tokens,
    }  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", choices=SHAPES, default="tiny", help="tiny: those of the shipped model")
    parser.add_argument("--small", dest="shapes", action="store_const", const="small", help="the test model's")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--relistens", type=int, default=8)
    parser.add_argument("--transcripts", type=int, default=1)
    parser.add_argument("--recording-s", type=float, default=30.0)
    parser.add_argument("--segment-s", type=float, default=2.0)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="of torch, for both sides; 1 is one CPU core")
    given = parser.parse_args()
    if given.relistens < 3:
        parser.error("--relistens must be at least 3: the target is about 3")
    return given


def machine(device: str) -> dict[str, object]:
    """What it ran on."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else None
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "gpu": gpu,
        "torch": torch.__version__,
    }


if __name__ == "__main__":
    main()
