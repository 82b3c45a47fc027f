"""`echo-audio doctor`: what this machine has, what is missing for which verb, and the command that cures it.

It must work where everything else is broken, so it needs nothing but the standard library until it looks.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from echo_audio.cli.arguments import Parser

_DISTRIBUTION = "echo-audio"
_PACKAGES = {
    "numpy": "numpy", "soundfile": "soundfile", "soxr": "soxr", "pydantic": "pydantic", "rich": "rich",
    "tokenizers": "tokenizers", "safetensors": "safetensors", "torch": "torch", "transformers": "transformers",
    "huggingface-hub": "huggingface_hub", "accelerate": "accelerate", "peft": "peft", "pyarrow": "pyarrow",
    "matplotlib": "matplotlib",
}  # fmt: skip
"""Packages of the core, and the modules they bring."""
_EXTRAS = {
    "m4a": ("av", "recordings in m4a, mp4, aac, webm, wma and amr"),
    "serve": ("fastapi", "the studio's server"),
    "track": ("trackio", "a dashboard of training runs"),
}
_HEARING = ("numpy", "soundfile", "soxr", "rich", "pydantic")
_MODEL = (*_HEARING, "tokenizers", "safetensors", "huggingface-hub", "torch", "transformers")
_NEEDS = {
    "ask": _MODEL,
    "demo": _MODEL,
    "serve": _MODEL,
    "view": (*_HEARING, "pyarrow"),
    "data": (*_HEARING, "pyarrow"),
    "eval": (*_MODEL, "pyarrow"),
    "score": _HEARING,
    "report": (*_HEARING, "matplotlib"),
    "compare": _HEARING,
    "sft": (*_MODEL, "pyarrow", "accelerate", "peft"),
    "grpo": (*_MODEL, "pyarrow", "accelerate", "peft", "matplotlib"),
    "ablation": (*_MODEL, "pyarrow", "accelerate", "peft"),
    "export": (*_MODEL, "pyarrow", "accelerate", "peft"),
}


@dataclass(frozen=True, slots=True)
class Package:
    """A package as it is here.

    Args:
        version: None where it is missing or does not load.
        wrong: what is the matter with it; empty when nothing is.
        wanted: what Echo asks pip for, "torch>=2.11,<3".
    """

    version: str | None
    wrong: str
    wanted: str


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
    parser = Parser(
        prog="echo-audio doctor", description="What this machine has, what is missing for which verb, and its cure."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead")
    args = parser.parse_args(arguments)
    wanted = _wanted()
    packages = {name: _package(name, module, wanted.get(name, name)) for name, module in _PACKAGES.items()}
    machine = _machine(packages["torch"].version is not None)
    verbs = _verbs(packages, machine)
    if args.json:
        found = {name: asdict(package) for name, package in packages.items()}
        report = {**machine, "packages": found, "extras": _extras(), "verbs": [asdict(verb) for verb in verbs]}
        sys.stdout.write(json.dumps(report) + "\n")
    else:
        sys.stdout.write("\n".join(_lines(machine, packages, verbs)) + "\n")
    return int(any(verb.missing for verb in verbs))


def _wanted() -> dict[str, str]:
    """What Echo asks pip for, by package; empty where Echo runs without having been installed."""
    try:
        requirements = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return {}
    return {re.split(r"[^\w.-]", line, maxsplit=1)[0]: line for line in requirements if ";" not in line}


def _package(name: str, module: str, wanted: str) -> Package:
    """Load a package: a wheel without its C library, or built for another numpy, is no better than none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
        version = importlib.metadata.version(name)
    except ModuleNotFoundError as error:
        what = "is missing" if error.name == module else f"does not load: it needs {error.name}"
        return Package(None, what, wanted)
    except Exception as error:  # noqa: BLE001 - whatever a broken package raises is what the doctor is asked about
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return Package(None, f"does not load ({reason})", wanted)
    return Package(version, "" if _fits(version, wanted) else f"is {version}, and Echo needs {wanted}", wanted)


def _fits(version: str, wanted: str) -> bool:
    """Whether a version is in the range; where packaging is missing, pip's word is taken for it."""
    if importlib.util.find_spec("packaging") is None:
        return True
    from packaging.requirements import Requirement

    return Requirement(wanted).specifier.contains(version, prereleases=True)


