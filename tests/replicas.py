"""Small replicas of the layouts in which labelled recordings are published, with the trouble that real copies have."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

TSV = "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"
NAMES = "/m/bark\tBark\n/m/bell\tChurch bell\n/m/talk\tMale speech, man speaking\n/t/dd00003\tSiren\n"


def sound(duration_s: float, seed: int, rate: int = 22_050) -> bytes:
    """A WAV file of bursts of noise."""
    rng = np.random.default_rng(seed)
    n = round(duration_s * rate)
    envelope = np.repeat(rng.random(n // 2_000 + 1) ** 3, 2_000)[:n]
    file = io.BytesIO()
    soundfile.write(file, 0.3 * envelope * rng.standard_normal(n).clip(-1, 1), rate, format="WAV")
    return file.getvalue()


def put(path: Path, content: bytes | str) -> Path:
    """A file, its folders made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


SEGMENTS = {
    "-aBc_dE1234_30000": [(0.5, 2.0, "/m/bark"), (3.0, 4.5, "/m/bell"), (6.0, 9.0, "/m/talk")],
    "bbbbbbbbbbb_0": [(0.0, 1.5, "/m/bell"), (4.0, 4.0, "/m/bark"), (5.0, 8.0, "/t/dd00003"), (8.5, 14.0, "/m/bark")],
    "ccccccccccc_100000": [(1.0, 3.0, "/m/bell"), (2.0, 5.0, "/m/nameless"), (6.0, 7.0, "/m/bark")],
    "ddddddddddd_20000": [(1.0, 3.0, "/m/bell")],
    "eeeeeeeeeee_20000": [(1.0, 3.0, "/m/bell"), (4.0, 5.0, "/m/bark")],
}
"""The fourth has no audio; that of the fifth is broken."""


def audioset_labels(root: Path) -> tuple[Path, Path]:
    """The two TSV files, a broken line among them."""
    lines = [f"{segment}\t{a:.3f}\t{b:.3f}\t{label}\n" for segment, events in SEGMENTS.items() for a, b, label in events]
    labels = put(root / "audioset_train_strong.tsv", TSV + "".join(lines) + "half a line\t1.0\n")
    return labels, put(root / "mid_to_display_name.tsv", NAMES)


def audioset_files(root: Path) -> Path:
    """Clips under the names that downloaders give them, and one without labels."""
    for i, name in enumerate(("-aBc_dE1234_30000", "Ybbbbbbbbbbb", "ccccccccccc_100.000", "zzzzzzzzzzz_5000")):
        put(root / "audio" / "sub" / f"{name}.wav", sound(10.0, i))
    put(root / "audio" / "eeeeeeeeeee.wav", b"RIFF, but no more")
    return root / "audio"


def audioset_parquet(root: Path) -> Path:
    """The same clips inside parquet, as on a hub: in several row groups and files, without their start in the name."""
    names = ["ccccccccccc", "-aBc_dE1234", "bbbbbbbbbbb", "zzzzzzzzzzz", "eeeeeeeeeee"]
    audio = [{"bytes": sound(10.0, i), "path": f"{name}.flac"} for i, name in enumerate(names[:4])]
    audio.append({"bytes": b"nothing", "path": "eeeeeeeeeee.flac"})
    table = pa.table({"video_id": names, "audio": audio, "labels": [["/m/bark"]] * 5})
    (root / "parquet").mkdir(parents=True)
    pq.write_table(table.slice(0, 2), root / "parquet" / "train-00000-of-00002.parquet", row_group_size=1)
    pq.write_table(table.slice(2), root / "parquet" / "train-00001-of-00002.parquet")
    return root / "parquet"


def musicbench(root: Path) -> tuple[Path, Path]:
    """JSON lines and audio; one clip is missing, one has its chords as text, one line has no location."""
    entries = [
        {
            "dataset": "MusicBench", "location": "data/aaa_1.wav", "main_caption": "A calm piano piece in a minor key.",
            "alt_caption": "Piano.", "beats": [[0.5, 1.0], [1.0, 2.0]], "bpm": 92.0, "chords": ["Em", "C", "G"],
            "chords_time": [0.4, 3.1, 6.5], "key": ["E", "minor"], "keyprob": [0.8],
        },
        {
            "dataset": "MusicBench", "location": "data/bbb_2.wav", "main_caption": "A fast rock song.", "bpm": 140.0,
            "chords": "['A', 'D']", "chords_time": "[1.0, 5.0]", "key": "['A', 'major']",
        },
        {"dataset": "MusicBench", "location": "data/ccc_3.wav", "main_caption": "Missing."},
        {"dataset": "MusicBench", "main_caption": "Nowhere."},
        {"dataset": "MusicBench", "location": "data/ddd_4.wav", "main_caption": "No chords.", "chords": [], "chords_time": []},
    ]  # fmt: skip
    labels = put(root / "MusicBench_train.json", "".join(json.dumps(entry) + "\n" for entry in entries))
    for i, name in enumerate(("aaa_1", "bbb_2", "ddd_4")):
        put(root / "datashare" / "data" / f"{name}.wav", sound(10.0, i))
    return labels, root / "datashare"


def avqa(root: Path) -> tuple[Path, Path]:
    """A list of questions; one about pictures only, one whose answer is no index, one without audio."""
    entries = [
        {
            "id": 1, "video_name": "-HG3Omg_89c_000030", "video_id": 1, "question_text": "What makes the sound in the video?",
            "multi_choice": ["motorboat", "train", "car alarm", "dog"], "answer": 0, "question_relation": "Both",
            "question_type": "Which",
        },
        {
            "id": 2, "video_name": "-HG3Omg_89c_000030", "video_id": 1, "question_text": "What colour is it?",
            "multi_choice": ["red", "blue"], "answer": 1, "question_relation": "View", "question_type": "Which",
        },
        {
            "id": 3, "video_name": "qqqqqqqqqqq_000010", "video_id": 2, "question_text": "What is heard in the Video?",
            "multi_choice": ["rain", "wind", "rain "], "answer": 7, "question_relation": "Sound", "question_type": "Happening",
        },
        {
            "id": 4, "video_name": "rrrrrrrrrrr_000010", "video_id": 3, "question_text": "What is heard in the video?",
            "multi_choice": ["rain", "wind"], "answer": 1, "question_relation": "Sound", "question_type": "Happening",
        },
    ]  # fmt: skip
    put(root / "audio" / "-HG3Omg_89c_000030.wav", sound(10.0, 5))
    put(root / "audio" / "qqqqqqqqqqq_000010.wav", sound(10.0, 6))
    return put(root / "train_qa.json", json.dumps(entries)), root / "audio"


AUDACITY = (
    "0.500000\t1.750000\tdoor\n\\\t200.000000\t3000.000000\n2.000000\t2.000000\ta point\n3.000000\t4.000000\tdog bark\n"
    "4,5\t5,5\tfootsteps\n"
)


def folder(root: Path) -> Path:
    """Recordings with label tracks and JSON beside them; one without, one whose labels are broken."""
    for i, name in enumerate(("door", "street", "bare", "broken")):
        put(root / "mine" / f"{name}.wav", sound(6.0, i))
    put(root / "mine" / "door.txt", AUDACITY)
    events = [{"label": "car", "start_s": 0.5, "end_s": 2.0}, {"label": "bird", "start": 3, "end": 4.5}]
    put(root / "mine" / "street.json", json.dumps({"events": events, "texts": {"caption": "A quiet street."}}))
    put(root / "mine" / "broken.json", '{"events": [')
    return root / "mine"
