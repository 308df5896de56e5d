"""Finding: every word somewhere, sorted, narrowed, by hash and by name; the same answers with and without SQLite's FTS5."""

import hashlib
import os

import pytest

from sdlora.errors import UserError
from sdlora.library import database, edit, scan, search
from sdlora.lora.formats.header import header
from sdlora.storage import data_folder
from tests.library.files import beside, lora

SHELF = {  # stem: (title, width, rank, sidecar)
    "glass": ("Stained Glass", 768, 2, {"activation text": "glss", "notes": "Für Fenster, naïve"}),
    "cyber": ("Cyberpunk City", 2048, 4, {"sdlora": {"tags": ["neon", "night city"], "favourite": True}}),
    "ink": ("Ink \"wash\" 100%", 768, 8, {"description": "soft_edges OR hard* NEAR"}),
    "jp": ("水彩の風景", 1024, 1, {}),
}


@pytest.fixture(params=["fts5", "plain"])
def shelf(request, monkeypatch):
    if request.param == "plain":
        monkeypatch.setattr(database, "has_trigrams", lambda: False)
    for number, (stem, (title, width, rank, card)) in enumerate(SHELF.items()):
        said = {"modelspec.title": title, "ss_output_name": f"{stem}_v1"}
        file = lora(data_folder("loras") / f"{stem}.safetensors", said, width=width, rank=rank)
        beside(file, ".json", card)
        os.utime(file, (1_700_000_000 + number, 1_700_000_000 + number))
    with database.connected() as db:
        indexed = db.execute("SELECT count(*) FROM sqlite_master WHERE name = 'found'").fetchone()[0] == 1
    assert indexed is (request.param == "fts5")


def ids(*arguments, **options):
    return [entry.id for entry in search.list_loras(*arguments, **options)]


EVERY = ["jp", "ink", "cyber", "glass"]


@pytest.mark.parametrize("query, found", [
    ("", EVERY), ("glass", ["glass"]), ("GLAss sta", ["glass"]), ("punk", ["cyber"]), ("city neon", ["cyber"]),
    ("naive", ["glass"]), ("fenster", ["glass"]), ("FÜR", ["glass"]), ("glss", ["glass"]), ("水彩", ["jp"]), ("彩の風", ["jp"]),
    ("100%", ["ink"]), ("\"wash\"", ["ink"]), ("soft_edges", ["ink"]), ("hard*", ["ink"]), ("NEAR", ["ink"]), ("sdxl", ["cyber"]),
    ("gl", ["glass"]), ("glass neon", []), ("AND", []), ("'; DROP TABLE files; --", []), ("_v1", EVERY), ("\x00\udcff", EVERY),
    ("x" * 5000, []), ("\"", ["ink"]), ("(", [])])
def test_every_word_occurs_somewhere(shelf, query, found):
    assert ids(query) == found and search.count_loras(query) == len(found)


def test_a_changed_text_is_found_by_its_new_words_only(shelf):
    edit.annotate("jp", notes="mountain lake")
    assert ids("mountain") == ["jp"]
    edit.annotate("jp", notes="river")
    assert ids("mountain") == [] and ids("river lak") == [] and ids("river") == ["jp"]
    edit.delete("jp")
    assert ids("river") == []


@pytest.mark.parametrize("sort, order", [
    ("new", ["jp", "ink", "cyber", "glass"]), ("old", ["glass", "cyber", "ink", "jp"]), ("name", ["cyber", "ink", "glass", "jp"]),
    ("favourite", ["cyber", "jp", "ink", "glass"]), ("rank", ["ink", "cyber", "glass", "jp"])])
def test_sorting_and_pages(shelf, sort, order):
    assert ids(sort=sort) == order
    assert ids(sort=sort, limit=2) == order[:2] and ids(sort=sort, limit=2, offset=2) == order[2:]
    with pytest.raises(UserError, match="sorted by"):
        search.list_loras(sort="id; DROP TABLE files")


