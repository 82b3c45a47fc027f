"""Every error Echo raises on purpose, in one tree. Each message names the cure.

    EchoError
    ├── AudioError (ValueError)      a recording that cannot be used: missing, empty, corrupt, silent, too long
    │   └── MissingAudioError        a recording that is not where it should be
    ├── SegmentError (ValueError)    a span that no recording can have: negative, reversed, not a number
    ├── TranscriptError (ValueError) a transcript or its JSON that breaks a law of the transcript
    ├── DataError (ValueError)       a row, a store or a question file that does not hold together
    │   └── QuestionError            one record of a question file that is no question
    ├── ConfigError (ValueError)     a setting that is unknown, contradictory or out of range
    ├── ModelError (ValueError)      a model folder that is not of the family, incomplete or damaged
    ├── EngineError (RuntimeError)   an engine that failed while generating
    ├── RequestError (ValueError)    a request that the studio's server refuses
    ├── TrainingError (RuntimeError) a run that must stop: NaN, nothing to resume, a full disk
    └── MissingExtraError (ImportError)  a feature whose optional packages are not installed

A malformed segment *in a rollout* is none of these: it is recorded on the transcript and generation goes on.
"""

from __future__ import annotations

import sys


class EchoError(Exception):
    """Base of all errors raised on purpose; the command line prints its message without a traceback."""

    @property
    def plain(self) -> str:
        """The message, for somebody who cannot call a function with other arguments."""
        return str(self)


class AudioError(EchoError, ValueError):
    """A recording that cannot be used."""

    @property
    def plain(self) -> str:
        """Without what only `load` can be told."""
        said = str(self)
        return said.rpartition(", or ")[0] if said.endswith(("allow_silent=True", "allow_truncated=True")) else said


class MissingAudioError(AudioError):
    """A recording that is not where it should be."""


class SegmentError(EchoError, ValueError):
    """A span that no recording can have."""


class TranscriptError(EchoError, ValueError):
    """A transcript, or its JSON, that breaks a law of the transcript."""


class DataError(EchoError, ValueError):
    """A row, a store or a question file that does not hold together."""


class QuestionError(DataError):
    """One record of a question file that is no question: the others can still be asked."""


class ConfigError(EchoError, ValueError):
    """A setting that is unknown, contradictory or out of range."""


class ModelError(EchoError, ValueError):
    """A model folder that is not of the family, incomplete or damaged."""


class EngineError(EchoError, RuntimeError):
    """An engine that failed while generating."""


class RequestError(EchoError, ValueError):
    """A request that the studio's server refuses.

    Args:
        message: one sentence for whoever asked.
        status: of HTTP.
        code: a word for programs.
        retry_after_s: seconds after which it may succeed, where waiting helps.
    """

    def __init__(self, message: str, status: int = 400, code: str = "bad_request", retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.status, self.code, self.retry_after_s = status, code, retry_after_s


class TrainingError(EchoError, RuntimeError):
    """A training run that has to stop."""


class MissingExtraError(EchoError, ImportError):
    """An optional feature whose packages are not installed.

    Args:
        feature: what the user asked for, as they would say it.
        extra: the name of the extra that brings it (`pip install 'echo-audio[extra]'`).
    """

    def __init__(self, feature: str, extra: str) -> None:
        how = f"{sys.executable} -m pip install 'echo-audio[{extra}]'"
        super().__init__(f"{feature} needs an optional part of Echo. Install it with: {how}")
        self.feature, self.extra = feature, extra

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        """Pickle by the two arguments (ImportError's default would pass the message)."""
        return type(self), (self.feature, self.extra)
