"""The main job in a real browser on the embedded base: pictures in, a file out, tried, blended, tidied up."""

import random
import re
import signal
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Page, expect
from safetensors import safe_open

pytestmark = pytest.mark.browser
THINGS = [f"{colour} {thing}" for colour in ("red", "blue", "green", "yellow") for thing in ("house", "boat", "cat")]

EDITED = "a blue boat, by the sea"


def draw_pictures(folder: Path) -> list[Path]:
    """12 hatched pictures in several shapes, half of them with captions, and one that is damaged."""
    dice, files = random.Random(1), []
    for number, thing in enumerate(THINGS):
        image = Image.new("RGB", dice.choice([(256, 256), (320, 200), (200, 300)]), (244, 236, 214))
        pen = ImageDraw.Draw(image)
        for _ in range(24):
            x, y = dice.randint(0, 300), dice.randint(0, 280)
            pen.line([x, y, x + 60, y + 30], fill=tuple(dice.randint(0, 200) for _ in "rgb"), width=5)
        files.append(folder / f"{thing.replace(' ', '-')}.png")
        image.save(files[-1])
        if number % 2:
            files[-1].with_suffix(".txt").write_text(f"a {thing}, meadow", encoding="utf-8")
            files.append(files[-1].with_suffix(".txt"))
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return [*files, folder / "broken.png"]


def field(page: Page, name: str):  # noqa: ANN201
    """The one field inside the element of this id."""
    return page.locator(f"#{name} textarea, #{name} input").first


def picture_of(page: Page, selector: str) -> bytes:
    """The source of an image: two that differ are different pictures."""
    return page.locator(selector).first.get_attribute("src")


def drop(page: Page, url: str, files: list[Path]) -> None:
    page.goto(url)
    page.locator("#drop input[type=file]").set_input_files([str(file) for file in files])
    expect(page.locator("#captions figure")).to_have_count(12)


def test_the_main_job(studio, page, tmp_path):
    """One job, in the order an artist does it: each part needs what the part before made."""
    drop(page, studio.url, draw_pictures(tmp_path))
    expect(page.locator("#set-notes")).to_contain_text("broken.png")
    edit_a_caption(page)
    start_training(page)
    page.reload()
    expect(page.locator("#progress")).to_contain_text(re.compile("Hatching · (In the queue|Training|Done)"))
    studio.stop(signal.SIGKILL)
    page.goto("about:blank")  # an open page reloads itself once a server answers again, and would cut off the visit below
    studio.start()
    page.goto(studio.url)
    expect(page.locator("#captions figure textarea").first).to_have_value(EDITED)
    expect(page.locator("#progress")).to_contain_text(re.compile("Hatching · (In the queue|Training|Done)"))
    expect(page.locator("#progress")).to_contain_text("Hatching · Done", timeout=240_000)
    final, checkpoint = download_both(page, tmp_path)
    try_the_lora(page)
    blend_two(page, checkpoint, tmp_path)
    tidy_up(page, studio.home)
    assert final.stem == "hatching" and not list((studio.home / "logs").glob("page.log")), "no bug was logged"


def edit_a_caption(page: Page) -> None:
    captions = page.locator("#captions figure textarea")
    typed = {caption.input_value() or caption.get_attribute("placeholder") for caption in captions.all()}
    assert {"a red boat, meadow", "red house"} <= typed, "captions come from the .txt files, else from the file names"
    captions.first.fill(EDITED)
    expect(page.locator("#captions figure .status").first).to_have_text("saved")


def start_training(page: Page) -> None:
    """20 steps; the minutes stand on the card before anything starts."""
    expect(page.locator("#presets")).to_contain_text("minute")
    field(page, "style-name").fill("Hatching")
    field(page, "trigger").fill("htchng")
    page.locator("#expert button").first.click()
    for key, value in (("steps", "20"), ("save_every", "10"), ("sample_every", "10"), ("sample_steps", "8")):
        field(page, f"expert-{key}").fill(value)
    expect(page.locator("#plan")).to_contain_text("20 steps, samples")
    page.locator("#train").click()
    expect(page.locator("#progress")).to_contain_text("Hatching")


