"""Settings of a run: a TOML file of frozen pydantic models, then `key=value` overrides. Unknown keys fail."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from echo_audio.errors import ConfigError


class Settings(BaseModel):
    """Base of all settings: immutable, and no key that is not declared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def parse(cls, toml: str, overrides: Iterable[str] = ()) -> Self:
        """Settings from TOML text and `dotted.key=value` overrides (values as TOML, bare words as text).

        Raises:
            ConfigError: not TOML, an unknown key (the nearest known one is named), or a bad value.
        """
        try:
            values = tomllib.loads(toml)
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"the configuration is not valid TOML: {error}") from None
        for override in overrides:
            _set(values, override)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise ConfigError(_explain(cls, error)) from None

    def to_toml(self) -> str:
        """The resolved settings as TOML that `parse` reads back."""
        return "\n".join(_lines(self.model_dump(mode="json", exclude_none=True), ())) + "\n"


def _set(values: dict[str, Any], override: str) -> None:
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise ConfigError(f"{override!r} is not an override; write key=value, e.g. train.learning_rate=1e-4")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, last = key.strip().split(".")
    for part in path:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise ConfigError(f"{key!r} goes through {part!r}, which holds a value, not a table")
    values[last] = value


def _explain(cls: type[BaseModel], error: ValidationError) -> str:
    lines: list[str] = []
    for problem in error.errors():
        where = ".".join(map(str, problem["loc"]))
        if problem["type"] == "extra_forbidden":
            near = _nearest(where, _keys(cls))
            lines.append(f"unknown key {where!r}" + (f"; did you mean {near[0]!r}?" if near else ""))
        else:
            lines.append(f"{where or 'configuration'}: {problem['msg']} (got {problem['input']!r})")
    return "the configuration has a problem: " + "; ".join(lines)


def _nearest(key: str, known: list[str]) -> list[str]:
    """The key that was meant, if one is near: by its whole name, or by its last part."""
    last = {name.rpartition(".")[2]: name for name in known}
    by_last = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
    return difflib.get_close_matches(key, known, n=1, cutoff=0.8) or [last[name] for name in by_last]


def _keys(cls: type[BaseModel], prefix: str = "") -> list[str]:
    keys: list[str] = []
    for name, info in cls.model_fields.items():
        keys.append(prefix + name)
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys += _keys(info.annotation, f"{prefix}{name}.")
    return keys


def _lines(values: Mapping[str, Any], path: tuple[str, ...]) -> list[str]:
    plain = {k: v for k, v in values.items() if not isinstance(v, dict)}
    lines = [f"[{'.'.join(path)}]"] if path and (plain or not values) else []
    lines += [f"{_key(k)} = {_value(v)}" for k, v in plain.items()]
    for key, value in values.items():
        if isinstance(value, dict):
            lines += ["", *_lines(value, (*path, key))]
    return lines


def _key(key: str) -> str:
    return key if key.isidentifier() else json.dumps(key)


def _value(value: Any) -> str:
    """A TOML value; JSON's spelling of text, numbers and booleans is also TOML's."""
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    if isinstance(value, dict):  # in a list
        return "{" + ", ".join(f"{_key(k)} = {_value(v)}" for k, v in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)
