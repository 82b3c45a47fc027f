"""How the threads of a process share Python's interpreter and the cores.

Every call that works on a tensor, a socket or an event gives the interpreter away and has to get it back, and Python lets whoever
took it keep it for 5 ms. An engine's thread makes hundreds of such calls a step, beside threads that unpack requests or follow
transcripts: while one of those is at work, a call of 10 microseconds takes milliseconds (`benchmarks/interpreter.py`).
"""

from __future__ import annotations

import gc
import sys

import torch

SWITCH_S = 5e-5


def share() -> None:
    """In this process: a thread gives the interpreter away after `SWITCH_S` at most where another waits."""
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


def alone() -> None:
    """In this thread: work on tensors of the CPU without helpers, which for a clip cost more than they do.

    Each thread would have as many helpers as there are cores, and they keep their cores busy while they wait. Threads that
    begin later take this over.
    """
    torch.set_num_threads(1)


def keep() -> None:
    """What is loaded by now stays, and is not looked through for garbage again.

    With vLLM and transformers loaded that takes half a second, in which every transcript waits.
    """
    gc.collect()
    gc.freeze()
