"""`echo-audio eval BENCHMARK`: a published benchmark, from a folder the user has."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from echo_audio import __version__
from echo_audio.cli.arguments import number, one_of, whole
from echo_audio.cli.console import console, shown
from echo_audio.cli.engines import add_engine
from echo_audio.cli.progress import progress
from echo_audio.cli.score import show_scores
from echo_audio.cli.session import Listener, Manner, loading
from echo_audio.errors import ConfigError, DataError
from echo_audio.listen import Limits, Sampling
from echo_audio.models import folders
from echo_audio.transcript import Mode, Played

if TYPE_CHECKING:
    from echo_audio.evaluation.base import Sample
    from echo_audio.evaluation.benchmark import Loaded
    from echo_audio.evaluation.items import BenchmarkItems
    from echo_audio.evaluation.run import How

NAMES = {
    "mmau-mini": "MMAU test-mini: 1,000 questions about sound, music and speech",
    "mmau": "MMAU test: 9,000 questions without answers; makes the submission file",
    "mmar": "MMAR: 1,000 questions that need reasoning",
    "mmsu": "MMSU: 5,000 questions about spoken language",
    "mmau-pro": "MMAU-Pro: its multiple-choice part, one recording a question",
}


def add_benchmarks(verbs: Any) -> None:
    """A verb below `eval` for each benchmark."""
    for name, about in NAMES.items():
        _add_arguments(verbs.add_parser(name, help=about, description=about))


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    name = parser.prog.split()[-1]
    parser.set_defaults(run=_run, benchmark=name)
    files = parser.add_argument_group("files").add_argument
    files("--data", type=Path, required=True, metavar="DIR", help="has the question file, and the audio at the paths it names")
    files("--questions", type=Path, metavar="FILE", help="the question file, where it is not in DIR under its own name")
    files("--out", type=Path, required=True, metavar="RUN", help="folder of the run; one begun before is continued")
    files("--json", type=Path, metavar="FILE", help="write the scores there too")
    how = parser.add_argument_group("how it is asked").add_argument
    how("--model", default=folders.TINY, metavar="M", help="a folder, a hub id, or tiny")
    add_engine(how)
    modes = "interleaved (default), grounded or conditioned"
    how("--mode", type=one_of(Mode), default=Mode.INTERLEAVED, metavar="MODE", help=modes)
    how("--played", type=one_of(Played), default=Played.CROP, metavar="WHAT", help="crop (default), withheld, silenced, swapped")
    how("--hear", choices=("recording", "nothing", "silence"), default="recording",
        help="baselines: no audio at all, or silence of the same length")  # fmt: skip
    how("--max-new-tokens", type=whole(1), default=2048, metavar="N", help="tokens of one reasoning (default 2048)")
    how("--max-relistens", type=whole(0), default=8, metavar="N", help="segments it may hear again (default 8)")
    how("--temperature", type=number(0), default=0.0, metavar="T", help="0 (default) is greedy")
    how("--top-p", type=number(0, 1, open_low=True), default=1.0, metavar="P")
    how("--seed", type=whole(0), default=0, metavar="S", help="default 0")
    how("--repeats", type=whole(1), default=1, metavar="K", help="ask each question so often (needs a temperature)")
    how("--rotate", action="store_true", help="ask with the choices turned by every number of places")
    how("--n", type=whole(1), metavar="N", help="the first N questions only")
    work = parser.add_argument_group("the work").add_argument
    work("--in-flight", type=whole(1), default=32, metavar="N", help="transcripts at once (default 32)")
    work("--shard", type=_shard, default=(1, 1), metavar="I/N", help="do part I of N; all parts may write to one RUN")
    work("--max-errors", type=whole(0), default=10, metavar="N", help="stop when more cannot be asked (default 10)")
    work("--retries", type=whole(0), default=1, metavar="N", help="of an engine failure (default 1)")


def _shard(text: str) -> tuple[int, int]:
    i, _, n = text.partition("/")
    if not (i.isdecimal() and n.isdecimal() and 1 <= int(i) <= int(n)):
        raise argparse.ArgumentTypeError(f"{text!r} is no part such as 2/4")
    return int(i), int(n)


def _run(args: argparse.Namespace) -> int:
    from echo_audio.evaluation.benchmark import load_benchmark
    from echo_audio.evaluation.files import begin_run
    from echo_audio.evaluation.items import BenchmarkItems
    from echo_audio.evaluation.known import BENCHMARKS

    if args.repeats > 1 and args.temperature == 0:
        raise ConfigError("--repeats asks the same greedy question again; give a --temperature above 0")
    if args.mode is not Mode.INTERLEAVED and args.played is not Played.CROP:
        raise ConfigError(f"--played {args.played} changes what is heard again; in mode {args.mode} nothing is")
    loaded = load_benchmark(BENCHMARKS[args.benchmark], args.data, args.questions)
    items = BenchmarkItems(loaded, args.n)
    _check(args, items)
    how = _how(args)
    folder = folders.resolve(args.model)  # a hub id is got here, and what is loaded below is what was hashed
    about = _about(args, loaded, items, how, folder)
    begin_run(args.out, about)
    for remark in loaded.remarks:
        console(to_stderr=True).print(Text(f"{loaded.benchmark.title}: {shown(remark)}", "yellow"))
    model = args.model if args.model == folders.TINY else str(folder)
    manner = Manner(model=model, engine=args.engine, device=args.device, mode=args.mode, at_once=args.in_flight)
    with loading(manner) as listener:
        _ask_all(args, items, listener, how, about["config"])
    return finish(args.out, loaded, args.json)


def _check(args: argparse.Namespace, items: BenchmarkItems) -> None:
    """End before a model is loaded what the error budget would end anyway.

    Raises:
        DataError: more questions than that cannot be asked.
    """
    missing = items.missing()
    broken = [record.trouble for record in items.records if record.trouble]
    n = len(missing) + len(broken)
    if n <= args.max_errors:
        return
    told = f"{len(missing)} of {len(items)} recordings are missing ({shown(items.why_missing())})" if missing else ""
    told += " and " * bool(missing and broken) + (f"{len(broken)} records are no question ({shown(broken[0])})" if broken else "")
    raise DataError(f"{told}; mend that, or count them as wrong with --max-errors {n}")


def _how(args: argparse.Namespace) -> How:
    from echo_audio.evaluation.run import Hear, How

    limits = Limits(
        max_turns=max(16, 2 * args.max_relistens),
        max_relistens=args.max_relistens,
        max_new_tokens=args.max_new_tokens,
        max_turn_tokens=min(2048, args.max_new_tokens),
    )
    sampling = Sampling(args.temperature, args.top_p, args.seed)
    return How(args.mode, args.played, limits, sampling, Hear(args.hear), args.repeats, 0 if args.rotate else 1)


def _about(args: argparse.Namespace, loaded: Loaded, items: BenchmarkItems, how: How, folder: Path) -> dict[str, Any]:
    """What the run is about; its `config` is a hash of everything that shapes an answer."""
    from dataclasses import asdict

    shaping = {
        "benchmark": loaded.benchmark.name,
        "sha256": loaded.sha256,
        "n": len(items),
        "model": str(args.model),
        "weights": folders.fingerprint(folder),
        "engine": str(args.engine),
        "how": json.loads(json.dumps(asdict(how))),
        "echo": __version__,
    }
    config = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()[:16]
    return {
        **shaping,
        "config": config,
        "revision": folders.revision(folder),
        "title": loaded.benchmark.title,
        "version": loaded.version,
        "macro": loaded.benchmark.macro,
        "groups": {name: list(order) for name, order in loaded.benchmark.groups.items()},
        "has_truth": loaded.has_truth,
        "rule": str(loaded.benchmark.rule),
        "remarks": loaded.remarks,
        "data": str(args.data.absolute()),
        "questions": str(loaded.path.absolute()),
    }


def _ask_all(args: argparse.Namespace, items: BenchmarkItems, listener: Listener, how: How, config: str) -> None:
    from echo_audio.audio import SAMPLE_RATE
    from echo_audio.evaluation.files import read_run, samples_file
    from echo_audio.evaluation.run import Work, evaluate
    from echo_audio.evaluation.speed import Slots

    out = samples_file(args.out, args.shard)
    items.max_duration_s = listener.family.longest_clip_samples() / SAMPLE_RATE  # longer ones are not even decoded
    mine = range(args.shard[0] - 1, len(items), args.shard[1])
    elsewhere = read_run(args.out)[1]  # of all shards, however many there were
    before = sum(not sample.failed and sample.index in mine for sample in elsewhere)
    total = sum(len(items.records[i].choices) if args.rotate else 1 for i in mine) * args.repeats
    slots, new = Slots(args.in_flight), list["Sample"]()
    work = Work(args.shard, args.in_flight, n_decoders=2, max_errors=args.max_errors, retries=args.retries, config=config)
    try:
        with progress(args.benchmark, total, done=before) as (step, _):

            def told(sample: Sample) -> None:
                new.append(sample)
                step(1)

            run = evaluate(
                items, listener.engine, listener.family, how,
                out=out, on_sample=told, work=work, slots=slots, elsewhere=elsewhere,
            )  # fmt: skip
            asyncio.run(run)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Start the same command again and it goes on.") from None
    finally:
        if new:
            speed = slots.speed(len(new), sum(s.duration_s for s in new), sum(s.n_tokens for s in new))
            tell_speed(args.out, speed.to_json())


def tell_speed(folder: Path | None, speed: dict[str, Any], what: str = "") -> None:
    """Print what a process did in its time, and add it to the folder's speed.jsonl.

    Args:
        what: was done; said before the numbers.
    """
    if folder is not None:
        with (folder / "speed.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(speed) + "\n")
    begin = f"{what}: " if what else ""
    console(to_stderr=True).print(
        Text(
            f"{begin}{speed['n']} asked in {speed['wall_s']:.1f} s: {speed['questions_per_s']:.2f} a second, "
            f"{speed['real_time_factor']:.1f} s of audio and {speed['tokens_per_s']:.0f} tokens a second; fewer than half of "
            f"the {speed['slots']} slots were in use for {100 * speed['half_empty']:.0f} % of the time",
            "dim",
        )
    )


def finish(folder: Path, loaded: Loaded, json_file: Path | None) -> int:
    """Scores and submission of a run, once all of it is there; 1 when something could not be asked."""
    from echo_audio.evaluation.export import submission, validate, write_submission
    from echo_audio.evaluation.files import read_run, write_whole
    from echo_audio.evaluation.scores import summarise, transcript_of

    about, samples = read_run(folder)
    first = {s.key: s for s in samples if s.repeat == 0 and s.rotation == 0}
    answers = {key: sample.choice or "" for key, sample in first.items()}
    thoughts = {key: transcript_of(sample).response for key, sample in first.items() if sample.transcript}
    scores = {**about, **summarise(samples, about)}
    text = json.dumps(scores, indent=1, ensure_ascii=False) + "\n"
    write_whole(folder / "scores.json", text)
    if json_file is not None:
        write_whole(json_file, text)
    if scores["n"] == len(loaded.records) and not scores["missing"]:
        rows = submission(loaded.records, answers, thoughts, loaded.benchmark)
        validate(rows, loaded.records, loaded.benchmark)
        write_submission(folder / loaded.benchmark.submission, rows, loaded.path)
        console(to_stderr=True).print(Text(f"to hand in: {folder / loaded.benchmark.submission}", "dim"))
    show_scores(scores)
    return int(any(s.failed for s in samples) or scores["missing"] + scores["missing_turns"] > 0)
