"""Act 3: one prompt, the base model alone beside the LoRA, same seed."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from sdlora.config import DrawConfig, LoraChoice, make
from sdlora.errors import UserError
from sdlora.jobs import drawings as draws
from sdlora.jobs import run as runs
from sdlora.jobs.worker import ensure_worker
from sdlora.library import search
from sdlora.ui import drawing, history, loras, words
from sdlora.ui.validation import ACTION, Updates, guarded, number, text, whole_number

LABELS = ("base", "style")


@dataclass(frozen=True)
class Compare:
    """The parts of act 3; `fields` in the order that `draw` takes them."""

    lora: gr.Dropdown
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
        return [self.lora, self.prompt, self.strength, self.seed, self.negative, self.steps, self.guidance]


def layout() -> Compare:
    with gr.Column(elem_classes="act", elem_id="act-try"):
        gr.Markdown(f"## {words.TRY}\n\n{words.TRY_LEAD}")
        with gr.Row():
            with gr.Column(scale=4, min_width=280):
                lora = gr.Dropdown(loras.menu(), label=words.LORA, elem_id="try-lora")
                prompt = gr.Textbox(label=words.PROMPT, info=words.PROMPT_INFO, lines=3, max_length=2000, elem_id="try-prompt")
                about: Any = {"label": words.STRENGTH, "info": words.STRENGTH_INFO, "elem_id": "try-strength"}
                strength = gr.Slider(0, 2, value=1, step=0.05, **about)
                seed = drawing.seed_field("try-seed", "another", info=words.SEED_INFO)
                with gr.Accordion(words.MORE, open=False):
                    negative, steps, guidance = drawing.negative_field(), drawing.steps_field(), drawing.guidance_field()
                button = gr.Button(words.DRAW, variant="primary", size="lg", elem_id="draw")
            with gr.Column(scale=6, min_width=300):
                made = drawing.layout("try")
                slider = drawing.comparison(words.COMPARED, elem_id="compare", slider_position=50, show_label=True)
        with gr.Accordion(words.HISTORY, open=True, elem_id="history-box"):
            drawn = history.layout("history")
    return Compare(lora, prompt, strength, seed, negative, steps, guidance, button, made, slider, drawn, gr.State(1))


def connect(act: Compare) -> None:
    act.draw.click(guarded(draw), act.fields, act.drawing.outputs, **ACTION)
    act.prompt.submit(guarded(draw), act.fields, act.drawing.outputs, **ACTION)
    drawing.connect(act.drawing, finished, [act.slider, act.history])
    act.lora.input(guarded(suggest_prompt), act.lora, act.prompt, **ACTION)
    act.history.delete(guarded(delete_picture), None, act.history, **ACTION)
    act.history.expand(guarded(show_older), act.pages, [act.pages, act.history], **ACTION)
    act.history.select(guarded(use_settings), None, act.fields, **ACTION)


def draw(lora: Any, prompt: Any, strength: Any, seed: Any, negative: Any, steps: Any, guidance: Any) -> tuple:
    """Queue two pictures that differ only in the LoRA."""
    if not lora:
        raise UserError(words.NO_LORA_YET)
    chosen = loras.find(lora)
    common = {
        "prompts": (text(prompt),),
        "base": chosen.base,
        "seed": whole_number(seed, 0, drawing.MOST_SEED, words.SEED),
        "negative": text(negative),
        "steps": whole_number(steps, 1, 150, words.STEPS),
        "guidance": number(guidance, 1, 30, words.CFG),
    }
    choice = make(LoraChoice, {"file": str(chosen.file), "strength": number(strength, -4, 4, words.STRENGTH)})
    job = draws.submit_draw([make(DrawConfig, common), make(DrawConfig, {**common, "loras": (choice,)})], labels=LABELS)
    ensure_worker()
    return drawing.show_new(job)


def finished(view: draws.DrawView) -> tuple:
    """Return the slider and the history once both pictures are there."""
    paths = {picture.item: picture.path for picture in view.pictures}
    both = [paths[label] for label in LABELS if label in paths]
    return drawing.pair(*both) if len(both) == 2 else gr.skip(), history.update(again=True)


def suggest_prompt(lora: Any) -> Any:
    """Return the prompt to begin with when another LoRA is chosen."""
    return loras.find(lora).prompt if lora else gr.skip()


def delete_picture(event: gr.EventData) -> gr.HTML:
    history.remove(event)
    return history.update(again=True)


def show_older(pages: Any) -> tuple:
    """Return a longer history."""
    wanted = whole_number(pages, 1, 50, words.HISTORY) + 1
    return wanted, history.update(again=True, pages=wanted)


def use_settings(event: gr.EventData) -> tuple:
    """Fill the form with the settings of a kept picture; its LoRA is chosen where it still lies on the shelf."""
    settings: dict[str, Any] = history.of_event(event).settings
    choice = next(iter(settings.get("loras", [])), None)
    entry = search.by_file(choice["file"]) if choice else None
    lora = f"lora:{entry.id}" if entry else None
    return (
        gr.Dropdown(choices=loras.menu(lora), value=lora) if lora else gr.skip(),
        settings.get("prompt", ""),
        choice["strength"] if choice else gr.skip(),
        settings.get("seed", 1),
        settings.get("negative", ""),
        settings.get("steps", 20),
        settings.get("guidance", 5),
    )


def show_lora(lora: str | None) -> tuple:
    """Return updates of (LoRA, prompt, slider): this LoRA with a prompt and, from its run's samples, a first comparison."""
    chosen = loras.find(lora) if lora else None
    menu = gr.Dropdown(choices=loras.menu(lora), value=lora)
    return menu, (chosen.prompt or gr.skip()) if chosen else gr.skip(), first_comparison(chosen) if chosen else gr.skip()


def first_comparison(chosen: loras.Lora) -> Any:
    """Return step 0 beside this checkpoint's sample of the same prompt and seed: something to see before anything is drawn."""
    kind, _, rest = chosen.id.partition(":")
    run_id, _, step = rest.partition(":")
    run = loras.run_of(run_id if kind == "point" else search.find(rest).run)
    if run is None:
        return gr.skip()
    samples = {sample.step: sample for sample in run.samples if sample.prompt_index == 0}
    wanted = int(step) if step else run.step
    if 0 not in samples or wanted not in samples or wanted == 0:
        return gr.skip()
    return drawing.pair(*(run.folder / samples[at].path for at in (0, wanted)))


def newest_lora() -> str | None:
    """Return the LoRA to offer when the page loads."""
    return next((lora for _, lora in loras.menu()), None)


def resume() -> Updates:
    """Return updates for `Drawing.outputs` on load: what is being drawn is followed again."""
    return drawing.resume(drawing.labelled(*LABELS))


def checkpoint_lora(run_id: Any, step: Any) -> str:
    """Return the id of the LoRA at this step of a run; of its end that of the file on the shelf, while it lies there."""
    run = runs.view(str(run_id))
    step = run.usable_step(step)
    if run.file and step == run.step:
        entry = search.by_file(run.file)
        if entry:
            return f"lora:{entry.id}"
    return f"point:{run.id}:{step}"
