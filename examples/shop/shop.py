"""A shop that keeps each visitor's cart in the memory of the server that they came to. Standard library only.

    python3 shop.py [PORT ...]

Each port is a server of its own, which knows nothing of the others; without a port there are three, from 9001 on.
"""

import contextlib
import http.server
import secrets
import sys
import threading
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs

PORTS = (9001, 9002, 9003)
#: Bytes of a form, and things in a cart.
LARGEST, MOST = 1000, 100


class Server(http.server.ThreadingHTTPServer):
    """One server with its carts, by the id that its visitors' cookie holds."""

    daemon_threads = True

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Page)
        self.carts: dict[str, list[str]] = {}

    def page(self, cart: str) -> str:
        return f"server {self.server_port}: {', '.join(self.carts.get(cart, [])) or 'your cart is empty'}\n"


class Page(http.server.BaseHTTPRequestHandler):
    """GET / shows the cart, POST /add puts an item into it."""

    protocol_version = "HTTP/1.1"
    #: Head and body are two writes, and the second must not wait for the client's word about the first.
    disable_nagle_algorithm = True
    server: Server

    def do_GET(self) -> None:
        self.answer(self.cart())

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST:
            self.close_connection = True
            self.send_error(400)
            return
        form = parse_qs(self.rfile.read(int(length)).decode(errors="replace"))
        cart = self.cart()
        things = self.server.carts.setdefault(cart, [])
        things.extend(form.get("item", [])[: MOST - len(things)])
        self.answer(cart)

    def cart(self) -> str:
        """The id in the visitor's cookie, or a new one. A server that does not know the id starts an empty cart."""
        try:
            found = SimpleCookie(self.headers.get("Cookie", "")).get("cart")
        except CookieError:
            found = None
        return found.value if found else secrets.token_hex(8)

    def answer(self, cart: str) -> None:
        body = self.server.page(cart).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", f"cart={cart}; Path=/; HttpOnly")
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """The page says enough."""


def main(*ports: str) -> None:
    servers = [Server(int(port)) for port in ports or PORTS]
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print(
        f"the shop is open at {', '.join(f'http://127.0.0.1:{server.server_port}' for server in servers)}", flush=True
    )
    threading.Event().wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
