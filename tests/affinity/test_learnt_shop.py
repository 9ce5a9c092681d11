"""The example shop is true: its servers run, and the cart survives with affinity as its README says, and only so."""

from __future__ import annotations

import http.client
import re
import subprocess
import sys
from collections.abc import Iterator
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parent.parent.parent / "examples" / "shop"
PAGE = (EXAMPLE / "README.md").read_text()
CONFIG = (EXAMPLE / "router.toml").read_text()
AFFINITY = 'affinity = "cookie"\n'
BY_ITS_OWN = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
ITEMS = ("tea", "cups", "cake")


class Visitor:
    """Keeps cookies as a browser does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.jar: dict[str, str] = {}

    def add(self, item: str) -> str:
        return self.ask("POST", "/add", f"item={item}")

    def ask(self, method: str, path: str, body: str | None = None) -> str:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            cookies = {"Cookie": "; ".join(f"{name}={value}" for name, value in self.jar.items())} if self.jar else {}
            connection.request(method, path, body, cookies)
            response = connection.getresponse()
            text = response.read().decode()
            assert response.status == 200, text
            for field in response.headers.get_all("Set-Cookie") or ():
                self.jar |= {name: morsel.value for name, morsel in SimpleCookie(field).items()}
            return text
        finally:
            connection.close()


@pytest.fixture
def ports(house: Any) -> Iterator[list[int]]:
    """Those of the three servers, which are one process."""
    wanted: set[int] = set()
    while len(wanted) < 3:
        wanted.add(house.free_port())
    command = [sys.executable, str(EXAMPLE / "shop.py"), *map(str, sorted(wanted))]
    shop = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert shop.stdout is not None
        assert shop.stdout.readline().startswith("the shop is open at http://127.0.0.1:")
        yield sorted(wanted)
    finally:
        shop.kill()
        shop.communicate()


def opened(house: Any, ports: list[int], config: str = CONFIG) -> Visitor:
    """Starts the router of the example at other ports; promises somebody who comes to the shop."""
    for number, port in zip((9001, 9002, 9003, 8080), (*ports, house.port), strict=True):
        assert f":{number}" in config
        config = config.replace(f":{number}", f":{port}")
    house.text(config)
    house.up()
    return Visitor(house.port)


def test_a_cart_survives_and_others_have_their_own(house: Any, ports: list[int]) -> None:
    visitor = opened(house, ports)
    lines = [visitor.add(item) for item in ITEMS]
    (server,) = {line.partition(": ")[0] for line in lines}
    assert lines == [f"{server}: tea\n", f"{server}: tea, cups\n", f"{server}: tea, cups, cake\n"]
    others = [Visitor(house.port).ask("GET", "/") for _ in range(2)]
    assert sorted(others) == sorted(f"server {p}: your cart is empty\n" for p in ports if str(p) not in server)
    assert visitor.ask("GET", "/") == f"{server}: tea, cups, cake\n"


def test_without_affinity_there_are_three_carts(house: Any, ports: list[int]) -> None:
    assert AFFINITY in CONFIG
    visitor = opened(house, ports, CONFIG.replace(AFFINITY, ""))
    lines = [visitor.add(item) for item in ITEMS]
    assert [line.partition(": ")[2] for line in lines] == [f"{item}\n" for item in ITEMS]
    assert {line.partition(": ")[0] for line in lines} == {f"server {port}" for port in ports}
    assert list(visitor.jar) == ["cart"]


def test_by_its_own_cookie_a_cart_survives_too(house: Any, ports: list[int]) -> None:
    (own,) = BY_ITS_OWN
    visitor = opened(house, ports, CONFIG.replace(AFFINITY, own))
    assert [visitor.add(item).partition(": ")[2] for item in ITEMS][-1] == "tea, cups, cake\n"
    assert list(visitor.jar) == ["cart"]


def test_a_cart_survives_while_its_server_is_drained(house: Any, ports: list[int]) -> None:
    visitor = opened(house, ports)
    server = visitor.add("tea").partition(": ")[0]
    address = f"http://127.0.0.1:{server.removeprefix('server ')}"
    config = house.file.read_text()
    house.text(config.replace(f'"{address}"', f'{{ url = "{address}", state = "drain" }}'))
    house.takes()
    assert visitor.add("cups") == f"{server}: tea, cups\n"
    assert server not in {Visitor(house.port).ask("GET", "/").partition(": ")[0] for _ in range(4)}


def test_the_shop_refuses_what_it_cannot_read(house: Any, ports: list[int]) -> None:
    for length in ("-1", "x", "99999"):
        connection = http.client.HTTPConnection("127.0.0.1", ports[0], timeout=10)
        connection.putrequest("POST", "/add")
        connection.putheader("Content-Length", length)
        connection.putheader("Cookie", "\x01;;==")
        connection.endheaders()
        assert connection.getresponse().status == 400
        connection.close()


def test_links_lead_somewhere() -> None:
    found = re.findall(r"\]\(([^)#\s]+)", PAGE)
    assert found
    assert [path for path in found if not (EXAMPLE / path).exists()] == []
