"""Echo: audio language models that listen again while they reason.

    from echo_audio import LocalEngine, Mode, Question, Transcript, TranscriptEncoder, listen, load

The names of `__all__` are the public interface. Each is loaded when it is first used, so that `import echo_audio` costs
nothing and only `LocalEngine` needs torch.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from echo_audio.audio import Recording, Segment, load
    from echo_audio.encoding import TranscriptEncoder
    from echo_audio.engines.local import LocalEngine
    from echo_audio.engines.scripted import ScriptedEngine, ScriptedFamily
    from echo_audio.errors import EchoError
    from echo_audio.listen import Finished, Limits, Sampling, Wrote, listen, stream
    from echo_audio.transcript import Author, Heard, Mode, Note, Played, Question, Stop, Transcript, What, Why, Written

__version__ = "0.1.0"

_HOMES = {
    "errors": ("EchoError",),
    "audio": ("Recording", "Segment", "load"),
    "transcript": (
        "Author", "Heard", "Mode", "Note", "Played", "Question", "Stop", "Transcript", "What", "Why", "Written",
    ),
    "listen": ("Finished", "Limits", "Sampling", "Wrote", "listen", "stream"),
    "encoding": ("TranscriptEncoder",),
    "engines.local": ("LocalEngine",),
    "engines.scripted": ("ScriptedEngine", "ScriptedFamily"),
}  # fmt: skip
_HOME = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Author",
    "EchoError",
    "Finished",
    "Heard",
    "Limits",
    "LocalEngine",
    "Mode",
    "Note",
    "Played",
    "Question",
    "Recording",
    "Sampling",
    "ScriptedEngine",
    "ScriptedFamily",
    "Segment",
    "Stop",
    "Transcript",
    "TranscriptEncoder",
    "What",
    "Why",
    "Written",
    "Wrote",
    "__version__",
    "listen",
    "load",
    "stream",
]


class _Package(ModuleType):
    """This module. `listen` is a function here and also the name of the room it lives in: the function wins.

    Python binds a submodule to its package when it is first imported; without this, what `echo_audio.listen` is would
    depend on who imported what before.
    """

    @property
    def listen(self) -> Any:
        """The function `echo_audio.listen.listen`."""
        return importlib.import_module("echo_audio.listen").__dict__["listen"]

    @listen.setter
    def listen(self, _: ModuleType) -> None:
        return


def __getattr__(name: str) -> Any:
    """A public name, from the room it lives in."""
    if name not in _HOME:
        raise AttributeError(f"module 'echo_audio' has no attribute {name!r}")
    return importlib.import_module(f"echo_audio.{_HOME[name]}").__dict__[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


sys.modules[__name__].__class__ = _Package
