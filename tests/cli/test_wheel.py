"""What `pip install` brings: the model, the demo and the types, and nothing that is in nobody's git."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from echo_audio.cli.session import has_tiny

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(not has_tiny(), reason="the shipped model is not here")
def test_the_wheel_holds_model_demo_and_types(tmp_path):
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path], cwd=ROOT, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    demo = {path.name for path in (ROOT / "src/echo_audio/demo").iterdir()}
    assert {f"echo_audio/demo/{name}" for name in demo} <= names
    assert {"echo_audio/py.typed", "echo_audio/models/tiny/model.safetensors", "echo_audio/models/tiny/config.json"} <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith("tests")]
    assert wheel.stat().st_size < 40e6
