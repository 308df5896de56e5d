"""The kinds of Stable Diffusion that sdlora knows: their key, title, text width and resolution."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Family:
    """width: channels of the text states that the UNet's cross-attention reads (its to_k and to_v); resolution in px."""
    key: str
    title: str
    width: int
    resolution: int


FAMILIES = {family.key: family for family in (
    Family("mini", "Mini", 128, 128),
    Family("sd1", "Stable Diffusion 1.x", 768, 512),
    Family("sd2", "Stable Diffusion 2.x", 1024, 768),
    Family("sdxl", "Stable Diffusion XL", 2048, 1024),
)}
WIDTHS = {family.width: family.key for family in FAMILIES.values()}  # {text width: key}


def family_title(key: str) -> str:
    """Return the title of a family, or `key` itself where it is none of ours."""
    return FAMILIES[key].title if key in FAMILIES else key