def test_narrowing(shelf):
    assert ids(family="sd1") == ["ink", "glass"] and ids(family="sd1", sort="size")[0] == "ink"
    assert ids(tag="neon") == ["cyber"] and ids(tag="night") == [] and ids(tag="night city", favourite=True) == ["cyber"]
    assert ids(favourite=True) == ["cyber"] and ids("glass", favourite=True) == []
    assert ids(kind="LoHa") == [] and len(ids(kind="LoRA")) == 4
    assert ids(folder="loras", family="sd2") == ["jp"] and ids(folder="gone") == []
    assert search.tags() == [("neon", 1), ("night city", 1)]


def test_by_hash(shelf):
    file = search.find("glass").path
    whole = hashlib.sha256(file.read_bytes()).hexdigest()
    tensors = hashlib.sha256(file.read_bytes()[header(file).data_start:]).hexdigest()
    for told in (tensors, tensors[:12], tensors[:10].upper(), f"0x{tensors}", whole[:10], whole):
        assert search.by_hash(told).id == "glass", told
    entry = search.find("glass")
    assert (entry.hash, entry.file_hash) == (tensors, whole)
    for wrong in ("", "abc", tensors[:7], "zz" * 6, "0" * 12, tensors + "0", "%" * 12):
        assert search.by_hash(wrong) is None


def test_the_hash_of_nothing_names_no_file():
    nothing = hashlib.sha256(b"").hexdigest()
    lora(data_folder("loras") / "a.safetensors", {"sshs_model_hash": nothing})
    assert search.by_hash(nothing[:12]) is None


def test_a_claimed_hash_counts_until_it_is_known_better():
    lora(data_folder("loras") / "liar.safetensors", {"sshs_model_hash": "ab" * 32})
    assert search.by_hash("ab" * 6).id == "liar"
    list(scan.hash_files())
    assert search.by_hash("ab" * 6) is None


def test_by_file(shelf, tmp_path):
    assert search.by_file(data_folder("loras") / "glass.safetensors").id == "glass"
    assert search.by_file(str(data_folder("loras") / "ink.safetensors")).id == "ink"
    loras = data_folder("loras")
    for wrong in (loras / "gone.safetensors", loras, tmp_path / "glass.safetensors", "glass.safetensors", ""):
        assert search.by_file(wrong) is None


def first(name):
    return next(iter(search.by_name(name, any_folder=True)), None)


def test_by_name(shelf):
    for name in ("glass", "GLASS", "Stained Glass", "stained glass", "glass_v1", "Glass_V1", "glass.safetensors", "sub\\glass"):
        assert first(name).id == "glass", name
    for wrong in ("", "gla", "%", "no such"):
        assert first(wrong) is None
    lora(data_folder("loras") / "Glass.safetensors")
    assert first("Glass").path.stem == "Glass" and first("glass").path.stem == "glass"


def test_a_file_that_can_be_used_comes_before_one_of_the_same_name_that_cannot():
    (data_folder("loras") / "a").mkdir()
    (data_folder("loras") / "a" / "same.safetensors").write_bytes(b"broken")
    lora(data_folder("loras") / "b" / "same.safetensors")
    assert first("same").problem == "" and len(ids("same")) == 2


def test_duplicates_by_their_tensors():
    lora(data_folder("loras") / "a.safetensors", {"ss_x": "1"})
    lora(data_folder("loras") / "b.safetensors", {"ss_x": "another text"})
    lora(data_folder("loras") / "c.safetensors", value=0.25)
    lora(data_folder("loras") / "d.safetensors", width=2048)
    assert search.duplicates() == []
    assert sum(1 for _ in scan.hash_files(only_equal=True)) == 3
    assert [[entry.id for entry in group] for group in search.duplicates()] == [["a", "b"]]
    assert search.state().unhashed == 1


def test_wrong_notes_are_refused():
    lora(data_folder("loras") / "a.safetensors")
    for wrong in ({"name": ""}, {"name": " \n"}, {"notes": 7}, {"tags": "x"}, {"favourite": 1}, {"weight": 5},
                  {"weight": float("nan")}, {"family": "sd1"}, {"path": "/etc/passwd"}):
        with pytest.raises(UserError):
            edit.annotate("a", **wrong)
    entry = edit.annotate("a", name="x" * 500, notes="\u202e\x07" + "y" * 5000, tags=["a,b", "a b", "", "  ", "c" * 99])
    assert len(entry.name) == 80 and len(entry.notes) == 2000 and entry.tags == ("a b", "c" * 60)
