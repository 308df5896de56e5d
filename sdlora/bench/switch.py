"""How long it takes to load, switch and blend LoRAs, and what a step then costs: ours, and diffusers with PEFT, in one run.

Knows nothing about the command line. Both sides use one resident base in turn, round after round, and read the same files, so
that a busy machine slows them alike; the median of the rounds counts. The large models have random weights of true shape.
"""

import statistics
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import diffusers
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor

from sdlora import storage
from sdlora.base.catalog import FAMILIES
from sdlora.base.load import Base, load_base, pick_device
from sdlora.draw.apply import Applied
from sdlora.lora import file as lora_file
from sdlora.lora.blend import Ingredient
from sdlora.lora.delta import Adapter, Adapters

MODELS = {"mini": "mini", "sd15": "sd1", "sdxl": "sdxl"}
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")
RANK, LORAS = 16, 5
SIDE_PX = 256  # of the large models; mini draws its own size
ROUNDS = {"mini": 24, "sd15": 5, "sdxl": 3}
LIMIT_SECONDS = 150.0  # a busy machine gets fewer rounds, never a longer wait
REPEATS = 3  # of what takes milliseconds, in every round
NO_PEFT = 'PEFT is not installed, so it was not measured. Get it with: pip install "sdlora[test]"'
Seconds = dict[str, float | list[float]]
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
    base = load_base("mini", device, parts=("text", "unet")) if model == "mini" else hollow(MODELS[model], device)
    step, pipeline = step_of(base), pipeline_of(base)
    seconds: dict[str, list[float]] = defaultdict(list)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT warns of every adapter it is given
        files = [written(Path(folder) / f"{seed}.safetensors", base, seed) for seed in range(LORAS)]
        for number in range(-1, rounds or ROUNDS[model]):
            turn = ours(base, files, step) | (theirs(pipeline, files, step) if pipeline else {})
            for name, value in turn.items() if number >= 0 else ():
                seconds[name] += value if isinstance(value, list) else [value]
            if number >= 0 and time.perf_counter() - started > LIMIT_SECONDS:
                break
        applied = Applied(base)
        applied.set([Ingredient(lora_file.read(files[0]).adapters)])
        lost = applied.rounding_error()
        applied.clear()
    return told(model, base, seconds, lost)


def told(model: str, base: Base, seconds: dict[str, list[float]], lost: float) -> Result:
    """The medians; a step ratio is the median of the ratios of two steps that were measured one after the other."""
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
        bandwidth_share=middle["copy_s"] / middle["switch_s"], rounding_error=lost, modules=len(targets(base)),
        rounds=len(seconds["load_s"]), threads=torch.get_num_threads(), device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."))


def ours(base: Base, files: Sequence[Path], step: Step) -> Seconds:
    """One turn of ours, begun with nothing in memory but the base; it is as it was afterwards."""
    applied = Applied(base)
    try:
        seconds = {"load_s": clock(lambda: applied.set([Ingredient(lora_file.read(files[0]).adapters)]))}
        seconds["first_step_s"] = seconds["load_s"] + clock(step)
        loras = [Ingredient(lora_file.read(file).adapters, 1 / LORAS) for file in files]
        applied.set(loras)

        def switched(to: Sequence[Ingredient]) -> float:
            applied.set(loras[:1])
            return clock(lambda: applied.set(to))
        for name, to in (("switch_s", loras[1:2]), ("blend2_s", loras[1:3]), ("blend5_s", loras)):
            seconds[name] = statistics.median(switched(to) for _ in range(REPEATS))
        seconds["copy_s"] = copying(sum(each.parameter.nbytes for each in applied.kept.values()), base.device)
        pairs = [stepped(applied, order, step) for order in ((loras, ()), ((), loras))]
        seconds |= {"step5_s": [pair[len(loras)] for pair in pairs], "step_s": [pair[0] for pair in pairs]}
    finally:
        applied.clear()
    return seconds


def stepped(applied: Applied, blends: Sequence[Sequence[Ingredient]], step: Step) -> dict[int, float]:
    """{number of LoRAs: seconds of a step with this blend}; each is timed at its second step, as most steps of a picture are."""
    seconds = {}
    for blend in blends:
        applied.set(blend)
        step()
        seconds[len(blend)] = clock(step)
    return seconds


