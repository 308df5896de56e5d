"""Picture bytes in, upright 8-bit sRGB pixels out: the work of the child process that picture.py calls.

Knows nothing about files, folders or captions. child.py limits its time and memory.
"""

import re
import struct
import warnings
import zlib
from collections.abc import Iterator
from hashlib import sha256
from io import BytesIO
from itertools import takewhile
from typing import Any, cast

import numpy as np
import pillow_heif
from PIL import Image, ImageCms

from sdlora.dataset.child import EXPORT_AGAIN, Result, serve
from sdlora.dataset.crop import square_crop
from sdlora.dataset.picture import EXPORT
from sdlora.errors import UserError

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "HEIF")
MAX_PIXELS = 40_000_000
MOST_PIXELS = f"{MAX_PIXELS // 10**6} megapixels"
MIN_SIDE, MAX_SIDE, MAX_ASPECT = 64, 16_384, 8  # px, px, long side / short side
FRAME = "Save a picture of it as PNG or JPEG and add that."

# Start of a scan with the length that belongs to its 1 to 4 components (ITU T.81, B.2.3). Cameras and editors write 1 to 12 of
# them; each goes over all pixels once more, at 36 megapixels for at least 22 ms.
SCAN = re.compile(rb"\xff\xda\x00(?:\x08\x01|\x0a\x02|\x0c\x03|\x0e\x04)")
MAX_SCANS = 200
MAX_EXIF = 2**16  # bytes, what a JPEG can hold; each of its entries may claim all of it, and Pillow copies that
MAX_PROFILE = 2**20  # bytes, of a PNG's; Pillow unpacks no more
PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
# APP1 to APP13 and COM. APP0 (JFIF) and APP14 (Adobe) stay: they say how the colours are meant.
EXTRA_SEGMENTS = (*range(0xE1, 0xEE), 0xFE)
UNUSABLE_PROFILE = ": its colour profile could not be used; its colours are taken as sRGB."
DAMAGED_EXTRAS = ": what it says about itself is damaged and was left out."

# Orientation tag of EXIF -> what turns the picture upright (CIPA DC-008, tag 0x0112).
ORIENTATIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
MAC_RESOURCES = "the second half of a file of a Mac, not the picture itself"
# Brands of pictures after "ftyp" (ISO/IEC 23008-12); the others are videos and camera raw files.
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis", b"miaf")
# Files that are often taken for one of FORMATS: first bytes, what it is.
OTHER_FORMATS = (
    (b"GIF8", "a GIF"), (b"BM", "a BMP"), (b"II*\0", "a TIFF or camera raw file"), (b"MM\0*", "a TIFF or camera raw file"),
    (b"8BPS", "a Photoshop file"), (b"\0\0\1\0", "an icon"), (b"%!PS", "a PostScript file"), (b"%PDF", "a PDF"),
    (b"\xff\x0a", "a JPEG XL file"), (b"\0\0\0\x0cJXL ", "a JPEG XL file"), (b"PK\3\4", "a zip archive"),
    (b"\0\0\0\x0cjP  ", "a JPEG 2000 file"), (b"Rar!", "an archive"), (b"7z\xbc\xaf", "an archive"), (b"\x1f\x8b", "an archive"),
    (b"\x1a\x45\xdf\xa3", "a video"), (b"gimp xcf", "a GIMP file"), (b"v/1\1", "an OpenEXR file"), (b"\0\5\x16\7", MAC_RESOURCES),
    (b"P5", "a PPM"), (b"P6", "a PPM"), (b"FUJIFILM", "a camera raw file"), (b"version https://git-lfs", "a git-lfs pointer"),
)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
# What Pillow and its plug-ins raise on damaged bytes (found with 75,000 mutated files): unrelated classes, some of
# them only known from Pillow's bug reports, so they are named once. A bug caught here costs one picture, not the upload.
DAMAGED = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, TypeError, LookupError, ArithmeticError, struct.error,
           Image.DecompressionBombError, Image.DecompressionBombWarning, zlib.error, MemoryError)

