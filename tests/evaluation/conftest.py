"""The question files of the benchmarks, where they are: they belong to their owners and are not in this repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = Path(os.environ.get("ECHO_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.fixture(scope="session")
def question_files() -> Path:
    """The folder with mmau-test-mini.json and MMAR-meta.jsonl."""
    if not ((DATA / "mmau-test-mini.json").is_file() and (DATA / "MMAR-meta.jsonl").is_file()):
        pytest.skip(f"the question files of MMAU-mini and MMAR are not at {DATA} (ECHO_SHARED_DATA)")
    return DATA
