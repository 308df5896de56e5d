"""The password: where it comes from, and who has to wait after wrong ones."""

import asyncio
import os
import threading
import time

import pytest

from sdlora.errors import UserError
from sdlora.ui import password


def tried(login, who, word, user="anybody"):
    async def once():
        password.address.set(who)
        return await login.check(user, word)
    return asyncio.run(once())


@pytest.fixture
def login(monkeypatch):
    """A password with a clock that the test moves, and a cheap hash."""
    made = password.Password("meadow", clock=lambda: made.now)
    made.now = 1000.0
    return made


def test_the_right_one_lets_in_whoever_comes(login):
    assert tried(login, "10.0.0.1", "meadow", "anybody") and tried(login, "10.0.0.2", "meadow", "")
    assert not any(tried(login, "10.0.0.1", word) for word in ("meadoW", "", "m" * 1025))


def test_five_wrong_ones_make_their_address_wait_and_no_other(login):
    assert not any(tried(login, "10.0.0.1", "wrong") for _ in range(password.TRIES))
    assert not tried(login, "10.0.0.1", "meadow"), "even the right one waits now"
    assert login.wait("10.0.0.1") == password.WAIT_SECONDS and login.wait("10.0.0.2") == 0
    assert tried(login, "10.0.0.2", "meadow")
    login.now += 12.5
    assert login.wait("10.0.0.1") == 18, "rounded up: at 18 it is open"
    login.now += 18
    assert login.wait("10.0.0.1") == 0 and tried(login, "10.0.0.1", "meadow")


def test_after_the_wait_there_are_five_tries_again_and_the_right_one_forgets_the_wrong(login):
    for _ in range(password.TRIES):
        tried(login, "a", "wrong")
    login.now += password.WAIT_SECONDS
    for _ in range(password.TRIES - 1):
        assert not tried(login, "a", "wrong") and login.wait("a") == 0
    assert tried(login, "a", "meadow") and not tried(login, "a", "wrong") and login.wait("a") == 0


def test_many_at_once_are_not_more_than_five(login, monkeypatch):
    judged, real = [], login.hash
    monkeypatch.setattr(login, "hash", lambda word: (judged.append(word), real(word))[1])
    threads = [threading.Thread(target=tried, args=(login, "a", "wrong")) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(judged) == password.TRIES


def test_the_list_of_addresses_does_not_grow_for_ever(login, monkeypatch):
    monkeypatch.setattr(password, "MOST_ADDRESSES", 3)
    monkeypatch.setattr(login, "hash", lambda word: b"no")
    for number in range(10):
        tried(login, f"10.0.0.{number}", "wrong")
    assert list(login.tries) == ["10.0.0.7", "10.0.0.8", "10.0.0.9"]


@pytest.mark.parametrize(("peer", "forwarded", "proxies", "who"), [
    ("10.0.0.1", "", (), "10.0.0.1"),
    ("127.0.0.1", "10.0.0.9", (), "127.0.0.1"),                                  # nobody configured a proxy
    ("10.0.0.1", "10.0.0.9", ("127.0.0.1",), "10.0.0.1"),                        # not from the proxy
    ("127.0.0.1", "10.0.0.9", ("127.0.0.1",), "10.0.0.9"),
    ("127.0.0.1", "1.2.3.4, 10.0.0.9", ("127.0.0.1",), "10.0.0.9"),              # the first was written by the visitor
    ("127.0.0.1", "1.2.3.4, 10.0.0.9, 10.0.0.5", ("127.0.0.1", "10.0.0.5"), "10.0.0.9"),
    ("127.0.0.1", "", ("127.0.0.1",), "127.0.0.1"),
    ("127.0.0.1", " , ", ("127.0.0.1",), "127.0.0.1"),
    ("2001:db8:1:2:3:4:5:6", "", (), "2001:db8:1:2::/64"),
    ("::ffff:10.0.0.1", "", (), "10.0.0.1"),
    ("testclient", "", (), "testclient"),
])
def test_whose_tries_are_counted(peer, forwarded, proxies, who):
    assert password.visitor(peer, forwarded, proxies) == who


def test_where_the_password_comes_from(tmp_path, monkeypatch):
    file = tmp_path / "secret"
    file.write_bytes("\ufeff grün and \u2028 blue\r\nsecond line\n".encode())
    monkeypatch.setenv("SDLORA_PASSWORD", "from outside")
    assert password.choose("said", str(file)) == "said" and "SDLORA_PASSWORD" not in os.environ
    monkeypatch.setenv("SDLORA_PASSWORD", "from outside")
    assert password.choose(None, str(file)) == " grün and \u2028 blue"
    monkeypatch.setenv("SDLORA_PASSWORD", "from outside")
    assert password.choose(None, None) == "from outside" and "SDLORA_PASSWORD" not in os.environ
    assert password.choose(None, None) is None
    monkeypatch.setenv("SDLORA_PASSWORD", "")
    assert password.choose(None, None) is None


@pytest.mark.parametrize("content", [None, b"", b"\nmeadow", b"\xff\xfe\x00"])
def test_a_password_file_that_holds_none_is_a_sentence(tmp_path, content):
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError, match="password file .*secret") as refused:
        password.choose(None, str(file))
    assert refused.value.hint == "Write the password into its first line."


def test_a_folder_is_no_password_file(tmp_path):
    with pytest.raises(UserError, match="could not be read"):
        password.choose(None, str(tmp_path))


def test_judging_does_not_hold_up_the_page(login):
    async def both():
        password.address.set("a")
        began, late = time.perf_counter(), []
        check = asyncio.create_task(login.check("x", "wrong"))
        while not check.done():
            before = time.perf_counter()
            await asyncio.sleep(0.001)
            late.append(time.perf_counter() - before)
        return len(late), time.perf_counter() - began
    turns, seconds = asyncio.run(both())
    assert turns > 3, f"the loop turned {turns} times in {seconds:.3f} s"
