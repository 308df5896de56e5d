"""What the gallery's handlers make of the shelf, of rows, forms and answers, without a browser."""

import base64
import io

import gradio as gr
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from sdlora.config import DrawConfig, LoraChoice
from sdlora.draw.infotext.picture import write_picture
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs.questions import Answer
from sdlora.jobs.table import Table
from sdlora.library import edit, folders, search
from sdlora.lora.formats.module_tables import family_table
from sdlora.storage import data_folder, write_json
from sdlora.ui import gallery_words, styles
from sdlora.ui.gallery import blend, grid, init_image, load_settings, mixer, report, shelf

KEY = "lora_unet_" + next(path for path in family_table("mini") if path.endswith("attn1.to_q")).replace(".", "_")
SIZE = next(shape for path, shape in family_table("mini").items() if path.endswith("attn1.to_q"))
FORM = {"prompt": "a house", "count": 2, "seed": 7, "base": "", "compare": True, "method": "sum", "every": 5, "negative": "",
        "sampler": "", "steps": 20, "guidance": 5, "width": None, "height": None, "board": None, "init_strength": 0.6}


def put(*names: str) -> None:
    """Small files on the shelf."""
    for number, name in enumerate(names):
        values = {f"{KEY}.lora_up.weight": np.full((SIZE[0], 1), 0.1 + number, np.float32),
                  f"{KEY}.lora_down.weight": np.ones((1, SIZE[1]), np.float32)}
        save_file(values, data_folder("loras") / f"{name}.safetensors", {"ss_output_name": name})


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    for module in (blend, grid):
        monkeypatch.setattr(module, "ensure_worker", lambda: None)


def row(name: str, **settings: object) -> dict:
    return mixer.row_for(search.find(name), **settings)


def asked(*rows: dict, **settings: object) -> list:
    return list(blend.Asked(desk=list(rows), **{**FORM, **settings}))


def queued() -> tuple[list[tuple[str, DrawConfig]], dict | None]:
    """The items of the newest draw, and its sheet."""
    folder = draws.draw_folder(Table().jobs("draw")[-1].target)
    return draws.items_of(folder), draws.sheet_of(folder)


def test_the_shelf_sends_a_page_of_cards_at_a_time(monkeypatch):
    put(*(f"style-{number}" for number in range(7)))
    monkeypatch.setattr(shelf, "PAGE", 3)
    first = shelf.shelf_data(most=3)
    assert len(first["cards"]) == 3 and first["more"]
    _, most = shelf.more("", "", "new", False, "", 3)
    assert most == 6 and len(shelf.shelf_data(most=9)["cards"]) == 7 and not shelf.shelf_data(most=9)["more"]
    assert [card["title"] for card in shelf.shelf_data("style-4")["cards"]] == ["style-4"]
    assert shelf.shelf_data("nothing")["none"] != shelf.shelf_data()["none"]


def test_styles_of_one_name_are_told_apart_on_shelf_and_desk_and_in_the_menu():
    put("ink", "wood", "sea")
    for name in ("ink", "wood"):
        edit.annotate(search.find(name).id, name="Öl <b>")
    meant = {"Öl <b> (ink)", "Öl <b> (wood)", "sea"}
    assert {card["title"] for card in shelf.shelf_data()["cards"]} == meant
    assert {title for title, _ in styles.newest()} == meant
    rows = [row(name) for name in ("ink", "wood")]
    assert {card["title"] for card in mixer.filled(rows).props["data"]["cards"].values()} == meant - {"sea"}
    assert [card["title"] for card in mixer.filled(rows[:1]).props["data"]["cards"].values()] == ["Öl <b>"]


