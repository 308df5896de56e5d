"""Picture bytes to pixels: every turn, bit depth, transparency and colour profile ends upright, 8 bit, on white, in sRGB."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageCms

from sdlora.dataset.decode import eight_bit, to_srgb
from sdlora.dataset.picture import open_picture, read_picture
from sdlora.errors import UserError
from tests.dataset.pictures import BLUE, GREEN, RED, YELLOW, close, corners, noise, saved


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.heic"])
def test_all_eight_orientations_end_upright(tmp_path, name, orientation):
    """The file holds the picture as the sensor saw it; 8 golden corners, derived from the EXIF definition."""
    back = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose that undoes the turn
    turned = corners() if back is None else corners().transpose(back)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = open_picture(saved(tmp_path, turned, name, exif=exif, quality=95, format="HEIF" if name == "a.heic" else None))
    if name == "a.heic":
        assert b"irot" not in (tmp_path / name).read_bytes()
    assert image.size == (96, 64)
    for point, colour in (((8, 8), RED), ((88, 8), GREEN), ((8, 56), BLUE), ((88, 56), YELLOW)):
        assert close(image.getpixel(point), colour, 24)


@pytest.mark.parametrize("orientation", range(2, 9))
def test_heic_with_turning_boxes_and_exif_is_turned_once(tmp_path, orientation):
    """Given EXIF as bytes, pillow_heif writes irot/imir boxes beside it, as cameras of phones do."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    path = saved(tmp_path, corners().transpose(back), "a.heic", format="HEIF", exif=exif.tobytes(), quality=95)
    assert b"irot" in path.read_bytes() or b"imir" in path.read_bytes()
    image = open_picture(path)
    assert image.size == (96, 64) and close(image.getpixel((8, 8)), RED, 24) and close(image.getpixel((88, 8)), GREEN, 24)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0garbage", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\0" * 60_000])
def test_garbage_exif_is_accepted_without_turning(tmp_path, exif):
    assert open_picture(saved(tmp_path, corners(), "a.jpg", exif=exif)).size == (96, 64)


TEXT_ORIENTATION = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\2\0\4\0\0\0six\0\0\0\0\0"
LOOPED_IFD = b"Exif\0\0II*\0\x08\0\0\0\1\0\x69\x87\4\0\1\0\0\0\x08\0\0\0\x08\0\0\0"


@pytest.mark.parametrize("value", [0, 9, 99, TEXT_ORIENTATION, LOOPED_IFD])
def test_unknown_orientations_do_not_turn(tmp_path, value):
    exif = Image.Exif()
    if isinstance(value, bytes):
        exif = value
    else:
        exif[0x0112] = value
    assert open_picture(saved(tmp_path, corners(), "a.jpg", exif=exif)).size == (96, 64)


@pytest.mark.parametrize("value, wanted", [(0, 0), (32768, 128), (65535, 255), (257 * 77, 77)])
def test_sixteen_bit_grey_is_scaled(tmp_path, value, wanted):
    path = saved(tmp_path, Image.fromarray(np.full((64, 64), value, dtype=np.uint16)))
    assert open_picture(path).getpixel((5, 5)) == (wanted,) * 3


def test_sixteen_bit_colour_is_scaled(tmp_path):
    """Pillow cannot write 16-bit RGB, so the PNG is made by hand; the top bytes are the 8-bit picture."""
    wide = np.asarray(noise(64, 64)).astype(">u2") * 257
    rows = b"".join(b"\0" + row.tobytes() for row in wide)

    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0))
    (tmp_path / "a.png").write_bytes(data + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))
    assert np.array_equal(np.asarray(open_picture(tmp_path / "a.png")), np.asarray(noise(64, 64)))


def test_integer_and_float_pixels_are_scaled_not_clipped():
    assert to_srgb(Image.new("I", (4, 4), 32768))[0].getpixel((0, 0)) == (128,) * 3
    assert to_srgb(Image.new("F", (4, 4), 0.5))[0].getpixel((0, 0)) == (128,) * 3
    assert to_srgb(Image.new("F", (4, 4), 200.0))[0].getpixel((0, 0)) == (200,) * 3
    assert eight_bit(np.array([[np.nan, np.inf, -np.inf]]), "F").tolist() == [[0, 255, 0]]


