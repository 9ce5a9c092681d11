"""What ordinary clients see of the router's TLS: resumption, names, client certificates, and a browser.

Clients are the command `openssl`, curl, httpx and headless Chromium; the endpoint answers with the header it received.
"""

import contextlib
import http.server
import json
import os
import shlex
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench_main import Result
from bench_procs import BenchError, free_ports
from change_configs import POOL, listener, pool, quoted, route, server
from change_report import held
from fault_client import HOST
from fault_report import Verdict
from tls_configs import from_files, tls
from tls_files import NAME, NAMES, Authority, Pair, fingerprint
from tls_house import Home, Pace, fetched, trusting

#: Seconds that a command may take; a browser starts slowly.
MOST, BROWSER = 20.0, 60.0
OTHER, WILD, DEMO = "other.test", "wild.test", "demo.test"
#: What a listener may ask of clients.
ASKS = ("off", "optional", "required")
#: The common name in the client's certificate.
CLIENT = "bench-client"


class Scene(NamedTuple):
    """The router as clients see it: ports, and client certificates of the right authority and of another one."""

    home: Home
    names: int
    demo: int
    asking: dict[str, int]
    known: Pair
    stranger: Pair


def play_clients(home: Home, _pace: Pace) -> Result:
    with echo() as endpoint:
        scene = _started(home, endpoint)
        verdicts = [
            *(_resumed(scene, version) for version in ("tls1_3", "tls1_2")),
            *_named(scene),
            *(_side_by_side(scene, kind) for kind in ("ECDSA", "RSA")),
            *(verdict for name in ("curl", "httpx", "openssl") for verdict in _mutual(scene, name)),
            *_passed_on(scene),
            *_browsed(scene),
        ]
        return Result("clients", "", {}, [*verdicts, *home.ended()])


class _Echo(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"path": self.path, "fields": [list(pair) for pair in self.headers.items()]}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: Any) -> None:
        pass