def test_the_shelf_is_narrowed_to_a_tag_or_a_folder(tmp_path):
    put("one", "two")
    assert [value for _, value in shelf.places()] == [""], "with one folder and no tags there is nothing to choose"
    edit.annotate("one", tags=("trees", "a: b"))
    (tmp_path / "others").mkdir()
    (data_folder("loras") / "two.safetensors").rename(tmp_path / "others" / "two.safetensors")
    folder = folders.add_folder(tmp_path / "others").id
    assert {value for _, value in shelf.places()} == {"", "tag:trees", "tag:a: b", "folder:loras", f"folder:{folder}"}

    def titles(where: str) -> list[str]:
        return [card["title"] for card in shelf.show("", "", "name", False, where, 60).props["data"]["cards"]]

    assert titles("tag:a: b") == ["one"] and titles(f"folder:{folder}") == ["two"] and titles("") == ["one", "two"]
    assert titles("tag:none") == [] and titles("path:/etc") == ["one", "two"]
    assert shelf.show_places("tag:trees").value == "tag:trees" and shelf.show_places("tag:gone").value == ""


def test_the_desk_comes_back_with_the_page_less_what_is_gone():
    put("one", "two")
    left = [row("one", strength=0.4, text=0.2, on=False), {**row("two"), "id": "gone"}, {**row("two"), "strength": 99},
            row("two")]
    back = mixer.reopened(left)
    assert back.value == [left[0], left[3]] and set(back.props["data"]["cards"]) == {"one", "two"}
    for nothing in (None, [], "x", [3], [left[1]]):
        assert mixer.reopened(nothing).value == []


def test_rows_become_choices_in_their_order():
    put("one", "two", "three")
    rows = [row("two", strength=-0.5, text=0.25, start=0.2, end=0.8, blocks="style only"), row("one"), row("three", on=False)]
    found = mixer.rows_of(rows)
    assert [each.entry.id for each in found] == ["two", "one"]
    assert found[0].choice == LoraChoice(file=str(search.find("two").path), strength=-0.5, text_strength=0.25, start=0.2, end=0.8,
                                         blocks="style only")
    with pytest.raises(UserError, match="ends before it begins"):
        mixer.rows_of([row("one", start=0.8, end=0.2)])
    with pytest.raises(UserError):
        mixer.rows_of([row("one", strength=4.5)])


def test_the_base_is_drawn_too_where_that_is_wanted():
    put("one")
    blend.draw(*asked(row("one", strength=0.7)))
    (first, alone), (second, mixed) = queued()[0]
    assert (first, second) == blend.COMPARED and alone.loras == () and mixed.loras[0].strength == 0.7
    assert alone == mixed.model_copy(update={"loras": ()})


def test_names_in_the_prompt_join_the_desk():
    put("one", "two")
    blend.draw(*asked(row("one"), prompt="a house <lora:two:0.4>", compare=False, method="switch", every=3))
    ((_, config),) = queued()[0]
    assert config.prompts == ("a house",) and [choice.strength for choice in config.loras] == [1.0, 0.4]
    assert (config.method, config.switch_every) == ("switch", 3)
    with pytest.raises(UserError, match="three"):
        blend.draw(*asked(prompt="a house <lora:three:1>"))


def test_a_grid_is_one_job_with_its_sheet():
    put("one", "two")
    grid.draw("strength", "0, 1", "lora", "none | two", *asked(row("one")))
    items, sheet = queued()
    assert sorted(label for label, _ in items) == ["00-00", "00-01", "01-00", "01-01"]
    made = dict(items)
    assert [choice.strength for choice in made["01-01"].loras] == [1.0, 1.0] and len(made["00-01"].loras) == 1
    assert sheet["title"] == "a house" and [len(side["labels"]) for side in sheet["axes"]] == [2, 2]
    grid.draw_strip(*asked(row("one")))
    assert len(queued()[0]) == 5
    grid.draw_pairs(*asked(row("one")))
    assert len(queued()[0]) == 8
    with pytest.raises(UserError):
        grid.draw_pairs(*asked())
    with pytest.raises(UserError):
        grid.draw("", "", "seed", "1-3", *asked(row("one")))


