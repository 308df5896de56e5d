"""Act 2, the form: name, trigger, base, preset with minutes, expert settings; pressing Train queues a run.

Knows nothing about training itself, and nothing about watching: watching.py shows what became of it.
"""

import html
import re
import uuid
from dataclasses import dataclass

import gradio as gr

from sdlora.config import TrainConfig, from_preset, presets
from sdlora.dataset import sets
from sdlora.errors import UserError
from sdlora.jobs.machine import device_advice, likely_device
from sdlora.jobs.run import list_runs, start_run
from sdlora.jobs.worker import ensure_worker
from sdlora.train.plan import Plan, plan
from sdlora.ui import words
from sdlora.ui.studio import bases, expert
from sdlora.ui.studio.pictures import Pictures
from sdlora.ui.validation import QUIET, TICK, an_id, guarded, silent, text


@dataclass(frozen=True)
class Form:
    """The parts of the form; `fields` in the order that `settings_of` takes them."""

    name: gr.Textbox
    trigger: gr.Textbox
    base: gr.Dropdown
    preset: gr.Radio
    plan: gr.Markdown
    start: gr.Button
    expert: list
    once: gr.State
    more: bases.Bases
    section: gr.Accordion
    kept: gr.State

    @property
    def fields(self) -> list:
        return [self.name, self.trigger, self.base, self.preset, *self.expert]


def layout() -> Form:
    """Draw the form, inside act 2."""
    gr.Markdown(f"## {words.TRAIN}\n\n{words.TRAIN_LEAD}")
    with gr.Row():
        name = gr.Textbox(label=words.NAME, info=words.NAME_INFO, max_length=80, elem_id="style-name", min_width=220)
        trigger = gr.Textbox(label=words.TRIGGER, info=words.TRIGGER_INFO, max_length=60, elem_id="trigger", min_width=220)
        base = gr.Dropdown(
            bases.base_choices(), value="mini", label=words.BASE, info=words.BASE_INFO, elem_id="base", min_width=220
        )
    preset = gr.Radio(preset_choices({}), value=next(iter(presets())), label=words.PRESET, elem_id="presets")
    more = bases.layout()
    section, fields = expert.layout()
    with gr.Row(elem_classes="row-end", elem_id="start-row"):
        start = gr.Button(words.START, variant="primary", size="lg", scale=0, min_width=180, elem_id="train")
        note = gr.Markdown(computer(), elem_classes="quiet", elem_id="plan")
    return Form(name, trigger, base, preset, note, start, fields, gr.State(""), more, section, gr.State(None))


def connect(form: Form, act: Pictures) -> None:
    """A set that is opened fills the form; whatever decides the minutes is counted again."""
    counted = {"fn": silent(estimate), "inputs": [act.menu, *form.fields], "outputs": [form.preset, form.plan, *form.expert]}
    act.menu.change(
        guarded(fill), [act.menu, form.kept], [form.kept, form.name, form.trigger, form.base, form.preset], **QUIET
    ).then(**counted, **TICK)
    form.trigger.input(guarded(keep_trigger), [act.menu, form.trigger], None, trigger_mode="always_last", **QUIET)
    form.trigger.blur(guarded(keep_trigger), [act.menu, form.trigger], None, **QUIET)  # what was pasted or cut was not typed
    gr.on(
        [act.count.change, form.base.change, form.preset.change, *(field.change for field in form.expert)],
        **counted,
        trigger_mode="always_last",
        **TICK,
    )
    bases.connect(form.more, form.base)


def new_once() -> str:
    """The one-time id under which the next press of Train is submitted."""
    return uuid.uuid4().hex


def preset_choices(minutes: dict[str, str]) -> list[tuple[str, str]]:
    """(what the card says, key): title and minutes in the first line, the sentence below."""
    return [
        (f"{one.title}{' · ' + minutes[key] if minutes.get(key) else ''}\n{one.sentence}", key) for key, one in presets().items()
    ]


def said_minutes(minutes: float) -> str:
    """A duration as one says it: "about 4 minutes"."""
    if minutes < 0.8:
        return words.MINUTES_UNDER
    if minutes < 1.5:
        return words.MINUTES_ONE
    return words.MINUTES.format(minutes=round(minutes)) if minutes < 100 else words.HOURS.format(hours=round(minutes / 60))


def settings_of(
    preset: object, family: str, pictures: int, name: object, trigger: object, base: str, values: tuple
) -> TrainConfig:
    """The settings that the form describes. Raises UserError about the first that is wrong."""
    return from_preset(
        text(preset, 40),
        family,
        pictures,
        name=text(name, 80) or words.UNNAMED,
        trigger=text(trigger, 60),
        base=base,
        **expert.read(values),
    )


