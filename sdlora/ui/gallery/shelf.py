"""The LoRA files on the page: cards that are searched, sorted, starred, downloaded and deleted, a page of them at a time.

Knows nothing about blending: what is chosen goes to the mixer inside the browser. library/ keeps the files.
"""

import html
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr

from sdlora.errors import UserError
from sdlora.families import FAMILIES, family_title
from sdlora.library import edit, folders, search
from sdlora.ui import polling, words
from sdlora.ui.gallery import report
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, an_id, event_value, guarded, one_of, text, uploads, whole_number

COVER = 256
PAGE = 60
MOST = 3000
MOST_TAGS = 200
EVENTS = ("select", "delete", "expand", "favourite", "undo", "noted")
CLICK = """() => setTimeout(() => {
    const button = document.querySelector('#shelf-fetch');
    (button.querySelector('a, button') || button).click();
}, 150)"""


@dataclass(frozen=True)
class Shelf:
    """`filters`: what decides which cards are seen, in the order that `show` takes them."""

    cards: gr.HTML
    upload: gr.File
    fetch: gr.DownloadButton
    query: gr.Textbox
    family: gr.Dropdown
    sort: gr.Dropdown
    starred: gr.Checkbox
    place: gr.Dropdown
    most: gr.State

    @property
    def filters(self) -> list:
        return [self.query, self.family, self.sort, self.starred, self.place, self.most]


def layout() -> Shelf:
    with gr.Row(elem_id="shelf-tools"):
        query = gr.Textbox(
            show_label=False, placeholder=words.SEARCH, max_length=200, scale=4, min_width=220, elem_id="shelf-search"
        )
        families = [(words.ALL_FAMILIES, ""), *((family.title, key) for key, family in FAMILIES.items())]
        family = gr.Dropdown(families, value="", show_label=False, scale=2, min_width=150, elem_id="shelf-family")
        sorts = [(title, key) for key, title in words.SORTS.items()]
        sort = gr.Dropdown(sorts, value="new", show_label=False, scale=2, min_width=150, elem_id="shelf-sort")
        place = gr.Dropdown(
            places(), value="", show_label=False, scale=2, min_width=150, visible=len(places()) > 1, elem_id="shelf-place"
        )
        starred = gr.Checkbox(label=words.STARRED, scale=1, min_width=120, container=False, elem_id="shelf-starred")
    cards = widget(
        "shelf",
        "element, props, trigger, server",
        elem_id="shelf",
        events=EVENTS,
        server_functions=report.SERVER,
    )
    fetch = gr.DownloadButton(words.DOWNLOAD, elem_id="shelf-fetch", elem_classes="unseen")
    upload = gr.File(
        label=words.UPLOAD_LORA,
        file_types=[".safetensors"],
        file_count="multiple",
        type="filepath",
        height=136,
        elem_id="shelf-upload",
    )
    gr.Markdown(words.ADD_FOLDER, elem_classes="quiet")
    return Shelf(cards, upload, fetch, query, family, sort, starred, place, gr.State(PAGE))


def places() -> list[tuple[str, str]]:
    """Return (title, value) of the tags and the folders that the shelf can be narrowed to; "" stands for all."""
    return polling.shared_list(("places",), all_places)


def all_places() -> list[tuple[str, str]]:
    every = folders.list_folders()
    tags = [(words.PLACE_TAG.format(tag=tag), f"tag:{tag}") for tag, _ in search.tags()[:MOST_TAGS]]
    known = [(words.PLACE_FOLDER.format(folder=each.title), f"folder:{each.id}") for each in every]
    return [(words.ALL_PLACES, ""), *tags, *(known if len(every) > 1 else [])]


def show_places(chosen: Any) -> gr.Dropdown:
    """Return the menu of tags and folders as they are now; what is chosen stays while it is one of them."""
    listed = places()
    value = chosen if any(chosen == key for _, key in listed) else ""
    return gr.Dropdown(choices=listed, value=value, visible=len(listed) > 1)


def connect(shelf: Shelf) -> None:
    filtering: Any = {"trigger_mode": "always_last", **ACTION}
    # not input: Gradio fires that for keys only, and words are pasted and cut too
    shelf.query.change(guarded(first_page), shelf.filters, [shelf.cards, shelf.most], **filtering)
    for part in (shelf.family, shelf.sort, shelf.starred, shelf.place):
        part.input(guarded(first_page), shelf.filters, [shelf.cards, shelf.most], **filtering)
    shelf.cards.expand(guarded(more), shelf.filters, [shelf.cards, shelf.most], **ACTION)
    shelf.cards.noted(guarded(show), shelf.filters, shelf.cards, **ACTION)
    shelf.cards.noted(guarded(show_places), shelf.place, shelf.place, **ACTION)
    shelf.cards.delete(guarded(remove), shelf.filters, shelf.cards, **ACTION)
    shelf.cards.undo(guarded(undo), shelf.filters, shelf.cards, **ACTION)
    shelf.cards.favourite(guarded(star), shelf.filters, shelf.cards, **ACTION)
    shelf.cards.select(guarded(fetch), None, shelf.fetch, **ACTION).success(None, js=CLICK)
    adding = {"show_progress_on": shelf.upload, "api_visibility": "private"}
    shelf.upload.upload(guarded(add), [shelf.upload, *shelf.filters], [shelf.cards, shelf.upload], **adding)


