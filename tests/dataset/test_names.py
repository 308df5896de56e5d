"""File names: their words become captions, the names that cameras and programs give never do."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdlora.dataset.names import looks_like_camera_name, words_in_name

CAMERA = [
    "IMG_2041.jpg", "img_20240501_101112.jpg", "IMG-20230801-WA0007.jpg", "DSC01234.JPG", "DSC_0042.NEF.jpg", "_DSC1234.jpg",
    "DSCN0001.jpg", "DSCF1234.jpg", "PXL_20230101_123456789.MP.jpg", "MVIMG_20190101.jpg", "P1010042.JPG", "_MG_1234.jpg",
    "DJI_0123.jpg", "GOPR0042.jpg", "SAM_0123.jpg", "CIMG0042.jpg", "100_0042.jpg", "DSC 1.jpg", "E1A2B3C4.jpg",
    "Screenshot 2024-05-01 at 10.22.33.png", "Screenshot_20240501_instagram.png", "Screen Shot 2024-05-01.png",
    "Bildschirmfoto 2024-05-01 um 10.22.33.png", "Capture d’écran 2024-05-01.png", "WhatsApp Image 2024-05-01 at 10.22.33.jpeg",
    "signal-2024-05-01-101112.jpg", "FB_IMG_1589.jpg", "received_1234567890.jpeg", "photo_2024-05-01_10-11-12.jpg",
    "d41d8cd98f00b204e9800998ecf8427e.png", "deadbeef.png", "550e8400-e29b-41d4-a716-446655440000.png", "FvQ3sWkXoAE1z2.jpg",
    "00001-1234567890.png", "ComfyUI_00001_.png", "20240501.jpg", "1.png", "0042.png", "2024-05-01 10.22.33.jpg", "image.png",
    "images (3).jpg", "Untitled-1.png", "unnamed.jpg", "download (2).png", "photo.jpg", "picture 12.png", "scan0001.png",
    "final.png", "final_final_v2.png", "copy of image.png", ".png", "", "qwrtzpsdf.png", "a.png", "x1.png", "128x128.png",
]
WORDS = {
    "red house.png": "red house", "red-house_01.png": "red house", "RedHouseByTheSea.png": "Red House By The Sea",
    "a_boat_at_sunset.jpg": "a boat at sunset", "003 lighthouse.webp": "lighthouse", "cat (2).png": "cat",
    "my_cat_copy.png": "my cat", "Kirschblüte.jpg": "Kirschblüte", "桜と橋.png": "桜と橋", "дом у моря.jpg": "дом у моря",
    "sunset.final.png": "sunset", "tree-1024x768.png": "tree", "sketch of a bird.heic": "sketch of a bird",
    "imagination.png": "imagination", "Samantha.png": "Samantha", "panorama of a lake.png": "panorama of a lake",
    "folder\\blue boat.png": "blue boat", "10_x/green tree.png": "green tree", "l'été.png": "l'été", "sky.png": "sky",
    "house with 3 windows.png": "house with 3 windows", "portrait 12.png": "portrait",
}


@pytest.mark.parametrize("name", CAMERA)
def test_names_of_cameras_and_programs_are_never_captions(name):
    assert looks_like_camera_name(name) and words_in_name(name) == ""


@pytest.mark.parametrize("name", WORDS)
def test_names_that_are_words_are_captions(name):
    assert words_in_name(name) == WORDS[name] and not looks_like_camera_name(name)


@given(st.text(max_size=120))
@settings(max_examples=500, deadline=None)
def test_any_file_name_gives_words_or_nothing(name):
    words = words_in_name(name)
    assert words == "" or any(c.isalpha() for c in words)
