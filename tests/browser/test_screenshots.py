"""The pictures of the README: an example set, trained and tried for real. Only when SDLORA_SCREENSHOTS names a folder:

SDLORA_SCREENSHOTS=FOLDER pytest tests/browser/test_screenshots.py
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

TARGET = os.environ.get("SDLORA_SCREENSHOTS")
STYLE = os.environ.get("SDLORA_SCREENSHOTS_STYLE", "Stained glass")
pytestmark = [pytest.mark.browser, pytest.mark.skipif(not TARGET, reason="SDLORA_SCREENSHOTS names no folder")]
MINUTES = 15 * 60_000
ROOT = Path(__file__).parents[2]


def shot(page: Page, name: str, selector: str | None = None) -> None:
    """A JPEG of the window, or of one element, with nothing half loaded."""
    page.wait_for_function("[...document.images].every(i => i.complete || i.offsetParent === null || i.loading === 'lazy')")
    time.sleep(1)
    path = Path(TARGET) / f"{name}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    (page.locator(selector) if selector else page).screenshot(path=path, type="jpeg", quality=88)


def settle(page: Page, selector: str) -> None:
    page.locator(selector).scroll_into_view_if_needed()
    page.evaluate("selector => document.querySelector(selector).scrollIntoView()", selector)
    time.sleep(1)


def test_the_readme_shows_the_page_as_it_is(studio, page):
    page.goto(studio.url)
    page.locator("#examples").get_by_role("button", name=STYLE).click()
    expect(page.locator("#captions figure").nth(9)).to_be_visible(timeout=60_000)
    expect(page.locator("#presets")).to_contain_text("minute", timeout=60_000)
    shot(page, "pictures", "#act-pictures")
    page.locator("#train").click()
    expect(page.locator("#strip td img").nth(7)).to_be_visible(timeout=MINUTES)
    shot(page, "training", "#act-train")
    expect(page.locator("#progress")).to_contain_text("Done", timeout=MINUTES)
    shot(page, "trained", "#act-train")
    expect(page.locator("#try-prompt textarea")).not_to_have_value("", timeout=60_000)
    trigger = page.locator("#trigger textarea, #trigger input").first.input_value()
    page.locator("#try-prompt textarea").fill(f"{trigger}, a red house and a blue boat, meadow, in daylight")
    page.locator("#draw").click()
    expect(page.locator("#history figure")).to_have_count(2, timeout=MINUTES)
    settle(page, "#act-try")
    shot(page, "trying", "#act-try")
    blend_two(studio, page, f"{trigger}, a red house and a blue boat, meadow, in daylight")
    page.set_viewport_size({"width": 390, "height": 844})
    page.get_by_role("tab", name="Studio").click()
    for name, place in (("phone-pictures", "#act-pictures"), ("phone-training", "#progress"), ("phone-trying", "#compare")):
        settle(page, place)
        shot(page, name)


def blend_two(studio, page: Page, prompt: str) -> None:  # noqa: ANN001
    """A second LoRA beside the first: shelf, mixer and blend on one picture, a grid on another."""
    train = [sys.executable, "-m", "sdlora", "train", str(ROOT / "assets/examples/woodcut"), "--preset", "quick"]
    subprocess.run([*train, "--name", "Woodcut", "--trigger", "wdcut"], cwd=ROOT, check=True,
                   env={**os.environ, "SDLORA_HOME": str(studio.home)})
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#shelf figure")).to_have_count(2, timeout=60_000)
    for name, strength in ((STYLE, "0.6"), ("Woodcut", "0.35")):
        page.locator("#shelf figure").filter(has_text=name).locator(".card").click()
        amount = page.locator("#mixer .row").filter(has_text=name).get_by_role("spinbutton").first
        amount.fill(strength)
        amount.blur()
    page.locator("#gallery-prompt textarea").fill(prompt)
    page.locator("#gallery-draw").click()
    expect(page.locator("#gallery-results figure")).to_have_count(2, timeout=MINUTES)
    expect(page.locator("#mixer .change output").last).to_contain_text("change", timeout=60_000)
    expect(page.locator("#mixer .notice")).to_have_count(0)
    below = page.evaluate("Math.ceil(document.querySelector('#act-blend').getBoundingClientRect().bottom + scrollY) + 18")
    page.set_viewport_size({"width": 1280, "height": below})
    page.evaluate("window.scrollTo(0, 0)")
    shot(page, "gallery")
    page.locator("#grid-x-values textarea, #grid-x-values input").first.fill("0, 0.2, 0.4, 0.6, 0.8")
    page.locator("#grid-y input").first.click()
    page.get_by_role("option", name="Seed").click()
    page.locator("#grid-y-values textarea, #grid-y-values input").first.fill("1-3")
    page.locator("#grid-draw").click()
    expect(page.locator("#grid-table td img")).to_have_count(15, timeout=MINUTES)
    shot(page, "grid", "#act-grid")
