"""The page: three acts, the gallery and past runs, put together. Knows no store: every part brings its own handlers."""

import gradio as gr

from sdlora.ui import history, validation, words
from sdlora.ui.gallery import blend, grid, mixer, shelf, tab
from sdlora.ui.runs import past, run_view
from sdlora.ui.studio import compare, pictures, train
from sdlora.ui.theme import widget
from sdlora.ui.validation import QUIET, TICK, guarded, silent


def build() -> gr.Blocks:
    """The whole page; what it shows comes from the stores each time it is loaded."""
    with gr.Blocks(title=words.PAGE_TITLE, analytics_enabled=False, delete_cache=(3600, 86400), fill_width=False) as demo:
        gr.HTML(f"<header id='masthead'><h1>{words.TITLE}</h1><p>{words.TAGLINE}</p></header>", apply_default_css=False)
        pill = widget("pill", elem_id="pill")
        with gr.Tabs(elem_id="tabs") as tabs:
            with gr.Tab(words.TAB_STUDIO, id="studio"):
                act1 = pictures.layout()
                with gr.Column(elem_classes="act", elem_id="act-train"):
                    form = train.layout()
                    watch = run_view.layout(pill)
                act3 = compare.layout()
            # children from the start: what arrives while a tab is being opened for the first time may be lost
            with gr.Tab(words.TAB_GALLERY, id="gallery", render_children=True) as gallery_tab:
                act4 = tab.layout()
            with gr.Tab(words.TAB_RUNS, id="runs", render_children=True) as runs_tab:
                runs = past.layout()
        opened = gr.BrowserState(None, storage_key="sdlora-set", secret="not a secret")
        train.connect(form, act1)
        run_view.connect(watch)
        compare.connect(act3)
        remembered = gr.BrowserState(None, storage_key="sdlora-desk", secret="not a secret")
        tab.connect(act4, act3.history)
        act4.desk.kept(silent(mixer.kept_rows), None, remembered, **QUIET)
        past.connect(runs)
        between(act1, form, watch, act3)
        from_past(runs, form, act1, watch, tabs)
        gallery_tab.select(guarded(shelf.show), act4.shelf.looking, act4.shelf.cards, **QUIET)
        gallery_tab.select(guarded(shelf.show_places), act4.shelf.place, act4.shelf.place, **QUIET)
        runs_tab.select(guarded(past.show), runs.run, runs.shown, **QUIET)
        act1.menu.change(silent(keep_open), act1.menu, opened, **QUIET)
        on_load(demo, (act1, form, watch, act3, act4), opened, remembered)
    return demo


def keep_open(set_id: object) -> object:
    """What the browser remembers: which set was open."""
    return set_id if type(set_id) is str else None


def between(act1: pictures.Pictures, form: train.Form, watch: run_view.Watch, act3: compare.Try) -> None:
    """What passes from one act to the next: a run that starts, a point to try, a style that is ready."""
    form.start.click(guarded(begin), [watch.tab, form.once, act1.menu, *form.fields], [form.once, *watch.shown], **QUIET)
    watch.try_it.click(guarded(try_point), watch.tab, [act3.style, act3.prompt, act3.slider], **QUIET).success(
        None, js="() => document.querySelector('#act-try').scrollIntoView({behavior: 'smooth'})"
    )
    watch.finished.change(guarded(ready), watch.finished, [act3.style, act3.prompt, act3.slider], **QUIET)


def begin(tab: run_view.Showing, once: object, *values: object) -> tuple:
    """Queue the run and look at it at once."""
    run = train.start(once, *values)
    return train.new_once(), *run_view.show(tab, run)


def try_point(tab: run_view.Showing) -> tuple:
    with run_view.turn(tab):
        run, point = tab.run, tab.point
    return compare.show_style(compare.point_style(validation.an_id(run, "run"), point))


def ready(run: object) -> tuple:
    """A run has ended well: its style is the one to try."""
    return compare.show_style(compare.point_style(validation.an_id(run, "run"), None)) if run else gr.skip()


def from_past(runs: past.Past, form: train.Form, act1: pictures.Pictures, watch: run_view.Watch, tabs: gr.Tabs) -> None:
    """Open a past run in the studio, or fill the form with its settings."""

    def open_run(tab: run_view.Showing, run: object) -> tuple:
        return gr.Tabs(selected="studio"), *run_view.show(tab, past.last_point(run)[0])

    def again(run: object) -> tuple:
        set_id, *rest = past.again(run)
        return (
            gr.Tabs(selected="studio"),
            set_id if isinstance(set_id, str) else None,
            *(pictures.show(set_id) if isinstance(set_id, str) else [gr.skip()] * len(act1.shown)),
            *rest,
        )

    runs.open.click(guarded(open_run), [watch.tab, runs.run], [tabs, *watch.shown], **QUIET)
    runs.again.click(
        guarded(again),
        runs.run,
        [tabs, form.kept, *act1.shown, form.name, form.trigger, form.base, form.preset, form.section, *form.expert],
        **QUIET,
    )


def on_load(demo: gr.Blocks, acts: tuple, opened: gr.BrowserState, remembered: gr.BrowserState) -> None:
    """A page that loads, or loads again, shows what the stores hold: the set, the live run, what is being drawn.

    One event for all of it: each costs 5 ms of its own, and most have nothing to say.
    """
    act1, form, watch, act3, act4 = acts
    parts = [
        (train.new_once, [], [form.once]),
        (pictures.load, [opened], act1.shown),
        (run_view.first, [watch.tab], watch.shown),
        (first_style, [], [act3.style, act3.prompt, act3.slider, act3.history]),
        (shelf.show, [], [act4.shelf.cards]),
        (compare.resume_drawing, [], act3.drawing.shown),
        (blend.resume, [], act4.form.drawing.shown),
        (grid.resume, [], act4.grid.drawing.shown),
        (mixer.reopened, [remembered], [act4.desk]),
    ]

    def load(*values: object) -> tuple:
        given, updates = iter(values), []
        for handler, inputs, outputs in parts:
            said = silent(handler)(*[next(given) for _ in inputs])
            updates += said if isinstance(said, tuple) else [said] * len(outputs)
        return tuple(updates)

    every = [[each for part in parts for each in part[at]] for at in (1, 2)]
    demo.load(silent(load), *every, **TICK)


def first_style() -> tuple:
    return *compare.show_style(compare.newest_style()), history.update(again=True)