def fill(set_id: object, kept: object = None) -> tuple:
    """The form for a set: as in its newest run, else its title and a proposed trigger.

    `kept`: the set whose form was just filled with the settings of a past run and is to stay so.
    """
    if kept and kept == set_id:
        return None, *[gr.skip()] * 4
    if not set_id:
        return None, "", "", gr.skip(), gr.Radio(choices=preset_choices({}))
    chosen = sets.load(an_id(set_id, "set"))
    run = next((run for run in list_runs() if run.set_id == chosen.id), None)
    name = run.config.name if run else chosen.title
    trigger = chosen.trigger or (run.config.trigger if run else "") or proposed_trigger(name)
    if run is None:
        return None, name, trigger, gr.skip(), gr.skip()
    base = next((base.id for base in bases.usable_bases() if base.spec == run.config.base), "mini")
    return None, name, trigger, base, run.config.preset if run.config.preset in presets() else gr.skip()


def proposed_trigger(name: str) -> str:
    """A made-up word from a name: "Stained glass" -> "stndgls"; "mystyle" where nothing is left."""
    words_of = [word for word in "".join(c if c.isalpha() and c.isascii() else " " for c in name.lower()).split() if word]
    short = "".join(word[0] + "".join(c for c in word[1:] if c not in "aeiou")[:3] for word in words_of[:2])
    return short if len(short) > 3 else "mystyle"


def keep_trigger(set_id: object, trigger: object) -> None:
    """Save the trigger with its set while it is typed."""
    if set_id:
        sets.set_settings(an_id(set_id, "set"), trigger=text(trigger, 60))


def estimate(set_id: object, name: object, trigger: object, base: object, preset: object, *values: object) -> tuple:
    """The minutes on every preset card, a line about this run, and what empty expert fields stand for.

    A setting that is wrong is told in that line, while it is typed.
    """
    if not set_id:
        return gr.skip()
    nothing = [gr.skip()] * len(values)
    try:
        entry = bases.base_of(base)
        amount = len(sets.load(an_id(set_id, "set")).pictures)
        common = (entry.family, max(amount, 1), name, trigger, entry.spec)
        settings = {key: settings_of(key, *common, values) for key in presets()}
        hints = expert.hints(settings_of(preset, *common, ("",) * len(values)))
    except UserError as wrong:
        return gr.skip(), f"**{html.escape(str(wrong))}**", *nothing
    planned = {key: plan(one, max(amount, 1), entry.family, device=likely_device(one.device)) for key, one in settings.items()}
    if not amount:
        return gr.Radio(choices=preset_choices({})), computer(), *hints
    minutes = {key: said_minutes(one.minutes) for key, one in planned.items()}
    return gr.Radio(choices=preset_choices(minutes)), plan_line(settings[preset], planned[preset], amount), *hints


def plan_line(config: TrainConfig, planned: Plan, pictures: int) -> str:
    """What this run will be, below the button."""
    held = words.HELD_OUT if pictures >= 12 else ""
    steps = words.PLAN.format(steps=config.steps, memory=planned.memory_mb / 1000, samples=len(planned.samples))
    return "  \n".join([steps + held, *map(markdown_safe, planned.notes), computer()])


def markdown_safe(text: str) -> str:
    """A sentence with the artist's words in it, shown as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~:$-])", r"\\\1", html.escape(text))


def computer() -> str:
    """One line about this computer; with the command that mends it when its card goes unused."""
    advice = device_advice()
    return f"{advice.problem} {words.MEND} `{advice.command}`" if advice.problem else words.DEVICES[likely_device()]


def start(once: object, set_id: object, name: object, trigger: object, base: object, preset: object, *values: object) -> str:
    """Queue a run and return its id; the same `once` again is the same run."""
    entry = bases.base_of(base)
    if not set_id or not sets.load(an_id(set_id, "set")).pictures:
        raise UserError(words.NEED_PICTURES)
    chosen = sets.load(an_id(set_id, "set"))
    config = settings_of(preset, entry.family, len(chosen.pictures), name, trigger, entry.spec, values)
    config = config.model_copy(update={"default_caption": chosen.default_caption})
    sets.set_settings(chosen.id, trigger=config.trigger)
    run = start_run(config, sets.path(chosen.id), idempotency_key=text(once, 64) or new_once(), set_id=chosen.id)
    ensure_worker()
    return run
