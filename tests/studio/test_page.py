"""The page in a real browser: asking the shipped model, hearing segments, errors, slow and failing streams."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from helpers import play
from studio_browser import Page, launched
from studio_helpers import FLAC, OTHER, Engine, serving, serving_app

import echo_audio
from echo_audio.studio.house import House
from echo_audio.studio.saved import Saved
from echo_audio.studio.sources import Sources
from echo_audio.studio.viewing import view_app
from echo_audio.transcript import Mode

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

DEMO = Path(echo_audio.__file__).parent / "demo" / "what-comes-after.flac"
QUESTION, CHOICES = "What is heard directly after the rattle?", ("engine", "click", "pluck")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def tiny() -> Iterator[Any]:
    """The studio with the shipped model."""
    from echo_audio.engines.local import LocalEngine

    engine = LocalEngine.load("tiny", device="cpu")
    with serving(engine, engine.thinker.family, "tiny") as served:
        yield served
    engine.close()


@pytest.fixture
def scripted() -> Iterator[Any]:
    """The studio with written turns, which come slowly."""
    engine = Engine(pause_s=0.03)
    with serving(engine, house=House(max_upload_bytes=300_000, silence_s=0.2)) as served:
        served.engine = engine
        yield served


@pytest.fixture
def at(browser: Any) -> Iterator[Any]:
    """Opens pages; closes them, and looks at what they complained of."""
    pages: list[Page] = []

    def opened(served: Any, **context: Any) -> Page:
        pages.append(Page(browser, served.url, **context))
        return pages[-1]

    yield opened
    for page in pages:
        page.close()


def wait_for(what: Any, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def test_upload_ask_see_and_hear(tiny: Any, at: Any) -> None:
    page = at(tiny)
    page.upload(DEMO.read_bytes(), "what-comes-after.flac")
    page.ask(QUESTION, *CHOICES)
    page.answered()
    assert page.text(".answer b") == "engine"
    chips = page.page.locator(".seg")
    assert chips.count() >= 2
    wait_for(lambda: page.regions.count() >= 2)

    chip = chips.nth(1)
    start_s, end_s = map(float, chip.inner_text().removeprefix("♪ ").split("–"))
    page.page.locator("#sound").evaluate(
        """sound => {
            sound.addEventListener("play", () => (sound.dataset.from = sound.currentTime));
            sound.addEventListener("pause", () => (sound.dataset.to = sound.currentTime));
        }"""
    )
    chip.click()
    wait_for(lambda: page.page.locator("#sound").get_attribute("data-to") and not page.sound()[1])
    from_s, to_s = (float(page.page.locator("#sound").get_attribute(f"data-{name}")) for name in ("from", "to"))
    assert from_s == pytest.approx(start_s, abs=0.02), "it begins where the segment begins"
    assert end_s - 0.02 <= to_s <= end_s + 0.4, "and stops where it ends, at the next frame of a busy machine"
    assert page.sound()[0] == pytest.approx(end_s, abs=0.02)

    page.regions.first.click()
    page.page.locator(".sentence.jumped .seg:focus").wait_for()
    assert all(url.startswith((tiny.url, "data:", "blob:")) for url in page.requests), "nothing is fetched from elsewhere"


def test_the_playhead_runs_through_the_text(tiny: Any, at: Any) -> None:
    page = at(tiny)
    page.upload(DEMO.read_bytes())
    page.ask(QUESTION, *CHOICES)
    page.answered()
    page.page.locator(":focus").evaluate("e => e.blur()")
    page.page.press("body", " ")
    lit = set()
    wait_for(lambda: page.sound()[1])
    while page.sound()[1] and len(lit) < 2:
        for chip in page.page.locator(".seg.now").all_inner_texts():
            lit.add(chip)
        time.sleep(0.02)
    assert len(lit) >= 2, "each segment lights up when the playhead passes it"
    page.page.press("body", " ")
    wait_for(lambda: not page.sound()[1])


def test_a_region_is_there_the_moment_its_segment_is_written(scripted: Any, at: Any) -> None:
    scripted.engine.begin_s = 2.0
    page = at(scripted)
    page.upload(FLAC)
    page.ask("What is heard?", "a bell", "a dog")
    page.page.locator(".seg.hearing").wait_for()
    wait_for(lambda: page.regions.count() == 1)
    assert page.page.locator(".run .answer:visible").count() == 0, "the answer has not come yet"
    page.answered()
    assert page.text(".thought").strip().endswith("and it is bright.")
    assert page.text(".given .chosen") == "a bell"


WRONG = [
    (b"no sound at all, " * 50, "notes.txt", "not audio that can be read"),
    (FLAC[:3000], "half.flac", "damaged or cut off"),
    (b"", "empty.wav", "is empty"),
    (b"RIFF" + bytes(400_000), "big.wav", "takes 0 MB"),
]


def test_errors_are_sentences(scripted: Any, at: Any) -> None:
    page = at(scripted)
    for content, name, says in WRONG:
        page.choose(content, name)
        page.page.locator("#trouble", has_text=says).wait_for()
        said = page.text("#trouble")
        assert said[-1] == "." and "Error" not in said and "{" not in said
    page.upload(FLAC)
    assert page.page.locator("#trouble:visible").count() == 0
    page.page.click("#go")
    assert page.text("#wrong") == "Write a question first."
    page.ask("What is heard?", "a bell")
    assert "One choice is no choice" in page.text("#wrong")


def test_a_stream_that_breaks_off_says_so_and_keeps_what_came(scripted: Any, at: Any) -> None:
    scripted.engine.pause_s = 0.3  # still writing when the server goes away
    page = at(scripted)
    page.upload(FLAC)
    page.ask("What is heard?")
    page.page.locator(".seg").wait_for()
    scripted.stop()
    page.page.locator(".run .trouble:visible").wait_for(timeout=30_000)
    assert "broke off" in page.text(".run .trouble:visible") and "I look for the bell" in page.text(".thought")
    page.page.click("#go")
    page.page.locator(".run .trouble:visible", has_text="cannot be reached").wait_for()
    page.complaints.clear()  # the browser's own words about the broken connection


def test_a_silent_stream_is_waited_for(scripted: Any, at: Any) -> None:
    scripted.engine.pause_s = 0.4
    scripted.engine.turns = (["<think>", "I ", "wait", "</think>", "<answer>", "yes", "</answer>"],)
    page = at(scripted)
    page.upload(FLAC)
    page.ask("What is heard?")
    page.answered()
    assert page.text(".answer b") == "yes"


def test_an_answer_can_be_stopped(scripted: Any, at: Any) -> None:
    page = at(scripted)
    page.upload(FLAC)
    page.ask("What is heard?")
    page.page.get_by_role("button", name="Stop this answer").click()
    page.page.locator(".run .trouble", has_text="Stopped.").wait_for()
    wait_for(lambda: scripted.studio.gate.n_running == 0)
    assert scripted.engine.cancelled == 1


def test_three_ways_and_counterfactuals_side_by_side(tiny: Any, at: Any) -> None:
    page = at(tiny)
    page.upload(OTHER, "other.flac")
    page.page.click("#other")
    page.upload(DEMO.read_bytes(), "door.flac")
    page.page.fill("#question", QUESTION)
    page.page.click("#modes")
    page.answered(3)
    ways = page.page.locator(".compare .how b").all_inner_texts()
    assert ways == ["hears again", "only cites", "hears once"]
    page.page.click("#what-if")
    page.answered(7)
    ways = page.page.locator(".compare").first.locator(".how b").all_inner_texts()
    ends = [way.partition(", ")[2] for way in ways]
    assert ends == ["", "silence is played", "nothing is played", "another recording is played"]
    assert page.page.locator(".history li").count() == 7
    page.page.locator(".run").nth(2).click(position={"x": 5, "y": 5})
    assert page.page.locator(".run").nth(2).get_attribute("class").endswith("chosen")


def test_a_shared_file_needs_no_server(tiny: Any, at: Any, browser: Any, tmp_path: Path) -> None:
    page = at(tiny)
    page.upload(DEMO.read_bytes(), "door.flac")
    page.ask(QUESTION, *CHOICES)
    page.answered()
    with page.page.expect_download() as download:
        page.page.click("#share")
    file = tmp_path / "echo.html"
    download.value.save_as(file)
    alone = Page(browser, file.as_uri())
    assert alone.text(".answer b") == "engine"
    wait_for(lambda: alone.regions.count() >= 2)
    alone.page.locator(".seg").first.click()
    wait_for(lambda: alone.sound()[1] and alone.sound()[0] > 0)
    assert all(url.startswith(("file:", "data:", "blob:")) for url in alone.requests)
    alone.close()


def test_the_microphone_makes_a_recording(scripted: Any, at: Any) -> None:
    page = at(scripted, permissions=["microphone"])
    page.page.click("#record")
    page.page.locator("#mictime", has_text="1.").wait_for()
    page.page.click("#micstop")
    page.page.locator("#ask").wait_for()
    assert page.text("#name") == "microphone.wav"
    page.ask("What is heard?")
    page.page.locator(".seg, .run .trouble:visible").first.wait_for()


def test_everything_works_by_keyboard(tiny: Any, at: Any) -> None:
    page = at(tiny)
    keyboard = page.page.keyboard
    for _ in range(12):
        keyboard.press("Tab")
        if "rattle" in page.page.locator(":focus").inner_text():
            break
    keyboard.press("Enter")
    page.page.locator("#ask").wait_for()
    page.page.get_by_text("0.0 s of").wait_for()
    keyboard.press("Control+Enter")
    page.answered()
    page.page.locator("#question").evaluate("e => e.blur()")
    keyboard.press("]")
    wait_for(lambda: page.sound()[1])
    assert page.page.locator(".seg:focus").count() == 1
    keyboard.press("Escape")
    wait_for(lambda: not page.sound()[1])
    keyboard.press("/")
    assert page.page.locator("#question:focus").count() == 1


def test_a_key_is_asked_for(browser: Any) -> None:
    with serving(Engine(), house=House(key="a key of some length")) as served:
        page = Page.__new__(Page)
        page.context = browser.new_context()
        page.page = page.context.new_page()
        page.page.goto(served.url)
        page.page.fill("#keytext", "a key of some length")
        page.page.press("#keytext", "Enter")
        page.page.get_by_text("scripted ·").wait_for()
        page.context.close()


@pytest.mark.parametrize(("width", "scheme"), list(itertools.product((390, 1280), ("light", "dark"))))
def test_it_is_readable_on_every_screen_and_for_everybody(tiny: Any, at: Any, width: int, scheme: str) -> None:
    """Axe finds nothing against WCAG 2.2 AA, and nothing is wider than the screen."""
    page = at(tiny, viewport={"width": width, "height": 844}, color_scheme=scheme, bypass_csp=True)
    axe = (Path(__file__).parent / "axe" / "axe.min.js").read_text()

    def check(where: str) -> None:
        page.page.evaluate(axe)
        found = page.page.evaluate("axe.run(document, {runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice']})")
        assert not [(where, one["id"], [node["html"][:120] for node in one["nodes"]]) for one in found["violations"]]
        assert page.page.evaluate("document.documentElement.scrollWidth <= innerWidth"), where

    check("empty")
    page.upload(DEMO.read_bytes())
    page.ask(QUESTION, *CHOICES)
    page.answered()
    page.page.click(".options summary")
    check("answered")
    page.page.click("#modes")
    page.answered(4)
    check("compared")


def save_two(folder: Path) -> Path:
    """A file with a wrong and a right transcript, and the recording of both beside it."""
    (folder / "door.flac").write_bytes(FLAC)
    sound = echo_audio.load(FLAC)
    lines = []
    for mode in (Mode.INTERLEAVED, Mode.GROUNDED):
        turns = ("<think>I look for the bell <seg>1.2, 1.9</seg>", " it is.</think><answer>a bell</answer>")
        line = json.loads(play(turns if mode is Mode.INTERLEAVED else ("".join(turns),), mode=mode, recording=sound).to_json())
        line["question"] |= {"answer": "a bell" if mode is Mode.GROUNDED else "a dog", "meta": {"audio": "door.flac"}}
        lines.append(json.dumps(line) + "\n")
    path = folder / "all.jsonl"
    path.write_text("".join(lines))
    return path


def test_saved_transcripts_are_looked_at_filtered_and_heard(browser: Any, tmp_path: Path) -> None:
    with ThreadPoolExecutor() as thread:  # Playwright has this thread's event loop
        path = thread.submit(save_two, tmp_path).result()
    app = view_app(Saved([path]), Sources([]), "all", House())
    with serving_app(app) as served:
        page = Page(browser, served.url)
        page.answered()
        assert page.text(".answer b") == "a bell" and "the truth is: a dog" in page.text(".answer")
        page.page.locator(".seg").click()
        wait_for(lambda: page.sound()[1] and 1.1 < page.sound()[0] < 2.1)
        page.page.select_option("#filters [name=mode]", "grounded")
        page.page.get_by_text("1 of 1 shown").wait_for()
        page.page.locator("#history button").click()
        page.page.locator(".answer .right").wait_for()
        page.page.fill("[name=text]", "no such words")
        page.page.get_by_text("0 of 0 shown").wait_for()
        page.close()
