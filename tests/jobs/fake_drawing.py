"""A drawing function and a base that need no torch, and settings that draw four small pictures."""

from dataclasses import dataclass

from PIL import Image

from sdlora.config import DrawConfig


@dataclass
class Preview:
    prompt_index: int
    image_index: int
    step: int
    steps: int
    image: Image.Image


@dataclass
class Picture:
    prompt_index: int
    image_index: int
    prompt: str
    seed: int
    image: Image.Image
    settings: dict


def fake_draw(base, config, *, stop, on_step=lambda: None):
    """As draw.pipeline.draw: previews, then a picture of a colour that follows from its seed."""
    for prompt_index, prompt in enumerate(config.prompts):
        for image_index in range(config.count):
            for step in range(1, config.steps + 1):
                on_step()
                if stop():
                    return
                yield Preview(prompt_index, image_index, step, config.steps, Image.new("RGB", (64, 64), "grey"))
            seed = config.seed + image_index
            settings = {"prompt": prompt, "seed": seed, "steps": config.steps, "guidance": config.guidance,
                        "width": 64, "height": 64, "loras": [{"name": "x", "strength": c.strength, "hash": "0" * 12}
                                                               for c in config.loras]}
            yield Picture(prompt_index, image_index, prompt, seed, Image.new("RGB", (64, 64), (seed % 256, 0, 0)), settings)


class Loads(list):
    def __call__(self, spec, device):
        self.append(spec)
        return f"base {spec}"


def config(**settings):
    return DrawConfig(**{"prompts": ("a house", "a boat"), "count": 2, "steps": 3, "seed": 7, **settings})
