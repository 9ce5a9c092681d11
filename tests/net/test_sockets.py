"""Listening sockets: all or none, readable reasons, stale files."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
from pathlib import Path

import pytest

from router.configforms import parse_bind
from router.net.sockets import StartError, close_socket, open_sockets, raise_open_files


def opened(*binds: str) -> list[socket.socket]:
    return open_sockets([parse_bind(bind) for bind in binds])


def test_an_address_is_listened_on() -> None:
    (sock,) = opened("127.0.0.1:0")
    with contextlib.closing(sock), socket.create_connection(sock.getsockname(), timeout=5) as client:
        assert client.getpeername() == sock.getsockname()


def test_all_or_none(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(StartError, match=f"127.0.0.1:{port}.*in use"):
            opened(f"unix:{tmp_path}/s", f"127.0.0.1:{port}")
    assert not os.path.exists(tmp_path / "s")


def test_a_port_is_free_again_at_once() -> None:
    (first,) = opened("127.0.0.1:0")
    port = first.getsockname()[1]
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        first.accept()[0].close()
    close_socket(first, parse_bind("127.0.0.1:0"))
    (second,) = opened(f"127.0.0.1:{port}")
    assert second.getsockname()[1] == port
    close_socket(second, parse_bind("127.0.0.1:0"))


def test_a_stale_unix_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    (sock,) = opened(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_socket(sock, parse_bind(f"unix:{tmp_path}/s"))
    assert not path.exists()


def test_a_unix_socket_in_use_stays(tmp_path: Path) -> None:
    path = tmp_path / "s"
    (sock,) = opened(f"unix:{path}")
    with pytest.raises(StartError, match="in use"):
        opened(f"unix:{path}")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    close_socket(sock, parse_bind(f"unix:{tmp_path}/s"))


def test_a_file_in_the_way_is_not_removed(tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError):
        opened(f"unix:{path}")
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="none/s"):
        opened(f"unix:{tmp_path}/none/s")


def test_closing_twice_is_no_error(tmp_path: Path) -> None:
    (sock,) = opened(f"unix:{tmp_path}/s")
    close_socket(sock, parse_bind(f"unix:{tmp_path}/s"))
    close_socket(sock, parse_bind(f"unix:{tmp_path}/s"))
    assert sock.fileno() == -1


def test_the_limit_of_open_files_is_raised_and_said() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, hard, 1000), hard))
        said = raise_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == hard
        assert str(hard) in said
        assert str(hard) in raise_open_files()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
