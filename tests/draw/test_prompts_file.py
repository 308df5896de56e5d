"""Files of prompts: one a line and only there, in any encoding, with the options of other programs used or named."""

import pytest

from sdlora.draw.prompts_file import read_prompts
from sdlora.errors import UserError


@pytest.fixture
def read(tmp_path):
    def call(text, name="prompts.txt"):
        (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        return read_prompts(tmp_path / name)
    return call


def prompts(told):
    return [line.prompt for line in told[0]]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_any_encoding_with_a_mark(read, encoding):
    assert prompts(read("a red house\r\nein größeres Haus, 桜\r\n".encode(encoding))) == ["a red house", "ein größeres Haus, 桜"]


@pytest.mark.parametrize("codec, said", [("utf-16-le", "UTF-16"), ("cp1252", "Windows-1252")])
def test_a_guess_is_told(read, codec, said):
    told = read("a red house\nein größeres Haus".encode(codec))
    assert prompts(told) == ["a red house", "ein größeres Haus"] and said in told[1][0]


def test_lines_end_at_line_ends(read):
    told = read("a red house\u2028by the sea\na blue\x85boat\x0bat\x1cnight\rlast")
    assert prompts(told) == ["a red house by the sea", "a blue boat at night", "last"] and told[1] == []


def test_comments_and_empty_lines_are_no_prompts(read):
    told = read("# red things\n\na red house # 1\n  # more\n \n")
    assert prompts(told) == ["a red house # 1"] and told[0][0].number == 3


def test_kohyas_options_are_settings(read):
    line, = read("a cat --n low quality, bad --w 520 --H 384 --d 7 --s 12 --l 6.5 --ss k_euler_a\n")[0]
    assert (line.prompt, line.settings) == ("a cat", {"negative": "low quality, bad", "width": 520, "height": 384, "seed": 7,
                                                      "steps": 12, "guidance": 6.5, "sampler": "Euler a"})


def test_the_options_of_a1111_are_settings(read):
    line, = read('--prompt "a cat, red" --negative_prompt "bad" --width 512 --height 768 --cfg_scale 7 --sampler_name "DDIM"')[0]
    assert (line.prompt, line.settings) == ("a cat, red", {"negative": "bad", "width": 512, "height": 768, "guidance": 7.0,
                                                           "sampler": "DDIM"})


@pytest.mark.parametrize("option", ["--cn cond.png", "--am 0.5", "--fs 3", "--w wide", "--d -1", "--ss nothing_like_it",
                                    "--g 3.5", "--ctr 1"])
def test_what_is_not_used_is_named_and_never_drawn(read, option):
    lines, notes = read(f"a dog\na cat {option} --s 9")
    assert [(line.prompt, line.settings) for line in lines] == [("a dog", {}), ("a cat", {"steps": 9})]
    assert notes == [f"Line 2 of prompts.txt: {option} is not used."]


def test_a_size_is_rounded_and_that_is_told(read):
    lines, notes = read("a cat --w 515")
    assert lines[0].settings == {"width": 512} and "--w 515 is taken as 512" in notes[0]


def test_dashes_in_a_prompt_are_words(read):
    assert prompts(read("a half-timbered house -- by the sea, 3--4 boats")) == ["a half-timbered house -- by the sea, 3--4 boats"]


@pytest.mark.parametrize("name, data, said", [("p.json", b"[]", "not a text file with one prompt"),
                                              ("p.txt", b"\xff\x81a", "not readable"),
                                              ("p.txt", b"x" * (4 * 2**20 + 1), "larger than 4 MB")])
def test_what_is_no_such_file_is_refused(read, name, data, said):
    with pytest.raises(UserError, match=said):
        read(data, name)


def test_options_without_a_prompt_are_named(read):
    lines, notes = read("a cat\n--w 128 --h 128\n--n bad\n")
    assert [line.prompt for line in lines] == ["a cat"]
    assert notes == [f"Line {number} of prompts.txt: it has no prompt and is left out." for number in (2, 3)]
