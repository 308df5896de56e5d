"""An open tab: it shows what moves without a Gradio event, and asks for the password where there is one."""

import re
import shutil
import signal

import pytest
from playwright.sync_api import Page, expect

from sdlora.jobs.lock import hold
from sdlora.train import events
from tests.browser.conftest import Studio
from tests.load.load import fill, tell

pytestmark = pytest.mark.browser


@pytest.fixture
def started(tmp_path, monkeypatch):
    """A function that starts a studio on a data folder with 3 LoRAs and a run on its way; and the run's folder."""
    home = tmp_path / "studio"
    monkeypatch.setenv("SDLORA_HOME", str(home))
    run, studio = fill(home, 3), Studio(home)

    def start(*arguments: str, **environment: str) -> Studio:
        studio.start(*arguments, **environment)
        return studio

    with hold(run / "lock"):
        yield start, run
        studio.stop(signal.SIGTERM)
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture
def gradio_events(page) -> tuple[list[str], list[str]]:
    """The Gradio events that the page fires, and those that are answered."""
    fired, answered = [], []

    def note(into: list[str], request) -> None:  # noqa: ANN001
        if request.method == "POST" or "/queue/data" in request.url:
            into.append(f"{request.url} {request.post_data}")

    page.on("request", lambda request: note(fired, request))
    page.on("requestfinished", lambda request: note(answered, request))
    page.on("requestfailed", lambda request: note(answered, request))
    return fired, answered


def quiet(page: Page, fired: list[str], answered: list[str]) -> None:
    """Wait until a page that shows its run has the answers to all its Gradio events and fires no more; forget those."""
    seen = None
    while seen != (seen := (len(fired), len(answered))) or len(fired) > len(answered):
        page.wait_for_timeout(1500)
    fired.clear()
    answered.clear()


def test_progress_moves_by_itself_and_a_sample_brings_the_strip(started, page, gradio_events):
    start, run = started
    fired, answered = gradio_events
    page.goto(start().url)
    expect(page.locator("#progress")).to_contain_text("step 100 of 4000")
    expect(page.locator("#strip thead th")).to_have_count(2)
    quiet(page, fired, answered)
    tell(run, events.Step(250, 4000, 0.1, 0.2, 1e-3, 120.0))
    expect(page.locator("#progress")).to_contain_text("step 250 of 4000")
    expect(page.locator("#pill")).to_contain_text("about 2 min left")
    assert not fired, "a moving bar is no Gradio event"
    tell(run, events.Sample(250, 0, "mdw, a cat 0", 1, "samples/000100-0.png"))
    expect(page.locator("#strip thead th")).to_have_count(3)
    expect(page.locator("#progress")).to_contain_text("step 250 of 4000")
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#shelf figure img")).to_have_count(3)
    page.wait_for_function("[...document.querySelectorAll('#shelf figure img')].every((image) => image.naturalWidth === 256)")


def test_an_answer_that_comes_late_undoes_no_choice(started, page, gradio_events):
    start, run = started
    for step in (0, 100):
        folder = run / "checkpoints" / f"step-{step:06d}"
        folder.mkdir(parents=True)
        for name in ("state.json", "lora.safetensors"):
            (folder / name).write_text("{}")
    page.goto(start().url)
    chosen = page.locator("#strip [aria-pressed=true]")
    expect(chosen).to_have_text("100")
    quiet(page, *gradio_events)
    late, holding = [], True
    page.route("**/run/*", lambda route: late.append((route, route.fetch())) if holding else route.continue_())
    tell(run, events.Sample(100, 3, "mdw, a dog", 1, "samples/000100-0.png"))  # which a tick brings
    for _ in range(150):
        page.wait_for_timeout(100)
        if late:
            break
    holding = False
    page.locator("#strip thead").get_by_role("button").first.click()
    expect(chosen).not_to_have_text("100")
    assert late, "a tick was under way"
    for route, answer in late:
        route.fulfill(response=answer)
    for _ in range(2):  # questions of the page, after which the late answer is drawn
        with page.expect_response("**/sdlora/poll*"):
            pass
    expect(chosen).not_to_have_text("100")
    expect(page.locator("#download-checkpoint")).to_contain_text("at step 0")


def test_a_second_tab_and_a_reload_show_the_same(started, page):
    start, run = started
    page.goto(start().url)
    expect(page.locator("#progress")).to_contain_text("step 100")
    other = page.context.new_page()
    other.goto(page.url)
    tell(run, events.Step(300, 4000, 0.1, 0.2, 1e-3, 120.0))
    for tab in (page, other):
        expect(tab.locator("#progress")).to_contain_text("step 300")
    page.reload()
    expect(page.locator("#progress")).to_contain_text("step 300")
    page.locator("#controls").get_by_role("button", name="Pause").click()
    for tab in (page, other):
        expect(tab.locator("#progress")).to_contain_text("Saving, then pausing")


def test_the_password_is_asked_for_and_the_page_says_how_long_to_wait(started, page):
    start, _ = started
    studio = start("--proxy", "127.0.0.1", SDLORA_PASSWORD="meadow")
    page.goto(studio.url)
    word, notice = page.locator("input[name=password]"), page.get_by_role("alert")
    for _ in range(5):
        word.fill("wrong")
        with page.expect_response("**/login"):
            page.keyboard.press("Enter")
        expect(notice).to_have_text("This is not the password.")
    word.fill("meadow")
    page.keyboard.press("Enter")
    expect(notice).to_contain_text(re.compile("Try again in (30|29|28) seconds"))
    expect(page.get_by_role("button")).to_be_disabled()
    page.reload()
    expect(notice).to_contain_text("Try again in")
    page.context.set_extra_http_headers({"X-Forwarded-For": "10.1.2.3"})
    page.reload()
    expect(notice).to_have_text("")
    word.fill("meadow")
    page.keyboard.press("Enter")
    expect(page.locator("#progress")).to_contain_text("step 100")
