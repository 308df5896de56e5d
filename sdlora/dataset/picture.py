"""The one door for untrusted picture bytes: any supported file in, an upright 8-bit sRGB picture out.

Knows nothing about folders, captions or sets. What the file says about camera and place never gets past here.
"""

import stat
import struct
import warnings
from dataclasses import dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from sdlora.errors import UserError
from sdlora.storage import MAX_NAME, clean_text

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".avif", ".heic", ".heif", ".hif")
MAX_BYTES = 50 * 1024 * 1024
MAX_PIXELS = 40_000_000
MIN_SIDE, MAX_SIDE, MAX_ASPECT = 64, 16_384, 8  # px, px, long side / short side
EXPORT = "Save it as PNG or JPEG and add that."
AGAIN = "Export it again or leave it out."

# Orientation tag of EXIF -> what turns the picture upright (CIPA DC-008, tag 0x0112).
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# How files begin that are often taken for one of ours: first bytes, what it is.
STRANGERS = (
    (b"GIF8", "a GIF"), (b"BM", "a BMP"), (b"II*\0", "a TIFF or camera raw file"), (b"MM\0*", "a TIFF or camera raw file"),
    (b"8BPS", "a Photoshop file"), (b"\0\0\1\0", "an icon"), (b"%!PS", "a PostScript file"), (b"%PDF", "a PDF"),
    (b"\xff\x0a", "a JPEG XL file"), (b"\0\0\0\x0cJXL ", "a JPEG XL file"), (b"PK\3\4", "a zip archive"),
    (b"P5", "a PPM"), (b"P6", "a PPM"), (b"FUJIFILM", "a camera raw file"), (b"version https://git-lfs", "a git-lfs pointer"),
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# What Pillow and its plug-ins raise on damaged bytes (reliability.md 4.4 and 75,000 mutated files here): unrelated classes, some
# of them only known from Pillow's bug reports, so they are named once. A bug caught here costs one picture, not the upload.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, LookupError, ArithmeticError, struct.error,
           Image.DecompressionBombError, Image.DecompressionBombWarning)

pillow_heif.register_heif_opener()
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


@dataclass(frozen=True)
class Picture:
    """A picture that got through the door: image is RGB without any metadata, digest is of its size and pixels."""
    image: Image.Image
    digest: str
    lossless: bool
    notes: tuple[str, ...]


def open_picture(path: Path) -> Image.Image:
    """The picture at `path`: 8-bit sRGB "RGB", upright, alpha on white, first frame, no metadata. Raises UserError."""
    return read_picture(path).image


def thumbnail(path: Path, side: int) -> Image.Image:
    """The picture at `path`, at most `side` px on its longer side. Raises UserError."""
    image = open_picture(path)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    return image


def read_picture(path: Path, name: str = "") -> Picture:
    """As `open_picture`, with digest and notes; `name` is what the artist calls the file.

    Raises UserError with one sentence per reason: empty, too large, damaged, too thin, too small, not a picture...
    """
    name = clean_text(name or Path(path).name, MAX_NAME) or "This picture"
    data = read_bytes(Path(path), name)
    try:
        with Image.open(BytesIO(data), formats=FORMATS) as image:  # noqa: TID251 (this is the door)
            check_size(name, *image.size)
            image.load()
            frames, lossless = getattr(image, "n_frames", 1), image.format == "PNG"
            animated = frames > 1 and image.format in ("PNG", "WEBP", "AVIF")  # a phone's HEIC and MPO carry spare pictures
            clean, notes = to_srgb(image)
            clean = upright(clean, orientation(image, data))
    except DAMAGED as error:
        raise refusal(name, data, error) from error
    notes = [f"{name}: {note}" for note in notes]
    if animated:
        notes.append(f"{name} moves: only its first frame is used.")
    if all(low == high for low, high in clean.getextrema()):
        notes.append(f"{name} is flat: one colour only.")
    digest = sha256(repr(clean.size).encode() + clean.tobytes()).hexdigest()
    return Picture(clean, digest, lossless, tuple(notes))


def header(path: Path, name: str) -> Image.Image:
    """The file as Pillow opens it, no pixel decoded yet: for what it says about itself. Raises UserError as `read_picture`."""
    data = read_bytes(Path(path), name)
    try:
        return Image.open(BytesIO(data), formats=FORMATS)  # noqa: TID251 (this is the door)
    except DAMAGED as error:
        raise refusal(name, data, error) from error


