"""The page: as the server sends it, and as one file that needs no server.

Its modules name each other as `studio/NAME`; an import map says where they are: on the server, or inside the file.
"""

from __future__ import annotations

import base64
import functools
import html
import json
import re
import secrets
from collections.abc import Mapping
from importlib import resources

_VENDOR = ("wavesurfer", "regions", "spectrogram")
_IN_FILES = ("main", "desk", "dom", "player", "run", "saved", *(f"vendor/{name}" for name in _VENDOR))
"""Modules of a shared file: no server is asked, no microphone used."""
_MODULES = (*_IN_FILES, "api", "ask", "mic", "share", "sounds", "viewer", "vendor/record")
_TYPES = {".js": "text/javascript", ".css": "text/css"}

_CSP_FILE = (
    "default-src 'none'; script-src 'unsafe-inline' data:; style-src 'unsafe-inline'; img-src data: blob:; "
    "media-src data: blob:; base-uri 'none'; form-action 'none'"
)


def _text(name: str) -> str:
    return (resources.files("echo_audio.studio") / "page" / name).read_text(encoding="utf-8")


@functools.cache
def assets() -> Mapping[str, tuple[bytes, str]]:
    """What the page loads from its server: name -> content and type. Names come from here, never from a request."""
    names = [*(f"{name}.js" for name in _MODULES), "studio.css"]
    return {name: (_text(name).encode(), _TYPES[name[name.rindex(".") :]]) for name in names}


def served(kind: str, title: str = "Echo studio") -> tuple[str, str]:
    """The page of a server, and the Content-Security-Policy it is sent with.

    Args:
        kind: `ask`, or `view` for saved transcripts.
        title: of the window.
    """
    nonce = secrets.token_urlsafe(16)
    imports = {f"studio/{name}": f"/page/{name}.js" for name in _MODULES}
    policy = (
        f"default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'self' 'nonce-{nonce}'; connect-src 'self'; "
        "img-src 'self' data: blob:; media-src 'self' blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    parts = {
        "csp": "",
        "kind": kind,
        "title": html.escape(title),
        "style": '<link rel="stylesheet" href="/page/studio.css">',
        "imports": f'<script type="importmap" nonce="{nonce}">{json.dumps({"imports": imports})}</script>',
        "data": "",
        "start": f'<script type="module" nonce="{nonce}">import "studio/main";</script>',
    }
    return _filled(parts), policy


def in_a_file(saved: object = None, title: str = "Echo") -> str:
    """The page as one file that shows what is inside it and loads nothing.

    Args:
        saved: what `page/saved.js` reads; None leaves the place where the page puts it.
        title: of the window.
    """
    imports = {f"studio/{name}": _data_url(_text(f"{name}.js"), "text/javascript") for name in _IN_FILES}
    parts = {
        "csp": f'<meta http-equiv="Content-Security-Policy" content="{html.escape(_CSP_FILE)}">',
        "kind": "saved",
        "title": html.escape(title),
        "style": f"<style>{_text('studio.css')}</style>",
        "imports": f'<script type="importmap">{json.dumps({"imports": imports})}</script>',
        "data": f'<script type="application/json" id="saved">{_for_script(saved)}</script>',
        "start": '<script type="module">import "studio/main";</script>',
    }
    return _filled(parts)


def _data_url(text: str, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(text.encode()).decode()}"


def _for_script(value: object) -> str:
    """JSON that cannot end the element it stands in."""
    return json.dumps(value, ensure_ascii=False).replace("<", "\\u003c")


def _filled(parts: Mapping[str, str]) -> str:
    """The template with its parts; each is put in once, so that no part can hold another's place."""
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], _text("index.html"))