pillow_heif.register_heif_opener()
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)


def pixels(data: bytes, name: str, side: int | None = None) -> Result:
    """Return {"size": (w, h), "digest", "lossless", "remarks"} and the w * h * 3 bytes, for picture.py. Raises UserError.

    side: the bytes of the square_crop of this many px instead, none for 0.
    """
    image, found = decode(data, name)
    raw, digest = image.tobytes(), sha256(repr(image.size).encode())
    digest.update(raw)
    if side is not None:
        raw = square_crop(image, side).tobytes() if side else b""
    return found | {"size": image.size, "digest": digest.hexdigest()}, raw


def decode(data: bytes, name: str) -> tuple[Image.Image, dict[str, Any]]:
    """Return (RGB picture without metadata, {"lossless": bool, "remarks": sentences that lack the name}).

    Where the metadata of a file is damaged, only the pixels are read, with a remark.
    Raises UserError with one sentence per reason: damaged, too thin, too small, empty, not a picture...
    """
    try:
        return read_pixels(data, name)
    except DAMAGED as error:
        bare = without_extras(data)
        if bare == data:
            raise refusal(name, data, error) from error
    try:
        image, found = read_pixels(bare, name)
    except DAMAGED as error:
        raise refusal(name, data, error) from error
    lost = UNUSABLE_PROFILE if profile_inside(data) and not profile_inside(bare) else DAMAGED_EXTRAS
    return image, found | {"remarks": [lost, *found["remarks"]]}


def header(data: bytes, name: str) -> Image.Image:
    """Return a picture as Pillow opens it, no pixel decoded yet: for its metadata. Raises UserError as `decode`."""
    try:
        return Image.open(BytesIO(data), formats=FORMATS)  # noqa: TID251 (in the child process)
    except DAMAGED as error:
        raise refusal(name, data, error) from error


def read_pixels(data: bytes, name: str) -> tuple[Image.Image, dict[str, Any]]:
    """Decode the bytes as they are. Raises one of DAMAGED where that fails, UserError for what `decode` refuses."""
    with Image.open(BytesIO(data), formats=FORMATS) as image:  # noqa: TID251 (in the child process)
        check_size(name, *image.size)
        if (scans := len(SCAN.findall(data)) if image.format in ("JPEG", "MPO") else 0) > MAX_SCANS:
            raise UserError(f"{name} is drawn in {scans} passes (at most {MAX_SCANS}): it is damaged, or made to do harm.",
                            EXPORT_AGAIN)
        image.load()
        frames, lossless = getattr(image, "n_frames", 1), image.format == "PNG"
        animated = frames > 1 and image.format in ("PNG", "WEBP", "AVIF")  # a phone's HEIC and MPO carry spare pictures
        clean, remarks = to_srgb(image)
        if clean is None:
            raise UserError(f"{name} is empty: all of it is transparent.", "Leave it out, or save it with a background.")
        if not image.info.get("icc_profile") and profile_inside(data):
            remarks.append(UNUSABLE_PROFILE)  # Pillow silently drops one that it cannot unpack
        clean = upright(clean, orientation(image, data))
    if animated:
        remarks.append(" moves: only its first frame is used.")
    extrema = cast("tuple[tuple[int, int], ...]", clean.getextrema())  # one pair a channel
    if all(low == high for low, high in extrema):
        remarks.append(" is flat: one colour only.")
    return clean, {"lossless": lossless, "remarks": remarks}


def png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (kind, the whole chunk) of each chunk of a PNG (PNG specification 5.3)."""
    at = len(PNG)
    while at + 12 <= len(data):
        end = at + 12 + int.from_bytes(data[at:at + 4])
        yield data[at + 4:at + 8], data[at:end]
        at = end


def jpeg_segments(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, the whole segment) of a JPEG's segments before its first scan, then (0xDA, the rest) (ITU T.81, B.1)."""
    at = len(JPEG)
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        end = at + 1 if data[at + 1] == 0xFF else at + 2 + max(2, int.from_bytes(data[at + 2:at + 4]))
        yield data[at + 1], data[at:end]
        at = end
    yield 0xDA, data[at:]


