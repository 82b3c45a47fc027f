"""The stores of a run, made from its journal: always anew and whole, so that a run that was killed leaves no half ones.

stores/sft/         a store of rows with a reasoning, for `sft`
stores/rl/          a store of rows without, for `grpo`
stores/dropped.jsonl, stores/skipped.jsonl      what was left out, each line with its reasons
"""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from echo_audio.data.eaqa.journal import Outcome, Route
from echo_audio.data.eaqa.settings import CheckSettings
from echo_audio.data.eaqa.similar import NearDuplicates, Templates, alike, shingles
from echo_audio.data.rows import Row
from echo_audio.data.store import StoreWriter, audio_path, write_atomically

SHARD = 4096
"""Rows of one parquet file."""


def settled(outcomes: Sequence[Outcome], limits: CheckSettings) -> list[Outcome]:
    """Outcomes in order, after the checks that look at all rows together.

    Near-duplicates are dropped, and so is the reasoning of a row whose template is used up.
    """
    seen, templates = NearDuplicates(limits.near_duplicate), Templates(limits.same_template)
    asked: defaultdict[str, list[frozenset[str]]] = defaultdict(list)  # questions by recording
    out: list[Outcome] = []
    for outcome in outcomes:
        row = outcome.row
        if row is None or outcome.route not in (Route.SFT, Route.RL):
            out.append(outcome)
            continue
        text = " ".join([row.question, *sorted(row.choices)])
        question, before = shingles(text), asked[row.audio_id]
        again = any(alike(question, other) >= limits.near_duplicate for other in before)
        before.append(question)
        if again or (row.reasoning and not seen.add(f"{text} {row.reasoning}")):
            outcome = replace(outcome, route=Route.DROPPED, reasons=("is nearly another row",))
        elif row.reasoning and not templates.add(row.reasoning, [*(e.label for e in row.events), *row.choices]):
            outcome = replace(outcome, route=Route.RL, reasons=("reasoning has a template that is used up",), row=_bare(row))
        out.append(outcome)
    return out


def _bare(row: Row) -> Row:
    return row.model_copy(update={"reasoning": None, "evidence": ()})


def write_stores(folder: Path, outcomes: Sequence[Outcome], made_by: Mapping[str, Any]) -> Path:
    """Write the stores of a run folder and put them in the place of older ones; returns their folder.

    Args:
        folder: of the run; `audio/` in it has the recordings.
        outcomes: settled.
        made_by: for the manifests.
    """
    stores, new, old = folder / "stores", folder / f".stores-new-{os.getpid()}", folder / f".stores-old-{os.getpid()}"
    for left in folder.glob(".stores-*"):  # of a process that was killed
        shutil.rmtree(left)
    try:
        for route in (Route.SFT, Route.RL):
            rows = [outcome.row for outcome in outcomes if outcome.route is route and outcome.row is not None]
            _write_store(new / str(route), rows, folder, {**made_by, "route": str(route)})
        for route in (Route.DROPPED, Route.SKIPPED):
            lines = [json.dumps(o.to_json(), ensure_ascii=False) for o in outcomes if o.route is route]
            write_atomically(new / f"{route}.jsonl", "".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    if stores.exists():
        stores.rename(old)
    new.rename(stores)
    shutil.rmtree(old, ignore_errors=True)
    return stores


def _write_store(store: Path, rows: Sequence[Row], run: Path, made_by: Mapping[str, Any]) -> None:
    writer = StoreWriter(store, {"eaqa": dict(made_by)})
    for audio_id in dict.fromkeys(row.audio_id for row in rows):
        source, target = audio_path(run, audio_id), audio_path(store, audio_id)
        target.parent.mkdir(parents=True, exist_ok=True)
        _link(source, target)
    for begin in range(0, len(rows), SHARD):
        writer.append(rows[begin : begin + SHARD])


def _link(source: Path, target: Path) -> None:
    """The same file under another name, or a copy where the file system knows no such thing."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
