"""Act 3: one prompt, the untouched base beside the style, same variation number. Knows nothing about training."""

from dataclasses import dataclass

import gradio as gr

from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs import run as runs
from sdlora.jobs.worker import ensure_worker
from sdlora.library import search
from sdlora.ui import drawing, history, styles, words
from sdlora.ui.runs.strip import chosen_step
from sdlora.ui.theme import fitted
from sdlora.ui.validation import QUIET, guarded, number, text, whole

SIDE = 768
LABELS = ("base", "style")


@dataclass(frozen=True)
class Try:
    """The parts of act 3; `fields` in the order that `draw` takes them."""

    style: gr.Dropdown
    prompt: gr.Textbox
    strength: gr.Slider
    seed: gr.Number
    negative: gr.Textbox
    steps: gr.Slider
    guidance: gr.Slider
    draw: gr.Button
    drawing: drawing.Drawing
    slider: gr.ImageSlider
    history: gr.HTML
    pages: gr.State

    @property
    def fields(self) -> list:
        return [self.style, self.prompt, self.strength, self.seed, self.negative, self.steps, self.guidance]


def layout() -> Try:
    with gr.Column(elem_classes="act", elem_id="act-try"):
        gr.Markdown(f"## {words.TRY}\n\n{words.TRY_LEAD}")
        with gr.Row():
            with gr.Column(scale=4, min_width=280):
                style = gr.Dropdown(styles.menu(), label=words.STYLE, elem_id="try-style")
                prompt = gr.Textbox(label=words.PROMPT, info=words.PROMPT_INFO, lines=3, max_length=2000, elem_id="try-prompt")
                strength = gr.Slider(
                    0, 2, value=1, step=0.05, label=words.STRENGTH, info=words.STRENGTH_INFO, elem_id="try-strength"
                )
                seed = gr.Number(
                    1, precision=0, minimum=0, maximum=2**32 - 1, label=words.SEED, info=words.SEED_INFO, elem_id="try-seed"
                )
                another = gr.Button(words.ANOTHER, size="sm", scale=0, elem_id="another")
                with gr.Accordion(words.MORE, open=False):
                    negative = gr.Textbox(label=words.KEEP_OUT, info=words.KEEP_OUT_INFO, max_length=2000)
                    steps = gr.Slider(1, 60, value=20, step=1, label=words.STEPS)
                    guidance = gr.Slider(1, 15, value=5, step=0.5, label=words.GUIDANCE, info=words.GUIDANCE_INFO)
                button = gr.Button(words.DRAW, variant="primary", size="lg", elem_id="draw")
            with gr.Column(scale=6, min_width=300):
                made = drawing.layout("try")
                slider = gr.ImageSlider(
                    label=words.COMPARED,
                    type="pil",
                    interactive=False,
                    slider_position=50,
                    elem_id="compare",
                    show_label=True,
                    max_height=620,
                )
        with gr.Accordion(words.HISTORY, open=True, elem_id="history-box"):
            shelf = history.layout("history")
    another.click(None, None, seed, js="() => Math.floor(Math.random() * 1000000)")
    return Try(style, prompt, strength, seed, negative, steps, guidance, button, made, slider, shelf, gr.State(1))


def connect(act: Try) -> None:
    act.draw.click(guarded(draw), act.fields, act.drawing.shown, **QUIET)
    act.prompt.submit(guarded(draw), act.fields, act.drawing.shown, **QUIET)
    drawing.connect(act.drawing, finished, [act.slider, act.history])
    act.style.input(guarded(suggest), act.style, act.prompt, **QUIET)
    act.history.delete(guarded(forget), None, act.history, **QUIET)
    act.history.expand(guarded(show_older), act.pages, [act.pages, act.history], **QUIET)
    act.history.select(
        guarded(use), None, [act.style, act.prompt, act.strength, act.seed, act.negative, act.steps, act.guidance], **QUIET
    )


