"""Samplers by the names artists know: which scheduler of diffusers each is. Knows nothing about torch or denoising.

Names and schedule types as A1111 writes them into infotext; the pairs are those of diffusers' table "Schedulers" (api/schedulers
/overview). LMS needs scipy and the Brownian-noise DPM++ SDE of k-diffusion needs torchsde, so LMS is left out, and DPM++ SDE
is diffusers' single-step SDE solver: the same method, with plain noise.
"""

import difflib
import re
from collections.abc import Mapping

from sdlora.errors import UserError

SOLVERS: dict[str, tuple[str, dict[str, object]]] = {
    "DPM++ 2M": ("DPMSolverMultistepScheduler", {"algorithm_type": "dpmsolver++"}),
    "DPM++ 2M SDE": ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ SDE": ("DPMSolverSinglestepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    "DPM++ 2S": ("DPMSolverSinglestepScheduler", {"algorithm_type": "dpmsolver++"}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "DPM2": ("KDPM2DiscreteScheduler", {}),
    "DPM2 a": ("KDPM2AncestralDiscreteScheduler", {}),
    "DDIM": ("DDIMScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "DEIS": ("DEISMultistepScheduler", {"algorithm_type": "deis"}),
    "LCM": ("LCMScheduler", {}),
    "DDPM": ("DDPMScheduler", {}),
}
SCHEDULES = {"Karras": "use_karras_sigmas", "Exponential": "use_exponential_sigmas"}
ONE_SCHEDULE = {"Euler a", "DDIM", "PLMS", "LCM", "DDPM"}  # their schedulers have no other spacing of the noise levels
EVEN = {"DDIMScheduler", "PNDMScheduler"}  # they walk in equal strides, whatever the spacing says: "linspace" leads them astray
NAMES = tuple(f"{solver} {schedule}".strip() for solver in SOLVERS
              for schedule in ("", *(() if solver in ONE_SCHEDULE else SCHEDULES)))
KNOWN = {name.lower(): name for name in NAMES}


def find(name: str) -> tuple[str, dict[str, object]]:
    """A sampler's name -> (diffusers' class, the settings that make it so).

    Any case; the spellings of InvokeAI and ComfyUI too. Raises UserError, with the nearest name, for one that is none.
    """
    solver, schedule = split(official(name))
    kind, options = SOLVERS[solver]
    spacing = {} if solver in ONE_SCHEDULE else {flag: title == schedule for title, flag in SCHEDULES.items()}
    return kind, options | spacing


def official(name: str) -> str:
    """`name` as this table writes it: "dpmpp_2m_k" -> "DPM++ 2M Karras". Raises UserError with the nearest name."""
    plain = re.sub(r"[\s_]+", " ", name.strip().lower()).replace("dpmpp", "dpm++").replace("dpm++2", "dpm++ 2")
    plain = re.sub(r"\bancestral\b", "a", re.sub(r" k$", " karras", plain))
    if plain not in KNOWN:
        close = difflib.get_close_matches(plain, KNOWN, n=1, cutoff=0.5)
        raise UserError(f"There is no sampler {name!r}.",
                        f"Did you mean {KNOWN[close[0]]}?" if close else f"The samplers are: {', '.join(SOLVERS)}.")
    return KNOWN[plain]


def split(name: str) -> tuple[str, str]:
    """"DPM++ 2M Karras" -> ("DPM++ 2M", "Karras"), as A1111 writes it since 1.9; ("DDIM", "") where the type is the usual one."""
    schedule = next((title for title in SCHEDULES if name.endswith(f" {title}")), "")
    return name.removesuffix(f" {schedule}") if schedule else name, schedule


def name_of(config: Mapping[str, object]) -> str:
    """What artists call the scheduler of a scheduler_config.json; its class where they have no name for it."""
    kind = str(config.get("_class_name", ""))
    solver = next((name for name, (ours, options) in SOLVERS.items() if ours == kind
                   and config.get("algorithm_type", options.get("algorithm_type")) == options.get("algorithm_type")), kind)
    schedule = next((title for title, flag in SCHEDULES.items() if config.get(flag)), "")
    return f"{solver} {schedule}".strip()
