"""The README's Python is run as it stands, and what the pages name is there."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

from echo_audio.cli import VERBS
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
    tree = (ROOT / "README.md").read_text(encoding="utf-8").partition("## Where things are")[2].partition("\n## ")[0]
    package = ROOT / "src/echo_audio"
    rooms = {path.name for path in package.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    rooms -= {"__init__.py", "__main__.py", "studio"}  # the studio is not built yet
    named = set(re.findall(r"^      ([\w.]+)/?  ", tree, re.MULTILINE))
    assert rooms <= named
    assert not [name for name in named if not (package / name).exists()]
    assert not [name for name in re.findall(r"^    ([a-z]+)/ ", tree, re.MULTILINE) if not (ROOT / name).is_dir()]


PAGES = ["README.md", "src/echo_audio/models/tiny/README.md", *(f"docs/{p.name}" for p in sorted((ROOT / "docs").glob("*.md")))]


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    links = {link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link}
    assert not [link for link in links if not (ROOT / page).parent.joinpath(link).exists()]


def test_every_file_that_the_map_of_the_paper_names_is_there():
    text = (ROOT / "docs/paper.md").read_text(encoding="utf-8")
    names = set(re.findall(r"`([\w/]+\.(?:py|toml|md))`", text))
    assert len(names) > 20
    assert not [name for name in names if not (ROOT / name).is_file() and not (ROOT / "src/echo_audio" / name).is_file()]


def test_the_commands_of_the_readme_are_verbs():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"echo-audio ([a-z]+)", text)) <= set(VERBS)
