"""How long it takes to load, switch and blend LoRAs, and what a step then costs: ours, and diffusers with PEFT, in one run.

Each side has a resident base in a process of its own, with its own defaults (sides.py), and reads the same files; the result is
the median of the rounds. The large models have random weights of true shape.
"""

import json
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn

from sdlora import storage
from sdlora.base.load import Base, frozen, load_base, pick_device
from sdlora.bench import sides, timed
from sdlora.draw.apply import Applied
from sdlora.families import FAMILIES
from sdlora.lora.formats.reading import read
from sdlora.lora.formats.writing import write
from sdlora.lora.math.blend import Ingredient
from sdlora.lora.math.delta import Adapter, Adapters

MODELS = {"mini": "mini", "sd15": "sd1", "sdxl": "sdxl"}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANK, LORAS = 16, 5
SIDE_PX = 256  # of the large models; mini draws its own size
ROUNDS = {"mini": 24, "sd15": 5, "sdxl": 3}
REPEATS = 3  # of what takes milliseconds, in every round
NO_PEFT = 'PEFT is not installed, so it was not measured. Get it with: pip install "sdlora[test]"'
Seconds = dict[str, Any]  # {name: seconds, or a list of them}
Step = Callable[[], object]


@dataclass(frozen=True)
class Result:
    """Seconds: medians over the rounds. load: from the file to weights that can be drawn with; first_step: that and one step.

    switch, blend2, blend5: from one LoRA in the weights to another, to two, to five, all of them in memory. peft_load:
    load_lora_weights + fuse_lora; peft_switch: unfuse_lora + set_adapters + fuse_lora, its only way whose steps then cost as
    little as ours; peft_set: set_adapters alone. step5_ratio, peft_step5_ratio: a step with five LoRAs (PEFT's after
    set_adapters) / one with none. bandwidth_share: a copy of the weights that change / switch. rounding_error: the share of the
    change that the number format of the base loses (Applied.rounding_error). None where PEFT is missing.
    """
    model: str
    load_s: float
    switch_s: float
    blend2_s: float
    blend5_s: float
    first_step_s: float
    peft_load_s: float | None
    peft_switch_s: float | None
    peft_set_s: float | None
    load_ratio: float | None
    switch_ratio: float | None
    step5_ratio: float
    peft_step5_ratio: float | None
    step_s: float
    bandwidth_share: float
    rounding_error: float
    modules: int
    rounds: int
    threads: int
    device: str
    dtype: str


def measure(model: str = "mini", *, rounds: int | None = None, device: str = "auto") -> Result:
    """Time `model` ("mini", "sd15", "sdxl"). Raises UserError where the device is not there, KeyError for another model."""
    device = pick_device(device).type
    with tempfile.TemporaryDirectory() as folder:
        options = json.dumps({"model": model, "device": device, "folder": folder})
        environments = {"ours": dict(os.environ)}
        if find_spec("peft"):
            environments["theirs"] = sides.foreign_environment() | sides.OWN_WAITING
        commands = {name: (sides.own_python("sdlora.bench.switch", name, options), environment)
                    for name, environment in environments.items()}
        with sides.running(commands) as running:
            answers = sides.in_turn(running, rounds or ROUNDS[model])
    seconds: dict[str, list[float]] = defaultdict(list)
    facts = answers["ours"][0].pop("facts")
    for turn in [turn for turns in answers.values() for turn in turns]:
        for name, value in turn.items():
            if name != "facts":
                seconds[name] += value if isinstance(value, list) else [value]
    return result_of(model, seconds, facts)


def serve(side: str, model: str, device: str, folder: str) -> None:
    """Answer with one turn of "ours" (with facts about the base) or "theirs" until no more is wanted.

    Ours writes the files before it is ready; no side is measured before both are ready.
    """
    base = load_base("mini", device, parts=("text", "unet")) if model == "mini" else random_base(MODELS[model], device)
    files, step = [Path(folder) / f"{seed}.safetensors" for seed in range(LORAS)], step_of(base)
    warnings.simplefilter("ignore")  # PEFT warns of every adapter it is given
    with torch.no_grad():
        if side == "theirs":
            pipeline = pipeline_of(base)
            timed.answer(lambda: theirs(pipeline, files, step))
            return
        for seed, file in enumerate(files):
            write_lora(file, base, seed)
        facts = facts_of(base, files[0])
        timed.answer(lambda: {**ours(base, files, step), "facts": facts})


