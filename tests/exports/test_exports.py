"""Exported rows in the hands of the libraries they are for, each in an environment of its own: `make exports` makes both.

ms-swift really trains a few steps on the shipped model; verl really loads, filters and tokenises.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from data_engine import make, settings_of

from echo_audio.cli import run
from echo_audio.data.store import Store
from echo_audio.data.transcripts import question_of
from echo_audio.models.qwen2_5_omni import Qwen25Omni, n_audio_tokens
from echo_audio.transcript import Mode

ROOT = Path(__file__).parents[2]
SHIM = Path(__file__).parent / "shim"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def environment(name: str) -> Path:
    python = ROOT / name / "bin" / "python"
    if not python.is_file():
        pytest.skip(f"{name} is not there: `make exports` makes it")
    return python


def inside(python: Path, *arguments: str | Path, cwd: Path) -> str:
    """What a command of an environment printed; nothing is asked of any hub."""
    own = {"PYTHONPATH": str(SHIM), "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    own["PATH"] = f"{python.parent}:{os.environ['PATH']}"
    command = [str(python), *map(str, arguments)]
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | own, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return make(tmp_path_factory.mktemp("made"), settings_of(24))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped model in the published layout."""
    folder = tmp_path_factory.mktemp("model") / "omni"
    assert run(["export", "tiny", str(folder)]) == 0
    return folder


def test_ms_swift_trains_on_the_rows(made: Any, model: Path, tmp_path: Path) -> None:
    python = environment(".venv-swift")
    rows = tmp_path / "rows.jsonl"
    assert run(["data", "export", str(made.folder / "stores" / "sft"), "--to", "ms-swift", "--out", str(rows)]) == 0
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:2]))  # the same two, so that the loss must fall
    out = inside(
        python, python.parent / "swift", "sft", "--model", model, "--model_type", "qwen2_5_omni", "--dataset", rows,
        "--tuner_type", "full", "--torch_dtype", "float32", "--attn_impl", "eager", "--max_steps", "4", "--max_length", "2048",
        "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "1", "--learning_rate", "3e-4",
        "--split_dataset_ratio", "0", "--logging_steps", "1", "--save_strategy", "no", "--dataloader_num_workers", "0",
        "--output_dir", tmp_path / "out", cwd=tmp_path,
    )  # fmt: skip
    losses = [float(loss) for loss in re.findall(r"'loss': '?([\d.]+)", out)]
    sys.stdout.write(f"ms-swift's losses: {losses}\n")
    assert len(losses) == 4 and losses[-1] < 0.9 * losses[0]


def test_verl_loads_the_rows_as_echo_tells_them(made: Any, model: Path, tmp_path: Path) -> None:
    python = environment(".venv-verl")
    store, rows = Store(made.folder / "stores" / "sft"), tmp_path / "rows.parquet"
    assert run(["data", "export", str(store.folder), "--to", "verl", "--out", str(rows)]) == 0
    out = inside(python, Path(__file__).with_name("verl_reads.py"), model, rows, tmp_path / "cache", cwd=tmp_path)
    told = json.loads(out.strip().splitlines()[-1])
    row, family = store.row(0), Qwen25Omni.load(model)
    assert told["n"] == len(store), "its length filter dropped none"
    assert told["truths"] == [store.row(i).answer for i in range(2)] and told["choices"] == list(row.choices)
    prompt = family.prompt_ids(family.prompt(question_of(row), Mode.GROUNDED))
    n_tokens = n_audio_tokens(store.recording(row).n_samples)
    assert told["ids"] == [*family.head_ids(), *family.audio_ids(n_tokens), *prompt], "token for token what Echo asks"
    assert told["ids"].count(family.audio_token) == n_tokens
