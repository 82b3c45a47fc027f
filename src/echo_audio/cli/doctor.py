"""`echo-audio doctor`: what this machine has, what is missing for which verb, and the command that cures it.

It must work where everything else is broken, so it imports nothing but the standard library until it looks.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

_REINSTALL = "pip install --force-reinstall echo-audio"
_PACKAGES = {
    "numpy": "numpy", "soundfile": "soundfile", "soxr": "soxr", "pydantic": "pydantic", "rich": "rich",
    "tokenizers": "tokenizers", "safetensors": "safetensors", "torch": "torch", "transformers": "transformers",
    "huggingface-hub": "huggingface_hub", "accelerate": "accelerate", "peft": "peft", "pyarrow": "pyarrow",
}  # fmt: skip
"""Packages of the core, and the modules they bring."""
_EXTRAS = {"m4a": ("av", "recordings in m4a, mp4, aac, webm, wma and amr"), "track": ("trackio", "a dashboard of training runs")}
_HEARING = ("numpy", "soundfile", "soxr", "rich", "pydantic")
_MODEL = (*_HEARING, "tokenizers", "safetensors", "huggingface-hub", "torch", "transformers")
_NEEDS = {
    "ask": _MODEL,
    "demo": _MODEL,
    "data": (*_HEARING, "pyarrow"),
    "eval": (*_MODEL, "pyarrow"),
    "sft": (*_MODEL, "pyarrow", "accelerate", "peft"),
}


@dataclass(frozen=True, slots=True)
class Lack:
    """Something that is missing, and the command that cures it."""

    what: str
    cure: str


@dataclass(frozen=True, slots=True)
class Verb:
    """Whether a verb works here.

    Args:
        missing: why not; empty when it is ready.
        hints: what would make it better.
    """

    name: str
    missing: tuple[Lack, ...]
    hints: tuple[Lack, ...] = ()


def main(arguments: Sequence[str]) -> int:
    """Run the verb: 0, or 1 when the core itself is incomplete."""
    parser = argparse.ArgumentParser(
        prog="echo-audio doctor", description="What this machine has, what is missing for which verb, and its cure."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(arguments)
    packages = {name: _version(name, module) for name, module in _PACKAGES.items()}
    machine = _machine(packages["torch"] is not None)
    verbs = _verbs(packages, machine)
    if args.json:
        report = {**machine, "packages": packages, "extras": _extras(), "verbs": [asdict(verb) for verb in verbs]}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(machine, packages, verbs)) + "\n")
    return int(None in packages.values())


def _version(name: str, module: str) -> str | None:
    """The version of a package that really loads, else None: a wheel without its C library is no better than none."""
    try:
        importlib.import_module(module)
        return importlib.metadata.version(name)
    except (ImportError, OSError):
        return None


def _extras() -> dict[str, bool]:
    return {extra: importlib.util.find_spec(module) is not None for extra, (module, _) in _EXTRAS.items()}


def _machine(with_torch: bool) -> dict[str, Any]:
    """What there is, in plain values."""
    from echo_audio import __version__

    package = Path(__file__).parents[1]
    return {
        "echo_audio": __version__,
        "folder": str(package),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_cores": len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count(),
        "memory_gb": _memory_gb(),
        "disk_free_gb": round(shutil.disk_usage(Path.cwd()).free / 1e9, 1),
        "gpus": _gpus() if with_torch else [],
        "nvidia_driver": shutil.which("nvidia-smi") is not None,
        "shipped_model": (package / "models" / "tiny" / "model.safetensors").is_file(),
        "demo_recordings": len(list((package / "demo").glob("*.flac"))),
    }


def _memory_gb() -> float | None:
    """Main memory; None where the system does not say."""
    if sys.platform == "win32":
        return None
    return round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9, 1)


def _gpus() -> list[dict[str, Any]]:
    import torch

    found = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return [{"name": gpu.name, "memory_gb": round(gpu.total_memory / 1e9, 1)} for gpu in found]


def _verbs(packages: dict[str, str | None], machine: dict[str, Any]) -> list[Verb]:
    verbs = list[Verb]()
    for name, needs in _NEEDS.items():
        missing = [
            Lack(f"the package {need} is missing or does not load", f"{_REINSTALL}  # or: pip install {need}")
            for need in needs
            if packages[need] is None
        ]
        if name in ("ask", "demo", "eval") and not machine["shipped_model"]:
            lack = Lack("the shipped model is not in this checkout", "git checkout -- src/echo_audio/models/tiny")
            missing += [lack] if name == "demo" else []
        if name == "demo" and not machine["demo_recordings"]:
            missing.append(Lack("the demo's recordings are gone", "echo-audio data demo --out src/echo_audio/demo"))
        verbs.append(Verb(name, tuple(missing), _hints(name, machine)))
    return verbs


def _hints(verb: str, machine: dict[str, Any]) -> tuple[Lack, ...]:
    hints = list[Lack]()
    have = _extras()
    if verb == "ask" and not have["m4a"]:
        hints.append(Lack(f"for {_EXTRAS['m4a'][1]}", "pip install 'echo-audio[m4a]'"))
    if verb == "ask" and not machine["shipped_model"]:
        hints.append(Lack("the shipped model is not here", "echo-audio ask ... --model FOLDER"))
    if verb == "sft" and not have["track"]:
        hints.append(Lack(f"for {_EXTRAS['track'][1]}", "pip install 'echo-audio[track]'"))
    if verb in ("ask", "eval", "sft") and not machine["gpus"]:
        if machine["nvidia_driver"]:
            cure = "pip install --force-reinstall torch --index-url https://download.pytorch.org/whl/cu126"
            hints.append(Lack("there is an NVIDIA driver, but this torch sees no GPU", cure))
        elif verb == "sft":
            hints.append(Lack("no GPU: training runs, slowly", "a machine with an NVIDIA GPU"))
    return tuple(hints)


def _lines(machine: dict[str, Any], packages: dict[str, str | None], verbs: Sequence[Verb]) -> list[str]:
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:g} GB)" for gpu in machine["gpus"]) or "none"
    memory = "unknown" if machine["memory_gb"] is None else f"{machine['memory_gb']:g} GB"
    lines = [
        f"echo-audio {machine['echo_audio']} in {machine['folder']}",
        f"Python {machine['python']} on {machine['platform']}",
        f"{machine['cpu_cores']} CPU cores, memory {memory}, free disk {machine['disk_free_gb']:g} GB, GPU: {gpus}",
        ", ".join(f"{name} {version or 'MISSING'}" for name, version in packages.items()),
        "",
    ]
    for verb in verbs:
        lines.append(f"{verb.name:<8}{'needs something' if verb.missing else 'ready'}")
        for lack in (*verb.missing, *verb.hints):
            mark = "-" if lack in verb.missing else "optional:"
            lines += [f"        {mark} {lack.what}", f"            {lack.cure}"]
    return lines
