"""The files of a run: lines of samples, appended and flushed one by one; a torn last line is nobody's line.

`samples.jsonl`, or with shards `samples-2-of-4.jsonl`: each process writes its own, and readers read all of them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from echo_audio import locks
from echo_audio.errors import DataError
from echo_audio.evaluation.base import Ask, Sample
from echo_audio.transcript import Played


def read_lines(path: Path) -> list[Sample]:
    """All whole lines of a file of samples; one that broke off is not there. Touches nothing.

    Raises:
        DataError: a whole line is damaged.
    """
    if not path.is_file():
        return []
    raw = path.read_bytes()
    out: list[Sample] = []
    for place, line in enumerate(raw[: raw.rfind(b"\n") + 1].split(b"\n"), 1):
        try:
            if line:
                out.append(Sample.from_line(line.decode("utf-8")))
        except (DataError, UnicodeDecodeError) as error:
            raise DataError(f"{path}, line {place}: {error}") from None
    return out


def newest(samples: list[Sample]) -> dict[Ask, Sample]:
    """One sample for each question as asked: the last one, unless it failed and an earlier one did not."""
    out: dict[Ask, Sample] = {}
    for sample in samples:
        if not (sample.failed and sample.ask in out and not out[sample.ask].failed):
            out[sample.ask] = sample
    return out


@contextmanager
def appending(path: Path | None) -> Iterator[Callable[[Sample], None]]:
    """Append samples to a file, each on disk before the next; a line that broke off before is cut away first.

    Raises:
        DataError: another process is writing to it, or it cannot be written.
    """
    if path is None:
        yield lambda _: None
        return
    try:
        file = path.open("ab+")
    except OSError as error:
        raise DataError(f"cannot write {path}: {error.strerror}; check the folder and its permissions") from None
    with file:
        if not locks.take(file.fileno()):
            raise DataError(f"another process is writing {path}; wait for it, or give each its own --shard I/N")
        file.seek(0)
        raw = file.read()
        file.truncate(raw.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)

        def keep(sample: Sample) -> None:
            file.write(sample.to_line().encode("utf-8") + b"\n")
            file.flush()
            os.fsync(file.fileno())

        yield keep


def _scenes(folder: Path, played: Played) -> list[Sample]:
    """The samples of one pass over scenes, grouped by the kind of question."""
    path = folder / f"{played}.jsonl"
    if not path.is_file():
        raise DataError(f"{folder} holds no run of a benchmark, nor of scenes with {played} (no {path.name}); give another RUN")
    samples = [s if s.groups else replace(s, groups={"kind": s.kind}) for s in newest(read_lines(path)).values()]
    return sorted(samples, key=lambda s: (s.index, s.key))


def _scenes_about(about: dict[str, Any], played: Played) -> dict[str, Any]:
    """What the tables and pages of benchmarks say of a run, for one on scenes, which is always greedy and once."""
    how = {"mode": about.get("mode", ""), "played": str(played), "hear": "recording", "sampling": {"temperature": 0, "seed": 0}}
    banks = ", ".join(map(str, about.get("banks", ())))
    version = f"seed {about.get('seed')}" + (f", recorded clips: {banks}" if banks else "")
    return {"title": "Scenes", "version": version, "macro": "kind", "has_truth": True, "how": how, **about}


def check_same_questions(one: Mapping[str, Any], two: Mapping[str, Any]) -> None:
    """Refuse to pair runs that asked different question files.

    Raises:
        DataError: they did.
    """
    differ = [key for key in ("sha256", "seed", "banks") if one.get(key) != two.get(key)]
    if differ:
        raise DataError(f"the two runs asked different questions ({', '.join(differ)} differ); their scores cannot be paired")


def make_folder(path: Path) -> None:
    """Make a folder for what will be written, with those above it.

    Raises:
        DataError: it cannot be made, or is a file.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"cannot make the folder {path}: {error.strerror}; give another one") from None


def write_whole(path: Path, content: str | bytes) -> None:
    """A file that appears whole or not at all.

    Raises:
        DataError: it cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "backslashreplace"))
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink()
        raise DataError(f"{path} cannot be written: {error.strerror}; check the folder and its permissions") from None


ABOUT = "run.json"


def samples_file(folder: Path, shard: tuple[int, int] = (1, 1)) -> Path:
    """Where shard `i` of `n` writes."""
    i, n = shard
    return folder / ("samples.jsonl" if n == 1 else f"samples-{i}-of-{n}.jsonl")


def begin_run(folder: Path, about: Mapping[str, Any]) -> None:
    """Write beside the samples what is asked of whom, or check that it is the same.

    Raises:
        DataError: the folder holds another run.
    """
    path = folder / ABOUT
    text = json.dumps(about, indent=1, ensure_ascii=False) + "\n"
    make_folder(folder)
    if not path.is_file():
        if list(folder.glob("samples*.jsonl")):
            raise DataError(f"{folder} holds samples but no {ABOUT}; give another --out")
        write_whole(path, text)
        return
    there = read_about(folder)
    if there.get("config") != about.get("config"):
        keys = sorted(key for key in {*there, *about} if there.get(key) != about.get(key) and key != "config")
        raise DataError(f"{folder} holds a run with another {', '.join(keys)} (see {path}); give another --out")


def read_about(folder: Path) -> dict[str, Any]:
    """What a run is about.

    Raises:
        DataError: there is none.
    """
    try:
        value = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise DataError(f"{folder} is no folder of a run (no {ABOUT} that can be read); give what --out named") from None
    wrong = None if not isinstance(value, dict) else _wrong(value, _TYPES) or _wrong(value.get("how", {}), _TYPES_OF_HOW)
    if not isinstance(value, dict) or wrong:
        raise DataError(f"{folder / ABOUT} is no description of a run ({wrong or 'no object'}); give what --out named")
    return value


_TEXTS = ("benchmark", "title", "version", "macro", "config", "model", "data", "questions", "sha256", "mode", "rule")
_TYPES: dict[str, type | tuple[type, ...]] = {
    "n": int, "how": dict, "groups": dict, "remarks": list, "has_truth": bool, "seed": int, "banks": list,
    **dict.fromkeys(_TEXTS, str),
}  # fmt: skip
_TYPES_OF_HOW: dict[str, type | tuple[type, ...]] = {"repeats": int, "rotations": int, "sampling": dict, "hear": str, "mode": str}


def _wrong(values: dict[str, Any], types: dict[str, type | tuple[type, ...]]) -> str:
    """The key whose value is of another type than a run writes; empty when all are right."""
    return next((key for key, kind in types.items() if key in values and not isinstance(values[key], kind)), "")


def read_run(folder: Path, played: Played = Played.CROP) -> tuple[dict[str, Any], list[Sample]]:
    """What a run is about, and its samples of all shards: one of each, in the order of the benchmark.

    The order of files and machines does not matter. Of a run on scenes the pass with `played` is read.

    Raises:
        DataError: no run, or a line of another configuration.
    """
    about = read_about(folder)
    if "benchmark" not in about:
        return _scenes_about(about, played), _scenes(folder, played)
    lines = [sample for path in sorted(folder.glob("samples*.jsonl")) for sample in read_lines(path)]
    strange = next((sample for sample in lines if sample.config != about.get("config")), None)
    if strange is not None:
        raise DataError(f"{folder} mixes two runs: {strange.key} was asked with other settings; delete the file it is from")
    by_time = sorted(lines, key=lambda s: (s.began_s, s.key))
    return about, sorted(newest(by_time).values(), key=lambda s: (s.index, s.key, s.repeat, s.rotation))
