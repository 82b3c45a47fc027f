"""The engines that a verb can be told to use, by name: the one place that names a concrete one."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Protocol

from echo_audio.cli.arguments import one_of
from echo_audio.encoding import PromptingFamily
from echo_audio.errors import ConfigError, ModelError
from echo_audio.listen import Engine


class EngineName(StrEnum):
    """What runs the model."""

    LOCAL = "local"
    VLLM = "vllm"


class ClosingEngine(Engine, Protocol):
    """An engine that holds a thread or memory until it is closed."""

    def close(self) -> None:
        """Let go of it."""
        ...


def add_engine(add: Any) -> None:
    """The arguments --engine and --device; `add` is the `add_argument` of a parser or a group."""
    what = "local (default): any machine; vllm: one GPU, more transcripts a second (the extra vllm, docs/running.md)"
    add("--engine", type=one_of(EngineName), default=EngineName.LOCAL, metavar="E", help=what)
    add("--device", metavar="D", help="cpu, cuda, cuda:1 (default: a GPU where there is one)")


def open_engine(name: EngineName, model: str, device: str | None, at_once: int) -> tuple[ClosingEngine, PromptingFamily]:
    """Load a model into an engine.

    Args:
        model: a folder, a hub id, or tiny.
        at_once: transcripts in flight at once.

    Raises:
        ConfigError: there is no such device here, or the engine does not run on it.
        ModelError: there is no such model, it is not of the family, or memory is too small for it.
        MissingExtraError: the engine is not installed.
    """
    if device is not None:
        _check_device(device)
    return _open_vllm(model, device, at_once) if name is EngineName.VLLM else _open_local(model, device, at_once)


def _open_local(model: str, device: str | None, at_once: int) -> tuple[ClosingEngine, PromptingFamily]:
    import torch

    from echo_audio.engines.local import LocalEngine  # brings torch and transformers: some seconds

    try:
        engine = LocalEngine.load(model, device=device, max_rows=at_once)
    except torch.OutOfMemoryError:
        raise ModelError(
            f"{model} does not fit into the memory of the GPU; free it, take a smaller model, or --device cpu"
        ) from None
    return engine, engine.thinker.family


def _open_vllm(model: str, device: str | None, at_once: int) -> tuple[ClosingEngine, PromptingFamily]:
    from echo_audio.engines.vllm import VllmEngine

    if device not in (None, "cuda", "cuda:0"):
        raise ConfigError(f"--engine vllm takes the first GPU, not {device}; choose another with CUDA_VISIBLE_DEVICES")
    engine = VllmEngine.load(model, max_rows=at_once)
    return engine, engine.family


def _check_device(device: str) -> None:
    """Refuse a device that is not here: torch itself would answer with a traceback.

    Raises:
        ConfigError: names what there is.
    """
    import torch

    try:
        where = torch.device(device)
    except RuntimeError:
        where = None
    if where is None or where.type not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: Echo runs on cpu, cuda, or one GPU of several such as cuda:1")
    n = torch.cuda.device_count()
    if where.type == "cuda" and (where.index or 0) >= n:
        there = f"the GPUs are cuda:0 to cuda:{n - 1}" if n else "torch sees no GPU; `echo-audio doctor` says why"
        raise ConfigError(f"--device {device}: {there}. Leave --device out to take what there is")
