"""The three ways of listening side by side, and grounded weights that are played the segments they write.

Each is some folders of `echo-audio eval scenes --out`, one a seed, over the same questions; the seeds are pooled, kind by kind.
Prints a table and, last, one JSON object: python benchmarks/modes.py CONDITIONED,... GROUNDED,... INTERLEAVED,... PLAYED,...
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from echo_audio.evaluation.base import Sample
from echo_audio.evaluation.files import read_lines
from echo_audio.evaluation.statistics import paired

NAMES = ("conditioned", "grounded", "interleaved", "played")


def answers(runs: list[dict[str, Sample]], kind: str) -> list[bool]:
    """Whether each question of a kind was answered rightly, by every seed."""
    return [sample.correct for run in runs for _, sample in sorted(run.items()) if kind in ("all", sample.kind)]


def read(folders: str) -> list[dict[str, Sample]]:
    """The samples of each seed by question."""
    return [{s.key: s for s in read_lines(Path(folder) / "crop.jsonl")} for folder in folders.split(",")]


def main(arguments: list[str]) -> int:
    if len(arguments) != len(NAMES):
        print(__doc__, file=sys.stderr)
        return 2
    runs = dict(zip(NAMES, map(read, arguments), strict=True))
    seeds = {name: [round(100 * sum(answers([run], "all")) / len(run), 1) for run in some] for name, some in runs.items()}
    print(f"{'':14}" + "".join(f"{name:>13}" for name in NAMES) + "     n  interleaved minus grounded, McNemar")
    out: dict[str, object] = {"benchmark": "modes", "per_seed": seeds}
    for kind in ("all", *sorted({s.kind for s in runs["grounded"][0].values()})):
        found = {name: answers(some, kind) for name, some in runs.items()}
        test = paired(found["grounded"], found["interleaved"])
        shares = {name: round(100 * sum(some) / len(some), 1) for name, some in found.items()}
        gain = f"{100 * test.difference:+.1f} ({100 * test.low:+.1f} to {100 * test.high:+.1f}), p {test.p_value:.2g}"
        print(f"{kind:14}" + "".join(f"{shares[name]:13.1f}" for name in NAMES) + f"{test.n:6}  {gain}")
        out[kind] = shares | {"n": test.n, "gain": test.difference, "p_value": test.p_value}
    print(json.dumps(out))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