def facts_of(base: Base, file: Path) -> dict[str, Any]:
    """Return what a result holds besides the seconds."""
    applied = Applied(base)
    applied.set([Ingredient(read(file).adapters)])
    lost = applied.rounding_error()
    applied.clear()
    return {"rounding_error": lost, "modules": len(targets(base)), "threads": torch.get_num_threads(),
            "device": str(base.device), "dtype": str(base.dtype).removeprefix("torch.")}


def result_of(model: str, seconds: dict[str, list[float]], facts: dict[str, Any]) -> Result:
    """Return the medians; a step ratio is the median of the ratios of two steps that were measured one after the other."""
    middle = {name: statistics.median(values) for name, values in seconds.items()}
    with_peft = "peft_load_s" in middle
    ratios = {name: statistics.median(five / none for five, none in zip(seconds[name], seconds[bare], strict=True))
              for name, bare in (("step5_s", "step_s"), ("peft_step5_s", "peft_bare_s")) if name in seconds}
    return Result(
        model, *(middle[name] for name in ("load_s", "switch_s", "blend2_s", "blend5_s", "first_step_s")),
        *(middle.get(name) for name in ("peft_load_s", "peft_switch_s", "peft_set_s")),
        load_ratio=middle["peft_load_s"] / middle["load_s"] if with_peft else None,
        switch_ratio=middle["peft_switch_s"] / middle["switch_s"] if with_peft else None,
        step5_ratio=ratios["step5_s"], peft_step5_ratio=ratios.get("peft_step5_s"), step_s=middle["step_s"],
        bandwidth_share=middle["copy_s"] / middle["switch_s"], rounds=len(seconds["load_s"]), **facts)


def ours(base: Base, files: Sequence[Path], step: Step) -> Seconds:
    """Make one turn of ours, begun with nothing in memory but the base, which is left unchanged."""
    applied = Applied(base)
    try:
        seconds = {"load_s": clock(lambda: applied.set([Ingredient(read(files[0]).adapters)]))}
        seconds["first_step_s"] = seconds["load_s"] + clock(step)
        loras = [Ingredient(read(file).adapters, 1 / LORAS) for file in files]
        applied.set(loras)

        def switch(to: Sequence[Ingredient]) -> float:
            applied.set(loras[:1])
            return clock(lambda: applied.set(to))
        for name, to in (("switch_s", loras[1:2]), ("blend2_s", loras[1:3]), ("blend5_s", loras)):
            seconds[name] = statistics.median(switch(to) for _ in range(REPEATS))
        seconds["copy_s"] = copy_seconds(sum(each.parameter.nbytes for each in applied.originals.values()), base.device)
        pairs = [step_seconds(applied, order, step) for order in ((loras, ()), ((), loras))]
        seconds |= {"step5_s": [pair[len(loras)] for pair in pairs], "step_s": [pair[0] for pair in pairs]}
    finally:
        applied.clear()
    return seconds


def step_seconds(applied: Applied, blends: Sequence[Sequence[Ingredient]], step: Step) -> dict[int, float]:
    """Return {number of LoRAs: seconds of a step with this blend}; each is timed at its second step, like most of a picture."""
    seconds = {}
    for blend in blends:
        applied.set(blend)
        step()
        seconds[len(blend)] = clock(step)
    return seconds


def theirs(pipeline: Any, files: Sequence[Path], step: Step) -> Seconds:
    """Make the same turn with diffusers and PEFT, begun and left with a bare UNet (up to what unfuse_lora rounds)."""
    names = [f"lora{number}" for number in range(len(files))]

    def load() -> None:
        pipeline.load_lora_weights(str(files[0]), adapter_name=names[0])
        pipeline.fuse_lora(adapter_names=names[:1])

    def switch(name: str) -> None:
        pipeline.unfuse_lora()
        pipeline.set_adapters([name])
        pipeline.fuse_lora(adapter_names=[name])
    try:
        bare = statistics.median(clock(step) for _ in range(REPEATS))
        seconds = {"peft_load_s": clock(load)}
        pipeline.unfuse_lora()
        for name, file in zip(names[1:], files[1:], strict=True):
            pipeline.load_lora_weights(str(file), adapter_name=name)
        pipeline.set_adapters(names[:1])
        pipeline.fuse_lora(adapter_names=names[:1])
        seconds["peft_switch_s"] = statistics.median(clock(partial(switch, name)) for name in names[1:3])
        pipeline.unfuse_lora()
        seconds["peft_set_s"] = statistics.median(clock(partial(pipeline.set_adapters, [name])) for name in names[:REPEATS])
        pipeline.set_adapters(names, [1 / len(names)] * len(names))
        seconds["peft_step5_s"] = statistics.median(clock(step) for _ in range(REPEATS))
        seconds["peft_bare_s"] = bare
    finally:
        pipeline.unload_lora_weights()
    return seconds


