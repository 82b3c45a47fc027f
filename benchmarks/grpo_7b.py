"""Steps of GRPO at the shapes of Qwen2.5-Omni-7B's thinker, by the project's own trainer: random weights, adapters, one GPU.

    python benchmarks/grpo_7b.py FOLDER [--steps 2]     FOLDER: scratch for the random model, 17 GB
    python benchmarks/grpo_7b.py FOLDER --tiny                            the test model on the CPU, to see that it runs

8 prompts x 8 transcripts of 512 to 1,024 tokens, two re-listens of 3 s each. A random model writes no tags, so what is
written is dictated; everything is computed as if it had been drawn. Prints where a step's time goes; the last line is one
JSON object, with `other_share`: the part of the time spent neither sampling nor in forward and backward (target: 0.10).
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from relisten import QWEN_VOCABULARY, SHAPES, TEXTS, WORDS, make_thinker

from echo_audio.engines.jobs import Job
from echo_audio.models.thinker import save_weights
from echo_audio.models.tiny import side_files, train_tokenizer
from echo_audio.training.grpo import GrpoRun, Watch
from echo_audio.training.grpo_settings import GrpoSettings
from echo_audio.training.parallel import Crew

PHASES = ("rollout", "reward", "logprobs", "update", "sync")
COMPUTING = ("rollout", "logprobs", "update")


def write_model(folder: Path, shapes: str, device: str) -> None:
    """A random model folder of these shapes, unless it is there."""
    if (folder / "model.safetensors").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    dtype = torch.bfloat16 if shapes == "7b" else torch.float32
    thinker = make_thinker(shapes, device, dtype)
    with torch.no_grad():  # finite, whatever the defaults of the library leave uninitialised
        for weight in thinker.model.parameters():
            weight.nan_to_num_(0.0, 0.0, 0.0)
    save_weights(thinker, folder / "model.safetensors", dtype)
    tokenizer = train_tokenizer(TEXTS, 512)
    files = side_files(tokenizer, SHAPES[shapes])
    if shapes == "7b":
        files["config.json"]["text_config"] |= {"vocab_size": QWEN_VOCABULARY, "tie_word_embeddings": False}
        files["config.json"]["tie_word_embeddings"] = False
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))


class Dictation:
    """What every transcript writes: two segments, then on to a length of its own."""

    def __init__(self, run: GrpoRun, longest: int) -> None:
        family = run.family
        self.longest, self.end = longest, family.end_of_turn
        self.words = family.text_ids(WORDS)
        self.opening = family.text_ids("<think>")
        self.segments = [family.text_ids(text) for text in ("<seg>0.50, 3.50</seg>", "<seg>1.00, 4.00</seg>")]
        self.plans: dict[tuple[str, int], tuple[int, ...]] = {}
        run.sampling.engine._steps._dictate = self.dictate  # type: ignore[attr-defined]

    def plan(self, job: Job) -> tuple[int, ...]:
        """The ids of a turn."""
        key = (job.request.session, job.request.turn)
        if key not in self.plans:
            length = self.longest // 2 + int(key[0][:6], 16) % (self.longest // 2)
            third = length // 3
            begin = self.opening if key[1] == 0 else ()
            tail = self.segments[key[1]] if key[1] < len(self.segments) else (self.end,)
            n_words = max(0, third - len(begin) - len(tail))
            self.plans[key] = (*begin, *(self.words * (n_words // len(self.words) + 1))[:n_words], *tail)
        return self.plans[key]

    def dictate(self, job: Job, number: int) -> int:
        """A dictated id; what is drawn behind the end of a turn is dropped."""
        plan = self.plan(job)
        return plan[number] if number < len(plan) else -1


def settings_of(given: argparse.Namespace, model: Path) -> GrpoSettings:
    """The run's."""
    size = ("rollout.prompts=2", "rollout.group=2") if given.tiny else ("rollout.prompts=8", "rollout.group=8")
    return GrpoSettings.parse("", [
        f"out={given.folder / 'run'}", f"model.source={model}", "model.lora_rank=16", "data.longest_s=10.0", "data.n_rows=100",
        f"model.dtype={'float32' if given.tiny else 'bfloat16'}", f"rollout.max_new_tokens={given.longest}", *size,
        "rollout.in_flight=64", f"train.bf16={'false' if given.tiny else 'true'}", "train.gradient_checkpointing=true",
        f"train.batch_tokens={given.batch_tokens}", "train.save_every=1000", f"train.steps={given.steps + 1000}", *given.override,
    ])  # fmt: skip


def main() -> None:
    """Measure and print."""
    given = parse()
    device = "cpu" if given.tiny else "cuda"
    model = given.folder / "model"
    write_model(model, "small" if given.tiny else "7b", device)
    shutil.rmtree(given.folder / "run", ignore_errors=True)
    if device == "cuda":
        torch.cuda.empty_cache()
    began = time.perf_counter()
    run = GrpoRun(_claimed(settings_of(given, model)), Crew(), None, Watch())
    try:
        dictation = Dictation(run, given.longest)
        run.sampling.sync()
        print(f"loaded in {time.perf_counter() - began:.0f} s")
        lines = [shown(run.step(), dictation) for _ in range(given.steps)]
    finally:
        run.close()
    last = lines[-1]
    other = 1 - sum(last[f"{name}_s"] for name in COMPUTING) / last["step_s"]
    print(json.dumps({
        "benchmark": "grpo_7b", "step_s": last["step_s"], "other_share": other, "target": 0.10,
        "tokens_per_s": last["tokens_per_s"],
        "phases_s": {name: last[f"{name}_s"] for name in PHASES}, "tokens": last["tokens"], "segments": last["segments"],
        "gap": last["gap"], "gap_max": last["gap_max"], "peak_gb": peak_gb(), "steps": [line["step_s"] for line in lines],
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None, "torch": torch.__version__,
        "settings": {name: str(value) for name, value in vars(given).items()},
    }))  # fmt: skip


def _claimed(settings: GrpoSettings) -> GrpoSettings:
    """With the folder of its run made."""
    Path(settings.out).mkdir(parents=True)
    return settings


def shown(line: dict[str, Any], dictation: Dictation) -> dict[str, Any]:
    """A step's line, printed."""
    dictation.plans.clear()
    phases = ", ".join(f"{name} {line[f'{name}_s']:.1f} s" for name in PHASES)
    print(f"step {line['step']}: {line['step_s']:.1f} s ({phases}); {line['tokens']:.0f} tokens a transcript, "
          f"{line['segments']:.1f} segments, gap {line['gap']:.1e}, peak {peak_gb() or 0:.1f} GB", flush=True)  # fmt: skip
    return line


def peak_gb() -> float | None:
    """Memory allocated at most."""
    return torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("override", nargs="*", help="settings of the run: train.batch_tokens=8192")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--steps", type=int, default=2, help="the last one counts; the first pays for warming up")
    parser.add_argument("--longest", type=int, default=0, help="tokens of a transcript at most; 1024, and 128 with --tiny")
    parser.add_argument("--batch-tokens", type=int, default=8192)
    given = parser.parse_args()
    given.longest = given.longest or (128 if given.tiny else 1024)
    if not given.tiny and not torch.cuda.is_available():
        parser.error("there is no GPU here; --tiny runs on the CPU")
    return given


if __name__ == "__main__":
    main()
