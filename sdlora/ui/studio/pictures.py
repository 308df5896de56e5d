"""Act 1: picture sets. Files in, thumbnails with captions out; everything is saved as it is dropped and typed."""

import html
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sdlora.dataset import sets, upload
from sdlora.dataset.captions import CAPTION_SUFFIXES, resolve_caption
from sdlora.dataset.metadata import TABLE_SUFFIXES
from sdlora.dataset.picture import PICTURE_SUFFIXES
from sdlora.storage import read_json, shipped
from sdlora.ui import words
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, EMPTIED, Updates, an_id, event_value, guarded, guarded_server, text, uploads

FILE_TYPES = [*PICTURE_SUFFIXES, ".zip", *CAPTION_SUFFIXES, *TABLE_SUFFIXES]
THUMBNAIL = 256


@dataclass(frozen=True)
class Pictures:
    """The parts of act 1 that others listen to."""

    menu: gr.Dropdown
    name: gr.Textbox
    grid: gr.HTML
    count: gr.Markdown
    default: gr.Textbox
    notes: gr.HTML
    drop: gr.File

    @property
    def outputs(self) -> list:
        """What `show` updates."""
        return [self.menu, self.name, self.default, self.grid, self.count, self.notes]


def layout() -> Pictures:
    """Build the act and connect what concerns only itself."""
    with gr.Column(elem_classes="act", elem_id="act-pictures"):
        gr.Markdown(f"## {words.PICTURES}\n\n{words.PICTURES_LEAD}")
        with gr.Row(elem_classes="row-end"):
            menu = gr.Dropdown([], label=words.SET, scale=2, elem_id="set-menu")
            name = gr.Textbox(label=words.SET_NAME, max_length=80, scale=2, elem_id="set-name")
            new = gr.Button(words.NEW_SET, scale=0, min_width=100)
            delete = gr.Button(words.DELETE_SET, scale=0, min_width=110)
        files: Any = {"file_count": "multiple", "file_types": FILE_TYPES, "type": "filepath"}
        drop = gr.File(label=words.DROP, height=132, elem_id="drop", **files)
        examples = example_sets()
        if examples:
            gr.Markdown(words.EXAMPLES, elem_classes="quiet")
            with gr.Row(elem_id="examples"):
                buttons = [gr.Button(title(folder), size="sm", scale=0, min_width=150) for folder in examples]
        notes = widget("notes", elem_id="set-notes")
        count = gr.Markdown(words.NO_PICTURES, elem_classes="quiet", elem_id="set-count")
        grid = widget("captions", "element, props, server, trigger", elem_id="captions", server_functions=[save_caption])
        default = gr.Textbox(
            label=words.DEFAULT_CAPTION, info=words.DEFAULT_CAPTION_INFO, max_length=2000, elem_id="default-caption"
        )
    act = Pictures(menu, name, grid, count, default, notes, drop)
    for folder, button in zip(examples, buttons if examples else [], strict=True):
        button.click(guarded(from_example(folder.name)), None, act.outputs, **ACTION)
    connect(act, new, delete)
    return act


def connect(act: Pictures, new: gr.Button, delete: gr.Button) -> None:
    """Connect the handlers: each changes the store and shows the set as the store now has it."""
    act.drop.upload(
        guarded(add),
        [act.menu, act.drop],
        [*act.outputs, act.drop],
        show_progress_on=act.drop,
        api_visibility="private",
        concurrency_limit=4,
    ).then(outputs=act.drop, **EMPTIED)
    act.menu.input(guarded(open_set), act.menu, act.outputs, **ACTION)
    act.name.blur(guarded(rename), [act.menu, act.name], [act.menu, act.name], **ACTION)
    act.name.submit(guarded(rename), [act.menu, act.name], [act.menu, act.name], **ACTION)
    act.default.input(guarded(set_default), [act.menu, act.default], act.grid, trigger_mode="always_last", **ACTION)
    act.default.blur(guarded(leave_default), [act.menu, act.default], act.grid, **ACTION)  # pasted or cut is not typed
    act.grid.delete(guarded(remove), act.menu, act.outputs, **ACTION)
    act.notes.delete(guarded(clear_notes), act.menu, act.notes, **ACTION)
    new.click(guarded(create), None, act.outputs, **ACTION)
    delete.click(guarded(delete_set), act.menu, act.outputs, js=f"(id) => confirm({words.SET_SURE!r}) ? id : null", **ACTION)


def example_sets() -> list[Path]:
    """Return the folders of assets/examples."""
    folder = shipped("assets", "examples")
    return sorted(path.parent for path in folder.glob("*/set.json"))


def title(folder: Path) -> str:
    facts: Any = read_json(folder / "set.json")
    return facts["title"]


def load(opened: Any) -> tuple:
    """Return updates of a page that loads: the set that this browser had open, else the newest."""
    known = [one.id for one in sets.list_sets()]
    return show(opened if opened in known else next(iter(known), None))


