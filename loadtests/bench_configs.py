"""The configuration of each proxy and of the backends, as text.

The same for everybody: one worker, three endpoints, round robin or the proxy's own default, keep-alive to the
endpoints. Beyond that every default stays but for the few exceptions that README.md names. Pure functions, no files.
"""

import grp
import json
import os
import pwd
from pathlib import Path
from typing import NamedTuple

#: Path -> bytes of the backends' answer.
PAGES = {"/": 100, "/1k": 1 << 10, "/64k": 64 << 10, "/1m": 1 << 20, "/64k-chunked": 64 << 10}
#: Those that come without a Content-Length, in chunks.
CHUNKED = ("/64k-chunked",)


class Site(NamedTuple):
    """Where a proxy stands: its folder, its port, its endpoints' ports and how many connections it needs room for."""

    folder: Path
    port: int
    endpoints: tuple[int, ...]
    room: int = 8192


def _nginx(site: Site, name: str, http: str) -> str:
    # Started by root, nginx would hand its worker to a user that may not read the folder.
    user = f"user {pwd.getpwuid(0).pw_name} {grp.getgrgid(0).gr_name};" if os.geteuid() == 0 else ""
    temporary = "\n  ".join(
        f"{kind}_temp_path {site.folder}/{name}-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    return f"""worker_processes 1;
daemon off;
pid {site.folder}/{name}.pid;
error_log stderr;
{user}
events {{ worker_connections {site.room}; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_max_body_size 0;
  {temporary}
{http}
}}
"""


def _pages(folder: Path) -> str:
    body = "x" * (PAGES["/"] - 1)
    # Whatever might insert something takes the length away; nothing is inserted, for the pages name no include.
    chunked = " ".join(f"location = {path} {{ ssi on; ssi_types *; }}" for path in CHUNKED)
    return f'root {folder}/pages; location = / {{ return 200 "{body}\\n"; }} {chunked}'


def backends(site: Site, post: bool) -> str:
    """Promises the nginx that plays all endpoints.

    With `post` it takes the whole body before it answers, which nginx does only for requests that it passes on: so it
    passes them, without their body, to itself.
    """
    listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in site.endpoints)
    if not post:
        return _nginx(site, "backends", f"  sendfile on;\n  server {{ {listen} {_pages(site.folder)} }}")
    http = f"""  client_body_buffer_size 1m;
  upstream pages {{ server unix:{site.folder}/pages.sock; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    {listen}
    location / {{
      proxy_pass http://pages;
      proxy_method GET;
      proxy_pass_request_body off;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Content-Length "";
    }}
  }}
  server {{ listen unix:{site.folder}/pages.sock; {_pages(site.folder)} }}"""
    return _nginx(site, "backends", http)


def nginx(site: Site) -> str:
    servers = " ".join(f"server 127.0.0.1:{port};" for port in site.endpoints)
    http = f"""  upstream web {{ {servers} keepalive 512; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{site.port};
    location / {{
      proxy_pass http://web;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $host;
      proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme;
    }}
  }}"""
    return _nginx(site, "nginx", http)


def haproxy(site: Site) -> str:
    servers = "\n".join(f"  server s{port} 127.0.0.1:{port}" for port in site.endpoints)
    return f"""global
  nbthread 1
  maxconn {site.room}
defaults
  mode http
  timeout connect 2s
  timeout client 75s
  timeout server 30s
  option forwardfor
frontend in
  bind 127.0.0.1:{site.port}
  default_backend web
backend web
  balance roundrobin
{servers}
"""


def caddy(site: Site) -> str:
    endpoints = " ".join(f"127.0.0.1:{port}" for port in site.endpoints)
    return f"""{{
  admin off
  auto_https off
}}
http://127.0.0.1:{site.port} {{
  reverse_proxy {endpoints} {{
    lb_policy round_robin
  }}
}}
"""


# JSON is YAML too, so the two YAML readers get their text from json.dumps: no escaping by hand.


def traefik(site: Site) -> str:
    return json.dumps(
        {
            "global": {"checkNewVersion": False, "sendAnonymousUsage": False},
            "entryPoints": {"web": {"address": f"127.0.0.1:{site.port}"}},
            "providers": {"file": {"filename": f"{site.folder}/traefik-routes.yml"}},
        }
    )


def traefik_routes(site: Site) -> str:
    servers = [{"url": f"http://127.0.0.1:{port}"} for port in site.endpoints]
    return json.dumps(
        {
            "http": {
                "routers": {"all": {"rule": "PathPrefix(`/`)", "service": "web", "entryPoints": ["web"]}},
                "services": {"web": {"loadBalancer": {"servers": servers}}},
            }
        }
    )


def envoy(site: Site) -> str:
    v3 = "type.googleapis.com/envoy.extensions.filters"
    route = {"match": {"prefix": "/"}, "route": {"cluster": "web"}}
    manager = {
        "@type": f"{v3}.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "in",
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [
            {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{v3}.http.router.v3.Router"}}
        ],
    }
    http = {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
    endpoints = [{"endpoint": {"address": _envoy_address(port)}} for port in site.endpoints]
    cluster = {
        "name": "web",
        "type": "STATIC",
        "load_assignment": {"cluster_name": "web", "endpoints": [{"lb_endpoints": endpoints}]},
    }
    listener = {"name": "in", "address": _envoy_address(site.port), "filter_chains": [{"filters": [http]}]}
    return json.dumps({"static_resources": {"listeners": [listener], "clusters": [cluster]}})


def _envoy_address(port: int) -> dict[str, dict[str, str | int]]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def router(site: Site) -> str:
    """Promises the smallest useful configuration: what is not said is the router's default."""
    endpoints = ", ".join(f'"http://127.0.0.1:{port}"' for port in site.endpoints)
    return f"""[[listeners]]
bind = "127.0.0.1:{site.port}"

[[routes]]
pool = "web"

[[pools]]
name = "web"
endpoints = [{endpoints}]
"""


def router_large(routes: int = 1000, endpoints: int = 1000, pools: int = 100) -> str:
    """Promises a configuration to check, never to serve: `pools` pools share the endpoints and the routes evenly."""
    parts = ['[[listeners]]\nbind = "127.0.0.1:8080"\n']
    for number in range(routes):
        parts.append(
            f'[[routes]]\nname = "route-{number}"\nhost = "host-{number % 50}.example"\n'
            f'path = "/service-{number}/*"\nmethods = ["GET", "POST"]\npool = "pool-{number % pools}"\n'
        )
    for number in range(pools):
        urls = (f"http://10.0.{n // 250}.{n % 250 + 1}:8080" for n in range(number, endpoints, pools))
        quoted = ", ".join(f'"{url}"' for url in urls)
        parts.append(f'[[pools]]\nname = "pool-{number}"\nendpoints = [{quoted}]\n')
    return "\n".join(parts)
