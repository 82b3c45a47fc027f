"""Kinds of question about a scene, by name. Each kind is one `Kind`; a new one is added to its file's `KINDS`."""

from __future__ import annotations

from echo_audio.data.questions import counting, digits, faint, hearing, lengths, order, perception, strokes, times
from echo_audio.data.questions.base import Asked, Canvas, Kind, NoRoomError, Palette

KINDS: dict[str, Kind] = {
    kind.name: kind
    for module in (order, times, lengths, counting, hearing, strokes, faint, digits, perception)
    for kind in module.KINDS
}
"""All kinds; the place in this order is the number that `plan` uses."""

__all__ = ["KINDS", "Asked", "Canvas", "Kind", "NoRoomError", "Palette"]