def show(set_id: str | None) -> tuple:
    """Return updates for `Pictures.outputs`: the set with this id, or none."""
    every = sets.list_sets()
    chosen = next((one for one in every if one.id == set_id), None)
    menu = gr.Dropdown(choices=[(one.title, one.id) for one in every], value=chosen.id if chosen else None)
    if chosen is None:
        closed = gr.Textbox(value="", interactive=False)
        return menu, closed, closed, gr.HTML(data={}), words.NO_PICTURES, gr.HTML(data={})
    grid = grid_of(chosen)
    amount = len(grid["pictures"])
    lines = [html.escape(chosen.sentence)] if chosen.sentence else []
    lines += [words.COUNT_ONE if amount == 1 else words.COUNT.format(count=amount)] if amount else [words.NO_PICTURES]
    if 0 < amount < 8:
        lines.append(words.FEW.format(count=amount))
    return (
        menu,
        gr.Textbox(value=chosen.title, interactive=True),
        gr.Textbox(value=chosen.default_caption, interactive=True),
        gr.HTML(data=grid),
        "  \n".join(lines),
        gr.HTML(data=notes_of(chosen)),
    )


def notes_of(chosen: sets.PictureSet) -> dict:
    """Return the list under the drop area: what was left out and why, and what else is worth knowing."""
    return {
        "title": words.SKIPPED.format(count=len(chosen.skipped)) if chosen.skipped else "",
        "items": [one.reason for one in chosen.skipped],
        "clear": words.CLEAR_SKIPPED,
        "notes": list(chosen.notes),
    }


def grid_of(chosen: sets.PictureSet) -> dict:
    """Return what page.js draws of a set: thumbnails upright, the trained square as fractions, captions."""
    return {
        "set": chosen.id,
        "words": {
            "empty": words.CAPTION_EMPTY,
            "caption": words.CAPTION,
            "saved": words.CAPTION_SAVED,
            "remove": words.REMOVE_PICTURE,
            "unsaved": words.NOT_SAVED,
        },
        "pictures": [card(chosen, picture) for picture in chosen.pictures],
    }


def card(chosen: sets.PictureSet, picture: sets.SetPicture) -> dict:
    width, height = picture.width, picture.height
    left, top, right, bottom = picture.box
    return {
        "id": picture.id,
        "name": picture.name,
        "caption": picture.caption,
        "width": width,
        "height": height,
        "fallback": resolve_caption(None, picture.name, chosen.default_caption) or words.CAPTION_EMPTY,
        "src": picture_url(picture.thumbnail, THUMBNAIL),
        "crop": [left / width, top / height, right / width, bottom / height],
    }


def add(set_id: Any, files: Any) -> Updates:
    """Put files dropped on the page into the open set, or into a new one."""
    if not files:
        return gr.skip()
    found = uploads(files)
    chosen = an_id(set_id, "set") if set_id else sets.create(words.FIRST_SET).id
    upload.add_pictures(chosen, found)
    return (*show(chosen), None)


def open_set(set_id: Any) -> tuple:
    return show(an_id(set_id, "set"))


def create() -> tuple:
    return show(sets.create(words.FIRST_SET).id)


def from_example(name: str) -> Callable[[], tuple]:
    """Return the handler of an example's button: the set is made once, then opened again."""

    def handler() -> tuple:
        folder = next(folder for folder in example_sets() if folder.name == name)
        return show(upload.from_example(folder).id)

    return handler


def rename(set_id: Any, name: Any) -> Updates:
    if not set_id:
        return gr.skip()
    chosen, wanted = an_id(set_id, "set"), text(name, 80)
    if wanted:
        sets.rename(chosen, wanted)
    return show(chosen)[:2]


def set_default(set_id: Any, caption: Any) -> object:
    chosen = an_id(set_id, "set")
    sets.set_settings(chosen, default_caption=text(caption))
    return show(chosen)[3]


def leave_default(set_id: Any, caption: Any) -> object:
    """As `set_default` when the field was left; no error where no set is open."""
    return set_default(set_id, caption) if set_id else gr.skip()


def remove(set_id: Any, event: gr.EventData) -> tuple:
    chosen = an_id(set_id, "set")
    sets.remove_picture(chosen, an_id(event_value(event, "id"), "picture"))
    return show(chosen)


def clear_notes(set_id: Any) -> object:
    """Forget the list of what was left out: it has been read."""
    chosen = an_id(set_id, "set")
    sets.forget_skipped(chosen)
    return gr.HTML(data={})


def delete_set(set_id: Any) -> Updates:
    if set_id is None:
        return gr.skip()
    sets.delete(an_id(set_id, "set"))
    return load(None)


@guarded_server
def save_caption(data: Any) -> dict:
    """Save a caption for page.js while the artist types: [set id, picture id, caption]."""
    set_id, picture, caption = data if isinstance(data, list) and len(data) == 3 else (None, None, None)
    sets.set_caption(an_id(set_id, "set"), an_id(picture, "picture"), text(caption))
    return {}
