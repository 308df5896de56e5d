"""How the page looks: theme, style sheet and widgets, and the pictures on it.

Knows nothing about runs or sets. No font, script or picture comes from the network.
"""

import io
from collections import OrderedDict
from hashlib import sha256
from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors, fonts
from PIL import Image

from sdlora.dataset.picture import open_picture
from sdlora.errors import UserError

HERE = Path(__file__).parent
CSS = "".join((HERE / name).read_text(encoding="utf-8") for name in ("page.css", "gallery.css"))
HEAD = "".join(f"<script>{(HERE / name).read_text(encoding='utf-8')}</script>" for name in ("page.js", "gallery.js"))
MOST_ADDRESSES = 20_000
addresses: OrderedDict[str, tuple[str, int, int, int]] = OrderedDict()  # {key: path, time, bytes, side} of the pictures on show
unreadable: set[str] = set()

PAPER = colors.Color(
    name="paper",
    c50="#fbfaf7",
    c100="#f4f2ec",
    c200="#e6e2d8",
    c300="#d2ccbe",
    c400="#a49d8d",
    c500="#7a7467",
    c600="#5e594e",
    c700="#464239",
    c800="#2e2b26",
    c900="#1f1d1a",
    c950="#161412",
)
TEAL = colors.Color(
    name="teal",
    c50="#eef6f5",
    c100="#d5e9e7",
    c200="#acd3cf",
    c300="#7bb7b2",
    c400="#4c9791",
    c500="#2c7b75",
    c600="#1f645f",
    c700="#1b504d",
    c800="#18413f",
    c900="#153634",
    c950="#0a201f",
)


def theme() -> gr.themes.Base:
    """Return the theme: paper and ink with one accent. Of the fonts that Gradio ships, Source Sans Pro has all characters."""
    made = gr.themes.Base(
        primary_hue=TEAL,
        secondary_hue=TEAL,
        neutral_hue=PAPER,
        radius_size=gr.themes.sizes.radius_md,
        font=(fonts.LocalFont("Source Sans Pro", weights=(400, 700)), "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=("ui-monospace", "Consolas", "monospace"),
    )
    return made.set(
        body_background_fill="*neutral_100",
        body_background_fill_dark="*neutral_950",
        background_fill_primary="*neutral_50",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        block_background_fill="*neutral_50",
        block_background_fill_dark="*neutral_900",
        body_text_color="*neutral_900",
        error_text_color_dark="#f29488",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        block_border_width="0px",
        form_gap_width="18px",
        layout_gap="14px",
        block_shadow="none",
        block_label_background_fill="transparent",
        block_title_text_weight="600",
        block_title_text_color="*neutral_800",
        block_title_text_color_dark="*neutral_100",
        input_background_fill="white",
        input_background_fill_dark="*neutral_800",
        input_border_width="1px",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        input_border_color="*neutral_200",
        input_border_color_dark="*neutral_700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="white",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_border_color="*neutral_300",
        button_border_width="1px",
        slider_color="*primary_500",
        color_accent="*primary_500",
        color_accent_soft="*primary_50",
        color_accent_soft_dark="*primary_900",
    )


def widget(
    name: str,
    calls: str = "element, props, trigger",
    *,
    value: object = None,
    elem_id: str | None = None,
    server_functions: list | None = None,
    events: tuple[str, ...] = ("select", "delete", "expand"),
    data: dict | None = None,
) -> gr.HTML:
    """Make a gr.HTML that page.js draws. The template is constant, so nothing from outside is ever run or parsed as HTML."""
    draw = f"const draw = () => window.sdlora.{name}({calls}); draw(); watch(['data', 'value'], draw);"
    draw += f" /* its events: {' '.join(map(repr, events))} */"
    return gr.HTML(
        value=value,
        html_template="<div></div>",
        js_on_load=draw,
        data=data or {},
        elem_id=elem_id,
        apply_default_css=False,
        server_functions=server_functions,
    )


def picture_url(path: Path, side: int) -> str:
    """Return the address of the picture at `path`, at most `side` px; small ones are enlarged by whole steps. "" when it is gone.

    The address does not contain the path; a rewritten file has another one, so that browsers may keep what they have.
    """
    try:
        facts = Path(path).stat()
    except OSError:
        return ""
    version = str(path), facts.st_mtime_ns, facts.st_size, side
    key = sha256(repr(version).encode("utf-8", "surrogatepass")).hexdigest()[:32]
    if key in unreadable:
        return ""
    addresses[key] = version
    addresses.move_to_end(key)
    if len(addresses) > MOST_ADDRESSES:
        addresses.popitem(last=False)
    return f"sdlora/picture/{key}"


def picture_bytes(key: str) -> bytes | None:
    """Return the picture (WEBP) that `picture_url` gave this key to; None when there is none or it cannot be read."""
    if key not in addresses:
        return None
    path, *_, side = addresses[key]
    held = io.BytesIO()
    try:
        fitted(open_picture(Path(path)), side).save(held, "WEBP", quality=90, method=2)
    except (OSError, UserError):
        unreadable.add(key)
        return None
    return held.getvalue()


def fitted(image: Image.Image, side: int) -> Image.Image:
    """Return `image` at about `side` px: smaller where it is larger, enlarged 2x, 3x or 4x where that fits (Mini's pictures)."""
    longer = max(image.size)
    if longer > side:
        image = image.copy()
        image.thumbnail((side, side), Image.Resampling.LANCZOS)
        return image
    times = min(side // longer, 4)
    return image.resize((image.width * times, image.height * times), Image.Resampling.LANCZOS) if times > 1 else image
