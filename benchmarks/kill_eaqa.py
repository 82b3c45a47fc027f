"""Kill `echo-audio data eaqa` with SIGKILL at random moments, start it again, and compare with the run that was never killed.

    python benchmarks/kill_eaqa.py --kills 50

Each trial has a folder of its own: it is killed at a random moment of the time that an unbroken run takes, every second one
once more while it goes on, and then runs to its end. The endpoint is served by this process and counts what it is asked.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from data_engine import contents  # noqa: E402

from echo_audio.data.eaqa.test_server import Behaviour, Fault, TestEndpoint, serving  # noqa: E402

CONFIG = ROOT / "configs" / "smoke-eaqa.toml"


def command(out: Path, url: str, n: int) -> list[str]:
    mine = [f"{who}.endpoint.url={url}" for who in ("annotate", "write", "judge", "guess")]
    script = "from echo_audio.cli import main; main()"
    few = [f"sources.scenes.n={n}", "sources.scenes.longest_s=6.0", f"out={out}"]
    return [sys.executable, "-c", script, "data", "eaqa", str(CONFIG), *few, *mine]


def run(out: Path, url: str, n: int, kill_after_s: float | None = None) -> bool:
    """Run; whether it came to its end."""
    process = subprocess.Popen(command(out, url, n), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        _, err = process.communicate(timeout=kill_after_s or 300)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.communicate()
        return False
    if process.returncode:
        raise SystemExit(f"the run failed: {err.decode()[-2000:]}")
    return True


def watch(server: TestEndpoint) -> Counter[str]:
    """Requests by their hash."""
    asked: Counter[str] = Counter()
    plain = server.fault_for

    def counted(body: bytes) -> Fault | None:
        asked[hashlib.blake2b(body, digest_size=8).hexdigest()] += 1
        return plain(body)

    server.fault_for = counted  # type: ignore[method-assign]
    return asked


def trials(kills: int, n: int, seed: int, folder: Path, say=print) -> int:
    """How many kills there were; fails where a run differs."""
    rng, n_kills, twice, at_rows = random.Random(seed), 0, [], []
    with serving(Behaviour({Fault.MISTAKE: 0.3, Fault.DOWN: 0.05})) as server:
        begin = time.perf_counter()
        run(folder / "unbroken", server.url, n)
        took_s = time.perf_counter() - begin
        wanted = contents(folder / "unbroken")
        say(f"unbroken: {len(wanted['sft'])} sft, {len(wanted['rl'])} rl, {len(wanted['dropped'])} dropped in {took_s:.1f} s")
        trial = 0
        while n_kills < kills:
            trial += 1
            out = folder / f"trial-{trial}"
            asked = watch(server)
            for _ in range(1 + trial % 2):
                if not run(out, server.url, n, rng.uniform(0.1, took_s)):
                    n_kills += 1
                    journal = out / "journal.jsonl"
                    at_rows.append(journal.read_bytes().count(b"\n") if journal.is_file() else 0)
            run(out, server.url, n)
            if contents(out) != wanted:
                raise SystemExit(f"trial {trial} differs from the unbroken run: {out}")
            ids = [json.loads(line)["id"] for line in (out / "journal.jsonl").read_text().splitlines()]
            if len(ids) != len(set(ids)):
                raise SystemExit(f"trial {trial} has a row twice")
            twice.append(sum(asked.values()) - len(asked))
            left = [path for path in out.rglob(".*") if path.name != ".lock"]
            if left:
                raise SystemExit(f"trial {trial} left {left}")
    inside = sum(0 < rows < n for rows in at_rows)
    say(f"{n_kills} kills in {trial} trials, {inside} of them between the first row and the last")
    say("every run ended as the unbroken one: the same stores, no row twice, nothing left over")
    say(f"requests asked again because of kills and faults: {sum(twice) / trial:.1f} a trial, at most {max(twice)}")
    return n_kills


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--n", type=int, default=60, help="recordings")
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        trials(args.kills, args.n, args.seed, Path(folder))


if __name__ == "__main__":
    main()