def cards_of(entries: Sequence[search.LoraEntry]) -> list[dict]:
    """Return what gallery.js draws of files beside each other, on the shelf and in the mixer."""
    return [card_of(entry, title) for entry, title in zip(entries, search.titles(entries), strict=True)]


def card_of(entry: search.LoraEntry, title: str) -> dict:
    kind = words.KIND_RANK.format(kind=entry.kind, rank=entry.rank) if entry.rank else entry.kind
    line = (family_title(entry.family), kind, words.MEGABYTES.format(size=entry.file_bytes / 1e6))
    return {
        "id": entry.id,
        "title": title,
        "trigger": entry.trigger,
        "line": " · ".join(part for part in line if part),
        "src": picture_url(entry.thumbnail, COVER) if entry.thumbnail else "",
        "starred": entry.favourite,
        "weight": entry.weight or 1.0,
        "problem": entry.problem,
    }


def shelf_data(query: str = "", sort: str = "new", most: int = PAGE, **only: Any) -> dict:
    """Return what gallery.js draws of the shelf: the first `most` files that match; `only`: as list_loras takes it."""
    return polling.shared_list(("shelf", query, sort, most, *sorted(only.items())), lambda: read_shelf(query, sort, most, only))


def read_shelf(query: str, sort: str, most: int, only: dict[str, Any]) -> dict:
    found = search.list_loras(query, sort=sort, limit=most + 1, **only)
    narrowed, state = bool(query or any(only.values())), search.state()
    unread = words.READING_SHELF.format(unread=state.unread, files=state.files)
    return {
        "cards": cards_of(found[:most]),
        "more": words.MORE_LORAS if len(found) > most else "",
        "none": words.NO_MATCH if narrowed else words.NO_LORAS,
        "reading": unread if state.unread and state.busy else "",
        "words": words.SHELF,
        "stamp": polling.shelf_version() if state.unread and state.busy else "",
    }


def show(*filters: Any, undo: dict | None = None) -> gr.HTML:
    """Return the shelf as it is now. filters: as `Shelf.filters`; undo: a file that can be brought back."""
    query, family, sort, starred, place, most = filters or ("", "", "new", False, "", PAGE)
    family, sort = one_of(family, ["", *FAMILIES]), one_of(sort, words.SORTS)
    only = {"family": family, "favourite": starred is True, **place_filter(place)}
    found = shelf_data(text(query, 200), sort, whole_number(most, 1, MOST, words.TAB_GALLERY), **only)
    return gr.HTML(data=found | {"undo": undo})


def place_filter(place: Any) -> dict[str, str]:
    """Return what list_loras takes for a value of `places`."""
    kind, _, value = text(place, 300).partition(":")
    return {kind: value} if kind in ("tag", "folder") else {}


def first_page(*filters: Any) -> tuple:
    return show(*filters[:-1], PAGE), PAGE


def more(*filters: Any) -> tuple:
    most = min(whole_number(filters[-1], 1, MOST, words.TAB_GALLERY) + PAGE, MOST)
    return show(*filters[:-1], most), most


def remove(event: gr.EventData, *filters: Any) -> gr.HTML:
    """Remove a file from the shelf, which then offers to bring it back."""
    entry = lora_of(event)
    edit.delete(entry.id)
    sentence = words.DELETED_LORA if entry.folder == folders.OWN else words.HIDDEN_LORA
    return show(*filters, undo={"id": entry.id, "text": sentence.format(name=entry.name)})


def undo(event: gr.EventData, *filters: Any) -> gr.HTML:
    edit.undo_delete(an_id(event_value(event, "id"), "LoRA"))
    return show(*filters)


def star(event: gr.EventData, *filters: Any) -> gr.HTML:
    """Turn the star of a file on or off."""
    entry = lora_of(event)
    edit.annotate(entry.id, favourite=not entry.favourite)
    return show(*filters)


def add(files: Any, *filters: Any) -> tuple:
    """Put files on the shelf, each read and checked first. A file that is refused keeps no other out, and leaves the box."""
    for file in uploads(files) if files else []:
        try:
            edit.add(file, file.stem)
        except UserError as error:
            gr.Warning(html.escape(str(error)))
    return show(*filters), None


def fetch(event: gr.EventData) -> gr.DownloadButton:
    """Return a copy of a LoRA, or of what was made of it, for the browser; `CLICK` presses the button when it is there."""
    made = event_value(event, "made")
    return gr.DownloadButton(value=download_copy(report.converted_file(made) if made else lora_of(event).path))


def lora_of(event: gr.EventData) -> search.LoraEntry:
    """Return the file an event names."""
    return search.find(an_id(event_value(event, "id"), "LoRA"))


def download_copy(file: Path) -> str:
    """Copy a file into our scratch folder, under the artist's file name: files of the data folder are never served."""
    folder = Path(tempfile.mkdtemp(prefix="download-", dir=os.environ.get("GRADIO_TEMP_DIR")))
    return str(shutil.copy(file, folder / file.name))