def spotted(image, colour):
    """`image` with one pixel of another colour in a corner."""
    image.putpixel((63, 63), colour)
    return image


@pytest.mark.parametrize("mode, colour, spot", [("RGBA", (255, 0, 0, 0), (0, 0, 0, 255)), ("LA", (0, 0), (0, 1))])
def test_colour_hidden_under_alpha_is_white(tmp_path, mode, colour, spot):
    path = saved(tmp_path, spotted(Image.new(mode, (64, 64), colour), spot))
    assert open_picture(path).getpixel((9, 9)) == (255, 255, 255)


def clear_pictures():
    """(name, picture, options to save it): all of each is transparent, said in every way a format knows."""
    gone = Image.new("RGBA", (64, 72), (200, 30, 30, 0))
    for name in ("a.png", "a.webp", "a.avif", "a.heic"):
        yield name, gone, {"format": "HEIF"} if name == "a.heic" else {}
    yield "a.png", Image.new("LA", (64, 64), (90, 0)), {}
    yield "a.png", Image.new("L", (64, 64), 9), {"transparency": 9}
    yield "a.png", Image.new("RGB", (64, 64), RED), {"transparency": RED}
    yield "a.png", Image.fromarray(np.full((64, 64), 4660, dtype=np.uint16)), {"transparency": 4660}
    yield "a.png", corners().quantize(4), {"transparency": b"\0" * 256}
    yield "a.webp", gone, {"save_all": True, "append_images": [Image.new("RGBA", (64, 72), RED)], "duration": 40}


@pytest.mark.parametrize("name, image, options", clear_pictures())
def test_a_picture_that_is_all_transparent_is_empty(tmp_path, name, image, options):
    with pytest.raises(UserError, match=f"{name} is empty: all of it is transparent"):
        open_picture(saved(tmp_path, image, name, **options))


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif", "a.heic"])
def test_one_visible_pixel_is_enough(tmp_path, name):
    image = spotted(Image.new("RGBA", (64, 64), (0, 0, 0, 0)), (0, 0, 0, 255))
    options = {"a.webp": {"lossless": True}, "a.avif": {"quality": 100}, "a.heic": {"format": "HEIF", "quality": -1}}
    assert open_picture(saved(tmp_path, image, name, **options.get(name, {}))).size == (64, 64)


def test_half_transparent_red_on_white_is_pink(tmp_path):
    opened = open_picture(saved(tmp_path, Image.new("RGBA", (64, 64), (255, 0, 0, 128))))
    assert close(opened.getpixel((9, 9)), (255, 127, 127), 1)


def test_palette_with_a_transparent_colour(tmp_path):
    image = corners().quantize(8)
    path = saved(tmp_path, image, transparency=image.getpixel((2, 2)))
    opened = open_picture(path)
    assert opened.getpixel((2, 2)) == (255, 255, 255) and close(opened.getpixel((90, 2)), GREEN, 8)


def test_grey_and_colour_with_a_transparent_value(tmp_path):
    grey, red = spotted(Image.new("L", (64, 64), 9), 8), spotted(Image.new("RGB", (64, 64), RED), BLUE)
    assert open_picture(saved(tmp_path, grey, transparency=9)).getpixel((1, 1)) == (255, 255, 255)
    assert open_picture(saved(tmp_path, red, transparency=RED)).getpixel((1, 1)) == (255, 255, 255)
    deep = spotted(Image.fromarray(np.full((64, 64), 4660, dtype=np.uint16)), 4661)
    assert open_picture(saved(tmp_path, deep, transparency=4660)).getpixel((1, 1)) == (255, 255, 255)


def test_one_bit_is_black_and_white(tmp_path):
    image = Image.new("1", (64, 64), 1)
    image.putpixel((0, 0), 0)
    opened = open_picture(saved(tmp_path, image))
    assert opened.getpixel((0, 0)) == (0, 0, 0) and opened.getpixel((1, 1)) == (255, 255, 255)


