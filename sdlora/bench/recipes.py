"""What other trainers publish as settings for a style, expressed in ours, beside our presets: the same pictures seen by all.

Their numbers are for Stable Diffusion, and none comes with a measurement: read in their sources in 2026.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from sdlora.base.load import Base
from sdlora.bench.style import Case, StyleResult, measure, summary
from sdlora.config import MAX_STEPS, from_preset
from sdlora.mini.strangers import Stranger


@dataclass(frozen=True)
class Recipe:
    """settings: keys of TrainConfig. source: where they stand. left_out: what of the recipe ours does not have."""

    name: str
    settings: dict[str, object]
    source: str
    left_out: str = ""


CONSTANT = {"schedule": "constant", "warmup_steps": 0}
RECIPES = (
    Recipe("kohya_ss, form", {"rank": 8, "alpha": 1.0, "learning_rate": 1e-4, "batch_size": 1, "caption_dropout": 0.0},
           "kohya_gui/lora_gui.py", "warm-up of a tenth, AdamW8bit, text encoder"),
    Recipe("sd-scripts, SDXL guide", {"rank": 32, "alpha": 16.0, "learning_rate": 1e-4, "batch_size": 1, "min_snr_gamma": 5.0,
                                      "caption_dropout": 0.0, **CONSTANT}, "docs/sdxl_train_network.md",
           "AdamW8bit, text encoder"),
    Recipe("OneTrainer, LoRA preset", {"rank": 16, "alpha": 1.0, "learning_rate": 3e-4, "batch_size": 4, "caption_dropout": 0.0,
                                       "schedule": "constant", "warmup_steps": 200}, "training_presets", "feed-forward layers"),
    Recipe("ai-toolkit", {"rank": 32, "alpha": 32.0, "learning_rate": 1e-4, "batch_size": 1, "caption_dropout": 0.05,
                          "weight_decay": 1e-4, **CONSTANT}, "ui: jobConfig.ts, options.tsx", "convolutions, adamw8bit"),
    Recipe("diffusers, text_to_image script", {"rank": 4, "alpha": 4.0, "learning_rate": 1e-4, "batch_size": 1,
                                               "caption_dropout": 0.0, **CONSTANT}, "examples/text_to_image/README.md"),
    Recipe("InvokeAI, baroque", {"rank": 4, "alpha": 1.0, "learning_rate": 1e-3, "batch_size": 4, "min_snr_gamma": 5.0,
                                 "caption_dropout": 0.0, **CONSTANT}, "sdxl_lora_baroque_1x24gb.yaml"),
    Recipe("kohya-colab, style", {"rank": 16, "alpha": 8.0, "learning_rate": 5e-4, "batch_size": 2, "min_snr_gamma": 5.0,
                                  "caption_dropout": 0.0}, "Lora_Trainer.ipynb",
           "restarts of the cosine, convolutions, AdamW8bit"),
    Recipe("Civitai trainer", {"rank": 32, "alpha": 16.0, "learning_rate": 5e-4, "batch_size": 6, "min_snr_gamma": 5.0,
                               "caption_dropout": 0.0}, "TrainingParams.tsx",
           "restarts of the cosine, noise offset, text encoder"),
)


def arguments_of(recipe: Recipe, pictures_seen: int) -> tuple[str, ...]:
    """Return the recipe as arguments of `sdlora train`, with as many steps as see so many pictures."""
    batch = recipe.settings["batch_size"]
    assert isinstance(batch, int)
    settings = recipe.settings | {"steps": min(MAX_STEPS, round(pictures_seen / batch))}
    return tuple(part for key, value in settings.items() for part in ("--set", f"{key}={value}"))


def compare(base: Base, preset: str, strangers: Sequence[Stranger], folder: Path
            ) -> Iterator[tuple[Recipe, dict[str, float | None]]]:
    """Yield ours and every recipe with the mean of its results over the styles, as `style.summary` gives them."""
    ours = from_preset(preset, base.family, Case().pictures)
    seen = ours.steps * ours.batch_size
    case = Case(base.spec, preset)
    for number, recipe in enumerate((Recipe(f"ours, {preset}", {}, "presets"), *RECIPES)):
        chosen = case if not recipe.settings else replace(case, arguments=arguments_of(recipe, seen))
        results: list[StyleResult] = [result for result, _ in measure(base, chosen, strangers, folder / f"{number}")]
        yield recipe, summary(results)
