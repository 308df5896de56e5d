"""The launch line, who may open the page, and what it answers over HTTP and keeps to itself."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import types
from pathlib import Path

import httpx
import pytest

from sdlora import storage
from sdlora.errors import UserError
from sdlora.ui import launch, middleware
from sdlora.ui.runs import run_view

ROOT = Path(__file__).parents[2]


def test_the_launch_line_gives_nothing_away(own_home):
    line = launch.launch_line("127.0.0.1", 7860, own_home)
    assert line["blocked_paths"] == [str(own_home)] and line["allowed_paths"] == []
    for off in ("share", "show_error", "enable_monitoring", "run_history", "ssr_mode", "pwa", "mcp_server"):
        assert line[off] is False, off
    assert line["footer_links"] == [] and line["strict_cors"] is True and line["max_file_size"] == middleware.UPLOAD_BYTES
    access = line["app_kwargs"]["middleware"][0]
    assert access.cls is middleware.AccessControl and access.kwargs == {"host": "127.0.0.1", "password": None}


def test_others_need_a_password():
    launch.check_reach("127.0.0.1", 7860, None)
    launch.check_reach("0.0.0.0", 7860, "long enough")
    for host, password in (("0.0.0.0", None), ("192.168.0.2", ""), ("example.org", None), ("127.0.0.1", "abc"), ("::", None)):
        with pytest.raises(UserError):
            launch.check_reach(host, 7860, password)


@pytest.mark.parametrize("port", ["0", "-1", "99999"])
def test_a_port_that_is_none_is_a_sentence(port, capsys):
    assert launch.run([f"--port={port}"]) == 2
    assert "ports go from 1" in capsys.readouterr().err


def test_folders_of_lora_files_are_shown_before_the_page_opens(tmp_path, monkeypatch, capsys):
    started = []
    monkeypatch.setattr(launch, "start", lambda *_: types.SimpleNamespace(block_thread=lambda: started.append("page")))
    monkeypatch.setattr(launch.scan, "start_background", lambda: started.append("scan"))
    assert launch.run(["--library", str(tmp_path / "gone")]) == 2 and "is not a folder" in capsys.readouterr().err
    (tmp_path / "Lora").mkdir()
    assert launch.run(["--library", str(tmp_path / "Lora")]) == 0 and started == ["scan", "page"]
    assert [folder.path for folder in launch.folders.list_folders()][1:] == [tmp_path / "Lora"]


def test_a_password_file_and_the_environment_open_the_page_to_others(tmp_path, monkeypatch, capsys):
    opened = []
    monkeypatch.setattr(launch, "start", lambda host, port, password, proxy: opened.append((password, proxy)) or
                        types.SimpleNamespace(block_thread=lambda: None))
    monkeypatch.setattr(launch.scan, "start_background", lambda: None)
    (tmp_path / "secret").write_text("from a file\n")
    assert launch.run(["--host", "0.0.0.0", "--password-file", str(tmp_path / "secret"), "--proxy", "10.0.0.1"]) == 0
    monkeypatch.setenv("SDLORA_PASSWORD", "from outside")
    assert launch.run(["--host", "0.0.0.0"]) == 0
    assert opened == [("from a file", ["10.0.0.1"]), ("from outside", [])]
    assert launch.run(["--password-file", str(tmp_path / "none")]) == 2 and "could not be read" in capsys.readouterr().err
    assert launch.run(["--proxy", "proxy.example"]) == 2 and "no address of a proxy" in capsys.readouterr().err


def test_an_open_host_without_password_ends_with_a_sentence(capsys):
    assert launch.run(["--host", "0.0.0.0"]) == 2
    said = capsys.readouterr().err
    assert "no password" in said and "--password" in said and "Traceback" not in said


def test_the_environment_cannot_open_the_page_wider():
    code = ("import os, sys; import sdlora.ui.launch; import gradio;"
            "sys.exit(int(any(n in os.environ for n in ('GRADIO_SHARE', 'GRADIO_ALLOWED_PATHS', 'GRADIO_SERVER_NAME'))"
            " or os.environ['GRADIO_ANALYTICS_ENABLED'] != 'False'))")
    wide = {"GRADIO_SHARE": "True", "GRADIO_ALLOWED_PATHS": "/", "GRADIO_SERVER_NAME": "0.0.0.0",
            "GRADIO_ANALYTICS_ENABLED": "True", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | wide, cwd=ROOT, timeout=120)
    assert done.returncode == 0


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
            patch.setattr(launch, name, lambda: None)
        port = free_port()
        demo = launch.start("127.0.0.1", port, "meadow")
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=30) as stranger, httpx.Client(base_url=url, timeout=30) as artist:
            answer = artist.post("/login", data={"username": "anyone", "password": "meadow"}, headers={"origin": url})
            assert answer.status_code == 200
            yield stranger, artist, home
        demo.close()


def test_a_stranger_sees_the_login_only(served):
    stranger, artist, _ = served
    assert stranger.post("/login", data={"username": "x", "password": "wrong"}).status_code == 400
    assert stranger.get("/config", headers={"cookie": "access-token-x=y; access-token-unsecure-x=None"}).status_code == 401
    assert stranger.get("/config").status_code == 401
    page, inside = stranger.get("/"), artist.get("/")
    assert page.status_code == 200 and 'name="password"' in page.text and "act-pictures" not in page.text
    for path in ("/theme.css", "/gradio_api/heartbeat/x", "/gradio_api/info", "/static/img/logo.svg", "/login", "/sdlora/poll"):
        assert stranger.get(path).status_code == 401, path
    assert inside.status_code == 200 and "act-pictures" in inside.text
    assert artist.get("/", headers={"host": "evil.example"}).status_code == 421
    assert artist.post("/gradio_api/queue/join", json={}, headers={"origin": "https://evil.example"}).status_code == 403


def test_what_moves_is_shown_to_who_is_in_and_a_bug_in_it_is_shown_in_the_log(served, own_home, monkeypatch):
    _, artist, _ = served
    assert artist.get("/sdlora/poll?run=&draw=gone&shelf=").json() | {"shelf": 0} == {
        "run": {"": {"progress": {}, "pill": {}}}, "draw": {"gone": None}, "shelf": 0}
    monkeypatch.setattr(run_view, "current", lambda run: 1 / 0)
    assert artist.get("/sdlora/poll?run=other").status_code == 200
    assert "ZeroDivisionError" in (own_home / "logs" / "page.log").read_text()


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
    shown = json.dumps(artist.get("/gradio_api/info").json())
    assert json.loads(shown) == {"named_endpoints": {}, "unnamed_endpoints": {}} and str(home) not in shown


def test_a_data_url_over_the_cap_is_refused(served):
    _, artist, _ = served
    body = json.dumps({"data": ["data:image/png;base64," + "A" * middleware.BODY_BYTES]})
    assert artist.post("/gradio_api/queue/join", content=body, headers={"content-type": "application/json"}).status_code == 413


def test_wrong_passwords_make_one_wait_and_are_shown_how_long(served):
    stranger, artist, _ = served
    for _ in range(6):
        answer = stranger.post("/login", data={"username": "x", "password": "wrong"}, headers={"x-forwarded-for": "10.9.9.9"})
    assert answer.status_code == 429 and 0 < int(answer.headers["retry-after"]) <= 30 and "Try again in" in answer.text
    assert stranger.post("/login", data={"username": "x", "password": "meadow"}).status_code == 429
    assert 'data-wait="' in stranger.get("/").text and 'data-wait="0"' not in stranger.get("/").text
    assert artist.get("/config").status_code == 200, "who is in stays in"


URL, META = "https://evil.example/x.png", {"_type": "gradio.FileData"}
FILE = {"path": URL, "url": URL, "meta": META}
HOSTILE = [FILE, [FILE], {"image": FILE, "caption": None}, [[{"image": FILE}]], {"path": "", "url": URL, "meta": META},
           {"background": FILE, "layers": [FILE], "composite": None}, {"path": "//evil.example/x", "meta": META},
           {"value": FILE}, URL, {"path": "https://huggingface.co/x.png", "meta": META},
           {"path": URL, "is_stream": True, "meta": META}]


def test_no_name_that_a_browser_sends_is_looked_up(served, monkeypatch):
    _, artist, _ = served
    looked_up, real = [], socket.getaddrinfo

    def watched(name, *rest, **options):
        if name not in ("127.0.0.1", "localhost", None):
            looked_up.append(name)
            raise socket.gaierror("no network in tests")
        return real(name, *rest, **options)

    monkeypatch.setattr(socket, "getaddrinfo", watched)
    for path in ("file=https://a.evil.example/x.png", "file/https://c.evil.example/x", "proxy=https://d.hf.space/x"):
        for prefix in ("/", "/gradio_api/"):
            assert artist.get(prefix + path).status_code == 403, path
    config = artist.get("/config").json()
    answered = set()
    for number, call in enumerate(each for each in config["dependencies"] if each["backend_fn"] and each["inputs"]):
        for value in (HOSTILE[number % len(HOSTILE)], HOSTILE, FILE):
            answered.add(called(artist, call, value))
    assert answered == {"done", "refused"}
    for part in config["components"]:
        body = {"data": HOSTILE, "component_id": part["id"], "session_hash": "abc", "fn_name": "ask"}
        artist.post("/gradio_api/component_server", json=body)
    assert not looked_up
    upload = next(each for each in config["dependencies"] if any(event == "upload" for _, event in each["targets"]))
    body = {"data": [[FILE]] * len(upload["inputs"]), "fn_index": upload["id"], "session_hash": "abc"}
    artist.post("/gradio_api/queue/join", json=body)
    assert "sdlora fetches nothing from other machines" in artist.get("/gradio_api/queue/data?session_hash=abc").text


def called(artist, call, value):
    """Fire an event of the page with `value` for everything it takes: "done" or "refused"."""
    body = {"data": [value] * len(call["inputs"]), "fn_index": call["id"], "session_hash": "abc", "event_data": value}
    if call["queue"] is False:
        return "done" if artist.post("/gradio_api/run/predict", json=body).status_code == 200 else "refused"
    assert artist.post("/gradio_api/queue/join", json=body).status_code == 200
    return "done" if '"success":true' in artist.get("/gradio_api/queue/data?session_hash=abc").text else "refused"


@pytest.mark.parametrize("path", ["upload", "component_server"])
def test_an_upload_that_breaks_off_leaves_nothing(served, path, tmp_path, monkeypatch):
    _, artist, _ = served
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where component_server puts its files
    url, folders = artist.base_url, (Path(os.environ["GRADIO_TEMP_DIR"]), tmp_path)

    def files():
        return {each for folder in folders for each in folder.rglob("*") if each.is_file()}

    before = files()
    cookies = "; ".join(f"{name}={value}" for name, value in artist.cookies.items())
    head = (f"POST /gradio_api/{path} HTTP/1.1\r\nHost: {url.host}:{url.port}\r\nCookie: {cookies}\r\n"
            "Content-Length: 7000000\r\nContent-Type: multipart/form-data; boundary=b\r\n\r\n"
            "--b\r\nContent-Disposition: form-data; name=\"files\"; filename=\"a.png\"\r\n\r\n").encode()
    with socket.create_connection((url.host, url.port)) as connection:
        connection.sendall(head + b"x" * 3_000_000)
        until_true(lambda: files() - before)
    until_true(lambda: files() == before)


def until_true(condition, seconds=10):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        time.sleep(0.01)


def test_a_taken_port_is_a_sentence(own_home, monkeypatch):
    for name in ("ensure_worker", "announce_web"):
        monkeypatch.setattr(launch, name, lambda: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(UserError, match="already in use"):
            launch.start("127.0.0.1", taken.getsockname()[1], None)
    assert storage.home() == own_home
