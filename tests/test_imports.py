"""Who may load what. The layers themselves are contracts of import-linter in pyproject.toml (`make imports`)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import echo_audio.errors

PACKAGE = Path(echo_audio.errors.__file__).parent
PURE = ("errors", "formats", "audio", "tags", "transcript", "listen", "settings", "scoring", "data", "encoding",
        "engines.scripted", "data.rows", "data.scenes")  # fmt: skip
HEAVY = {"torch", "transformers", "accelerate", "peft", "vllm", "fastapi", "matplotlib", "av", "scipy", "pandas"}


def modules_after(statement: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after a statement."""
    script = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_pure_rooms_load_no_model_library() -> None:
    loaded = modules_after("import " + ", ".join(f"echo_audio.{room}" for room in PURE))
    assert not loaded & HEAVY


def test_the_package_itself_loads_no_model_library() -> None:
    assert not modules_after("import echo_audio") & HEAVY


def test_the_command_line_loads_no_model_library() -> None:
    assert not modules_after("import echo_audio.cli") & HEAVY


def sources() -> Iterator[tuple[str, ast.Module]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        yield path.relative_to(PACKAGE).as_posix(), ast.parse(path.read_text())


def names(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


@pytest.mark.parametrize("name", ["environ", "getenv"])
def test_only_the_command_line_reads_the_environment(name: str) -> None:
    readers = {file for file, tree in sources() if name in names(tree)}
    assert not {file for file in readers if not file.startswith("cli/")}


def test_only_tags_knows_how_to_read_a_segment() -> None:
    """A second regular expression for `<seg>` would drift from the first."""
    readers = set[str]()
    for file, tree in sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
                patterns = [arg.value for arg in call.args if isinstance(arg, ast.Constant)]
                if call.func.value.id == "re" and any("seg>" in str(pattern) for pattern in patterns):
                    readers.add(file)
    assert readers <= {"tags.py"}


def test_no_file_and_no_function_outgrows_a_reader() -> None:
    """400 lines a file and 60 a function, with a tenth of grace."""
    too_long = list[str]()
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        if len(text.splitlines()) > 440:
            too_long.append(path.name)
        too_long += [
            f"{path.name}:{node.name}"
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno > 66
        ]
    assert not too_long