def copy_seconds(nbytes: int, device: torch.device) -> float:
    """Time a plain copy of so many bytes, the least that a merge can take."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return statistics.median(clock(lambda: target.copy_(source)) for _ in range(REPEATS))


def clock(action: Callable[[], object]) -> float:
    """Time `action` until the GPU has finished."""
    timed.synchronize()
    began = time.perf_counter()
    action()
    timed.synchronize()
    return time.perf_counter() - began


def step_of(base: Base) -> Step:
    """Return the UNet's prediction for one picture with guidance (2 latents) and random texts: what a denoising step costs."""
    config = base.unet.config
    side = config["sample_size"] if base.family == "mini" else SIDE_PX // base.factor
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(base.device, base.dtype)
    features = {"states": noise(2, 32 if base.family == "mini" else 77, config["cross_attention_dim"])}
    if base.family == "sdxl":
        features["pooled"] = noise(2, 1280)
    latents, timesteps = noise(2, config["in_channels"], side, side), torch.tensor([500, 500], device=base.device)
    return lambda: base.predict(latents, timesteps, features, SIDE_PX)


def targets(base: Base) -> dict[str, tuple[int, int]]:
    """Return {path: (out, in)} of every attention projection of the UNet."""
    return {path: (module.out_features, module.in_features) for path, module in base.unet.named_modules()
            if isinstance(module, nn.Linear) and path.endswith(TARGETS)}


def write_lora(path: Path, base: Base, seed: int) -> Path:
    """Write a random LoRA of rank 16 on every attention projection, in fp16 and in the names that PEFT reads as they are."""
    generator = torch.Generator().manual_seed(seed)
    adapters: Adapters = {}
    for name, (out, width) in targets(base).items():
        up, down = torch.randn(out, RANK, generator=generator) * 0.02, torch.randn(RANK, width, generator=generator) * 0.02
        adapters[name] = Adapter("lora", {"up": up, "down": down}, float(RANK), RANK, "unet")
    return write(path, adapters, {}, dialect="diffusers", dtype="fp16", family=base.family)


@torch.no_grad()
def random_base(family: str, device: str, dtype: torch.dtype = torch.bfloat16) -> Base:
    """Build a base of true shape: a UNet of random weights, and no other parts. Takes 1.7 GB (sd1) or 5.1 GB (sdxl) in bf16."""
    config = storage.read_json(storage.shipped("assets", "configs", family, "unet", "config.json"))
    where = pick_device(device)
    with torch.device("meta"):
        unet = cast(nn.Module, UNet2DConditionModel.from_config(config)).to(dtype)
    unet = cast(UNet2DConditionModel, unet.to_empty(device=where))
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(where, dtype) * 0.02
    for name, value in unet.named_parameters():
        flat = value.view(-1)
        for at in range(0, len(flat), len(noise)):
            flat[at:at + len(noise)] = noise[:len(flat) - at]
        if "norm" in name and name.endswith("weight"):
            value.fill_(1)
    return Base(spec=family, title=FAMILIES[family].title, family=family, identity="", resolution=unet.config["sample_size"] * 8,
                factor=8, prediction_type="epsilon", tokenizers=[], text_encoders=[], vae=None,
                unet=cast(UNet2DConditionModel, frozen(unet, where)),
                scheduler_config={}, device=where, dtype=dtype)


def pipeline_of(base: Base) -> Any:
    """Return diffusers' pipeline around the same UNet, without text encoders and VAE."""
    parts: dict[str, Any] = {"vae": None, "text_encoder": None, "tokenizer": None, "unet": base.unet,
                             "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)}
    if base.family == "sdxl":
        parts |= {"text_encoder_2": None, "tokenizer_2": None}
        return diffusers.StableDiffusionXLPipeline(**parts)
    parts |= {"safety_checker": None, "feature_extractor": None}
    return diffusers.StableDiffusionPipeline(requires_safety_checker=False, **parts)


if __name__ == "__main__":
    serve(sys.argv[1], **json.loads(sys.argv[2]))
