"""What EAQA from AudioSet-Strong costs, as the command itself estimates it, on a replica of the data set's layout.

    python benchmarks/eaqa_cost.py

The replica has a thousand clips of ten seconds with nine events each, which is AudioSet-Strong's own mean. The estimate is linear
in recordings: divide by a thousand for one. Your own copy is asked the same way: `echo-audio data eaqa CONFIG --estimate`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import replicas  # noqa: E402

from echo_audio.cli import run  # noqa: E402

NAMES = (
    "Male speech, man speaking", "Female speech, woman speaking", "Bark", "Door", "Vehicle", "Wind", "Music", "Mechanisms",
    "Generic impact sounds", "Bird vocalization, bird call, bird song", "Laughter", "Human voice", "Breathing", "Tick", "Tap",
)  # fmt: skip


def replica(root: Path, n: int, events: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"/m/x{i:04d}" for i in range(len(NAMES))]
    replicas.put(root / "names.tsv", "".join(f"{a}\t{b}\n" for a, b in zip(names, NAMES, strict=True)))
    clip = replicas.put(root / "clip.wav", replicas.sound(10.0, 1))
    (root / "audio").mkdir()
    lines = [replicas.TSV]
    for i in range(n):
        os.link(clip, root / "audio" / f"clip{i:07d}_0.wav")
        starts = np.sort(rng.uniform(0, 9, rng.poisson(events - 1) + 1))
        for start in starts:
            end = min(10.0, start + rng.exponential(1.5) + 0.1)
            lines.append(f"clip{i:07d}_0\t{start:.3f}\t{end:.3f}\t{names[rng.integers(len(names))]}\n")
    replicas.put(root / "labels.tsv", "".join(lines))


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        replica(root, 1000, 9)
        where = [f"sources.audioset.{key}={root / value}" for key, value in
                 (("labels", "labels.tsv"), ("names", "names.tsv"), ("audio", "audio"))]  # fmt: skip
        raise SystemExit(run(["data", "eaqa", str(ROOT / "configs" / "eaqa-audioset.toml"), "--estimate", *where, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
