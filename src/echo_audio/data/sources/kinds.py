"""Which reader opens which kind of source."""

from __future__ import annotations

from echo_audio.data.eaqa.settings import SourceSettings
from echo_audio.data.sources.base import Source
from echo_audio.data.sources.scenes import SceneSource
from echo_audio.errors import ConfigError


def open_source(name: str, settings: SourceSettings) -> Source:
    """The reader of a source.

    Raises:
        ConfigError: something that it needs is not given.
        DataError: what is given cannot be read.
    """
    if not settings.n:
        raise ConfigError(f"sources.{name}: scenes are drawn; say how many with n")
    return SceneSource(settings.n, settings.seed, settings.banks, settings.longest_s)
