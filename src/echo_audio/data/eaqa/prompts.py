"""The prompts: files with {{places}}, those that ship or a folder of one's own."""

from __future__ import annotations

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from echo_audio.errors import ConfigError

NAMES = ("description", "speech", "music", "write", "judge", "guess")
_PLACE = re.compile(r"\{\{(\w+)\}\}")


@dataclass(frozen=True, slots=True)
class QuestionKind:
    """A kind of question: what the writer is told, and how many events it needs."""

    about: str
    events: int


@dataclass(frozen=True, slots=True)
class Prompts:
    """All prompts of a run.

    Args:
        texts: by name, those of NAMES.
        kinds: of questions, by name.
        hashes: of the files, for the provenance of rows.
    """

    texts: Mapping[str, str]
    kinds: Mapping[str, QuestionKind]
    hashes: Mapping[str, str]

    def fill(self, name: str, **places: str) -> str:
        """A prompt with its places filled; what is put in is never searched for places."""
        return _PLACE.sub(lambda found: places.get(found[1], found[0]), self.texts[name])


def load_prompts(folder: str = "") -> Prompts:
    """The prompts that ship; a file of the same name in `folder` replaces one.

    Raises:
        ConfigError: the folder is missing, or kinds.toml is not as it should be.
    """
    own = Path(folder) if folder else None
    if own is not None and not own.is_dir():
        raise ConfigError(f"{own} is no folder of prompts; correct `prompts`")
    files = {name: _read(f"{name}.txt", own) for name in NAMES}
    kinds = _read("kinds.toml", own)
    hashes = {name: _digest(text) for name, text in {**files, "kinds": kinds}.items()}
    return Prompts(files, _kinds(kinds), hashes)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _read(name: str, own: Path | None) -> str:
    if own is not None and (own / name).is_file():
        return (own / name).read_text(encoding="utf-8")
    return (resources.files("echo_audio.data.eaqa") / "prompts" / name).read_text(encoding="utf-8")


def _kinds(text: str) -> dict[str, QuestionKind]:
    try:
        tables = tomllib.loads(text)
        return {name: QuestionKind(str(table["about"]), int(table["events"])) for name, table in tables.items()}
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ConfigError(f"kinds.toml needs tables with about = \"...\" and events = 1 ({error!r}); correct it") from None
