"""The suffixes of tensor names: which part of its module a tensor is. Knows nothing about modules, blocks or tensors.

A part is one short word; where a suffix belongs to one kind alone, the suffix itself.
"""

import re
from typing import NamedTuple

PARTS = {  # suffix, without an adapter's name -> part
    "lora_down.weight": "down", "lora_up.weight": "up", "lora_mid.weight": "mid",
    "lora_A.weight": "down", "lora_B.weight": "up", "lora_B.bias": "bias",
    "lora.down.weight": "down", "lora.up.weight": "up",
    "lora_linear_layer.down.weight": "down", "lora_linear_layer.up.weight": "up",
    "alpha": "alpha", "scale": "scale", "dora_scale": "dora_scale",
    "lora_magnitude_vector.weight": "magnitude", "lora_magnitude_vector": "magnitude",
    **{suffix: suffix for suffix in ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2",
                               "lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2",
                               "oft_blocks", "oft_diag", "rescale", "on_input", "ia3_l", "diff", "diff_b", "set_weight")},
    "oft_R.weight": "oft_R", "w_norm": "diff", "b_norm": "diff_b",
    **{f"{name}.weight": name for name in ("a1", "a2", "b1", "b2", "bm")}}
NAMED = ("lora_", "hada_", "lokr_", "oft_R", "ia3_l")          # PEFT puts the adapter's name behind these
PEFT = ("lora_A", "lora_B", "lora_magnitude", "oft_R", "ia3_l")
UNSUPPORTED = {  # the end of a name -> the kind it belongs to, which sdlora does not read
    "boft_R": "BOFT of PEFT", "boft_s": "BOFT of PEFT", "vera_lambda_b": "VeRA", "vera_lambda_d": "VeRA", "lora_E": "AdaLoRA",
    "q_layer.weight": "T-LoRA", "p_layer.weight": "T-LoRA", "lambda_layer": "T-LoRA", "hra_u": "HRA", "lora_embedding_A":
    "embedding LoRA", "lora_embedding_B": "embedding LoRA", "reshape_weight": "resized LoRA (reshape_weight)",
    "randlora_lambda": "RandLoRA", "fourierft_spectrum": "FourierFT", "lokr_t1": "LoKr with lokr_t1"}
ENDING = re.compile(
    r"\.(?P<suffix>(?:" + "|".join(sorted({re.escape(suffix.removesuffix(".weight").removesuffix(".bias")) for suffix in PARTS},
                                        key=len, reverse=True)) + r"))"
    r"(?:\.(?P<adapter>(?!weight$|bias$)[^.]+))?(?P<tail>\.weight|\.bias)?$")
OLD = re.compile(r"_lora\.(?P<half>down|up)\.weight$")         # attention processors of diffusers up to 0.20
FLAT = re.compile(r"[._]lora_(?P<half>down|up|mid)[._]weight$|_(?P<alpha>alpha)$")


class SplitName(NamedTuple):
    """module: the name before the suffix; form: "" as kohya, "PEFT", "lora.down", "attention processors" or "repaired"."""
    module: str
    part: str
    form: str
    adapter: str = ""


def split_suffix(name: str) -> SplitName | None:
    """Split a tensor's name before its suffix; None for an unknown suffix.

    An adapter's name inside the suffix ("lora_A.style.weight") is taken out. "_lora_down_weight" is read as ".lora_down.weight".
    """
    match = ENDING.search(name)
    if match:
        suffix = match["suffix"] + (match["tail"] or "")
        part = PARTS.get(suffix)
        if part and (not match["adapter"] or suffix.startswith(NAMED)):
            form = "PEFT" if suffix.startswith(PEFT) else "lora.down" if suffix.startswith(("lora.", "lora_linear")) else ""
            return SplitName(name[:match.start()], part, form, match["adapter"] or "")
    match = OLD.search(name)
    if match:
        return SplitName(name[:match.start()], match["half"], "attention processors")
    match = FLAT.search(name)
    return SplitName(name[:match.start()], match["half"] or "alpha", "repaired") if match else None


def unsupported_kind(name: str) -> str | None:
    """Return the kind of LoRA that the end of a name belongs to and that sdlora does not read, or None."""
    parts = name.split(".")
    ends = {".".join(parts[-1:]), ".".join(parts[-2:]), *parts[-3:-1]}
    return next((kind for end, kind in UNSUPPORTED.items() if end in ends), None)