def test_a_bad_value_costs_its_cells_and_is_told_when_the_grid_is_queued(monkeypatch):
    put("one", "two")
    warned = []
    monkeypatch.setattr(grid.gr, "Warning", warned.append)
    for x, values, y, rows, prompt, bad in (
            ("strength", "0, 1, 9", "seed", "1, 2", "a house", {"00-02", "01-02"}),
            ("lora", "none | two | <nope>", "", "", "a house", {"00-02"}),
            ("replace", "<lora:nope:1> | <lora:two:0.5>", "", "", "a house <lora:nope:1>", {"00-00"}),
            ("blocks", "style only | nope", "", "", "a house", {"00-01"})):
        grid.draw(x, values, y, rows, *asked(row("one"), prompt=prompt))
        items, sheet = queued()
        assert set(sheet["bad"]) == bad and not bad & {label for label, _ in items} and items
        assert "could not be drawn" in warned[-1] and "<nope>" not in warned[-1]
        assert sum(len(side["values"]) for side in sheet["axes"]) == sum(len(side["labels"]) for side in sheet["axes"])
    assert "strength must be" in warned[0] and "nope" in warned[1] and len(warned) == 4
    with pytest.raises(UserError, match="strength must be"):
        grid.draw("strength", "8, 9", "", "", *asked(row("one")))
    with pytest.raises(UserError, match="nope"):
        grid.draw("seed", "1, 2", "", "", *asked(row("one"), prompt="a house <lora:nope:1>"))


def test_what_the_measurement_says_is_told_in_names_and_numbers():
    put("one", "two")
    rows = [{"name": name, "push": push, "suggested": 0.5, "suggested_text": 0.4, "balanced": 0.6, "balanced_text": None}
            for name, push in (("one", 0.2), ("two", 0.8))]
    found = {"ids": ["one", "two"], "together": True, "rows": rows, "push": 0.9, "stretch": 2.0, "warning": "x",
             "pairs": [{"one": 0, "other": 1, "cosine": -0.5, "shared": 0.1, "blocks": {}}]}
    told = mixer.weighed(Answer("", "interference", "done", found, "", "", data_folder("questions")))
    assert told["pushes"]["one"]["text"] == "pushes 20%" and told["pushes"]["two"]["percent"] == 100
    assert any("one and two pull against each other (50%)" in line for line in told["lines"])
    assert told["suggested"] == {name: {"strength": 0.5, "text": 0.4} for name in ("one", "two")}
    assert told["balanced"] == {name: {"strength": 0.6, "text": None} for name in ("one", "two")}
    assert told["warning"].startswith("Together")
    apart = mixer.weighed(Answer("", "interference", "done", found | {"together": False}, "", "", data_folder("questions")))
    assert apart["warning"].startswith("One of these") and not any("Together" in line for line in apart["lines"])
    calm = found | {"warning": "", "pairs": []}
    calm = mixer.weighed(Answer("", "interference", "done", calm, "", "", data_folder("questions")))
    assert "warning" not in calm and "suggested" not in calm


def test_a_saved_blend_gets_a_picture_drawn_with_it_as_its_cover(tmp_path):
    put("one", "two")
    loras = mixer.blended({"rows": [row("one")], "method": "sum", "name": "Blend", "way": "svd 16"})
    assert (loras["method"], loras["rank"], loras["name"]) == ("svd", 16, "Blend")
    picture = draws.picture_path("20260101-000000-abcdef-000")
    Image.new("RGB", (64, 64), "teal").save(data_folder("pictures", "2026-01-01") / picture.name)
    write_json(picture.with_suffix(".json"), {"item": "blend", "settings": {"loras": loras["loras"]}})
    search.find("two").path.rename(data_folder("questions", "made") / "blend.safetensors")
    found = {"file": "blend.safetensors", "name": "Blend", "loras": loras["loras"], "together": False, "energy": 0.987,
             "notes": ["A note."]}
    told = mixer.kept(Answer("", "save", "done", found, "", "", data_folder("questions", "made")))
    assert "98.7%" in told["text"] and told["text"].endswith("A note.") and gallery_words.SAVED_AS_SUM in told["text"]
    with Image.open(search.find("blend").thumbnail) as cover:
        assert cover.getpixel((1, 1)) == (0, 128, 128)