def without_extras(data: bytes) -> bytes:
    """Return a PNG or JPEG without texts and without a profile that cannot be unpacked; other bytes as they are."""
    if data.startswith(PNG):
        return PNG + b"".join(chunk for kind, chunk in png_chunks(data) if kind[:1].isupper() or needed(kind, chunk))
    if data.startswith(JPEG):
        return JPEG + b"".join(segment for marker, segment in jpeg_segments(data)
                               if marker not in EXTRA_SEGMENTS or segment[4:10] == b"Exif\0\0")
    return data


def needed(kind: bytes, chunk: bytes) -> bool:
    """Return whether an ancillary chunk of a PNG says how its pixels look, and can be read."""
    if kind == b"tRNS":
        return True
    if kind not in (b"iCCP", b"eXIf") or zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:]):
        return False
    if kind == b"eXIf":
        return True
    _, _, packed = chunk[8:-4].partition(b"\0")
    unpacking = zlib.decompressobj()
    try:
        return packed[:1] == b"\0" and bool(unpacking.decompress(packed[1:], MAX_PROFILE)) and unpacking.eof
    except zlib.error:
        return False


def profile_inside(data: bytes) -> bool:
    """Return whether a PNG or JPEG contains a colour profile, usable or not."""
    if data.startswith(PNG):
        return any(kind == b"iCCP" for kind, _ in takewhile(lambda chunk: chunk[0] != b"IDAT", png_chunks(data)))
    return data.startswith(JPEG) and any(segment[4:16] == b"ICC_PROFILE\0" for _, segment in jpeg_segments(data))


def check_size(name: str, width: int, height: int) -> None:
    """Raise UserError for a size in the header that is refused, before a pixel is decoded."""
    if min(width, height) < 1:
        raise UserError(f"{name} is damaged: it says it is {width} x {height} px.", EXPORT_AGAIN)
    size = f"{width} x {height} px"
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UserError(f"{name} is too thin ({size}; at most {MAX_ASPECT} times as long as wide).", "Crop it to what matters.")
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        most = MOST_PIXELS if width * height > MAX_PIXELS else f"{MAX_SIDE} px a side"
        raise UserError(f"{name} is too large ({size}; at most {most}).", "Make it smaller; 2048 px are plenty.")
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{name} is too small ({size}; at least {MIN_SIDE} x {MIN_SIDE} px).", "Use a larger version of it.")


def refusal(name: str, data: bytes, error: Exception) -> UserError:
    """Return the error for bytes that did not decode, from how they begin and what the decoder raised."""
    start = data[:512].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return UserError(f"{name} is a web page, not a picture.", "The download failed: fetch the picture itself.")
    if b"<svg" in start or start.startswith(b"<?xml"):
        return UserError(f"{name} is a vector drawing (SVG).", EXPORT)
    if data[4:8] == b"ftyp" and not any(data[at:at + 4] in HEIF_BRANDS for at in range(8, min(len(data), 64), 4)):
        kind = "a camera raw file" if data[8:11] == b"crx" else "a video"
        return UserError(f"{name} is {kind}, which sdlora does not read.", EXPORT if kind != "a video" else FRAME)
    if data.startswith(b"RIFF") and data[8:12] != b"WEBP":
        return UserError(f"{name} is a video or a sound, which sdlora does not read.", FRAME)
    for magic, what in OTHER_FORMATS:
        if data.startswith(magic):
            return UserError(f"{name} is {what}, which sdlora does not read.", EXPORT)
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return UserError(f"{name} is too large (at most {MOST_PIXELS}).", "Make it smaller; 2048 px are plenty.")
    if isinstance(error, Image.UnidentifiedImageError):
        known = data.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")) or data[4:8] == b"ftyp"
        if not known:
            return UserError(f"{name} is not a picture that sdlora reads.", EXPORT)
        return UserError(f"{name} is damaged and could not be read.", EXPORT_AGAIN)
    if "truncated" in str(error).lower() or "unexpected end" in str(error).lower() or isinstance(error, EOFError):
        return UserError(f"{name} is damaged and could not be read (the file ends early).", EXPORT_AGAIN)
    if isinstance(error, MemoryError):
        return UserError(f"{name} needs far more memory than a picture of its size should.", EXPORT_AGAIN)
    return UserError(f"{name} is damaged and could not be read.", EXPORT_AGAIN)


