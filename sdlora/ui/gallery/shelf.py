"""The shelf on the page: cards that are searched, sorted, starred, downloaded and deleted, a page of them at a time.

Knows nothing about blending: what is chosen goes to the mixing desk inside the browser. library/ keeps the files.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import gradio as gr

from sdlora.families import FAMILIES, family_title
from sdlora.library import edit, search
from sdlora.library.folders import OWN, list_folders
from sdlora.ui import gallery_words, lists, words
from sdlora.ui.gallery import report
from sdlora.ui.runs.strip import download_copy
from sdlora.ui.theme import shown, widget
from sdlora.ui.validation import QUIET, an_id, fields, guarded, one_of, text, uploads, whole

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
    """`looking`: what decides which cards are seen, in the order that `show` takes them."""

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
    def looking(self) -> list:
        return [self.query, self.family, self.sort, self.starred, self.place, self.most]


def layout() -> Shelf:
    with gr.Row(elem_id="shelf-tools"):
        query = gr.Textbox(
            show_label=False, placeholder=gallery_words.SEARCH, max_length=200, scale=4, min_width=220, elem_id="shelf-search"
        )
        families = [(gallery_words.ALL_FAMILIES, ""), *((family.title, family.key) for family in FAMILIES.values())]
        family = gr.Dropdown(families, value="", show_label=False, scale=2, min_width=150, elem_id="shelf-family")
        sorts = [(title, key) for key, title in gallery_words.SORTS.items()]
        sort = gr.Dropdown(sorts, value="new", show_label=False, scale=2, min_width=150, elem_id="shelf-sort")
        place = gr.Dropdown(
            places(), value="", show_label=False, scale=2, min_width=150, visible=len(places()) > 1, elem_id="shelf-place"
        )
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
    gr.Markdown(gallery_words.ADD_FOLDER, elem_classes="quiet")
    return Shelf(cards, upload, fetch, query, family, sort, starred, place, gr.State(PAGE))


def places() -> list[tuple[str, str]]:
    """(title, value) of the tags and the folders that the shelf can be narrowed to; nothing is narrowed by ""."""
    return lists.shared(("places",), all_places)


def all_places() -> list[tuple[str, str]]:
    folders = list_folders()
    tags = [(gallery_words.PLACE_TAG.format(tag=tag), f"tag:{tag}") for tag, _ in search.tags()[:MOST_TAGS]]
    known = [(gallery_words.PLACE_FOLDER.format(folder=each.title), f"folder:{each.id}") for each in folders]
    return [(gallery_words.ALL_PLACES, ""), *tags, *(known if len(folders) > 1 else [])]


def show_places(chosen: object) -> gr.Dropdown:
    """The menu of tags and folders as they are now; what is chosen stays while it is one of them."""
    listed = places()
    value = chosen if any(chosen == key for _, key in listed) else ""
    return gr.Dropdown(choices=listed, value=value, visible=len(listed) > 1)


def connect(shelf: Shelf) -> None:
    look = {"trigger_mode": "always_last", **QUIET}
    # not input: Gradio fires that for keys only, and words are pasted and cut too
    shelf.query.change(guarded(first_page), shelf.looking, [shelf.cards, shelf.most], **look)
    for part in (shelf.family, shelf.sort, shelf.starred, shelf.place):
        part.input(guarded(first_page), shelf.looking, [shelf.cards, shelf.most], **look)
    shelf.cards.expand(guarded(more), shelf.looking, [shelf.cards, shelf.most], **QUIET)
    shelf.cards.noted(guarded(show), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.noted(guarded(show_places), shelf.place, shelf.place, **QUIET)
    shelf.cards.delete(guarded(remove), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.undo(guarded(undo), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.favourite(guarded(star), shelf.looking, shelf.cards, **QUIET)
    shelf.cards.select(guarded(fetch), None, shelf.fetch, **QUIET).success(None, js=CLICK)
    adding = {"show_progress_on": shelf.upload, "api_visibility": "private"}
    shelf.upload.upload(guarded(add), [shelf.upload, *shelf.looking], [shelf.cards, shelf.upload], **adding)


def cards_of(entries: Sequence[search.LoraEntry]) -> list[dict]:
    """What gallery.js draws of files beside each other, on the shelf and on the desk."""
    return [card_of(entry, title) for entry, title in zip(entries, search.titles(entries), strict=True)]


def card_of(entry: search.LoraEntry, title: str) -> dict:
    kind = gallery_words.KIND_RANK.format(kind=entry.kind, rank=entry.rank) if entry.rank else entry.kind
    line = (family_title(entry.family), kind, gallery_words.MEGABYTES.format(size=entry.file_bytes / 1e6))
    return {
        "id": entry.id,
        "title": title,
        "trigger": entry.trigger,
        "line": " · ".join(part for part in line if part),
        "src": shown(entry.thumbnail, COVER) if entry.thumbnail else "",
        "starred": entry.favourite,
        "weight": entry.weight or 1.0,
        "problem": entry.problem,
    }


def shelf_data(query: str = "", sort: str = "new", most: int = PAGE, **only: object) -> dict:
    """What gallery.js draws of the shelf: the first `most` files that match, whether there are more; `only`: as list_loras."""
    return lists.shared(("shelf", query, sort, most, *sorted(only.items())), lambda: read_shelf(query, sort, most, only))


def read_shelf(query: str, sort: str, most: int, only: dict[str, object]) -> dict:
    found = search.list_loras(query, sort=sort, limit=most + 1, **only)
    narrowed, state = bool(query or any(only.values())), search.state()
    unread = gallery_words.READING_SHELF.format(unread=state.unread, files=state.files)
    return {
        "cards": cards_of(found[:most]),
        "more": gallery_words.MORE_STYLES if len(found) > most else "",
        "none": gallery_words.NO_MATCH if narrowed else gallery_words.NO_STYLES,
        "reading": unread if state.unread and state.busy else "",
        "words": gallery_words.SHELF,
        "stamp": lists.stamp() if state.unread and state.busy else "",
    }


def show(*looking: object, undo: dict | None = None) -> gr.HTML:
    """The shelf as it is now. `looking`: words, family, sort, starred only, place, how many; `undo`: what can be brought back."""
    query, family, sort, starred, place, most = looking or ("", "", "new", False, "", PAGE)
    family, sort = one_of(family, ["", *FAMILIES]), one_of(sort, gallery_words.SORTS)
    only = {"family": family, "favourite": starred is True, **narrowed_to(place)}
    found = shelf_data(text(query, 200), sort, whole(most, 1, MOST, words.TAB_GALLERY), **only)
    return gr.HTML(data=found | {"undo": undo})


def narrowed_to(place: object) -> dict[str, str]:
    """A value of `places` -> what list_loras takes."""
    kind, _, value = text(place, 300).partition(":")
    return {kind: value} if kind in ("tag", "folder") else {}


def first_page(*looking: object) -> tuple:
    return show(*looking[:-1], PAGE), PAGE


def more(*looking: object) -> tuple:
    most = min(whole(looking[-1], 1, MOST, words.TAB_GALLERY) + PAGE, MOST)
    return show(*looking[:-1], most), most


def asked(event: gr.EventData) -> str:
    return an_id(fields(event._data).get("id"), "style")


def remove(
    query: object, family: object, sort: object, starred: object, place: object, most: object, event: gr.EventData
) -> gr.HTML:
    """Take a file off the shelf; the shelf then offers to bring it back."""
    entry = search.find(asked(event))
    edit.delete(entry.id)
    told = gallery_words.DELETED_STYLE if entry.folder == OWN else gallery_words.HIDDEN_STYLE
    gone = {"id": entry.id, "text": told.format(name=entry.name)}
    return show(query, family, sort, starred, place, most, undo=gone)


def undo(
    query: object, family: object, sort: object, starred: object, place: object, most: object, event: gr.EventData
) -> gr.HTML:
    edit.undo_delete(asked(event))
    return show(query, family, sort, starred, place, most)


def star(
    query: object, family: object, sort: object, starred: object, place: object, most: object, event: gr.EventData
) -> gr.HTML:
    """Turn the star of a file on or off."""
    entry = search.find(asked(event))
    edit.annotate(entry.id, favourite=not entry.favourite)
    return show(query, family, sort, starred, place, most)


def add(files: object, *looking: object) -> tuple:
    """Put files on the shelf; each is read and checked first."""
    for file in uploads(files) if files else []:
        edit.add(file, file.stem)
    return show(*looking), None


def fetch(event: gr.EventData) -> gr.DownloadButton:
    """A copy of a style file, or of what was made of it, for the browser; gallery.js presses the button when it is there."""
    made = fields(event._data).get("made")
    return gr.DownloadButton(value=download_copy(report.made(made) if made else search.find(asked(event)).path))
