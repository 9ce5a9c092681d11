"""The configurations of tls.py, as text: each proxy's plain one with TLS put into it, and those of the router.

Alike for everybody: the same certificate, HTTP/1.1 alone, one least version of TLS. Ciphers, session tickets and all
else stay at each proxy's defaults. Pure: nothing is read or written here.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from change_configs import quoted
from tls_files import NAME, Pair


class Setting(NamedTuple):
    """What a listener shows. `both` files in one, for the proxy that wants it so."""

    pair: Pair
    both: Path
    #: With 1.3 as the least version, or 1.2.
    modern: bool


#: Changes the texts of a proxy, by the name of the file.
Change = Callable[[dict[str, str], Setting, int], None]


def replaced(text: str, old: str, new: str) -> str:
    """Promises the text with something that stands there once put in the place of something else.

    Raises:
        ValueError: it does not stand there once.
    """
    if text.count(old) != 1:
        raise ValueError(f"{old!r} stands {text.count(old)} times in: {text}")
    return text.replace(old, new)


def nginx(files: dict[str, str], setting: Setting, port: int) -> None:
    listen = f"listen 127.0.0.1:{port}"
    lines = (
        f"{listen} ssl;",
        f"ssl_certificate {setting.pair.certificate};",
        f"ssl_certificate_key {setting.pair.key};",
        f"ssl_protocols {'TLSv1.3' if setting.modern else 'TLSv1.2 TLSv1.3'};",
    )
    files["nginx.conf"] = replaced(files["nginx.conf"], f"{listen};", "\n    ".join(lines))


def haproxy(files: dict[str, str], setting: Setting, port: int) -> None:
    bind = f"  bind 127.0.0.1:{port}"
    least = "TLSv1.3" if setting.modern else "TLSv1.2"
    words = f"{bind} ssl crt {setting.both} ssl-min-ver {least} alpn http/1.1\n"
    files["haproxy.cfg"] = replaced(files["haproxy.cfg"], f"{bind}\n", words)


def caddy(files: dict[str, str], setting: Setting, port: int) -> None:
    text = replaced(files["Caddyfile"], "  auto_https off\n", "  auto_https off\n  servers {\n    protocols h1\n  }\n")
    least = "tls1.3" if setting.modern else "tls1.2"
    tls = f"  tls {setting.pair.certificate} {setting.pair.key} {{\n    protocols {least} tls1.3\n  }}\n"
    site = f"127.0.0.1:{port} {{\n"
    files["Caddyfile"] = replaced(text, f"http://{site}", f"https://{site}{tls}")


def traefik(files: dict[str, str], setting: Setting, _port: int) -> None:
    routes = json.loads(files["traefik-routes.yml"])
    routes["http"]["routers"]["all"]["tls"] = {}
    pair = {"certFile": str(setting.pair.certificate), "keyFile": str(setting.pair.key)}
    least = "VersionTLS13" if setting.modern else "VersionTLS12"
    routes["tls"] = {
        "stores": {"default": {"defaultCertificate": pair}},
        "options": {"default": {"minVersion": least, "alpnProtocols": ["http/1.1"]}},
    }
    files["traefik-routes.yml"] = json.dumps(routes)


def envoy(files: dict[str, str], setting: Setting, _port: int) -> None:
    whole = json.loads(files["envoy.yaml"])
    pair = {
        "certificate_chain": {"filename": str(setting.pair.certificate)},
        "private_key": {"filename": str(setting.pair.key)},
    }
    least = "TLSv1_3" if setting.modern else "TLSv1_2"
    versions = {"tls_minimum_protocol_version": least, "tls_maximum_protocol_version": "TLSv1_3"}
    context = {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "common_tls_context": {"tls_params": versions, "alpn_protocols": ["http/1.1"], "tls_certificates": [pair]},
    }
    chain = whole["static_resources"]["listeners"][0]["filter_chains"][0]
    chain["transport_socket"] = {"name": "envoy.transport_sockets.tls", "typed_config": context}
    files["envoy.yaml"] = json.dumps(whole)


def router(files: dict[str, str], setting: Setting, port: int) -> None:
    bind = f'bind = "127.0.0.1:{port}"\n'
    line = tls(from_files(setting.pair), profile="modern" if setting.modern else "intermediate", default=NAME)
    files["router.toml"] = replaced(files["router.toml"], bind, f"{bind}{line}\n")


CHANGES: Mapping[str, Change] = {
    "nginx": nginx,
    "haproxy": haproxy,
    "envoy": envoy,
    "traefik": traefik,
    "caddy": caddy,
    "router": router,
}


def with_tls(name: str, files: Mapping[str, str], setting: Setting, port: int) -> dict[str, str]:
    """Promises a proxy's files with TLS at its one port."""
    changed = dict(files)
    CHANGES[name](changed, setting, port)
    return changed


# The router's own words


def from_files(*paths: Path | Pair) -> str:
    """Promises a certificate source that reads files or folders."""
    return f'{{ use = "files", paths = [{", ".join(map(_path, paths))}] }}'


def _path(path: Path | Pair) -> str:
    if isinstance(path, Path):
        return quoted(str(path))
    return f"{{ certificate = {quoted(str(path.certificate))}, key = {quoted(str(path.key))} }}"


def from_acme(directory: str, ca: Path, folder: Path, *names: str) -> str:
    """Promises a certificate source that asks a directory."""
    words = (
        'use = "acme"',
        f"directory = {quoted(directory)}",
        f"ca = {quoted(str(ca))}",
        f"names = [{', '.join(quoted(name) for name in names)}]",
        "agree_tos = true",
        f"folder = {quoted(str(folder))}",
    )
    return f"{{ {', '.join(words)} }}"


def tls(source: str, **settings: str | Path) -> str:
    """Promises the line of a listener that shows the certificates of a source."""
    more = "".join(f", {name} = {quoted(str(value))}" for name, value in settings.items())
    return f"tls = {{ certificates = [{source}]{more} }}"
