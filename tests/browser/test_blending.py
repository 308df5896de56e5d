"""The gallery in a real browser on the embedded base: a shelf, a mixer, blends drawn, measured, saved, compared, loaded again."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from safetensors import safe_open
from safetensors.numpy import save_file

from sdlora.lora.formats.module_tables import family_table

pytestmark = pytest.mark.browser
PROMPT = "a red house and a blue boat, meadow, in daylight"


def write_style(file: Path, seed: int, trigger: str) -> None:
    """Random changes of rank 2 to every attention projection of mini's UNet, as large as a short training makes them."""
    dice, tensors = np.random.default_rng(seed), {}
    for path, shape in family_table("mini").items():
        if ":" in path or not path.endswith(("to_q", "to_k", "to_v", "to_out.0")):
            continue
        name = "lora_unet_" + path.replace(".", "_")
        tensors[f"{name}.lora_up.weight"] = (dice.standard_normal((shape[0], 2)) * 0.1).astype(np.float32)
        tensors[f"{name}.lora_down.weight"] = (dice.standard_normal((2, shape[1])) / shape[1] ** 0.5).astype(np.float32)
        tensors[f"{name}.alpha"] = np.array(2, np.float32)
    about = {"ss_network_module": "networks.lora", "ss_output_name": file.stem.title(), "sdlora_trigger": trigger}
    save_file(tensors, file, about)


@pytest.fixture(scope="module")
def shelf(studio):
    """The running studio with three LoRAs on its shelf."""
    (studio.home / "loras").mkdir(exist_ok=True)
    for seed, name in enumerate(("amber", "birch", "coral")):
        write_style(studio.home / "loras" / f"{name}.safetensors", seed, f"{name}style")
    return studio


@pytest.fixture
def gallery(shelf, page):
    page.goto(shelf.url)
    page.get_by_role("tab", name="Gallery").click()
    expect(page.locator("#shelf figure")).not_to_have_count(0)
    return page


def card(page: Page, name: str):  # noqa: ANN201
    return page.locator("#shelf figure").filter(has=page.get_by_text(name, exact=True))


def row(page: Page, name: str):  # noqa: ANN201
    return page.locator("#mixer .row").filter(has=page.get_by_text(name, exact=True))


def choose(page: Page, **strengths: float) -> None:
    """Put LoRAs into the mixer, each at its strength."""
    for name, strength in strengths.items():
        card(page, name.title()).locator(".card").click()
        number = row(page, name.title()).get_by_role("spinbutton").first
        number.fill(str(strength))
        number.blur()
        expect(number).to_have_value(str(strength))


def saved(page: Page, act: callable, folder: Path) -> Path:
    with page.expect_download() as waiting:
        act()
    target = folder / waiting.value.suggested_filename
    waiting.value.save_as(target)
    return target


def first_picture(page: Page):  # noqa: ANN201
    """The button that saves the first drawn picture."""
    return page.locator("#gallery-results").get_by_role("button", name=re.compile("^Save")).first


def test_two_loras_are_drawn_together_beside_the_base_and_loaded_from_the_picture(gallery, tmp_path):
    choose(gallery, amber=0.8, birch=-0.5)
    gallery.locator("#gallery-prompt textarea").fill(PROMPT)
    row(gallery, "Amber").get_by_role("button", name="Add the trigger word to the prompt").click()
    expect(gallery.locator("#gallery-prompt textarea")).to_have_value(f"amberstyle, {PROMPT}")
    gallery.locator("#gallery-draw").click()
    expect(gallery.locator("#gallery-results figure")).to_have_count(2)
    expect(gallery.locator("#gallery-results figure").first).to_contain_text(re.compile(r"amber 0\.8.*birch -0\.5"))
    shown = [image.get_attribute("src") for image in gallery.locator("#gallery-compared img").all()]
    assert len(shown) == 2 and shown[0] != shown[1], "base and blend beside each other"
    file = saved(gallery, first_picture(gallery).click, tmp_path)
    gallery.reload()
    gallery.get_by_role("tab", name="Gallery").click()
    expect(row(gallery, "Birch").get_by_role("spinbutton").first).to_have_value("-0.5")
    for name in ("Amber", "Birch"):
        row(gallery, name).get_by_role("button", name="Remove from the mixer").click()
    expect(gallery.locator("#mixer .row")).to_have_count(0)
    gallery.locator("#load-box button").first.click()
    gallery.locator("#load-drop input[type=file]").set_input_files(str(file))
    expect(gallery.locator("#gallery-prompt textarea")).to_have_value(f"amberstyle, {PROMPT}")
    for name, strength in (("Amber", "0.8"), ("Birch", "-0.5")):
        expect(row(gallery, name).get_by_role("spinbutton").first).to_have_value(strength)
    with Image.open(file) as image:
        assert "Lora hashes" in image.info["parameters"]


def test_the_mixer_warns_of_a_blend_that_is_too_strong_and_weakens_it(gallery):
    choose(gallery, amber=1, birch=1)
    expect(row(gallery, "Amber").locator("output")).to_contain_text(re.compile(r"change \d+%"))
    row(gallery, "Amber").get_by_role("slider").fill("1.9")
    expect(gallery.locator("#mixer .notice")).to_contain_text("likely to break up")
    gallery.get_by_role("button", name="Use the suggested strengths").click()
    expect(gallery.locator("#mixer .notice")).to_have_count(0)
    assert float(row(gallery, "Amber").get_by_role("spinbutton").first.input_value()) < 1.9
    gallery.get_by_role("button", name="Balance").click()
    pushes = gallery.locator("#mixer .change output")
    expect(pushes.first).not_to_have_text("")
    texts = "[...document.querySelectorAll('#mixer .change output')].map((output) => output.textContent)"
    gallery.wait_for_function(f"new Set({texts}).size === 1")
    row(gallery, "Birch").get_by_role("switch").uncheck()
    expect(row(gallery, "Birch").locator("output")).to_have_text("")


