"""Act 2, the form: name, trigger, base model, preset with minutes, expert settings; pressing Train queues a run.

Knows nothing about training itself or about the live view. An empty expert field means "what the preset says", and its
placeholder shows what that is.
"""

import html
import re
import typing
import uuid
from dataclasses import dataclass
from typing import Any

import gradio as gr
from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from sdlora.base.words import words_note
from sdlora.config import TrainConfig, format_value, from_preset, presets
from sdlora.dataset import sets
from sdlora.dataset.captions import resolve_caption
from sdlora.errors import UserError
from sdlora.jobs.machine import device_advice, likely_device
from sdlora.jobs.run import list_runs, start_run
from sdlora.jobs.worker import ensure_worker
from sdlora.parsing import parse_sets
from sdlora.train.plan import HELD_OUT_FROM, Plan, plan
from sdlora.ui import words
from sdlora.ui.rpc import Question, server_functions
from sdlora.ui.studio import bases
from sdlora.ui.studio.pictures import Pictures
from sdlora.ui.theme import widget
from sdlora.ui.validation import ACTION, TICK, Updates, an_id, guarded, silent, text

NOT_EXPERT = {"name", "trigger", "base", "preset", "default_caption"}  # settings that have a place of their own
SETTINGS = {key: field for key, field in TrainConfig.model_fields.items() if key not in NOT_EXPERT}


@dataclass(frozen=True)
class Form:
    """The parts of the form; `fields` in the order that `settings_of` takes them.

    new_run: the id under which the next press of Train is submitted. filled_set: the set whose form was just filled with the
    settings of a past run.
    """

    name: gr.Textbox
    trigger: gr.Textbox
    base: gr.Dropdown
    preset: gr.Radio
    plan: gr.Markdown
    carried: gr.HTML
    start: gr.Button
    expert: list
    new_run: gr.State
    more: bases.Bases
    section: gr.Accordion
    filled_set: gr.State

    @property
    def fields(self) -> list:
        return [self.name, self.trigger, self.base, self.preset, *self.expert]


def layout() -> Form:
    """Build the form, inside act 2."""
    gr.Markdown(f"## {words.TRAIN}\n\n{words.TRAIN_LEAD}")
    wide: Any = {"min_width": 220}
    with gr.Row():
        name = gr.Textbox(label=words.NAME, info=words.NAME_INFO, max_length=80, elem_id="style-name", **wide)
        trigger = gr.Textbox(label=words.TRIGGER, info=words.TRIGGER_INFO, max_length=60, elem_id="trigger", **wide)
        base = gr.Dropdown(bases.base_choices(), value="mini", label=words.BASE, info=words.BASE_INFO, elem_id="base", **wide)
    first = next(iter(presets()))
    preset = gr.Radio(preset_choices({}), value=first, label=words.PRESET, info=words.PRESET_INFO, elem_id="presets")
    more = bases.layout()
    section, fields = expert_layout()
    with gr.Row(elem_classes="row-end", elem_id="start-row"):
        start = gr.Button(words.START, variant="primary", size="lg", scale=0, min_width=180, elem_id="train")
        note = gr.Markdown(device_line(), elem_classes="quiet", elem_id="plan")
    questions = server_functions({"carry": Question(carry_payload, lambda answer: answer.result)})
    carried = widget("carried", "element, props, server", elem_id="carried", server_functions=questions)
    return Form(name, trigger, base, preset, note, carried, start, fields, gr.State(""), more, section, gr.State(None))


def expert_layout() -> tuple[gr.Accordion, list[gr.Textbox | gr.Dropdown]]:
    """Build the folded Expert section: one field per setting, in the order of SETTINGS."""
    with gr.Accordion(words.EXPERT, open=False, elem_id="expert") as section:
        gr.Markdown(words.EXPERT_LEAD, elem_classes="quiet")
        with gr.Row():
            fields = [control(key, field) for key, field in SETTINGS.items()]
    return section, fields


def control(key: str, field: FieldInfo) -> gr.Textbox | gr.Dropdown:
    """Return a menu for a choice, else a line of text: numbers too, so that empty can mean the preset's."""
    info = " ".join(part for part in (str(field.description), limits(field), f"[{key}]") if part)
    common: Any = {"label": label_of(key), "info": info, "min_width": 240, "elem_id": f"expert-{key}"}
    if is_choice(field):
        return gr.Dropdown([(words.AS_PRESET, ""), *typing.get_args(field.annotation)], value="", **common)
    return gr.Textbox(max_length=4000, **common)


