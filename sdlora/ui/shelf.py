"""The shelf on the page: cards that are searched, sorted, starred, downloaded and deleted, a page of them at a time.

Knows nothing about blending: what is chosen goes to the mixing desk inside the browser. library/index.py keeps the files.
"""

from dataclasses import dataclass

import gradio as gr

from sdlora.library import index
from sdlora.ui import gallery_words, report, words
from sdlora.ui.guard import QUIET, an_id, fields, guarded, one_of, text, uploads, whole
from sdlora.ui.look import shown, widget
from sdlora.ui.strip import download_copy

COVER = 256
PAGE = 60
MOST = 3000
EVENTS = ("select", "delete", "expand", "favourite", "undo", "noted")
CLICK = """() => setTimeout(() => {
    const button = document.querySelector('#shelf-fetch');
    (button.querySelector('a, button') || button).click();
}, 150)"""


@dataclass(frozen=True)
class Shelf:
    """`looking`: what decides which cards are seen, in the order that `show` takes them."""

    cards: gr.HTML
    upload: gr.File
    fetch: gr.DownloadButton
    query: gr.Textbox
    family: gr.Dropdown
    sort: gr.Dropdown
    starred: gr.Checkbox
    most: gr.State

    @property
    def looking(self) -> list:
        return [self.query, self.family, self.sort, self.starred, self.most]


def layout() -> Shelf:
    with gr.Row(elem_id="shelf-tools"):
        query = gr.Textbox(
            show_label=False, placeholder=gallery_words.SEARCH, max_length=200, scale=4, min_width=220, elem_id="shelf-search"
        )
        families = [(gallery_words.ALL_FAMILIES, ""), *((title, key) for key, title in words.FAMILIES.items())]
        family = gr.Dropdown(families, value="", show_label=False, scale=2, min_width=150, elem_id="shelf-family")
        sorts = [(title, key) for key, title in gallery_words.SORTS.items()]
        sort = gr.Dropdown(sorts, value="new", show_label=False, scale=2, min_width=150, elem_id="shelf-sort")
        starred = gr.Checkbox(label=gallery_words.STARRED, scale=1, min_width=120, container=False, elem_id="shelf-starred")
    cards = widget(
        "shelf",
        "element, props, trigger, server",
        elem_id="shelf",
        events=EVENTS,
        server_functions=report.SERVER,
    )
    fetch = gr.DownloadButton(gallery_words.DOWNLOAD, elem_id="shelf-fetch", elem_classes="unseen")
    upload = gr.File(
        label=gallery_words.UPLOAD_STYLE,
        file_types=[".safetensors"],
        file_count="multiple",
        type="filepath",
        height=136,
        elem_id="shelf-upload",
    )
    return Shelf(cards, upload, fetch, query, family, sort, starred, gr.State(PAGE))


def connect(shelf: Shelf) -> None:
    look = {"trigger_mode": "always_last", **QUIET}
    shelf.query.input(guarded(first_page), shelf.looking, [shelf.cards, shelf.most], **look)
    for part in (shelf.family, shelf.sort, shelf.starred):
        part.input(guarded(first_page), shelf.looking, [shelf.cards, shelf.most], **look)
    shelf.cards.expand(guarded(more), shelf.looking, [shelf.cards, shelf.most], **QUIET)
    shelf.cards.noted(guarded(show), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.delete(guarded(remove), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.undo(guarded(undo), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.favourite(guarded(star), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.select(guarded(fetch), None, shelf.fetch, **QUIET).success(None, js=CLICK)
    adding = {"show_progress_on": shelf.upload, "api_visibility": "private"}
    shelf.upload.upload(guarded(add), [shelf.upload, *shelf.looking], [shelf.cards, shelf.upload], **adding)


def card_of(entry: index.LoraEntry) -> dict:
    """What gallery.js draws of one file, on the shelf and on the desk."""
    kind = gallery_words.KIND_RANK.format(kind=entry.kind, rank=entry.rank) if entry.rank else entry.kind
    line = (words.FAMILIES.get(entry.family, entry.family), kind, gallery_words.MEGABYTES.format(size=entry.file_bytes / 1e6))
    return {
        "id": entry.id,
        "title": entry.name,
        "trigger": entry.trigger,
        "line": " · ".join(part for part in line if part),
        "src": shown(entry.thumbnail, COVER) if entry.thumbnail else "",
        "starred": entry.favourite,
        "problem": entry.problem,
    }


def shelf_data(query: str = "", family: str = "", sort: str = "new", starred: bool = False, most: int = PAGE) -> dict:
    """What gallery.js draws of the shelf: the first `most` files that match, and whether there are more."""
    found = index.list_loras(query, family=family, favourite=starred, sort=sort, limit=most + 1)
    narrowed, state = bool(query or family or starred), index.state()
    unread = gallery_words.READING_SHELF.format(unread=state.unread, files=state.files)
    return {
        "cards": [card_of(entry) for entry in found[:most]],
        "more": gallery_words.MORE_STYLES if len(found) > most else "",
        "none": gallery_words.NO_MATCH if narrowed else gallery_words.NO_STYLES,
        "reading": unread if state.unread and state.busy else "",
        "words": gallery_words.SHELF,
    }


def show(*looking: object, undo: dict | None = None) -> gr.HTML:
    """The shelf as it is now. `looking`: words, family, sort, starred only, how many; `undo`: what can be brought back."""
    query, family, sort, starred, most = looking or ("", "", "new", False, PAGE)
    family, sort = one_of(family, ["", *words.FAMILIES]), one_of(sort, gallery_words.SORTS)
    found = shelf_data(text(query, 200), family, sort, starred is True, whole(most, 1, MOST, words.TAB_GALLERY))
    return gr.HTML(data=found | {"undo": undo})


def first_page(*looking: object) -> tuple:
    return show(*looking[:4], PAGE), PAGE


def more(*looking: object) -> tuple:
    most = min(whole(looking[-1], 1, MOST, words.TAB_GALLERY) + PAGE, MOST)
    return show(*looking[:4], most), most


def asked(event: gr.EventData) -> str:
    return an_id(fields(event._data).get("id"), "style")


def remove(query: object, family: object, sort: object, starred: object, most: object, event: gr.EventData) -> gr.HTML:
    """Take a file off the shelf; the shelf then offers to bring it back."""
    entry = index.find(asked(event))
    index.delete(entry.id)
    gone = {"id": entry.id, "text": gallery_words.DELETED_STYLE.format(name=entry.name)}
    return show(query, family, sort, starred, most, undo=gone)


def undo(query: object, family: object, sort: object, starred: object, most: object, event: gr.EventData) -> gr.HTML:
    index.undo_delete(asked(event))
    return show(query, family, sort, starred, most)


def star(query: object, family: object, sort: object, starred: object, most: object, event: gr.EventData) -> gr.HTML:
    """Turn the star of a file on or off."""
    entry = index.find(asked(event))
    index.annotate(entry.id, favourite=not entry.favourite)
    return show(query, family, sort, starred, most)


def add(files: object, *looking: object) -> tuple:
    """Put files on the shelf; each is read and checked first."""
    for file in uploads(files) if files else []:
        index.add(file, file.stem)
    return show(*looking), None


def fetch(event: gr.EventData) -> gr.DownloadButton:
    """A copy of a style file, or of what was made of it, for the browser; gallery.js presses the button when it is there."""
    made = fields(event._data).get("made")
    return gr.DownloadButton(value=download_copy(report.made(made) if made else index.find(asked(event)).path))