def test_a_blend_becomes_a_file_on_the_shelf(gallery, shelf):
    choose(gallery, amber=0.7, coral=0.4)
    gallery.get_by_role("textbox", name="Name of the blend").fill("Amber & coral")
    gallery.get_by_role("button", name="Save this blend as a LoRA").click()
    expect(gallery.locator("#mixer .saving")).to_contain_text("is in the gallery, with 100.0% of the blend")
    expect(card(gallery, "Amber & coral")).to_contain_text("LoRA rank 4")
    with safe_open(shelf.home / "loras" / "amber-coral.safetensors", "np") as file:
        down = next(file.get_tensor(key) for key in file.keys() if key.endswith("lora_down.weight"))
    assert down.shape[0] == 4, "the ranks of both, side by side"


def test_a_strength_strip_and_its_sheet(gallery, tmp_path):
    choose(gallery, coral=1)
    gallery.locator("#gallery-prompt textarea").fill(PROMPT)
    gallery.locator("#grid-x-values textarea, #grid-x-values input").first.fill("0, 0.5, 1")
    gallery.locator("#grid-draw").click()
    cells = gallery.locator("#grid-table td img")
    expect(cells).to_have_count(3)
    expect(gallery.locator("#grid-table thead")).to_contain_text("strength 0.5")
    assert len({image.get_attribute("src") for image in cells.all()}) == 3
    sheet = saved(gallery, lambda: gallery.locator("#grid-sheet").click(), tmp_path)
    with Image.open(sheet) as image:
        assert image.width > 3 * 128 and "X Type: LoRA strength" in image.info["parameters"]


def test_the_report_of_a_file_its_notes_and_other_forms_of_it(gallery, tmp_path):
    card(gallery, "Birch").get_by_role("button", name="Details").click()
    box = gallery.locator("dialog")
    expect(box.locator("dl")).to_contain_text(re.compile(r"(\d+) of \1"))
    expect(box.locator(".bars span")).not_to_have_count(0)
    box.get_by_label("Name", exact=True).fill("Silver birch")
    box.get_by_label("Tags").fill("trees, winter")
    box.get_by_role("button", name="Save").click()
    expect(box.locator(".status")).to_have_text("saved")
    box.get_by_text("Before you give it away").click()
    box.get_by_label("Author").fill("Ada")
    file = saved(gallery, lambda: box.get_by_role("button", name="For diffusers").click(), tmp_path)
    with safe_open(file, "np") as opened:
        assert any(key.endswith("lora_A.weight") for key in opened.keys())
    whole = saved(gallery, lambda: box.get_by_role("button", name="All in one zip").click(), tmp_path)
    with zipfile.ZipFile(whole) as archive:
        assert "Ada" in archive.read("README.md").decode()
    box.get_by_role("button", name="Close").click()
    expect(card(gallery, "Silver birch")).to_have_count(1)
    gallery.locator("#shelf-search input, #shelf-search textarea").first.press_sequentially("winter")
    expect(gallery.locator("#shelf figure")).to_have_count(1)
    gallery.locator("#shelf-search input, #shelf-search textarea").first.fill("")
    expect(card(gallery, "Coral")).to_have_count(1)


def test_starring_deleting_and_bringing_back(gallery, shelf):
    before = gallery.locator("#shelf figure").count()
    choose(gallery, coral=1)
    card(gallery, "Coral").get_by_role("button", name="Star").click()
    expect(card(gallery, "Coral").get_by_role("button", name="Star")).to_have_attribute("aria-pressed", "true")
    card(gallery, "Coral").get_by_role("button", name="Delete").click()
    expect(gallery.locator("#shelf figure")).to_have_count(before - 1)
    expect(gallery.locator("#mixer .row")).to_have_count(0)
    assert not (shelf.home / "loras" / "coral.safetensors").exists()
    gallery.get_by_role("button", name="Bring it back").click()
    expect(card(gallery, "Coral").get_by_role("button", name="Star")).to_have_attribute("aria-pressed", "true")
    assert (shelf.home / "loras" / "coral.safetensors").exists()


def test_only_painted_places_are_redrawn(gallery, tmp_path):
    """The right half is painted over: the left half of the new picture is that of the picture it started from."""
    Image.new("RGB", (128, 128), (200, 120, 40)).save(tmp_path / "plain.png")
    gallery.locator("#init-box button").first.click()
    gallery.locator("#init-upload input[type=file]").set_input_files(str(tmp_path / "plain.png"))
    board = gallery.locator("#init-board canvas")
    gallery.locator("#init-board input").fill("96")
    gallery.wait_for_function("document.querySelector('#init-board canvas').width === 512")
    board.scroll_into_view_if_needed()
    box = board.bounding_box()
    gallery.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + 4)
    gallery.mouse.down()
    gallery.mouse.move(box["x"] + box["width"] * 0.85, box["y"] + box["height"] - 4, steps=5)
    gallery.mouse.up()
    gallery.locator("#gallery-prompt textarea").fill(PROMPT)
    gallery.locator("#gallery-draw").click()
    expect(gallery.locator("#gallery-results figure")).to_have_count(2)
    file = saved(gallery, first_picture(gallery).click, tmp_path)
    with Image.open(file) as image:
        left, right = (np.asarray(image.convert("RGB").crop(half), dtype=float) for half in ((0, 0, 48, 128), (96, 0, 128, 128)))
    colour = np.array([200, 120, 40])
    assert abs(left - colour).mean() < 3 < abs(right - colour).mean()
