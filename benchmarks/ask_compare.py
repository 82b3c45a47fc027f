"""Two files of `echo-audio ask --questions FILE --json`, about the same questions: who is right, who cites what is asked about.

    python benchmarks/ask_compare.py QUESTIONS.jsonl STORE BEFORE AFTER
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

from echo_audio.audio import Segment
from echo_audio.data.store import Store
from echo_audio.evaluation.statistics import paired


def answers(path: str) -> dict[int, dict]:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines() if line.startswith("{")]
    return {line["place"]: line for line in lines}


def overlap(line: dict, evidence: list[Segment]) -> float:
    """Share of the evidence that the cited segments touch by half and more of it."""
    cited = [Segment(s["start_s"], s["end_s"]) for s in line["segments"] if 0 <= s["start_s"] < s["end_s"]]
    return sum(any(c.iou(e) >= 0.5 for c in cited) for e in evidence) / len(evidence)


def main() -> None:
    questions, store, *files = sys.argv[1:]
    rows = {row.id: row for row in Store(Path(store)).rows()}
    asked = [json.loads(line) for line in Path(questions).read_text().splitlines()]
    first, second = (answers(path) for path in files)
    places = sorted(first.keys() & second.keys())
    kinds: dict[str, list[int]] = defaultdict(list)
    for place in places:
        kinds["all"].append(place)
        kinds[asked[place - 1]["kind"]].append(place)
    print("| kind | questions | before % | after % | difference | p (McNemar) |\n|---|---|---|---|---|---|")
    for kind, some in kinds.items():
        test = paired([bool(first[p]["right"]) for p in some], [bool(second[p]["right"]) for p in some])
        shares = [100 * sum(bool(one[p]["right"]) for p in some) / len(some) for one in (first, second)]
        print(f"| {kind} | {len(some)} | {shares[0]:.1f} | {shares[1]:.1f} | {100 * test.difference:+.1f} "
              f"({100 * test.low:+.1f} to {100 * test.high:+.1f}) | {test.p_value:.2g} |")  # fmt: skip
    for name, one in (("before", first), ("after", second)):
        parsed = sum(one[p]["choice"] is not None for p in places) / len(places)
        evidence = {p: [Segment(e.start_s, e.end_s) for e in rows[asked[p - 1]["row"]].evidence] for p in places}
        found = sum(overlap(one[p], evidence[p]) for p in places) / len(places)
        cited = sum(len(one[p]["segments"]) for p in places) / len(places)
        print(f"{name}: {100 * parsed:.1f} % parsed, {cited:.2f} segments, {100 * found:.1f} % of the evidence cited (IoU 0.5)")


if __name__ == "__main__":
    main()
