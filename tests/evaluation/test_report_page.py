"""report.html in a browser: filters, pages, sounds, and two runs side by side, on a desk and on a phone."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from samples import ABOUT, failed, sample

from echo_audio.audio import SAMPLE_RATE, Recording, Segment, save_wav
from echo_audio.evaluation.base import Status
from echo_audio.evaluation.report import report
from echo_audio.evaluation.report_samples import files_in

CHROMIUM = Path("/usr/bin/chromium")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --autoplay-policy=no-user-gesture-required"
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM.is_file(), reason=f"Chromium is not at {CHROMIUM}"),
]

RIGHT, LETTER, WRONG, NONE = (f"<think>hm</think><answer>{a}</answer>" for a in ("man", "A", "Woman", "no idea"))
HEARD = (Segment(1.0, 1.4), Segment(3.0, 4.0))


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    """45 samples: 40 right ones with segments, a letter, a wrong one, an unparsed one, a missing one; one sound is linked."""
    folder = tmp_path_factory.mktemp("run")
    time_s = np.arange(10 * SAMPLE_RATE) / SAMPLE_RATE
    for i in range(2):
        save_wav(Recording((0.2 * np.sin(2 * np.pi * (300 + i) * time_s)).astype(np.float32)), folder / f"{i}.wav")
    some = [sample(f"q{i}", RIGHT, heard=HEARD, audio={"path": f"{i % 2}.wav"}) for i in range(40)]
    some += [sample("q40", LETTER, heard=HEARD), sample("q41", WRONG, heard=HEARD[:1], task="music"), sample("q42", NONE)]
    some += [failed("q43", Status.MISSING_AUDIO), sample("q44", RIGHT)]
    other = [replace(sample(f"q{i}", WRONG if i == 3 else RIGHT, heard=HEARD[:1]), config="d") for i in range(45)]
    about = {**ABOUT, "n": 45}
    path = folder / "report.html"
    beside = ({**about, "config": "d"}, other)
    path.write_text(report(about, some, beside, sounds=files_in(folder), embed_mb=0.4), encoding="utf-8")
    return path


def opened(browser: Any, path: Path, size: tuple[int, int], scheme: str = "light", at: str = "") -> tuple[Any, list[str]]:
    """The page, and what it complains about."""
    page = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=scheme).new_page()
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(path.as_uri() + at)
    return page, wrong


def wait(page: Any, expression: str, timeout_s: float = 10.0) -> None:
    """Until it holds. (`wait_for_function` wants `eval` in the page, which the page's policy forbids.)"""
    end_s = time.monotonic() + timeout_s
    while not page.evaluate(expression):
        assert time.monotonic() < end_s, expression
        page.wait_for_timeout(20)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(1280, 900), (390, 844), (320, 640)])
def test_nothing_is_wider_than_the_window_and_nothing_complains(browser, page_file, size, scheme):
    page, wrong = opened(browser, page_file, size, scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= size[0] and not wrong
    ink, paper = page.evaluate("(({color, backgroundColor}) => [color, backgroundColor])(getComputedStyle(document.body))")
    assert ink != paper
    one, two = (box.bounding_box() for box in page.locator(".runs.two").first.locator("> div").all())
    assert (one["y"] == two["y"]) is (size[0] > 760), "side by side where there is room, else one below the other"


def test_filters_and_pages(browser, page_file):
    page, wrong = opened(browser, page_file, (1280, 900))
    ids = lambda: page.locator("#list > li").evaluate_all("all => all.map(one => one.id)")  # noqa: E731
    press = lambda name: page.get_by_role("button", name=name, exact=True).first.click()  # noqa: E731
    assert ids() == [f"q-{i}" for i in range(20)]
    press("next page")
    press("next page")
    assert ids() == [f"q-{i}" for i in range(40, 45)] and page.get_by_text("page 3 of 3, 45 samples").first.is_visible()
    for name, want in (
        ("wrong (3)", ["q-41", "q-42", "q-43"]),
        ("unparsed (1)", ["q-42"]),
        ("no segment (2)", ["q-42", "q-44"]),
        ("the two rules disagree (1)", ["q-40"]),
        ("could not be asked (1)", ["q-43"]),
        ("differs from the other run (4)", ["q-3", "q-41", "q-42", "q-43"]),
    ):
        press(name)
        assert ids() == want and page.locator(".chips [aria-pressed=true]").inner_text() == name
    press("all (45)")
    page.get_by_label("group").select_option("task: music")
    assert ids() == ["q-41"]
    page.get_by_label("group").select_option("")
    page.get_by_label("find").fill("NO IDEA")
    assert ids() == ["q-42"] and not wrong


def test_the_address_of_a_sample_opens_its_page(browser, page_file):
    page, _ = opened(browser, page_file, (1280, 900), at="#q-33")
    assert page.get_by_text("page 2 of 3").first.is_visible() and page.locator("#q-33").is_visible()


@pytest.mark.parametrize("place", [0, 1])
def test_a_segment_plays_from_its_start_to_its_end(browser, page_file, place):
    """The first recording is in the page, the second one is a file beside it."""
    page, wrong = opened(browser, page_file, (1280, 900))
    card = page.locator(f"#q-{place}")
    assert card.locator("audio").first.get_attribute("src").startswith(("data:audio/wav;base64,", "file://")[place])
    card.get_by_role("button", name="1.00–1.40 s").first.click()
    player = f"document.querySelectorAll('#q-{place} audio')[0]"
    wait(page, f"!{player}.paused && {player}.currentTime >= 1")
    wait(page, f"{player}.paused")
    assert 1.4 <= page.evaluate(f"{player}.currentTime") < 2.0
    card.locator(".seg").nth(1).click(force=True)
    wait(page, f"!{player}.paused && {player}.currentTime >= 3")
    page.locator(f"#q-{1 - place}").get_by_role("button", name="1.00–1.40 s").first.click()
    wait(page, f"{player}.paused")
    assert not wrong


def test_without_a_recording_a_segment_is_no_button_to_press(browser, page_file):
    page, _ = opened(browser, page_file, (1280, 900), at="#q-41")
    button = page.locator("#q-41").get_by_role("button").first
    assert button.is_disabled() and button.inner_text() == "1.00–1.40 s ♪"
