"""Listening sockets: who owns them, all or none, readable reasons, stale files, and those that come from outside."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from router.configforms import Bind, parse_bind
from router.net.sockets import PassedSocket, Sockets, StartError, raise_open_files

Make = Callable[..., Sockets]


@pytest.fixture
def make() -> Iterator[Make]:
    """Makes an owner, with copies of the inherited sockets; closes it in the end."""
    made: list[Sockets] = []

    def owner(*given: socket.socket, lent: tuple[socket.socket, ...] = ()) -> Sockets:
        copies = [PassedSocket(sock.dup(), False) for sock in given] + [PassedSocket(sock.dup(), True) for sock in lent]
        made.append(Sockets(copies))
        return made[-1]

    yield owner
    for sockets in made:
        sockets.close_all()


@pytest.fixture
def listening() -> Iterator[Callable[..., socket.socket]]:
    """A socket of another process."""
    with contextlib.ExitStack() as stack:

        def listen(address: str | tuple[str, int] = ("127.0.0.1", 0)) -> socket.socket:
            tcp = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
            sock = stack.enter_context(socket.socket(socket.AF_UNIX if isinstance(address, str) else tcp))
            sock.bind(address)
            sock.listen()
            return sock

        yield listen


def binds(*texts: str) -> list[Bind]:
    return [parse_bind(text) for text in texts]


def port_of(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])


def is_same(one: socket.socket, other: socket.socket) -> bool:
    """Whether two descriptors are one socket."""
    return os.fstat(one.fileno()).st_ino == os.fstat(other.fileno()).st_ino


def answers(address: str | tuple[str, int]) -> bool:
    with socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET) as client:
        client.settimeout(5)
        try:
            client.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


# Opening.


def test_an_address_is_listened_on(make: Make) -> None:
    sock = make().open(parse_bind("127.0.0.1:0"))
    with socket.create_connection(sock.getsockname(), timeout=5) as client:
        assert client.getpeername() == sock.getsockname()


def test_small_pieces_do_not_wait_for_one_another(make: Make) -> None:
    sock = make().open(parse_bind("127.0.0.1:0"))
    with socket.create_connection(sock.getsockname(), timeout=5), sock.accept()[0] as accepted:
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_host_name_and_all_interfaces(make: Make) -> None:
    sockets = make()
    named = sockets.open(parse_bind("localhost:0"))
    with socket.create_connection(("localhost", port_of(named)), timeout=5):
        assert port_of(named)
    assert answers(("127.0.0.1", port_of(sockets.open(parse_bind(":0")))))


def test_all_or_none(make: Make, tmp_path: Path) -> None:
    sockets = make()
    kept = sockets.open(parse_bind(f"unix:{tmp_path}/kept"))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        wanted = binds(f"unix:{tmp_path}/kept", f"unix:{tmp_path}/s", f"127.0.0.1:{port_of(taken)}")
        with pytest.raises(StartError, match=f"127.0.0.1:{port_of(taken)}: Address already in use; is another server"):
            sockets.open_all(wanted)
    assert not os.path.exists(tmp_path / "s")
    assert sockets.held() == [(wanted[0], kept)]
    assert answers(str(tmp_path / "kept"))


def test_what_is_held_is_given_again(make: Make, tmp_path: Path) -> None:
    sockets = make()
    bind = parse_bind(f"unix:{tmp_path}/s")
    sock = sockets.open(bind)
    assert sockets.open(bind) is sock
    assert sockets.open_all([parse_bind("127.0.0.1:0"), bind])[1] is sock
    assert [held for held, _ in sockets.held()] == [bind, parse_bind("127.0.0.1:0")]


def test_a_port_that_the_system_chooses_may_be_wanted_twice(make: Make) -> None:
    sockets = make()
    twice = binds("127.0.0.1:0", "127.0.0.1:0")
    opened = sockets.open_all(twice)
    assert port_of(opened[0]) != port_of(opened[1])
    assert sockets.open_all(twice) == opened
    sockets.close(twice[0])
    assert sockets.open_all(twice[:1]) == opened[:1]


def test_a_port_is_free_again_at_once(make: Make) -> None:
    first = make()
    sock = first.open(parse_bind("127.0.0.1:0"))
    port = port_of(sock)
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        sock.accept()[0].close()
    first.close(parse_bind("127.0.0.1:0"))
    assert port_of(make().open(parse_bind(f"127.0.0.1:{port}"))) == port


@pytest.mark.parametrize(("old", "new"), [("127.0.0.1", ""), ("", "127.0.0.1"), ("127.0.0.1", "0.0.0.0")])
def test_an_address_may_overlap_one_that_is_left(make: Make, old: str, new: str) -> None:
    """While both listen no client is refused; who is asked when is the system's business."""
    sockets = make()
    port = port_of(sockets.open(parse_bind("127.0.0.1:0")))
    sockets.close_all()
    before, after = binds(f"{old}:{port}", f"{new}:{port}")
    sockets.open_all([before])
    sockets.open_all([after])
    assert answers(("127.0.0.1", port))
    sockets.close(before)
    assert answers(("127.0.0.1", port))
    assert [bind for bind, _ in sockets.held()] == [after]


