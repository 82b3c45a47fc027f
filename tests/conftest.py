"""What holds for every test: few threads, no network, hypothesis that repeats itself."""

from __future__ import annotations

import os

# Before torch or a tokenizer is imported: the machines that run the tests have few cores, and nothing is fetched.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import hypothesis

# No deadline: the cores are shared. Derandomised, so that a run says the same twice; ECHO_EXPLORE=1 looks further.
hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.register_profile("explore", deadline=None, max_examples=1000)
hypothesis.settings.load_profile("explore" if os.environ.get("ECHO_EXPLORE") else "repeatable")
