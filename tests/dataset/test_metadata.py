"""Captions of many pictures in one file, by whatever name and in whatever form other trainers write them."""

import json
from pathlib import PurePosixPath

import pytest

from sdlora.dataset.listing import Listing
from sdlora.dataset.metadata import caption_in, target_of
from sdlora.dataset.pairing import pair, pairing_notes


@pytest.fixture
def read(tmp_path):
    """{picture: caption} of a.png and img/b.png beside the files {name: text}, and what was found."""
    def call(texts, root="set"):
        files = [(tmp_path / "unopened", PurePosixPath(name)) for name in ("a.png", "img/b.png")]
        for number, (name, text) in enumerate(texts.items()):
            (tmp_path / str(number)).write_text(text, encoding="utf-8")
            files.append((tmp_path / str(number), PurePosixPath(name)))
        findings = pair(Listing(root, files))
        return {one.name: one.text for one in findings.found}, findings
    return call


WHOLE = {  # {name of the file: what stands in it}, each with the caption "a fox" of a.png and "an owl" of img/b.png
    "metadata.jsonl": '{"image": "a.png", "caption": "a fox"}\n{"path": "img/b.png", "prompt": "an owl"}\n',
    "train.jsonl": '{"image_path": "/home/ann/set/a.png", "caption": "a fox"}\n'
                   '{"image_path": "C:\\\\x\\\\set\\\\img\\\\b.png", "caption": "an owl"}',
    "metadata.json": '[{"file_name": "a.png", "text": "a fox"}, {"file_name": "img/b.png", "text": ["an owl"]}]',
    "captions.json": '{"a.png": "a fox", "img/b.png": "an owl"}',
    "meta_cap.json": '{"a": {"caption": "a fox", "tags": "x"}, "img/b": {"tags": "an owl"}}',
    "captions.csv": "image;caption\na.png;a fox\nimg/b.png;an owl\n",
    "dataset.tsv": "filename\tdescription\na.png\ta fox\nimg/b.png\tan owl\n",
    "results.csv": "file|text\na.png|a fox\nimg/b.png|an owl\n"}


@pytest.mark.parametrize("name", WHOLE)
def test_files_of_captions_are_read_by_what_is_in_them(read, name):
    captions, findings = read({name: WHOLE[name]})
    assert captions == {"a.png": "a fox", "img/b.png": "an owl"} and not findings.skipped and not findings.others


@pytest.mark.parametrize(("name", "text"), [("events.jsonl", '{"step": 1, "loss": 0.1}\n{"step": 2}\n'),
                                            ("loss.csv", "step,loss\n1,0.1\n"),
                                            ("config.json", '{"rank": 16, "image": "a.png"}'), ("list.json", "[1, 2]"),
                                            ("names.json", '{"a": "b"}'), ("odd.json", "[" * 9999), ("empty.csv", "")])
def test_other_tables_are_left_alone_with_a_word(read, name, text):
    captions, findings = read({name: text})
    assert captions == {"a.png": None, "img/b.png": None} and not findings.skipped
    assert pairing_notes(findings) == [f"Left alone: {name}."]


@pytest.mark.parametrize("entry", [{"file_name": "a.png"}, {"file_name": "a.png", "text": None},
                                   {"file_name": "a.png", "text": ["one", "two"]}, {"file_name": "a.png", "kind": "a fox"}])
def test_an_entry_without_one_caption_is_named(read, entry):
    captions, findings = read({"metadata.jsonl": json.dumps(entry)})
    assert captions["a.png"] is None
    assert [one.reason for one in findings.skipped] == [
        "Line 1 of metadata.jsonl has no caption, or several: a.png is used without it."]


def test_an_empty_caption_is_one(read):
    assert read({"metadata.jsonl": '{"file_name": "a.png", "text": ""}'})[1].skipped == []


def test_the_json_beside_a_picture(read):
    captions, findings = read({"a.json": '{"caption": "a fox", "width": 3}', "img/b.png.json": '{"tags": ["owl", "night"]}'})
    assert captions == {"a.png": "a fox", "img/b.png": "owl, night"} and not findings.skipped
    captions, findings = read({"a.json": '{"prompt": {"3": {}}}', "img/b.json": "no json"})
    assert set(captions.values()) == {None} and findings.others == ["a.json", "img/b.json"]
    captions, findings = read({"a.json": '{"caption": "a fox"}', "a.txt": "a wolf"})
    assert captions["a.png"] == "a wolf" and findings.outranked == ["a.json"]


def test_whole_paths_count_from_the_folder_that_was_given():
    place = PurePosixPath("img")
    for said, target in (("b.png", "img/b.png"), ("/data/my set/img/b.png", "img/b.png"), ("D:\\my set\\b.png", "b.png"),
                         ("/my set/old/my set/b.png", "b.png"), ("/elsewhere/b.png", "elsewhere/b.png"), ("../b.png", "b.png")):
        assert target_of(said, place, "my set") == PurePosixPath(target)


def test_what_is_no_caption():
    assert caption_in({"tags": ["a", "b"]}) == "a, b" and caption_in({"text": "", "caption": "x"}) == ""
    assert [caption_in(each) for each in ({}, [], None, 3, {"text": 3}, {"tags": [1]}, {"text": []})] == [None] * 7
