"""Samplers by the names artists know: which scheduler of diffusers each is. Knows nothing about torch or denoising.

Names and schedule types as A1111 writes them into infotext; the pairs are those of diffusers' table "Schedulers" (api/schedulers
/overview). LMS needs scipy and the Brownian-noise DPM++ SDE of k-diffusion needs torchsde, so LMS is left out, and DPM++ SDE
is diffusers' single-step SDE solver: the same method, with plain noise.
"""

import difflib
import re
from collections.abc import Mapping

from sdlora.errors import UserError


def normalized(text: str) -> str:
    """Return letters and digits only, in lower case; "++" as "pp"."""
    return re.sub(r"[^a-z0-9]", "", text.lower().replace("++", "pp"))


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
EVEN = {"DDIMScheduler", "PNDMScheduler"}  # they step evenly: the spacing "linspace" gives them wrong steps
NAMES = tuple(f"{solver} {schedule}".strip() for solver in SOLVERS
              for schedule in ("", *(() if solver in ONE_SCHEDULE else SCHEDULES)))
KNOWN = {name.lower(): name for name in NAMES}

# Other programs' spellings, normalized. k-diffusion names: comfy/samplers.py of ComfyUI (SwarmUI and
# Fooocus use them), NovelAI with "k_" before them, InvokeAI's schedulers.py and its 2.3's args.py, Easy Diffusion's list.
SPELLINGS = {normalized(name): name for name in SOLVERS}
SPELLINGS |= {kind.lower(): name for name, (kind, _) in reversed(SOLVERS.items())}  # a class alone means its usual solver
SPELLINGS |= {
    "eulerancestral": "Euler a", "kdpm2": "DPM2", "kdpm2a": "DPM2 a", "dpm2ancestral": "DPM2 a", "kdpm2ancestral": "DPM2 a",
    "dpmpp2": "DPM++ 2M", "dpmsolverpp": "DPM++ 2M", "dpmsolversdescheduler": "DPM++ SDE",
    "dpmsolversinglestepscheduler": "DPM++ 2S", "pndm": "PLMS", "ddimv3": "DDIM", "unipcbh2": "UniPC", "unipcsnr": "UniPC",
    "unipcsnr2": "UniPC", "unipctu": "UniPC", "unipctu2": "UniPC", "unipctq": "UniPC"}
OTHER_SCHEDULES = {  # A1111's titles (modules/sd_schedulers.py) for the spacings that only other programs have
    "polyexponential": "Polyexponential", "sgmuniform": "SGM Uniform", "ddimuniform": "DDIM Uniform", "beta": "Beta",
    "simple": "Simple", "kloptimal": "KL Optimal", "alignyoursteps": "Align Your Steps", "ays": "Align Your Steps",
    "linearquadratic": "Linear Quadratic", "trailing": "Trailing", "turbo": "Turbo"}
USUAL = {"", "normal", "uniform", "default", "none", "native", "discrete", "scaled"}  # other words for a solver's own spacing
SPACINGS = {title.lower(): title for title in SCHEDULES} | OTHER_SCHEDULES | dict.fromkeys(USUAL, "")
KARRAS_BY_DEFAULT = {"DPM++ 2M", "DPM++ SDE", "DPM2", "DPM2 a"}  # A1111's modules/sd_samplers_kdiffusion.py, for "Automatic"


def find(name: str) -> tuple[str, dict[str, object]]:
    """Return diffusers' class of a sampler, and the settings that make it that one.

    Any case; the spellings of InvokeAI and ComfyUI too. Raises UserError, with the nearest name, for an unknown one.
    """
    solver, schedule = split(official(name))
    kind, options = SOLVERS[solver]
    spacing = {} if solver in ONE_SCHEDULE else {flag: title == schedule for title, flag in SCHEDULES.items()}
    return kind, options | spacing


def official(name: str) -> str:
    """Return `name` as this table writes it: "dpmpp_2m_k" -> "DPM++ 2M Karras". Raises UserError with the nearest name."""
    plain = title(name)
    if plain not in NAMES:
        close = difflib.get_close_matches(plain.lower(), KNOWN, n=1, cutoff=0.5)
        raise UserError(f"There is no sampler {name!r}.",
                        f"Did you mean {KNOWN[close[0]]}?" if close else f"The samplers are: {', '.join(SOLVERS)}.")
    return plain


def title(sampler: str, schedule: str = "") -> str:
    """Return one name as artists know it for any program's names of sampler and schedule; unknown words stay as they are.

    ("dpmpp_2m", "karras") and ("DPM++ 2M Karras", "") -> "DPM++ 2M Karras", ("euler", "sgm_uniform") -> "Euler SGM Uniform".
    """
    sampler, schedule = sampler.strip()[:80], schedule.strip()[:40]
    solver, spacing = solver_of(sampler)
    if schedule and normalized(schedule) not in USUAL:
        spacing = SPACINGS.get(normalized(schedule), schedule)
    if not solver:
        return f"{sampler} {schedule}".strip()
    if normalized(spacing) == "automatic":
        spacing = "Karras" if solver in KARRAS_BY_DEFAULT else ""
    return f"{solver} {spacing}".strip()


def solver_of(sampler: str) -> tuple[str, str]:
    """Return ("DPM++ 2M", "Karras") for "k_dpmpp_2m_karras", "DPM++ 2M Karras" and the like; ("", "") for an unknown one."""
    plain = normalized(re.sub(r"[_ ]gpu$", "", re.sub(r"[_ ]k$", " karras", re.sub(r"^(sample_)?(k_)?", "", sampler.lower()))))
    for end, spacing in [("", ""), *SPACINGS.items()]:
        if plain.endswith(end) and plain.removesuffix(end) in SPELLINGS:
            return SPELLINGS[plain.removesuffix(end)], spacing
    return "", ""


def without_schedule(name: str) -> tuple[str, str]:
    """Return ("Euler a", "Karras") for "Euler a Karras": a sampler with a schedule it cannot have; ("", name) for others."""
    solver, spacing = solver_of(name)
    return (solver, spacing) if solver else ("", name)


def split(name: str) -> tuple[str, str]:
    """Return ("DPM++ 2M", "Karras") for "DPM++ 2M Karras", as A1111 writes it since 1.9; ("DDIM", "") for the usual schedule."""
    schedule = next((title for title in SCHEDULES if name.endswith(f" {title}")), "")
    return name.removesuffix(f" {schedule}") if schedule else name, schedule


def name_of(config: Mapping[str, object]) -> str:
    """Return what artists call the scheduler of a scheduler_config.json; its class where they have no name for it."""
    kind = str(config.get("_class_name", ""))
    solver = next((name for name, (ours, options) in SOLVERS.items() if ours == kind
                   and config.get("algorithm_type", options.get("algorithm_type")) == options.get("algorithm_type")), kind)
    schedule = next((title for title, flag in SCHEDULES.items() if config.get(flag)), "")
    return f"{solver} {schedule}".strip()