def read_bytes(path: Path, name: str) -> bytes:
    """The whole file, at most MAX_BYTES of it; only ordinary files, so that a pipe cannot make us wait for ever."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise UserError(f"{name} is not a file.", "Choose a picture file.")
        with path.open("rb") as handle:
            data = handle.read(MAX_BYTES + 1) if facts.st_size <= MAX_BYTES else b""
    except (OSError, ValueError) as error:
        raise UserError(f"{name} could not be opened ({getattr(error, 'strerror', None) or error}).",
                        "Check that the file is there and that you may read it.") from error
    if len(data) > MAX_BYTES or facts.st_size > MAX_BYTES:
        raise UserError(f"{name} is too large ({facts.st_size / 2**20:.0f} MB; at most 50 MB).",
                        "Save it as a JPEG or make it smaller.")
    if not data:
        raise UserError(f"{name} is an empty file.", "Copy or download it again.")
    return data


def check_size(name: str, width: int, height: int) -> None:
    """Refuse by the size that the header states, before a pixel is decoded."""
    if min(width, height) < 1:
        raise UserError(f"{name} is damaged: it says it is {width} x {height} px.", AGAIN)
    size = f"{width} x {height} px"
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{name} is too thin ({size}; at most {MAX_ASPECT} times as long as wide).", "Crop it to what matters.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        raise UserError(f"{name} is too large ({size}; at most 40 megapixels).", "Make it smaller; 2048 px are plenty.")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{name} is too small ({size}; at least {MIN_SIDE} x {MIN_SIDE} px).", "Use a larger version of it.")


def refusal(name: str, data: bytes, error: Exception) -> UserError:
    """The sentence for bytes that did not decode, from how they begin and what the decoder said."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return UserError(f"{name} is a web page, not a picture.", "The download failed: fetch the picture itself.")
    if b"<svg" in start or start.startswith(b"<?xml"):
        return UserError(f"{name} is a vector drawing (SVG).", EXPORT)
    for magic, what in STRANGERS:
        if data.startswith(magic):
            return UserError(f"{name} is {what}, which sdlora does not read.", EXPORT)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return UserError(f"{name} is too large (at most 40 megapixels).", "Make it smaller; 2048 px are plenty.")
    if isinstance(error, Image.UnidentifiedImageError):
        known = data.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")) or data[4:8] == b"ftyp"
        if not known:
            return UserError(f"{name} is not a picture that sdlora reads.", EXPORT)
        return UserError(f"{name} is damaged and could not be read.", AGAIN)
    if "truncated" in str(error).lower() or "unexpected end" in str(error).lower() or isinstance(error, EOFError):
        return UserError(f"{name} is damaged and could not be read (the file ends early).", AGAIN)
    return UserError(f"{name} is damaged and could not be read.", AGAIN)


def orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation that is still to be applied, 1 (upright) where it is missing, unknown or garbage.

    HEIF: libheif has already followed the file's irot and imir boxes and EXIF then only repeats them (ISO/IEC 23008-12);
    phones also write files with the EXIF tag alone, and those lie on their side unless it is followed.
    """
    if image.format == "HEIF":
        value = 1 if b"irot" in data or b"imir" in data else image.info.get("original_orientation")
        return value if value in TURNS else 1
    try:
        value = image.getexif().get(0x0112, 1)
    except DAMAGED:
        return 1  # the picture itself is whole: damaged notes about it cost nothing
    return value if isinstance(value, int) and value in TURNS else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """The picture turned as its camera was held."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def to_srgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Any decoded picture -> (new 8-bit sRGB picture with alpha laid on white and no metadata, notes)."""
    colour, alpha = split_alpha(image)
    colour, notes = apply_profile(colour, image.info.get("icc_profile"))
    clean = Image.new("RGB", image.size, (255, 255, 255))
    clean.paste(colour.convert("RGB"), mask=alpha)
    return clean, notes


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """(colour in one of L RGB CMYK LAB, alpha L or None): the colour under alpha 0 is still there, the caller covers it."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        hidden = image.info.get("transparency")
        alpha = Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)) if isinstance(hidden, int) else None
        return Image.fromarray(eight_bit(values, image.mode)), alpha
    if image.has_transparency_data:
        layered = image.convert("RGBA")
        return layered.convert("RGB"), layered.getchannel("A")
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image, None
    return image.convert("L" if image.mode == "1" else "RGB"), None


def eight_bit(values: np.ndarray, mode: str) -> np.ndarray:
    """Grey values (h, w) of modes I and I;16 (0..65535) or F (0..1, or 0..255 where larger) -> uint8, scaled, not clipped."""
    if mode == "F":
        values = np.nan_to_num(values, nan=0.0, posinf=1.0, neginf=0.0)
        top = 1.0 if values.max(initial=0) <= 1 else 255.0
    else:
        top = 65535.0
    return np.rint(values.clip(0, top) * (255.0 / top)).astype(np.uint8)


def apply_profile(image: Image.Image, profile: bytes | None) -> tuple[Image.Image, list[str]]:
    """Through the embedded ICC profile to sRGB; a profile that is damaged or of another kind is left out with a note."""
    if not profile:
        return image, []
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = source.profile.xcolor_space.strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        elif space == "GRAY" and image.mode == "RGB":
            image = image.convert("L") if is_grey(image) else image
        converted = ImageCms.profileToProfile(
            image, source, SRGB, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except (ImageCms.PyCMSError, *DAMAGED):
        return image, ["its colour profile could not be used; its colours are taken as sRGB."]
    return converted, []


def is_grey(image: Image.Image) -> bool:
    """Whether the three channels of an RGB picture are the same (a grey picture whose alpha was split off)."""
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()