def draw(
    style: object, prompt: object, strength: object, seed: object, negative: object, steps: object, guidance: object
) -> tuple:
    """Queue two pictures that differ only in the LoRA."""
    if not style:
        raise UserError(words.NO_STYLE_YET)
    chosen = styles.find(style)
    common = {
        "prompts": (text(prompt),),
        "base": chosen.base,
        "seed": whole(seed, 0, 2**32 - 1, words.SEED),
        "negative": text(negative),
        "steps": whole(steps, 1, 150, words.STEPS),
        "guidance": number(guidance, 1, 30, words.GUIDANCE),
    }
    lora = LoraChoice(file=str(chosen.file), strength=number(strength, -4, 4, words.STRENGTH))
    job = draws.submit_draw([make(DrawConfig, common), make(DrawConfig, {**common, "loras": (lora,)})], labels=LABELS)
    ensure_worker()
    return drawing.begin(job)


def finished(view: draws.DrawView) -> tuple:
    """The slider and the history once both pictures are there."""
    pair = {picture.item: picture.path for picture in view.pictures}
    both = all(label in pair for label in LABELS)
    return (tuple(fitted(open_picture(pair[label]), SIDE) for label in LABELS) if both else gr.skip(), history.update(again=True))


def suggest(style: object) -> object:
    """The prompt to begin with when another style is chosen."""
    return styles.find(style).prompt if style else gr.skip()


def forget(event: gr.EventData) -> object:
    history.remove(event)
    return history.update(again=True)


def show_older(pages: object) -> tuple:
    """A longer history."""
    wanted = whole(pages, 1, 50, words.HISTORY) + 1
    return wanted, history.update(again=True, pages=wanted)


def use(event: gr.EventData) -> tuple:
    """Fill the form with the settings of a kept picture; its style is chosen where it still lies on the shelf."""
    settings = history.of_event(event).settings
    lora = next(iter(settings.get("loras", [])), None)
    entry = search.by_file(lora["file"]) if lora else None
    style_id = f"lora:{entry.id}" if entry else None
    style = gr.Dropdown(choices=styles.menu(style_id), value=style_id) if style_id else gr.skip()
    return (
        style,
        settings.get("prompt", ""),
        lora["strength"] if lora else gr.skip(),
        settings.get("seed", 1),
        settings.get("negative", ""),
        settings.get("steps", 20),
        settings.get("guidance", 5),
    )


def show_style(style: str | None) -> tuple:
    """Updates of (style, prompt, slider): this style with a prompt and, from its run's samples, a first comparison."""
    chosen = styles.find(style) if style else None
    menu = gr.Dropdown(choices=styles.menu(style), value=style)
    return menu, (chosen.prompt or gr.skip()) if chosen else gr.skip(), first_look(chosen) if chosen else gr.skip()


def first_look(chosen: styles.Style) -> object:
    """Step 0 beside this point's sample of the same prompt and seed: there is something to see before anything is drawn."""
    kind, _, rest = chosen.id.partition(":")
    run_id, _, step = rest.partition(":") if kind == "point" else ("", "", "")
    view = styles.run_of(run_id) if kind == "point" else styles.run_of(search.find(rest).run)
    if view is None:
        return gr.skip()
    samples = {sample.step: sample for sample in view.samples if sample.prompt_index == 0}
    wanted = int(step) if step else view.step
    if 0 not in samples or wanted not in samples or wanted == 0:
        return gr.skip()
    return tuple(fitted(open_picture(view.folder / samples[at].path), SIDE) for at in (0, wanted))


def newest_style() -> str | None:
    """The style to offer when the page loads."""
    choices = styles.menu()
    return choices[0][1] if choices else None


def resume_drawing() -> tuple:
    """Updates for `Drawing.shown` on load: what was being drawn goes on being watched."""
    job = drawing.unfinished(drawing.labelled(LABELS))
    return drawing.again(job) if job else gr.skip()


def point_style(run_id: object, point: object) -> str:
    """The style id of the chosen point of a run; of its end that of the file on the shelf, while it lies there."""
    view = runs.view(str(run_id))
    step = chosen_step(view, point)
    if view.file and step == view.step:
        kept = search.by_file(view.file)
        if kept:
            return f"lora:{kept.id}"
    return f"point:{view.id}:{step}"
