"""The page over HTTP as it is really launched: what it answers, and what it keeps to itself (129-131, 144)."""

import json
import socket

import httpx
import pytest

from sdlora import storage
from sdlora.errors import UserError
from sdlora.ui import door, gate


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A launched page without a worker, with a password: (client that is not logged in, client that is, home)."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("served")
        patch.setenv("SDLORA_HOME", str(home))
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("scratch")))
        for name in ("ensure_worker", "announce_web"):
            patch.setattr(door, name, lambda: None)
        port = free_port()
        demo = door.start("127.0.0.1", port, "meadow")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as stranger, httpx.Client(base_url=url, timeout=30) as artist:
            answer = artist.post("/login", data={"username": "anyone", "password": "meadow"}, headers={"origin": url})
            assert answer.status_code == 200
            yield stranger, artist, home
        demo.close()


def test_a_stranger_sees_the_login_only(served):
    stranger, artist, _ = served
    assert stranger.post("/login", data={"username": "x", "password": "wrong"}).status_code == 400
    assert stranger.get("/config").status_code == 401
    page, inside = stranger.get("/"), artist.get("/")
    assert '"auth_required":true' in page.text.replace(" ", "") and "act-pictures" not in page.text
    assert inside.status_code == 200 and "act-pictures" in inside.text
    assert artist.get("/", headers={"host": "evil.example"}).status_code == 421
    assert artist.post("/gradio_api/queue/join", json={}, headers={"origin": "https://evil.example"}).status_code == 403


def test_no_file_of_ours_can_be_fetched_by_name(served):
    _, artist, home = served
    secret = home / "loras" / "secret.safetensors"
    secret.parent.mkdir(exist_ok=True)
    secret.write_bytes(b"weights")
    for path in (secret, "/etc/passwd", "../../etc/passwd", "app.py", f"{home}/../{home.name}/loras/secret.safetensors",
                 "//etc/passwd", "%2fetc%2fpasswd", "C:\\Windows\\win.ini", str(home).upper()):
        answer = artist.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404) and b"weights" not in answer.content and b"root:" not in answer.content, path


def test_nothing_else_is_open(served):
    _, artist, home = served
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert artist.get(path).status_code == 404, path
    assert artist.get("/monitoring/summary").status_code in (403, 404)
    told = json.dumps(artist.get("/gradio_api/info").json())
    assert json.loads(told) == {"named_endpoints": {}, "unnamed_endpoints": {}} and str(home) not in told


def test_a_data_url_over_the_cap_is_refused(served):
    _, artist, _ = served
    body = json.dumps({"data": ["data:image/png;base64," + "A" * gate.BODY_BYTES]})
    assert artist.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}).status_code == 413


def test_a_taken_port_is_a_sentence(own_home, monkeypatch):
    for name in ("ensure_worker", "announce_web"):
        monkeypatch.setattr(door, name, lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="already in use"):
            door.start("127.0.0.1", taken.getsockname()[1], None)
    assert storage.home() == own_home
