"""Past runs: what was trained with which settings, its strip, train again, delete."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sdlora.config import presets
from sdlora.jobs import run as runs
from sdlora.jobs.run import RunView
from sdlora.ui import words
from sdlora.ui.runs.run_view import strip_data
from sdlora.ui.studio import bases, train
from sdlora.ui.theme import picture_url, widget
from sdlora.ui.validation import ACTION, Updates, an_id, event_value, guarded

COVER = 128
MOST_LISTED = 200


@dataclass(frozen=True)
class Past:
    run: gr.State
    menu: gr.HTML
    facts: gr.HTML
    strip: gr.HTML
    buttons: gr.Row
    open: gr.Button
    again: gr.Button
    delete: gr.Button

    @property
    def outputs(self) -> list:
        return [self.run, self.menu, self.facts, self.strip, self.buttons]


def layout() -> Past:
    with gr.Column(elem_classes="act"):
        gr.Markdown(f"## {words.TAB_RUNS}")
        with gr.Row():
            with gr.Column(scale=3, min_width=280):
                menu = widget("runs", elem_id="runs")
            with gr.Column(scale=7, min_width=300):
                with gr.Row(visible=False, elem_id="run-buttons") as buttons:
                    show_it = gr.Button(words.OPEN_RUN, scale=0, min_width=190)
                    again = gr.Button(words.TRAIN_AGAIN, scale=0, min_width=290)
                    delete = gr.Button(words.DELETE_RUN, variant="stop", scale=0, min_width=150)
                strip = widget("strip", elem_id="run-strip")
                facts = widget("facts", elem_id="run-facts")
    return Past(gr.State(None), menu, facts, strip, buttons, show_it, again, delete)


def connect(past: Past) -> None:
    past.menu.select(guarded(choose), None, past.outputs, **ACTION)
    past.delete.click(guarded(delete), past.run, past.outputs, js=f"(id) => confirm({words.SURE_RUN!r}) ? id : null", **ACTION)


def show(run_id: str | None = None) -> tuple:
    """Return updates for `Past.outputs`: the list, and the run that is opened: this one, else the newest."""
    every = runs.list_runs()
    chosen = next((run for run in every if run.id == run_id), every[0] if every else None)
    menu = gr.HTML(data={"cards": [card(run) | {"chosen": run is chosen} for run in every[:MOST_LISTED]], "none": words.NO_RUNS})
    if chosen is None:
        return None, menu, gr.HTML(data={}), gr.HTML(data={}), gr.Row(visible=False)
    strip = strip_data(chosen, None, live=False)
    return chosen.id, menu, gr.HTML(data=facts_of(chosen)), gr.HTML(data=strip), gr.Row(visible=True)


def card(run: RunView) -> dict:
    """Return what page.js draws of a run in the list; the picture is the newest sample of the first prompt."""
    samples = [sample for sample in run.samples if sample.prompt_index == 0]
    line = (words.STATES[run.state], words.STEP_OF.format(step=run.step, steps=run.steps), date_of(run.created))
    return {
        "id": run.id,
        "title": run.name,
        "src": picture_url(run.folder / samples[-1].path, COVER) if samples else "",
        "line": " · ".join(line),
    }


def date_of(created: str) -> str:
    """ "2026-11-22T03:47:27+0000" -> "2026-11-22 03:47"."""
    return created[:16].replace("T", " ")


def facts_of(run: RunView) -> dict:
    """Return settings and outcome as rows of (label, value)."""
    base, known = bases.with_spec(run.config.base), presets()
    preset = known[run.config.preset].title if run.config.preset in known else run.config.preset
    rows = [
        (words.FACT_STATE, words.STATES[run.state]),
        (words.FACT_BEGUN, date_of(run.created)),
        (words.TRIGGER, run.config.trigger or "–"),
        (words.BASE, base.title if base else run.config.base),
        (words.PRESET, preset),
    ]
    if run.pictures:
        held_out = words.FACT_HELD.format(name=run.held_out) if run.held_out else ""
        rows.append((words.FACT_PICTURES, f"{run.pictures}{held_out}"))
    if run.problem:
        rows.append((words.FACT_PROBLEM, run.problem))
    rows += [(train.label_of(key), train.setting_text(getattr(run.config, key))) for key in words.FACT_SETTINGS]
    rows += [(words.FACT_SKIPPED, f"{name}: {reason}") for name, reason in run.skipped]
    return {"title": words.FACT_TITLE.format(name=run.name), "rows": rows}


def choose(event: gr.EventData) -> tuple:
    return show(an_id(event_value(event, "id"), "run"))


def delete(run_id: Any) -> Updates:
    if run_id is None:
        return gr.skip()
    runs.delete(an_id(run_id, "run"))
    return show()


def settings_of(run_id: Any) -> tuple:
    """Return (set id, name, trigger, base, preset, expert section opened, expert fields): the form as this run had it."""
    run = runs.view(an_id(run_id, "run"))
    base = bases.with_spec(run.config.base)
    return (
        run.set_id or gr.skip(),
        run.config.name,
        run.config.trigger,
        base.id if base else "mini",
        run.config.preset if run.config.preset in presets() else gr.skip(),
        gr.Accordion(open=True),
        *train.filled(run.config),
    )
