"""The page: three acts, the gallery and past runs, put together."""

from typing import Any

import gradio as gr

from sdlora.jobs import run as runs
from sdlora.ui import history, validation, words
from sdlora.ui.gallery import blend, grid, mixer, shelf
from sdlora.ui.runs import past, run_view
from sdlora.ui.studio import compare, pictures, train
from sdlora.ui.theme import widget
from sdlora.ui.validation import ACTION, TICK, Updates, guarded, silent

SCROLL_TO_TRY = "() => document.querySelector('#act-try').scrollIntoView({behavior: 'smooth'})"


def build() -> gr.Blocks:
    """Return the whole page; what it shows comes from the stores each time it is loaded."""
    with gr.Blocks(title=words.PAGE_TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=False) as demo:
        gr.HTML(f"<header id='masthead'><h1>{words.TITLE}</h1><p>{words.TAGLINE}</p></header>", apply_default_css=False)
        pill = widget("pill", elem_id="pill")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(words.TAB_STUDIO, id="studio"):
                act1 = pictures.layout()
                with gr.Column(elem_classes="act", elem_id="act-train"):
                    form = train.layout()
                    live = run_view.layout(pill)
                act3 = compare.layout()
            # children from the start: what arrives while a tab is being opened for the first time may be lost
            with gr.Tab(words.TAB_GALLERY, id="gallery", render_children=True) as gallery_tab:
                cards, blended, cells = gallery(act3.history)
            with gr.Tab(words.TAB_RUNS, id="runs", render_children=True) as runs_tab:
                trained = past.layout()
        train.connect(form, act1)
        run_view.connect(live)
        compare.connect(act3)
        past.connect(trained)
        connect_acts(act1, form, live, act3)
        connect_past(trained, form, act1, live, tabs)
        for shown_again in (gallery_tab.select, live.finished.change):
            shown_again(guarded(shelf.show), cards.filters, cards.cards, **ACTION)
        gallery_tab.select(guarded(shelf.show_places), cards.place, cards.place, **ACTION)
        runs_tab.select(guarded(past.show), trained.run, trained.outputs, **ACTION)
        open_set = gr.BrowserState(None, storage_key="sdlora-set", secret="not a secret")
        act1.menu.change(silent(set_to_remember), act1.menu, open_set, **ACTION)
        mixer_rows = gr.BrowserState(None, storage_key="sdlora-desk", secret="not a secret")
        blended.fields.rows.kept(silent(mixer.remembered_rows), None, mixer_rows, **ACTION)
        on_load(demo, [
            (train.new_run_id, [], [form.new_run]),
            (pictures.load, [open_set], act1.outputs),
            (run_view.load, [live.tab], live.outputs),
            (load_compare, [], [act3.lora, act3.prompt, act3.slider, act3.history]),
            (shelf.show, [], [cards.cards]),
            (compare.resume, [], act3.drawing.outputs),
            (blend.resume, [], blended.drawing.outputs),
            (grid.resume, [], cells.drawing.outputs),
            (mixer.restore, [mixer_rows], [blended.fields.rows]),
        ])
    return demo


def gallery(drawn: gr.HTML) -> tuple[shelf.Shelf, blend.Form, grid.Grid]:
    """Build the gallery tab: the shelf, the mixer, and drawing with it. `drawn` is the history of all drawn pictures."""
    with gr.Column(elem_classes="act"):
        gr.Markdown(f"## {words.TAB_GALLERY}\n\n{words.GALLERY_LEAD}")
        cards = shelf.layout()
    with gr.Column(elem_classes="act", elem_id="act-mixer"):
        gr.Markdown(f"## {words.MIXER_TITLE}\n\n{words.MIXER_LEAD}")
        rows = mixer.layout()
        method, switch_every = blend.method_fields()
    with gr.Column(elem_classes="act", elem_id="act-blend"):
        gr.Markdown(f"## {words.GALLERY_DRAW}")
        form = blend.layout(rows, method, switch_every)
    with gr.Column(elem_classes="act", elem_id="act-grid"):
        gr.Markdown(f"## {words.GRID}")
        cells = grid.layout()
    shelf.connect(cards)
    blend.connect(form, drawn)
    rows.saved(guarded(shelf.show), cards.filters, cards.cards, **ACTION)
    rows.saved(guarded(shelf.show_places), cards.place, cards.place, **ACTION)
    method.change(guarded(mixer.show_method), method, rows, **ACTION)
    rows.word(guarded(mixer.add_word), form.fields.prompt, form.fields.prompt, **ACTION)
    grid.connect(cells, form, drawn)
    return cards, form, cells


