"""`echo-audio doctor`: what is missing for which verb, and the command that cures it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from echo_audio.cli import doctor

pytestmark = pytest.mark.timeout(240)


def ask_doctor(path, *arguments):
    """The doctor in a process of its own, where some packages are broken."""
    command = [sys.executable, "-m", "echo_audio", "doctor", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(path)}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_broken_packages_are_named_for_the_verbs_that_need_them(tmp_path):
    broken = {
        "soxr": "raise OSError('libsoxr.so.0: cannot open shared object file')",
        "peft": "raise RuntimeError('built for another torch\\nand more')",
        "rich": "import not_there_at_all",  # what every other verb prints with
        "torch": "raise ImportError('no torch, so that this is fast')",
        "transformers": "raise ImportError('none')",
        "accelerate": "raise ImportError('none')",
    }
    for name, content in broken.items():
        (tmp_path / f"{name}.py").write_text(content)
    done = ask_doctor(tmp_path)
    assert done.returncode == 1
    assert done.stderr == ""
    parts = re.split(r"(?m)^(\w+) +needs something", done.stdout)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    asks, trains = said["ask"], said["sft"]
    assert "the package soxr does not load (libsoxr.so.0: cannot open shared object file)" in asks
    assert f"{sys.executable} -m pip install --force-reinstall 'soxr>=" in asks
    assert "the package rich does not load: it needs not_there_at_all" in asks
    assert "peft" not in asks
    assert "the package peft does not load (built for another torch)" in trains
    told = json.loads(ask_doctor(tmp_path, "--json").stdout)
    assert told["packages"]["soxr"]["version"] is None
    assert {"ask", "demo", "data", "eval", "score", "sft", "grpo"} <= {verb["name"] for verb in told["verbs"]}
    assert told["gpus"] == []


def test_a_version_out_of_range_is_told(monkeypatch):
    package = doctor._package("numpy", "numpy", "numpy>=99")
    assert package.version is not None
    assert package.wrong.endswith("and Echo needs numpy>=99")
    assert not doctor._package("numpy", "numpy", "numpy>=2,<3").wrong


def test_a_missing_package_is_missing():
    assert doctor._package("no-such-thing", "no_such_thing", "no-such-thing>=1").wrong == "is missing"


MACHINE = {
    "folder": "/somewhere/echo_audio", "shipped_model": True, "demo_recordings": 4,
    "gpus": [], "nvidia_driver": False, "torch_cuda": None,
}  # fmt: skip


@pytest.mark.parametrize(
    ("machine", "verb", "what", "cure"),
    [
        ({"shipped_model": False}, "demo", "the shipped model is not in this checkout", "git checkout"),
        ({"demo_recordings": 0}, "demo", "recordings are gone", "echo-audio demo --write /somewhere/echo_audio/demo"),
        ({"nvidia_driver": True}, "ask", "built without CUDA", "--force-reinstall torch"),
        ({"nvidia_driver": True, "torch_cuda": "13.0"}, "eval", "for CUDA 13.0", "nvidia-smi"),
        ({}, "sft", "no GPU", "NVIDIA GPU"),
    ],
)
def test_what_the_machine_lacks_has_its_cure(machine, verb, what, cure):
    fine = {name: doctor.Package("1", "", name) for name in doctor._PACKAGES}
    verbs = {v.name: v for v in doctor._verbs(fine, {**MACHINE, **machine})}
    lacks = [lack for lack in (*verbs[verb].missing, *verbs[verb].hints) if what in lack.what]
    assert len(lacks) == 1
    assert cure in lacks[0].cure


def test_it_knows_every_verb():
    from echo_audio import cli

    assert {*doctor._NEEDS, "doctor"} == set(cli.VERBS)