@contextlib.contextmanager
def echo() -> Iterator[str]:
    """Promises the address of a server that answers with what it received."""
    with http.server.ThreadingHTTPServer((HOST, 0), _Echo) as serving:
        serving.daemon_threads = True
        thread = threading.Thread(target=serving.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"{HOST}:{serving.server_port}"
        finally:
            serving.shutdown()
            thread.join()


def _started(home: Home, endpoint: str) -> Scene:
    folder, sign = home.folder / "shown", home.authority.sign
    sign(folder, "bench", *NAMES)
    sign(folder, "bench-rsa", *NAMES, kind="rsa")
    sign(folder, "other", f"DNS:{OTHER}")
    sign(folder, "wild", f"DNS:*.{WILD}")
    known = sign(home.folder / "clients", "known", f"DNS:{CLIENT}", of="client")
    stranger = Authority(home.folder / "strangers").sign(
        home.folder / "clients", "stranger", f"DNS:{CLIENT}", of="client"
    )
    names, demo, *asking = free_ports(2 + len(ASKS))
    own = f'{{ use = "self_signed", folder = {quoted(str(home.folder / "demo"))}, names = ["{DEMO}"] }}'
    source = from_files(folder)
    # Without a file of authorities there is nothing to ask for.
    of_clients = [{} if ask == "off" else {"client_ca": home.authority.file} for ask in ASKS]
    parts = [
        server(home.control),
        listener(names, tls(source)),
        listener(demo, tls(own)),
        *(
            listener(port, tls(source, default=NAME, client_auth=ask, **more))
            for ask, port, more in zip(ASKS, asking, of_clients, strict=True)
        ),
        route("all", f'pool = "{POOL}"'),
        pool(POOL, f'endpoints = ["http://{endpoint}"]'),
    ]
    settings = trusting(home.authority.file)
    home.start("\n".join(parts), lambda: fetched(names, settings))
    return Scene(home, names, demo, dict(zip(ASKS, asking, strict=True)), known, stranger)


# openssl s_client


def s_client(scene: Scene, port: int, *options: str, name: str = NAME) -> str:
    """Promises all that `openssl s_client` says of one request, the answer and what failed included."""
    asked = f"GET /s_client HTTP/1.1\\r\\nHost: {name or HOST}\\r\\nConnection: close\\r\\n\\r\\n"
    called = ("-servername", name) if name else ("-noservername",)
    ca = ("-CAfile", str(scene.home.authority.file), "-verify_return_error")
    words = ("openssl", "s_client", "-connect", f"{HOST}:{port}", *called, *ca, "-ign_eof", *options)
    # The request has to come in by a pipe: at the end of its input it goes on reading until the server ends.
    command = ["sh", "-c", f"printf '{asked}' | {shlex.join(words)}"]
    return scene.home.fleet.run("s_client", [*scene.home.pins.load, *command], MOST)[1]


def is_answered(text: str) -> bool:
    """Whether the answer to a request is in what `openssl s_client` says."""
    return "HTTP/1.1 200 " in text and '"/s_client"' in text


def subject(text: str) -> str:
    """Promises the common name that `openssl s_client` says of a peer; "" if none came."""
    lines = (line.partition("=") for line in text.splitlines() if line.startswith("subject="))
    return next((value.replace(" ", "").partition("CN=")[2] for _, _, value in lines), "")


def _resumed(scene: Scene, version: str) -> Verdict:
    session = scene.home.folder / f"{version}.session"
    first = s_client(scene, scene.names, f"-{version}", "-sess_out", str(session))
    again = s_client(scene, scene.names, f"-{version}", "-sess_in", str(session))
    said = next((line for line in again.splitlines() if line.startswith(("Reused, ", "New, "))), "no handshake")
    held_ = "New, " in first and said.startswith("Reused, ") and is_answered(first) and is_answered(again)
    return Verdict(f"openssl -{version} resumes its session", said, held_)


def _named(scene: Scene) -> list[Verdict]:
    """Names and wildcards: whose certificate comes, "" for none."""
    wanted = {
        NAME: NAME,
        NAME.upper(): NAME,
        OTHER: OTHER,
        f"www.{WILD}": f"*.{WILD}",
        f"a.www.{WILD}": "",
        WILD: "",
        "unknown.test": "",
        # The certificate is for the address that was connected to, too.
        "": NAME,
    }
    found = {name: subject(s_client(scene, scene.names, name=name)) for name in wanted}
    wrong = [
        f"{name or 'no name'} gets {found[name] or 'none'} in place of {want or 'none'}"
        for name, want in wanted.items()
        if found[name] != want
    ]
    missing = subject(s_client(scene, scene.asking["off"], name="unknown.test"))
    wrong += [f"with a default, unknown.test gets {missing or 'none'}"] if missing != NAME else []
    return [
        held(
            "names: exact, then wildcard, then the address, the default or none",
            wrong,
            f"{len(wanted) + 1} names right",
        )
    ]


def _side_by_side(scene: Scene, kind: str) -> Verdict:
    of_peer = {"ECDSA": "ECDSA+SHA256", "RSA": "rsa_pss_rsae_sha256:RSA+SHA256"}[kind]
    said = [s_client(scene, scene.names, f"-{version}", "-sigalgs", of_peer) for version in ("tls1_3", "tls1_2")]
    types = [
        next((line for line in text.splitlines() if line.startswith("Peer signature type: ")), "none") for text in said
    ]
    right = all(type_.partition(": ")[2].startswith(kind) for type_ in types) and all(map(is_answered, said))
    return Verdict(f"a client that knows {kind} alone is served, TLS 1.3 and 1.2", "; ".join(types), right)


# Client certificates


def _curl(scene: Scene, port: int, pair: Pair | None) -> bool:
    ca = ("--cacert", str(scene.home.authority.file), "--resolve", f"{NAME}:{port}:{HOST}")
    own = ("--cert", str(pair.certificate), "--key", str(pair.key)) if pair else ()
    words = ("curl", "-sS", "--fail", "--max-time", "10", "--noproxy", "*", *ca, *own, f"https://{NAME}:{port}/curl")
    code, text = scene.home.fleet.run("curl", [*scene.home.pins.load, *words], MOST)
    return code == 0 and '"/curl"' in text


_HTTPX = """import ssl, sys, httpx
ca, url, *pair = sys.argv[1:]
settings = ssl.create_default_context(cafile=ca)
if pair:
    settings.load_cert_chain(*pair)
with httpx.Client(verify=settings, trust_env=False, timeout=10) as client:
    answer = client.get(url)
    answer.raise_for_status()
    print(answer.text)
"""


def _httpx(scene: Scene, port: int, pair: Pair | None) -> bool:
    words = (sys.executable, "-c", _HTTPX, str(scene.home.authority.file), f"https://localhost:{port}/httpx")
    own = tuple(map(str, pair)) if pair else ()
    code, text = scene.home.fleet.run("httpx", [*scene.home.pins.load, *words, *own], MOST)
    if "No module named 'httpx'" in text:
        raise BenchError("httpx is needed: pip install httpx")
    return code == 0 and '"/httpx"' in text


def _openssl(scene: Scene, port: int, pair: Pair | None) -> bool:
    own = ("-cert", str(pair.certificate), "-key", str(pair.key)) if pair else ()
    return is_answered(s_client(scene, port, *own))


_CLIENTS: dict[str, Callable[[Scene, int, Pair | None], bool]] = {"curl": _curl, "httpx": _httpx, "openssl": _openssl}
#: What a listener asks -> what a client has -> whether it is served.
_SERVED = {
    "off": {"no certificate": True, "a certificate": True, "a stranger's": True},
    "optional": {"no certificate": True, "a certificate": True, "a stranger's": False},
    "required": {"no certificate": False, "a certificate": True, "a stranger's": False},
}


def _mutual(scene: Scene, name: str) -> Iterator[Verdict]:
    pairs = {"no certificate": None, "a certificate": scene.known, "a stranger's": scene.stranger}
    for ask, wanted in _SERVED.items():
        found = {what: _CLIENTS[name](scene, scene.asking[ask], pairs[what]) for what in wanted}
        wrong = [f"{what}: {'served' if found[what] else 'refused'}" for what in wanted if found[what] != wanted[what]]
        served = ", ".join(what for what, is_served in found.items() if is_served)
        yield held(f"{name}, client certificates {ask}", wrong, f"served with {served}")


def _passed_on(scene: Scene) -> list[Verdict]:
    """The endpoint is told who came, and nobody else can say so."""
    told = _fields(scene, "optional", scene.known)
    print_, names = fingerprint(scene.known.certificate), []
    for what, word in (("fingerprint", print_), ("subject", CLIENT)):
        names += [(what, name) for name, value in told if word in value.replace(":", "").lower()]
    wrong = [f"no header with the {what}" for what in ("fingerprint", "subject") if what not in dict(names)]
    forged = [word for _, name in names for word in ("-H", f"{name}: forged")]
    for ask in ASKS if forged else ():
        pair = scene.known if ask == "required" else None
        arrived = [name for name, value in _fields(scene, ask, pair, *forged) if "forged" in value]
        wrong += [f"{name} of a client arrives ({ask})" for name in arrived]
    said = ", ".join(f"{what} in {name}" for what, name in names)
    return [held("the endpoint is told of the client's certificate, and only by the router", wrong, said)]


def _fields(scene: Scene, ask: str, pair: Pair | None, *options: str) -> list[tuple[str, str]]:
    """Promises the header that an endpoint gets for a request with curl.

    Raises:
        BenchError: it was not answered.
    """
    port = scene.asking[ask]
    own = ("--cert", str(pair.certificate), "--key", str(pair.key)) if pair else ()
    ca = ("--cacert", str(scene.home.authority.file), "--resolve", f"{NAME}:{port}:{HOST}", "--noproxy", "*")
    words = ("curl", "-sS", "--fail", "--max-time", "10", *ca, *own, *options, f"https://{NAME}:{port}/fields")
    code, text = scene.home.fleet.run("curl", [*scene.home.pins.load, *words], MOST)
    if code:
        raise BenchError(f"curl was not answered: {text.strip()[-300:]}")
    return [(name, value) for name, value in json.loads(text)["fields"]]


# A browser


def _browsed(scene: Scene) -> list[Verdict]:
    """Chromium trusts the bench's authority and that of `self_signed`, once they are in its store, and not before."""
    must = "Chromium"
    if not (shutil.which("chromium") and shutil.which("certutil")):
        return [Verdict(must, "not tried: Debian: apt install chromium libnss3-tools", False)]
    home = scene.home
    authorities = {"bench": home.authority.file, "demo": home.folder / "demo" / "ca.pem"}
    knowing, strange = home.folder / "knowing", home.folder / "strange"
    strange.mkdir()
    store = knowing / ".pki" / "nssdb"
    store.mkdir(parents=True)
    _certutil(home, "-N", "-d", f"sql:{store}", "--empty-password")
    for name, file in authorities.items():
        _certutil(home, "-A", "-d", f"sql:{store}", "-t", "C,,", "-n", name, "-i", str(file))
    urls = {
        f"https://{NAME}:{scene.names}/chromium": True,
        f"https://www.{WILD}:{scene.names}/chromium": True,
        f"https://{DEMO}:{scene.demo}/chromium": True,
    }
    wrong = [f"{url} is not shown" for url in urls if not _shows(home, knowing, url)]
    verdicts = [held(f"{must} shows pages by name, by wildcard and with the authority of `self_signed`", wrong)]
    seen = _shows(home, strange, next(iter(urls)))
    verdicts.append(Verdict(f"{must} shows none without knowing the authority", "shown" if seen else "none", not seen))
    return verdicts


def _certutil(home: Home, *words: str) -> None:
    code, text = home.fleet.run("certutil", ["certutil", *words], MOST)
    if code:
        raise BenchError(f"certutil ended with code {code}: {text.strip()[-300:]}")


def _shows(home: Home, folder: Path, url: str) -> bool:
    options = (
        "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server",
        "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--disable-sync",
        # It may speak to the router alone.
        f"--host-resolver-rules=MAP *.test {HOST}, MAP * ~NOTFOUND, EXCLUDE {HOST}",
        f"--user-data-dir={folder / 'profile'}", "--dump-dom", url,
    )  # fmt: skip
    environment = ["env", f"HOME={folder}", f"XDG_RUNTIME_DIR={folder}", f"PATH={os.environ.get('PATH', '')}"]
    code, text = home.fleet.run("chromium", [*home.pins.load, *environment, "chromium", *options], BROWSER)
    return code == 0 and '"/chromium"' in text