def orientation(image: Image.Image, data: bytes) -> int:
    """Return the EXIF orientation that is still to be applied, 1 (upright) where it is missing, unknown or invalid.

    HEIF: libheif has already followed the file's irot and imir boxes and EXIF then only repeats them (ISO/IEC 23008-12);
    phones also write files with the EXIF tag alone, and those lie on their side unless it is followed.
    """
    if image.format == "HEIF":
        value = 1 if b"irot" in data or b"imir" in data else image.info.get("original_orientation")
        return value if value in ORIENTATIONS else 1
    if len(image.info.get("exif", b"")) > MAX_EXIF:
        return 1
    try:
        value = image.getexif().get(0x0112, 1)
    except DAMAGED:
        return 1  # the picture itself is whole
    return value if isinstance(value, int) and value in ORIENTATIONS else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Return the picture turned as its camera was held."""
    return image.transpose(ORIENTATIONS[orientation]) if orientation in ORIENTATIONS else image


def to_srgb(image: Image.Image) -> tuple[Image.Image | None, list[str]]:
    """Return (new 8-bit sRGB picture, alpha laid on white, no metadata; remarks). None: all of it is transparent."""
    colour, alpha = split_alpha(image)
    if alpha is not None and not alpha.getbbox():
        return None, []
    colour, remarks = apply_profile(colour, image.info.get("icc_profile"))
    if alpha is None:
        clean = colour.convert("RGB")
        clean.info = {}
        return clean, remarks
    clean = Image.new("RGB", image.size, (255, 255, 255))
    clean.paste(colour.convert("RGB"), mask=alpha)
    return clean, remarks


def split_alpha(image: Image.Image) -> tuple[Image.Image, Image.Image | None]:
    """Return (colour in one of L RGB CMYK LAB, alpha L or None). The colour under alpha 0 is kept: the caller covers it."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image).astype(np.float64)
        hidden = image.info.get("transparency")
        alpha = Image.fromarray(np.where(values == hidden, 0, 255).astype(np.uint8)) if isinstance(hidden, int) else None
        return Image.fromarray(eight_bit(values, image.mode)), alpha
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return rgba.convert("RGB"), rgba.getchannel("A")
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
    """Convert through the embedded ICC profile to sRGB; a damaged or unsuitable profile is left out with a remark."""
    if not profile:
        return image, []
    try:
        source = ImageCms.ImageCmsProfile(BytesIO(profile))
        space = cast(Any, source.profile).xcolor_space.strip()
        if space == "RGB" and image.mode == "L":
            image = image.convert("RGB")
        elif space == "GRAY" and image.mode == "RGB":
            image = image.convert("L") if is_grey(image) else image
        converted = ImageCms.profileToProfile(
            image, source, SRGB, renderingIntent=ImageCms.Intent.RELATIVE_COLORIMETRIC, outputMode="RGB",
            flags=ImageCms.Flags.BLACKPOINTCOMPENSATION)
    except (ImageCms.PyCMSError, *DAMAGED):
        return image, [UNUSABLE_PROFILE]
    assert converted is not None  # it would be None only with inPlace
    return converted, []


def is_grey(image: Image.Image) -> bool:
    """Return whether the three channels of an RGB picture are the same (a grey picture whose alpha was split off)."""
    red, green, blue = image.split()
    return red.tobytes() == green.tobytes() == blue.tobytes()


if __name__ == "__main__":
    serve(pixels)