def is_choice(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is typing.Literal


def label_of(key: str) -> str:
    """ "learning_rate" -> "Learning rate"."""
    return words.SETTING_LABELS.get(key, key.replace("_", " ").capitalize())


def limits(field: FieldInfo) -> str:
    """Return the range of a number: "(1 to 128)", "(above 0 to 0.1)"; "" when it has none."""
    known: dict[type, Any] = {type(rule): rule for rule in field.metadata}
    low = f"{known[Ge].ge:g}" if Ge in known else f"above {known[Gt].gt:g}" if Gt in known else ""
    high = f"{known[Le].le:,}" if Le in known else f"below {known[Lt].lt:g}" if Lt in known else ""
    if "tuple" in str(field.annotation):
        return words.SEPARATED
    return f"({low} to {high})" if low and high else ""


def connect(form: Form, act: Pictures) -> None:
    """Connect the form: an opened set fills it, and whatever decides the minutes counts them again."""
    shown = [form.preset, form.plan, form.carried, *form.expert]
    planned: Any = {"fn": silent(estimate), "inputs": [act.menu, *form.fields], "outputs": shown}
    filled = [form.filled_set, form.name, form.trigger, form.base, form.preset]
    act.menu.change(guarded(fill), [act.menu, form.filled_set], filled, **ACTION).then(**planned, **TICK)
    form.trigger.input(guarded(save_trigger), [act.menu, form.trigger], None, trigger_mode="always_last", **ACTION)
    form.trigger.blur(guarded(save_trigger), [act.menu, form.trigger], None, **ACTION)  # what was pasted or cut was not typed
    changes = [act.count.change, form.base.change, form.preset.change, *(field.change for field in form.expert)]
    gr.on(changes, **planned, trigger_mode="always_last", **TICK)
    bases.connect(form.more, form.base)


def new_run_id() -> str:
    """Return the one-time id under which the next press of Train is submitted."""
    return uuid.uuid4().hex


def preset_choices(minutes: dict[str, str]) -> list[tuple[str, str | int | float]]:
    """Return (text of the card, key): title and minutes in the first line, the sentence below."""
    return [
        (f"{one.title}{' · ' + minutes[key] if minutes.get(key) else ''}\n{one.sentence}", key) for key, one in presets().items()
    ]


def duration(minutes: float) -> str:
    """Return a duration as one says it: "about 4 minutes"."""
    if minutes < 0.8:
        return words.MINUTES_UNDER
    if minutes < 1.5:
        return words.MINUTES_ONE
    return words.MINUTES.format(minutes=round(minutes)) if minutes < 100 else words.HOURS.format(hours=round(minutes / 60))


def settings_of(preset: Any, family: str, pictures: int, base: str, name: Any, trigger: Any, values: tuple) -> TrainConfig:
    """Return the settings that the form describes; raise UserError about the first that is wrong."""
    return from_preset(
        text(preset, 40),
        family,
        pictures,
        name=text(name, 80) or words.UNNAMED,
        trigger=text(trigger, 60),
        base=base,
        **expert_settings(values),
    )


def expert_settings(values: tuple) -> dict[str, object]:
    """Return {key: value} of the expert fields that were filled in, typed; raise UserError about the first wrong one."""
    if len(values) != len(SETTINGS):
        raise UserError(words.NOT_UNDERSTOOD)
    filled = {key: text(value, 4000) for key, value in zip(SETTINGS, values, strict=True)}
    return parse_sets([f"{key}={value}" for key, value in filled.items() if value])


def placeholders(config: TrainConfig) -> list:
    """Return updates that show in each empty expert field what the preset says."""
    return [
        gr.skip() if is_choice(field) else gr.Textbox(placeholder=setting_text(getattr(config, key)))
        for key, field in SETTINGS.items()
    ]


def setting_text(value: Any) -> str:
    """Return a setting as an artist would type it."""
    if isinstance(value, tuple):
        return " | ".join(value) or words.FROM_CAPTIONS
    return words.NONE if value is None else format_value(value)


def filled(config: TrainConfig) -> list[str]:
    """Return every expert field with the value of a run, for "train again with these settings"."""
    return ["" if value in ((), None) else setting_text(value) for value in (getattr(config, key) for key in SETTINGS)]


def fill(set_id: Any, filled_set: Any = None) -> tuple:
    """Return the form for a set: as in its newest run, else its title and a proposed trigger."""
    if filled_set and filled_set == set_id:
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
    """Return a made-up word from a name: "Stained glass" -> "stndgls"; "mystyle" where nothing is left."""
    parts = [word for word in "".join(c if c.isalpha() and c.isascii() else " " for c in name.lower()).split() if word]
    short = "".join(word[0] + "".join(c for c in word[1:] if c not in "aeiou")[:3] for word in parts[:2])
    return short if len(short) > 3 else "mystyle"


def save_trigger(set_id: Any, trigger: Any) -> None:
    """Save the trigger with its set while it is typed."""
    if set_id:
        sets.set_settings(an_id(set_id, "set"), trigger=text(trigger, 60))


def estimate(set_id: Any, name: Any, trigger: Any, base: Any, preset: Any, *values: Any) -> Updates:
    """Return the minutes on every preset card, a line about this run, and what empty expert fields stand for.

    A setting that is wrong is reported in that line, while it is typed.
    """
    if not set_id:
        return gr.skip()
    try:
        entry = bases.base_of(base)
        chosen = sets.load(an_id(set_id, "set"))
        amount = len(chosen.pictures)
        common = (entry.family, max(amount, 1), entry.spec, name, trigger)
        settings = {key: settings_of(key, *common, values) for key in presets()}
        hints = placeholders(settings_of(preset, *common, ("",) * len(values)))
        note = words_note(entry.spec, captions_of(chosen, text(trigger, 60)), text(trigger, 60))
    except UserError as wrong:
        return gr.skip(), f"**{html.escape(str(wrong))}**", *[gr.skip()] * (len(values) + 1)
    planned = {key: plan(one, max(amount, 1), entry.family, device=likely_device(one.device)) for key, one in settings.items()}
    if not amount:
        return gr.Radio(choices=preset_choices({})), device_line(), gr.HTML(data={}), *hints
    minutes = {key: duration(one.minutes) for key, one in planned.items()}
    line = plan_line(settings[preset], planned[preset], amount, [note] if note else [])
    about = [chosen.id, text(base, 200), sorted(each.id for each in chosen.pictures)] if entry.family == "mini" else None
    return gr.Radio(choices=preset_choices(minutes)), line, gr.HTML(data={"about": about} if about else {}), *hints


def carry_payload(data: Any) -> dict:
    """Return the payload of the question whether a base carries the pictures of a set, from [set id, base, picture ids]."""
    set_id, base, _ = data if isinstance(data, list) and len(data) == 3 else (None, None, None)
    return {"base": bases.base_of(base).spec, "images": str(sets.path(an_id(set_id, "set")))}


def captions_of(chosen: sets.PictureSet, trigger: str) -> list[str]:
    """Return the captions as they will be trained."""
    return [resolve_caption(each.caption, each.name, chosen.default_caption, trigger) for each in chosen.pictures]


def plan_line(config: TrainConfig, planned: Plan, pictures: int, notes: list[str]) -> str:
    """Return what this run will be, below the button."""
    held_out = words.HELD_OUT if pictures >= HELD_OUT_FROM else ""
    steps = words.PLAN.format(steps=config.steps, memory=planned.memory_mb / 1000, samples=len(planned.samples))
    return "  \n".join([steps + held_out, *map(markdown_safe, [*planned.notes, *notes]), device_line()])


def markdown_safe(sentence: str) -> str:
    """Return a sentence with the artist's words in it so that Markdown shows it as it is."""
    return re.sub(r"([\\`*_{}\[\]()#+!|~:$-])", r"\\\1", html.escape(sentence))


def device_line() -> str:
    """Return one line about this computer; with the command that fixes it when its card goes unused."""
    advice = device_advice()
    return f"{advice.problem} {words.FIX} `{advice.command}`" if advice.problem else words.DEVICES[likely_device()]


def start(new_run: Any, set_id: Any, name: Any, trigger: Any, base: Any, preset: Any, *values: Any) -> str:
    """Queue a run and return its id; the same `new_run` again is the same run."""
    entry = bases.base_of(base)
    chosen = sets.load(an_id(set_id, "set")) if set_id else None
    if chosen is None or not chosen.pictures:
        raise UserError(words.NEED_PICTURES)
    config = settings_of(preset, entry.family, len(chosen.pictures), entry.spec, name, trigger, values)
    config = config.model_copy(update={"default_caption": chosen.default_caption})
    sets.set_settings(chosen.id, trigger=config.trigger)
    run = start_run(config, sets.path(chosen.id), idempotency_key=text(new_run, 64) or new_run_id(), set_id=chosen.id)
    ensure_worker()
    return run
