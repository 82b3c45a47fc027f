"""What a run remembers of its model."""

from __future__ import annotations

from echo_audio.models.folders import fingerprint, revision


def test_a_fingerprint_sees_a_change_anywhere_in_the_weights(tmp_path):
    weights = tmp_path / "model.safetensors"
    (tmp_path / "config.json").write_text("{}")
    content = bytearray(20_000_000)
    seen = set()
    for place in (None, 0, 9_000_000, len(content) - 100_000):
        changed = bytearray(content)
        if place is not None:
            changed[place : place + 100_000] = b"x" * len(changed[place : place + 100_000])
        weights.write_bytes(changed)
        seen.add(fingerprint(tmp_path))
    (tmp_path / "config.json").write_text('{"a": 1}')
    assert len(seen | {fingerprint(tmp_path)}) == 5
    (tmp_path / "notes.txt").write_text("anything")
    assert fingerprint(tmp_path) == fingerprint(tmp_path) and fingerprint(tmp_path / "nothing")


def test_the_revision_of_a_folder_from_the_hub(tmp_path):
    assert revision(tmp_path / "models--a--b" / "snapshots" / "0123abc") == "0123abc" and not revision(tmp_path / "mine")