def wide_profile():
    """An RGB profile whose red and green are swapped against sRGB: any handling that ignores it is far off."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red:red + 4], profile[green:green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile)


def test_an_embedded_profile_is_followed(tmp_path):
    path = saved(tmp_path, corners(), icc_profile=wide_profile())
    reference = ImageCms.profileToProfile(corners(), ImageCms.ImageCmsProfile(BytesIO(wide_profile())),
                                          ImageCms.createProfile("sRGB"), renderingIntent=1, outputMode="RGB")
    opened = open_picture(path)
    assert np.abs(np.asarray(opened).astype(int) - np.asarray(reference)).max() <= 2
    assert close(opened.getpixel((8, 8)), (RED[1], RED[0], RED[2]), 4)


def test_srgb_profile_changes_nothing_visible(tmp_path):
    path = saved(tmp_path, noise(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    assert np.abs(np.asarray(open_picture(path)).astype(int) - np.asarray(noise())).max() <= 2


def test_profile_and_alpha_together(tmp_path):
    image = corners().convert("RGBA")
    image.paste((0, 255, 0, 0), (0, 0, 20, 20))
    opened = open_picture(saved(tmp_path, image, icc_profile=wide_profile()))
    assert opened.getpixel((3, 3)) == (255, 255, 255) and close(opened.getpixel((30, 8)), (RED[1], RED[0], RED[2]), 4)


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.avif", "a.heic"])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_broken_or_foreign_profile_is_left_out_with_a_note(tmp_path, name, mode):
    if mode != "RGB" and name != "a.jpg" and (mode, name) != ("L", "a.png"):
        pytest.skip("not a mode of this format")
    form = {"format": "HEIF"} if name == "a.heic" else {}
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    cut = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()[:200]
    for profile in (b"not a profile" * 20, lab, cut):
        picture = read_picture(saved(tmp_path, noise().convert(mode), name, icc_profile=profile, quality=95, **form))
        assert picture.image.mode == "RGB"
        assert picture.notes == (f"{name}: its colour profile could not be used; its colours are taken as sRGB.",)


def png_with(*chunks):
    """noise() as a PNG with the given chunks, whole with their checksums, behind IHDR."""
    buffer = BytesIO()
    noise().save(buffer, "PNG")
    data = buffer.getvalue()
    return data[:33] + b"".join(chunks) + data[33:]


def chunk(kind, body, checksum=None):
    checksum = zlib.crc32(kind + body) if checksum is None else checksum
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", checksum)


SRGB_PACKED = zlib.compress(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
TURNED = b"II*\0\x08\0\0\0\1\0\x12\1\3\0\1\0\0\0\6\0\0\0\0\0\0\0"
BROKEN_PROFILES = {
    "not packed": chunk(b"iCCP", b"x\0\0" + b"plain bytes"),
    "packing cut": chunk(b"iCCP", b"x\0\0" + SRGB_PACKED[:-40]),
    "unknown packing": chunk(b"iCCP", b"x\0\7" + SRGB_PACKED),
    "nothing": chunk(b"iCCP", b""),
    "name only": chunk(b"iCCP", b"x\0"),
    "empty profile": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"")),
    "wrong checksum": chunk(b"iCCP", b"x\0\0" + SRGB_PACKED, checksum=1),
    "two megabytes of zeros": chunk(b"iCCP", b"x\0\0" + zlib.compress(b"\0" * 2**21)),
}


@pytest.mark.parametrize("why", BROKEN_PROFILES)
def test_a_profile_of_a_png_that_cannot_be_unpacked_costs_a_note(tmp_path, why):
    (tmp_path / "a.png").write_bytes(png_with(BROKEN_PROFILES[why], chunk(b"eXIf", TURNED)))
    picture = read_picture(tmp_path / "a.png")
    assert picture.notes == ("a.png: its colour profile could not be used; its colours are taken as sRGB.",)
    assert picture.image.tobytes() == noise().transpose(Image.Transpose.ROTATE_270).tobytes()


@pytest.mark.parametrize("segment", [b"ICC_PROFILE\0", b"ICC_PROFILE\0\1\2" + b"half of it", b"ICC_PROFILE\0\3\1" + b"x" * 200,
                                     b"ICC_PROFILE\0\1"])
def test_a_profile_of_a_jpeg_with_missing_parts_costs_a_note_and_not_the_turn(tmp_path, segment):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(tmp_path, noise(), "a.jpg", exif=exif, quality=95).read_bytes()
    upright = open_picture(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(data[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment + data[2:])
    picture = read_picture(tmp_path / "a.jpg")
    assert picture.notes == ("a.jpg: its colour profile could not be used; its colours are taken as sRGB.",)
    assert picture.image.tobytes() == upright.tobytes()


@pytest.mark.parametrize("extra", [
    chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 2**25)), chunk(b"tEXt", b"x\0hello", checksum=5), chunk(b"zTXt", b"x\0\7"),
    chunk(b"iTXt", b"workflow\0\1\0\0\0" + zlib.compress(b"a" * 2**21)), chunk(b"pHYs", b"\0"), chunk(b"gAMA", b"\0")])
def test_texts_and_other_extras_that_are_damaged_do_not_cost_the_picture(tmp_path, extra):
    (tmp_path / "a.png").write_bytes(png_with(chunk(b"iCCP", b"x\0\0" + SRGB_PACKED), chunk(b"eXIf", TURNED), extra))
    picture = read_picture(tmp_path / "a.png")
    assert picture.notes == ("a.png: what it says about itself is damaged and was left out.",)
    assert np.abs(np.asarray(picture.image).astype(int) - np.rot90(np.asarray(noise()), -1)).max() <= 2


def test_cmyk_jpeg_is_not_inverted(tmp_path):
    opened = open_picture(saved(tmp_path, corners().convert("CMYK"), "a.jpg", quality=95, subsampling=0))
    for point, colour in (((8, 8), RED), ((88, 8), GREEN), ((8, 56), BLUE), ((88, 56), YELLOW)):
        assert close(opened.getpixel(point), colour, 12)


def test_ycck_jpeg_is_right(tmp_path):
    """Pillow writes CMYK only: the planes are turned into YCCK first and the Adobe marker is set to 2 (T.872, 6.5.3)."""
    cyan, magenta, yellow, black = (np.asarray(plane) for plane in corners().convert("CMYK").split())
    ycc = Image.merge("RGB", [Image.fromarray(p) for p in (cyan, magenta, yellow)]).convert("YCbCr")
    planes = [Image.fromarray(255 - np.asarray(p)) for p in ycc.split()] + [Image.fromarray(black)]
    buffer = BytesIO()
    Image.merge("CMYK", planes).save(buffer, "JPEG", quality=95, subsampling=0)
    data = bytearray(buffer.getvalue())
    at = data.index(b"Adobe")
    assert data[at + 11] == 0
    data[at + 11] = 2
    (tmp_path / "a.jpg").write_bytes(data)
    opened = open_picture(tmp_path / "a.jpg")
    for point, colour in (((8, 8), RED), ((88, 8), GREEN), ((8, 56), BLUE), ((88, 56), YELLOW)):
        assert close(opened.getpixel(point), colour, 16)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.avif"])
def test_only_the_first_frame_of_a_moving_picture(tmp_path, name):
    path = saved(tmp_path, corners(), name, save_all=True, append_images=[Image.new("RGB", (96, 64), BLUE)], duration=50)
    picture = read_picture(path)
    assert close(picture.image.getpixel((8, 8)), RED, 24) and any("moves" in note for note in picture.notes)


def test_a_phones_double_jpeg_is_one_still_picture(tmp_path):
    picture = read_picture(saved(tmp_path, corners(), "a.jpg", format="MPO", save_all=True, append_images=[corners(48, 32)]))
    assert picture.image.size == (96, 64) and picture.notes == ()


def test_a_flat_picture_is_noted(tmp_path):
    assert any("flat" in note for note in read_picture(saved(tmp_path, Image.new("RGB", (64, 64)))).notes)


@pytest.mark.parametrize("size, word", [((63, 64), "too small"), ((8, 8), "too small"), ((1024, 64), "too thin"),
                                        ((20_000, 1), "too thin"), ((6400, 6400), "at most 40 megapixels"),
                                        ((16_400, 2100), "16400 x 2100 px; at most 16384 px a side"),
                                        ((2100, 16_400), "2100 x 16400 px; at most 16384 px a side")])
def test_sizes_that_are_refused(tmp_path, size, word):
    with pytest.raises(UserError, match=word) as refused:
        open_picture(saved(tmp_path, Image.new("1", size)))
    assert "a.png" in str(refused.value) and refused.value.hint


@pytest.mark.parametrize("size", [(64, 64), (512, 64), (6300, 6300)])
def test_sizes_at_the_edge_are_accepted(tmp_path, size):
    assert open_picture(saved(tmp_path, Image.new("1", size))).size == size
