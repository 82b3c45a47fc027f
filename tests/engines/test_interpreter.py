"""How an engine's threads share the interpreter and the cores."""

from __future__ import annotations

import gc
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from echo_audio.engines import interpreter


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    switch_s, n = sys.getswitchinterval(), torch.get_num_threads()
    yield
    sys.setswitchinterval(switch_s)
    torch.set_num_threads(n)


@pytest.mark.parametrize(("before", "after"), [(5e-3, interpreter.SWITCH_S), (1e-5, 1e-5)])
def test_the_interpreter_is_given_away_early_and_never_later_than_before(before: float, after: float) -> None:
    sys.setswitchinterval(before)
    interpreter.share()
    assert sys.getswitchinterval() == pytest.approx(after)


def test_a_thread_alone_leaves_the_others_their_helpers() -> None:
    torch.set_num_threads(2)
    seen = list[int]()

    def work() -> None:
        interpreter.alone()
        seen.append(torch.get_num_threads())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [1] and torch.get_num_threads() == 2


def test_what_is_kept_is_not_looked_through_again() -> None:
    kept = [object()]
    kept.append(kept)
    interpreter.keep()
    try:
        assert gc.get_freeze_count() > 0 and not any(each is kept for each in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(each is kept for each in gc.get_objects())
