"""The base models on the page: the menu, and another one downloaded when the artist asks.

Knows nothing about the network: base/download.py fetches in a process of its own.
"""

import re
import threading
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from sdlora import storage
from sdlora.base import catalog, download
from sdlora.base.catalog import BaseEntry, list_bases
from sdlora.errors import UserError
from sdlora.ui import words
from sdlora.ui.theme import widget
from sdlora.ui.validation import ACTION, TICK, an_id, guarded, log_bug, silent, text


@dataclass
class Fetch:
    """The one download of this web process."""

    id: str
    done: int = 0
    total: int = 0
    ended: bool = False
    problem: str = ""
    cancel: threading.Event = field(default_factory=threading.Event)


current: list[Fetch] = []
starting = threading.Lock()


@dataclass(frozen=True)
class Bases:
    hub: gr.Dropdown
    facts: gr.Markdown
    ask: gr.Button
    fetch: gr.Button
    cancel: gr.Button
    progress: gr.HTML
    timer: gr.Timer

    @property
    def outputs(self) -> list:
        return [self.progress, self.fetch, self.cancel, self.timer]


def layout() -> Bases:
    with gr.Accordion(words.GET_BASE, open=False, elem_id="get-base"):
        gr.Markdown(words.GET_BASE_LEAD.format(folder=storage.home() / "bases"), elem_classes="quiet")
        with gr.Row(elem_classes="row-end"):
            hub = gr.Dropdown(
                [(known.title, known.id) for known in catalog.KNOWN.values()],
                value=next(iter(catalog.KNOWN)),
                label=words.HUB,
                info=words.HUB_INFO,
                allow_custom_value=True,
                scale=3,
                elem_id="hub",
            )
            ask = gr.Button(words.ASK_BASE, scale=0, min_width=220)
            fetch = gr.Button(words.DOWNLOAD_BASE, scale=0, min_width=120, elem_id="fetch-base")
        facts = gr.Markdown(known_facts(next(iter(catalog.KNOWN))), elem_classes="quiet", elem_id="hub-facts")
        progress = widget("progress", elem_id="fetch-progress")
        cancel = gr.Button(words.CANCEL_DOWNLOAD, visible=False, size="sm", scale=0)
    return Bases(hub, facts, ask, fetch, cancel, progress, gr.Timer(1.0, active=False))


def connect(act: Bases, base: gr.Dropdown) -> None:
    act.hub.change(guarded(show_known), act.hub, act.facts, **ACTION)
    act.ask.click(guarded(about), act.hub, act.facts, api_visibility="private")
    act.fetch.click(guarded(begin), act.hub, act.outputs, **ACTION)
    act.cancel.click(guarded(stop), None, None, **ACTION)
    act.timer.tick(silent(show), None, [*act.outputs, base], **TICK)


def usable_bases() -> list[BaseEntry]:
    return [base for base in list_bases() if not base.problem]


def base_choices() -> list[tuple[str, str]]:
    """Return the menu: (title, our id)."""
    return [(base.title, base.id) for base in usable_bases()]


def base_of(base_id: Any) -> BaseEntry:
    """Return the base model with this id; raise UserError."""
    known = {base.id: base for base in usable_bases()}
    key = an_id(base_id, "base model")
    if key not in known:
        raise UserError(words.CHOOSE_FIRST.format(what="base model"))
    return known[key]


def of_family(family: str) -> BaseEntry | None:
    """Return the first usable base model of a family."""
    return next((base for base in usable_bases() if base.family == family), None)


def with_spec(spec: str) -> BaseEntry | None:
    """Return the base model of this spec, usable or not; None when it is not on the list any more."""
    return next((base for base in list_bases() if base.spec == spec), None)


def valid_hub_id(value: Any) -> str:
    """Return a hub id "owner/name"; raise UserError for anything else, a path or an address among them."""
    wanted = text(value, 200)
    if not catalog.HUB_ID.fullmatch(wanted) or ".." in wanted:
        raise UserError(words.NOT_A_HUB_ID)
    return wanted


def known_facts(hub_id: str) -> str:
    known = catalog.KNOWN.get(hub_id)
    return (
        words.HUB_FACTS.format(title=known.title, size=known.file_bytes / 1e9, licence=known.licence)
        if known
        else words.HUB_UNKNOWN
    )


def show_known(hub_id: Any) -> str:
    return known_facts(text(hub_id, 200))


def about(hub_id: Any) -> str:
    """Ask the hub (the artist pressed for it) what a download would bring."""
    offer = download.about(valid_hub_id(hub_id))
    return words.HUB_FACTS.format(title=offer.id, size=offer.file_bytes / 1e9, licence=re.sub(r"[^\w .+-]", "", offer.licence))


def begin(hub_id: Any) -> tuple:
    """Start the download in the background; a second press while one runs does nothing."""
    wanted = valid_hub_id(hub_id)
    with starting:
        if not current or current[-1].ended:
            current[:] = [Fetch(wanted)]
            threading.Thread(target=fetch, args=(current[0],), daemon=True).start()
    return show()[:4]


def fetch(job: Fetch) -> None:
    """Fetch, then put the base model on the menu; runs in a thread of its own."""

    def progress(done: int, total: int) -> None:
        job.done, job.total = done, total

    try:
        download.download(job.id, progress, job.cancel.is_set)
        catalog.add_base(job.id)
    except UserError as error:
        job.problem = str(error)
    except Exception as error:  # noqa: BLE001 a thread has no caller that could catch it
        job.problem = words.BUG.format(code=log_bug(error))
    finally:
        job.ended = True


def stop() -> None:
    if current:
        current[-1].cancel.set()


def show() -> tuple:
    """Return updates of progress, buttons, timer and the base model menu."""
    if not current:
        return gr.HTML(data={}), gr.Button(interactive=True), gr.Button(visible=False), gr.Timer(active=False), gr.skip()
    job = current[-1]
    percent = 100 * job.done / job.total if job.total else 0
    shown = {
        "state": "running",
        "title": words.FETCHING.format(name=job.id),
        "bar": True,
        "percent": round(percent, 1),
        "left": words.OF_GB.format(done=job.done / 1e9, total=job.total / 1e9) if job.total else words.ASKING,
    }
    if job.ended:
        shown = {
            "state": "failed" if job.problem else "done",
            "title": words.NOT_FETCHED if job.problem else words.FETCHED.format(name=job.id),
            "note": job.problem,
        }
    menu = gr.Dropdown(choices=base_choices()) if job.ended and not job.problem else gr.skip()
    return (
        gr.HTML(data=shown),
        gr.Button(interactive=job.ended),
        gr.Button(visible=not job.ended),
        gr.Timer(active=not job.ended),
        menu,
    )