def test_a_painted_mask_comes_back_as_painted(tmp_path):
    kept = draws.save_input(Image.new("RGB", (64, 64), "teal"))
    mask = Image.new("L", (64, 64))
    mask.paste(255, (32, 0, 64, 64))
    held = io.BytesIO()
    mask.save(held, "PNG")
    found = init_image.inputs_of({"id": kept, "mask": init_image.MASK + base64.b64encode(held.getvalue()).decode()})
    with Image.open(found["mask"]) as image:
        assert image.getpixel((40, 3)) == 255 and image.getpixel((3, 40)) == 0
    assert init_image.inputs_of({"id": kept, "mask": ""}) == {"init": str(draws.input_path(kept))}
    assert init_image.inputs_of(None) == {}
    for wrong in ({"id": "../x", "mask": ""}, {"id": kept, "mask": "data:image/png;base64,%%%"}, {"id": kept, "mask": "aGk="}):
        with pytest.raises(UserError):
            init_image.inputs_of(wrong)


def test_the_settings_of_a_picture_fill_form_and_desk(tmp_path):
    put("one")
    loras = [{"name": "one", "strength": 0.6, "hash": ""}, {"name": "gone", "strength": 1, "hash": "0" * 12}]
    settings = {"prompt": "a boat", "negative": "fog", "seed": 9, "sampler": "Euler a", "steps": 12, "guidance": 4.0,
                "width": 128, "height": 128}
    write_picture(tmp_path / "drawn.png", Image.new("RGB", (128, 128)), {**settings, "loras": loras})
    rows, prompt, _, *values, notes, _ = load_settings.taken(tmp_path / "drawn.png")
    assert prompt == "a boat" and dict(zip(load_settings.FIELDS, values, strict=True)) == {
        key: value for key, value in settings.items() if key != "prompt"} | {"method": "sum"}
    assert isinstance(rows, gr.HTML) and [each.choice.strength for each in mixer.rows_of(rows.value)] == [0.6]
    assert any("gone" in sentence for sentence in notes.props["data"]["notes"])


def test_what_a_picture_does_not_tell_stays_in_the_form(tmp_path, monkeypatch):
    info = PngInfo()
    info.add_text("parameters", "None\nNegative prompt: None\n"
                  "Steps: 8, Seed: 18446744073709551615, Sampler: Restart, Size: 70x64")
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    _, prompt, every, *values, notes, _ = load_settings.taken(tmp_path / "x.png")
    told = dict(zip(load_settings.FIELDS, values, strict=True))
    assert prompt == every == gr.skip()
    assert [told.pop(key) for key in ("steps", "method", "height")] == [8, "sum", 64]
    assert all(value == gr.skip() for value in told.values())
    assert notes.props["data"]["notes"][1] == "The picture tells no prompt."
    assert "18446744073709551615" in notes.props["data"]["notes"][2] and "Restart" in notes.props["data"]["notes"][2]
    info = PngInfo()
    info.add_text("parameters", '{"sui_image_params": {')
    Image.new("RGB", (64, 64)).save(tmp_path / "x.png", pnginfo=info)
    said = []
    monkeypatch.setattr(gr, "Warning", said.append)
    monkeypatch.setattr(load_settings, "uploads", lambda files: files)
    *kept, notes, drop = load_settings.recall(tmp_path / "x.png")
    assert all(value == gr.skip() for value in kept) and len(kept) == len(load_settings.FIELDS) + 3
    assert notes.props["data"] == {"notes": []} and drop is None, "the next picture can be dropped at once"
    assert len(said) == 1 and "SwarmUI" in said[0]


def test_notes_of_the_artist_are_kept():
    put("one")
    assert report.keep_facts(["one", {"name": "Uno", "trigger": "unostyle", "tags": "a, b,, c", "notes": "n"}]) == {}
    entry = search.find("one")
    assert (entry.name, entry.trigger, entry.tags, entry.notes) == ("Uno", "unostyle", ("a", "b", "c"), "n")
    assert "name" in report.keep_facts(["one", {"name": ""}])["problem"]
