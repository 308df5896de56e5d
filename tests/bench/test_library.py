"""The bench of the shelf: its files are true LoRAs in all that a scan looks at, and nothing is left behind."""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

from safetensors import safe_open

from sdlora.bench import library
from sdlora.library import facts


def test_the_files_are_loras(tmp_path):
    library.build(tmp_path, 40)
    files = list(tmp_path.rglob("*.safetensors"))
    assert len(files) == 40 and len(list(tmp_path.rglob("*.json"))) == 14
    found = [facts.read_facts(path, {}) for path in files]
    assert all(told.problem == "" and told.alias and told.trigger for told in found)
    assert Counter(told.modules for told in found).keys() <= {192, 264, 722, 986} and len({told.families for told in found}) == 2
    with safe_open(files[0], "np") as theirs:
        assert len(theirs.keys()) == 3 * facts.read_facts(files[0], {}).modules
    assert sum(path.stat().st_blocks for path in files) * 512 < sum(path.stat().st_size for path in files) / 4 or os.name == "nt"


def test_measuring(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    result = library.measure(20)
    assert (result.files, result.problems) == (20, 0) and list(tmp_path.iterdir()) == []
    for seconds in (result.scan_s, result.restart_s, result.search_ms / 1000, result.page_ms / 1000):
        assert 0 < seconds < 60
    assert result.search_worst_ms >= result.search_ms and result.files_mb > 0.1
    assert json.dumps(result.__dict__) and Path(library.__file__).is_file()