def set_to_remember(set_id: Any) -> str | None:
    """Return what the browser remembers: which set was open."""
    return set_id if type(set_id) is str else None


def connect_acts(act1: pictures.Pictures, form: train.Form, live: run_view.LiveView, act3: compare.Compare) -> None:
    """Connect one act to the next: a run that starts, a checkpoint to try, a LoRA that is ready."""
    form.start.click(
        guarded(start_run), [live.tab, form.new_run, act1.menu, *form.fields], [form.new_run, *live.outputs], **ACTION
    )
    lora = [act3.lora, act3.prompt, act3.slider]
    live.try_it.click(guarded(try_checkpoint), live.tab, lora, **ACTION).success(None, js=SCROLL_TO_TRY)
    live.finished.change(guarded(try_finished), live.finished, lora, **ACTION)


def start_run(tab: run_view.TabState, new_run: Any, *values: Any) -> tuple:
    """Queue the run and show it at once."""
    run = train.start(new_run, *values)
    return train.new_run_id(), *run_view.show(tab, run)


def try_checkpoint(tab: run_view.TabState) -> tuple:
    with run_view.locked(tab):
        run, step = tab.run, tab.step
    return compare.show_lora(compare.checkpoint_lora(validation.an_id(run, "run"), step))


def try_finished(run: Any) -> Updates:
    """Offer the LoRA of a run that has ended well."""
    return compare.show_lora(compare.checkpoint_lora(validation.an_id(run, "run"), None)) if run else gr.skip()


def connect_past(
    trained: past.Past, form: train.Form, act1: pictures.Pictures, live: run_view.LiveView, tabs: gr.Tabs
) -> None:
    """Open a past run in the studio, or fill the form with its settings."""

    def open_run(tab: run_view.TabState, run: Any) -> tuple:
        return gr.Tabs(selected="studio"), *run_view.show(tab, runs.view(validation.an_id(run, "run")).id)

    def train_again(run: Any) -> tuple:
        set_id, *rest = past.settings_of(run)
        known = isinstance(set_id, str)
        shown = pictures.show(set_id) if known else [gr.skip()] * len(act1.outputs)
        return gr.Tabs(selected="studio"), set_id if known else None, *shown, *rest

    trained.open.click(guarded(open_run), [live.tab, trained.run], [tabs, *live.outputs], **ACTION)
    fields = [form.name, form.trigger, form.base, form.preset, form.section, *form.expert]
    trained.again.click(guarded(train_again), trained.run, [tabs, form.filled_set, *act1.outputs, *fields], **ACTION)


def on_load(demo: gr.Blocks, parts: list[tuple]) -> None:
    """Show what the stores hold when a page loads, or loads again. parts: (handler, inputs, outputs).

    One event for all of them: each costs 5 ms of its own, and most have nothing to say.
    """

    def load(*values: Any) -> tuple:
        given, updates = iter(values), []
        for handler, inputs, outputs in parts:
            update = silent(handler)(*[next(given) for _ in inputs])
            updates += update if isinstance(update, tuple) else [update] * len(outputs)
        return tuple(updates)

    inputs, outputs = ([each for part in parts for each in part[at]] for at in (1, 2))
    demo.load(silent(load), inputs, outputs, **TICK)


def load_compare() -> tuple:
    return *compare.show_lora(compare.newest_lora()), history.update(again=True)