def test_an_address_that_stays_may_not_be_overlapped(make: Make) -> None:
    sockets = make()
    port = port_of(sockets.open(parse_bind("127.0.0.1:0")))
    with pytest.raises(StartError, match="in use"):
        sockets.open(parse_bind(f":{port}"))
    with pytest.raises(StartError, match="in use"):
        sockets.open_all(binds("127.0.0.1:0", f":{port}"))


# Unix sockets.


def test_a_stale_unix_socket_is_replaced(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    sockets = make()
    sockets.open(parse_bind(f"unix:{path}"))
    assert answers(str(path))
    sockets.close(parse_bind(f"unix:{path}"))
    assert not path.exists()


def test_a_unix_socket_in_use_stays(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    make().open(parse_bind(f"unix:{path}"))
    with pytest.raises(StartError, match="in use"):
        make().open(parse_bind(f"unix:{path}"))
    assert answers(str(path))


def test_a_unix_socket_whose_queue_is_full_is_in_use(make: Make, tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as busy, contextlib.ExitStack() as stack:
        busy.bind(path)
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):
            for _ in range(10):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                client.connect(path)
        with pytest.raises(StartError, match="in use"):
            make().open(parse_bind(f"unix:{path}"))


def test_a_file_in_the_way_is_not_removed(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    path.write_text("precious")
    with pytest.raises(StartError):
        make().open(parse_bind(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_a_folder_that_is_not_there_is_named(make: Make, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="none/s: No such file"):
        make().open(parse_bind(f"unix:{tmp_path}/none/s"))


def test_a_capability_is_asked_for_where_it_helps(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(sock: socket.socket, address: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    with pytest.raises(StartError, match="denied; ports below 1024 need the capability CAP_NET_BIND_SERVICE"):
        make().open(parse_bind("127.0.0.1:80"))
    with pytest.raises(StartError, match=r"Permission denied$"):
        make().open(parse_bind(f"unix:{tmp_path}/s"))


def test_the_file_of_somebody_else_is_not_removed(make: Make, tmp_path: Path) -> None:
    path = tmp_path / "s"
    sockets = make()
    sockets.open(parse_bind(f"unix:{path}"))
    path.unlink()
    path.write_text("precious")
    sockets.close(parse_bind(f"unix:{path}"))
    assert path.read_text() == "precious"


def test_closing_what_is_not_open_is_no_error(make: Make, tmp_path: Path) -> None:
    sockets = make()
    bind = parse_bind(f"unix:{tmp_path}/s")
    sock = sockets.open(bind)
    sock.close()
    for _ in range(2):
        sockets.close(bind)
        sockets.close_all()
    assert sockets.held() == []
    assert not (tmp_path / "s").exists()


def test_after_handing_over_no_file_is_removed(make: Make, tmp_path: Path) -> None:
    sockets = make()
    one, two = binds(f"unix:{tmp_path}/one", f"unix:{tmp_path}/two")
    sockets.open_all([one, two])
    sockets.handed_over()
    sockets.close(one)
    sockets.close_all()
    assert sorted(os.listdir(tmp_path)) == ["one", "two"]


# Sockets from outside.


def test_an_inherited_socket_is_taken(make: Make, listening: Callable[..., socket.socket]) -> None:
    theirs = listening()
    theirs.set_inheritable(True)
    sockets = make(lent=(theirs,))
    assert sockets.unused == [f"127.0.0.1:{port_of(theirs)}"]
    sock = sockets.open(parse_bind(f"127.0.0.1:{port_of(theirs)}"))
    assert is_same(sock, theirs)
    assert not sock.get_inheritable()
    assert sock.gettimeout() == 0
    assert sockets.unused == []


@pytest.mark.parametrize(
    ("address", "wanted"),
    [
        (("127.0.0.1", 0), "localhost:{}"),
        (("::", 0), ":{}"),
        (("0.0.0.0", 0), ":{}"),
        (("::1", 0), "[::1]:{}"),
        (("127.0.0.1", 0), "127.0.0.1:0"),
    ],
)
def test_which_address_is_meant(
    make: Make, listening: Callable[..., socket.socket], address: object, wanted: str
) -> None:
    theirs = listening(address)
    sock = make(theirs).open(parse_bind(wanted.format(port_of(theirs))))
    assert is_same(sock, theirs)


@pytest.mark.parametrize(
    ("address", "wanted"),
    [(("127.0.0.1", 0), ":{}"), (("::", 0), "127.0.0.1:{}"), (("0.0.0.0", 0), "[::1]:0"), (("::1", 0), "localhost:0")],
)
def test_another_address_is_opened_anew_or_refused(
    make: Make, listening: Callable[..., socket.socket], address: object, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def resolve(host: str, *args: object, **options: object) -> object:
        return real("127.0.0.1" if host == "localhost" else host, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    theirs = listening(address)
    sockets = make(theirs)
    bind = parse_bind(wanted.format(port_of(theirs)))
    if bind.port:
        with pytest.raises(StartError, match=r"in use; the sockets passed to the router are others: \S+:\d+$"):
            sockets.open(bind)
    else:
        assert not is_same(sockets.open(bind), theirs)
    assert len(sockets.unused) == 1


def test_any_port_does_not_take_what_another_listener_names(
    make: Make, listening: Callable[..., socket.socket]
) -> None:
    one, two = listening(), listening()
    opened = make(one, two).open_all(binds("127.0.0.1:0", f"127.0.0.1:{port_of(one)}"))
    assert is_same(opened[0], two)
    assert is_same(opened[1], one)


def test_a_unix_socket_from_outside(make: Make, listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    theirs, lost = listening(f"{tmp_path}/s"), listening(f"{tmp_path}/lost")
    sockets = make(theirs, lost)
    assert is_same(sockets.open(parse_bind(f"unix:{tmp_path}//s")), theirs)
    (tmp_path / "lost").unlink()
    # Nobody would find it there any more.
    assert not is_same(sockets.open(parse_bind(f"unix:{tmp_path}/lost")), lost)
    assert answers(f"{tmp_path}/lost")


def test_what_does_not_listen_is_said_and_closed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    one, other = socket.socketpair()
    with one, other, socket.socket(type=socket.SOCK_DGRAM) as udp, socket.socket() as bare:
        sockets = Sockets(PassedSocket(sock.dup(), True) for sock in (one, udp, bare))
        assert sockets.unused == []
    assert [line.split(": ")[-1] for line in caplog.messages] == ["ignored"] * 3
    assert "does not listen" in caplog.messages[0]
    assert "no stream socket" in caplog.messages[1]


def test_a_socket_of_another_family_is_said_and_closed(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as odd:
        assert Sockets([PassedSocket(odd.dup(), True)]).unused == []
    assert "a socket of family 16 was passed" in caplog.text


def test_an_abstract_address_has_no_file(make: Make, listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    name = f"router-test-{os.getpid()}"
    sockets = make(listening(f"\0{name}"))
    assert sockets.unused == [f"unix:\\x00{name}"]
    sockets.open(parse_bind(f"unix:{tmp_path}/s"))
    assert len(sockets.unused) == 1


def test_a_lent_socket_outlives_its_listener(
    make: Make, listening: Callable[..., socket.socket], tmp_path: Path
) -> None:
    """Whoever has lent it keeps it open in any case; a reload may ask for it again."""
    theirs = listening(f"{tmp_path}/s")
    sockets = make(lent=(theirs,))
    bind = parse_bind(f"unix:{tmp_path}/s")
    sockets.open(bind)
    assert sockets.taken_over() == []
    sockets.close(bind)
    assert sockets.unused == [str(bind)]
    assert is_same(sockets.open(bind), theirs)
    sockets.close(bind)
    assert [lent for _, lent in sockets.to_pass()] == [True]
    sockets.close_all()
    assert answers(f"{tmp_path}/s")


def test_a_failed_opening_gives_inherited_sockets_back(
    make: Make, listening: Callable[..., socket.socket], tmp_path: Path
) -> None:
    theirs = listening(f"{tmp_path}/s")
    sockets = make(theirs)
    with pytest.raises(StartError):
        sockets.open_all(binds(f"unix:{tmp_path}/s", f"unix:{tmp_path}/none/s"))
    assert sockets.unused == [f"unix:{tmp_path}/s"]
    assert is_same(sockets.open(parse_bind(f"unix:{tmp_path}/s")), theirs)
    # The process that gave it serves on, since this one was never said to be ready.
    sockets.close_all()
    assert answers(f"{tmp_path}/s")


def test_what_was_taken_over_is_owned(make: Make, listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    used, unused = listening(f"{tmp_path}/used"), listening(f"{tmp_path}/unused")
    sockets = make(used, unused)
    sockets.open(parse_bind(f"unix:{tmp_path}/used"))
    assert [os.fstat(sock.fileno()).st_ino for sock, _ in sockets.to_pass()] == [os.fstat(used.fileno()).st_ino]
    assert sockets.taken_over() == [f"unix:{tmp_path}/unused"]
    assert sockets.taken_over() == []
    assert os.listdir(tmp_path) == ["used"]
    sockets.close_all()
    assert os.listdir(tmp_path) == []


def test_everything_held_is_passed_on(make: Make, listening: Callable[..., socket.socket], tmp_path: Path) -> None:
    lent = listening()
    sockets = make(lent=(lent,))
    own = sockets.open(parse_bind(f"unix:{tmp_path}/s"))
    passed = sockets.to_pass()
    assert [(is_same(sock, lent), sock is own, flag) for sock, flag in passed] == [
        (True, False, True),
        (False, True, False),
    ]


# The limit of open files


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


def test_nothing_is_said_when_all_is_well(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "router")
    make().open(parse_bind("127.0.0.1:0"))
    assert caplog.messages == []