def theirs(pipeline: object, files: Sequence[Path], step: Step) -> Seconds:
    """The same of diffusers with PEFT, begun and left with a bare UNet (up to the rounding that unfuse_lora leaves)."""
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


def copying(nbytes: int, device: torch.device) -> float:
    """Seconds of a plain copy of so many bytes: less no merge can take."""
    source = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    return statistics.median(clock(lambda: target.copy_(source)) for _ in range(REPEATS))


def clock(action: Callable[[], object]) -> float:
    """Seconds that `action` takes, to the end of what it left to the GPU."""
    settle()
    began = time.perf_counter()
    action()
    settle()
    return time.perf_counter() - began


def settle() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def step_of(base: Base) -> Step:
    """The UNet's prediction for one picture with guidance (2 latents) and random texts: what a denoising step costs."""
    config = base.unet.config
    side = config.sample_size if base.family == "mini" else SIDE_PX // base.factor
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(base.device, base.dtype)
    features = {"states": noise(2, 32 if base.family == "mini" else 77, config.cross_attention_dim)}
    if base.family == "sdxl":
        features["pooled"] = noise(2, 1280)
    latents, timesteps = noise(2, config.in_channels, side, side), torch.tensor([500, 500], device=base.device)
    return lambda: base.predict(latents, timesteps, features, SIDE_PX)


def targets(base: Base) -> dict[str, tuple[int, int]]:
    """{path: (out, in)} of every attention projection of the UNet."""
    return {path: tuple(module.weight.shape) for path, module in base.unet.named_modules() if path.endswith(TARGETS)}


def written(path: Path, base: Base, seed: int) -> Path:
    """A LoRA file of rank 16 on every attention projection, random, in fp16 and in the spelling PEFT reads without converting."""
    generator = torch.Generator().manual_seed(seed)
    adapters: Adapters = {}
    for name, (out, width) in targets(base).items():
        up, down = torch.randn(out, RANK, generator=generator) * 0.02, torch.randn(RANK, width, generator=generator) * 0.02
        adapters[name] = Adapter("lora", {"up": up, "down": down}, float(RANK), RANK, "unet")
    return lora_file.write(path, adapters, {}, dialect="diffusers", dtype="fp16", family=base.family)


@torch.no_grad()
def hollow(family: str, device: str) -> Base:
    """A base of true shape in bf16 whose UNet has random weights, and no other parts. Takes 1.7 GB (sd1) or 5.1 GB (sdxl)."""
    config = storage.read_json(storage.shipped("assets", "configs", family, "unet", "config.json"))
    where = pick_device(device)
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config).to(torch.bfloat16)
    unet = unet.to_empty(device=where).requires_grad_(False).eval()
    noise = torch.randn(2**22, generator=torch.Generator().manual_seed(0)).to(where, torch.bfloat16) * 0.02
    for name, value in unet.named_parameters():
        flat = value.view(-1)
        for at in range(0, len(flat), len(noise)):
            flat[at:at + len(noise)] = noise[:len(flat) - at]
        if "norm" in name and name.endswith("weight"):
            value.fill_(1)
    return Base(spec=family, title=FAMILIES[family].title, family=family, identity="", resolution=unet.config.sample_size * 8,
                factor=8, prediction_type="epsilon", tokenizers=[], text_encoders=[], vae=None, unet=unet,
                scheduler_config={}, device=where, dtype=torch.bfloat16)


def pipeline_of(base: Base) -> object | None:
    """diffusers' pipeline around the same UNet, without text encoders and VAE; None where PEFT is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError:
        return None
    parts: dict[str, object] = dict.fromkeys(("vae", "text_encoder", "tokenizer"))
    parts |= {"unet": base.unet, "scheduler": DDIMScheduler(clip_sample=False, steps_offset=1)}
    if base.family == "sdxl":
        return diffusers.StableDiffusionXLPipeline(text_encoder_2=None, tokenizer_2=None, **parts)
    return diffusers.StableDiffusionPipeline(safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts)