def download_both(page: Page, tmp_path: Path) -> tuple[Path, Path]:
    """The finished file, then the checkpoint of the second column; both open and differ."""
    expect(page.locator("#strip thead th")).to_have_count(3)
    expect(page.locator("#strip [aria-pressed=true]")).to_have_text("20")
    assert picture_of(page, "#strip tbody tr:first-child td:nth-child(2) img") != picture_of(
        page, "#strip tbody tr:first-child td:nth-child(4) img"), "the strip shows a change"
    final = download(page, "#download-checkpoint", tmp_path)
    page.locator("#strip").get_by_role("button", name=re.compile(r"^10\b(?!:)")).click()
    expect(page.locator("#download-checkpoint")).to_contain_text("at step 10")
    checkpoint = download(page, "#download-checkpoint", tmp_path)
    with safe_open(final, "np") as file, safe_open(checkpoint, "np") as early:
        keys, about = set(file.keys()), file.metadata()
        assert about["ss_base_model_version"] == "sdlora_mini" and keys == set(early.keys())
        assert any("lora_up" in key for key in keys) and any(key.endswith("alpha") for key in keys)
    assert final.read_bytes() != checkpoint.read_bytes()
    return final, checkpoint


def download(page: Page, selector: str, folder: Path) -> Path:
    """Download by a click that must not count as leaving the page: Gradio would end its connection."""
    page.evaluate("addEventListener('beforeunload', () => { window.left = true })")
    with page.expect_download() as waiting:
        page.locator(selector).click()
    target = folder / waiting.value.suggested_filename
    waiting.value.save_as(target)
    assert not page.evaluate("window.left")
    return target


def try_the_lora(page: Page) -> None:
    """The LoRA is already chosen; both pictures come with the same seed, and differ."""
    expect(field(page, "try-lora")).to_have_value("Hatching")
    field(page, "try-prompt").fill("htchng, a red house and a blue boat, meadow, in daylight")
    page.locator("#draw").click()
    expect(page.locator("#history figure")).to_have_count(2)
    shown = [image.get_attribute("src") for image in page.locator("#compare img").all()]
    assert len(shown) == 2 and shown[0] != shown[1]
    style, base = page.locator("#history figure img").nth(0), page.locator("#history figure img").nth(1)
    assert style.get_attribute("src") != base.get_attribute("src"), "the style changes the picture"
    expect(page.locator("#history")).to_contain_text("base model alone")


def blend_two(page: Page, checkpoint: Path, tmp_path: Path) -> None:
    """A second LoRA is added from a file; both are chosen, each with its own strength, and drawn together."""
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#shelf figure")).to_have_count(1)
    page.locator("#shelf-upload input[type=file]").set_input_files(str(checkpoint))
    expect(page.locator("#shelf figure")).to_have_count(2)
    for number, strength in ((0, "0.6"), (1, "0.4")):
        page.locator("#shelf .card").nth(number).click()
        page.locator("#mixer .row").nth(number).get_by_role("slider").fill(strength)
        expect(page.locator("#mixer .row").nth(number).get_by_role("spinbutton").first).to_have_value(strength)
    field(page, "gallery-prompt").fill("htchng, a green tree, meadow")
    page.locator("#gallery-draw").click()
    expect(page.locator("#gallery-results figure")).to_have_count(2)
    expect(page.locator("#gallery-results figure").first).to_contain_text(re.compile(r"0\.6.*0\.4"))
    with page.expect_download() as waiting:
        page.locator("#gallery-results").get_by_role("button", name=re.compile("^Save")).first.click()
    saved = tmp_path / waiting.value.suggested_filename
    waiting.value.save_as(saved)
    with Image.open(saved) as image:
        assert image.format == "PNG" and "htchng, a green tree" in image.info["parameters"]


def tidy_up(page: Page, home: Path) -> None:
    """A LoRA, a run, a picture of the set, and the set itself go; nothing else does."""
    page.locator("#shelf figure").last.get_by_role("button", name=re.compile("^Delete")).click()
    expect(page.locator("#shelf figure")).to_have_count(1)
    expect(page.locator("#mixer .row")).to_have_count(1)
    page.get_by_role("tab", name="Past runs").click()
    expect(page.locator("#run-facts")).to_contain_text("Hatching")
    page.get_by_role("button", name="Delete this run").click()
    expect(page.locator("#runs")).to_contain_text("No trainings yet")
    assert not list((home / "runs").glob("*/spec.json")) and len(list((home / "loras").glob("*.safetensors"))) == 1
    page.get_by_role("tab", name="Studio").click()
    second = page.locator("#captions figure textarea").nth(1).input_value()
    page.locator("#captions figure").first.get_by_role("button", name=re.compile("Remove")).click()
    expect(page.locator("#captions figure")).to_have_count(11)
    expect(page.locator("#captions figure textarea").first).to_have_value(second)
    page.get_by_role("button", name="Delete set").click()
    expect(page.locator("#captions figure")).to_have_count(0)
    assert not list((home / "sets").glob("*/set.json"))