def _pip(*what: str) -> str:
    """A command that installs into the Python that runs this."""
    return shlex.join([sys.executable, "-m", "pip", "install", *what])


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
        "torch_cuda": _torch_cuda() if with_torch else None,
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


def _torch_cuda() -> str | None:
    """The CUDA version torch was built for; None for a build without."""
    import torch

    return torch.version.cuda


def _verbs(packages: dict[str, Package], machine: dict[str, Any]) -> list[Verb]:
    verbs = list[Verb]()
    for name, needs in _NEEDS.items():
        missing = [
            Lack(f"the package {need} {packages[need].wrong}", _pip("--force-reinstall", packages[need].wanted))
            for need in needs
            if packages[need].wrong
        ]
        if name == "demo" and not machine["shipped_model"]:
            lack = Lack("the shipped model is not in this checkout", "git checkout -- src/echo_audio/models/tiny")
            missing.append(lack)
        if name == "demo" and not machine["demo_recordings"]:
            folder = Path(machine["folder"]) / "demo"
            missing.append(Lack("the demo's recordings are gone", f"echo-audio demo --write {shlex.quote(str(folder))}"))
        verbs.append(Verb(name, tuple(missing), _hints(name, machine)))
    return verbs


def _hints(verb: str, machine: dict[str, Any]) -> tuple[Lack, ...]:
    hints = list[Lack]()
    have = _extras()
    if verb == "ask" and not have["m4a"]:
        hints.append(Lack(f"for {_EXTRAS['m4a'][1]}", _pip("av>=14")))
    if verb == "ask" and not machine["shipped_model"]:
        hints.append(Lack("the shipped model is not here", "echo-audio ask ... --model FOLDER"))
    if verb in ("serve", "view") and not have["serve"]:
        hints.append(Lack(f"for {_EXTRAS['serve'][1]}", _pip("fastapi", "uvicorn", "python-multipart", "prometheus-client")))
    if verb == "sft" and not have["track"]:
        hints.append(Lack(f"for {_EXTRAS['track'][1]}", _pip("trackio>=0.20")))
    if verb in ("ask", "eval", "sft") and not machine["gpus"]:
        if machine["nvidia_driver"] and machine["torch_cuda"]:
            cure = "nvidia-smi  # must answer; a driver that is older than torch's CUDA must be updated"
            hints.append(Lack(f"there is an NVIDIA driver, but torch (for CUDA {machine['torch_cuda']}) sees no GPU", cure))
        elif machine["nvidia_driver"]:
            what = "there is an NVIDIA driver, but this torch is built without CUDA"
            hints.append(Lack(what, _pip("--force-reinstall", "torch")))
        elif verb == "sft":
            hints.append(Lack("no GPU: training runs, slowly", "a machine with an NVIDIA GPU"))
    return tuple(hints)


def _lines(machine: dict[str, Any], packages: dict[str, Package], verbs: Sequence[Verb]) -> list[str]:
    gpus = ", ".join(f"{gpu['name']} ({gpu['memory_gb']:g} GB)" for gpu in machine["gpus"]) or "none"
    memory = "unknown" if machine["memory_gb"] is None else f"{machine['memory_gb']:g} GB"
    lines = [
        f"echo-audio {machine['echo_audio']} in {machine['folder']}",
        f"Python {machine['python']} on {machine['platform']}",
        f"{machine['cpu_cores']} CPU cores, memory {memory}, free disk {machine['disk_free_gb']:g} GB, GPU: {gpus}",
        *_wrapped([_in_short(*found) for found in packages.items()]),
        "",
    ]
    for verb in verbs:
        lines.append(f"{verb.name:<10}{'needs something' if verb.missing else 'ready'}")
        for lack in (*verb.missing, *verb.hints):
            mark = "-" if lack in verb.missing else "optional:"
            lines += [f"        {mark} {lack.what}", f"            {lack.cure}"]
    return lines


def _in_short(name: str, package: Package) -> str:
    return f"{name} {package.version or 'MISSING'}" + (" (see below)" if package.wrong else "")


def _wrapped(parts: Sequence[str]) -> list[str]:
    """Parts with commas between them, in lines of the terminal's width, none broken."""
    width = max(40, min(100, shutil.get_terminal_size().columns))
    lines = [""]
    for part in parts:
        if lines[-1] and len(lines[-1]) + len(part) + 3 > width:
            lines.append("")
        lines[-1] += f"{part}, "
    return [line.rstrip() for line in [*lines[:-1], lines[-1].rstrip(", ")]]
