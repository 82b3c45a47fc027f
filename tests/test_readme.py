"""The README's Python is run as it stands."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from echo_audio.models import folders

ROOT = Path(__file__).parents[1]


@pytest.mark.skipif(not (folders.tiny_folder() / "model.safetensors").is_file(), reason="the shipped model is not here")
def test_the_ten_lines_run(monkeypatch):
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)[1]
    assert len([line for line in code.splitlines() if line]) <= 12
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(compile(code, "README.md", "exec"), {})
    assert "Segment(start_s=" in said.getvalue()


def test_the_tree_names_what_is_there():
    tree = (ROOT / "README.md").read_text(encoding="utf-8")
    rooms = {p.name for p in (ROOT / "src/echo_audio").iterdir() if not p.name.startswith(("_", ".")) and p.name != "py.typed"}
    missing = {room for room in rooms if room.removesuffix("/") not in tree}
    assert not missing - {"demo", "studio"}
