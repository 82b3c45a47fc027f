"""Which reader opens which kind of source."""

from __future__ import annotations

from pathlib import Path

from echo_audio.data.eaqa.settings import SourceSettings
from echo_audio.data.sources.base import Source
from echo_audio.errors import ConfigError


def open_source(name: str, settings: SourceSettings) -> Source:
    """The reader of a source.

    Raises:
        ConfigError: something that it needs is not given.
        DataError: what is given cannot be read.
    """

    def needed(key: str) -> Path:
        value = getattr(settings, key)
        if not value:
            raise ConfigError(f"sources.{name}: {settings.kind} needs {key}; say where it is")
        return Path(value).expanduser()

    match settings.kind:
        case "audioset-strong":
            from echo_audio.data.sources.audioset_strong import AudioSetStrong

            return AudioSetStrong(needed("labels"), needed("names"), needed("audio"))
        case "musicbench":
            from echo_audio.data.sources.musicbench import MusicBench

            return MusicBench(needed("labels"), needed("audio"))
        case "avqa":
            from echo_audio.data.sources.avqa import Avqa

            return Avqa(needed("labels"), needed("audio"), settings.relations)
        case "folder":
            from echo_audio.data.sources.folder import Folder

            return Folder(needed("audio"), needed("labels") if settings.labels else None)
        case "scenes":
            from echo_audio.data.sources.scenes import SceneSource

            if not settings.n:
                raise ConfigError(f"sources.{name}: scenes are drawn; say how many with n")
            return SceneSource(settings.n, settings.seed, settings.banks, settings.longest_s)
