"""examples/jaeger, without Docker: what its files say of each other and of the project is true."""

from __future__ import annotations

import fnmatch
import importlib
import re
import shlex
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "examples" / "jaeger"
COMPOSE: dict[str, Any] = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ROUTER: dict[str, Any] = tomllib.loads((FOLDER / "router.toml").read_text())
DOCKERFILE = (FOLDER / "Dockerfile").read_text()
SERVERS = ("one", "two", "three")


def load(name: str) -> ModuleType:
    if str(ROOT / "loadtests") not in sys.path:
        sys.path.append(str(ROOT / "loadtests"))
    return importlib.import_module(name)


def published(service: str) -> dict[int, int]:
    """Port of this machine -> port of the container; all of them on loopback."""
    found = {}
    for text in SERVICES[service].get("ports", []):
        host, outside, inside = text.split(":")
        assert host == "127.0.0.1", text
        found[int(outside)] = int(inside)
    return found


def test_all_services_are_there_and_wait_for_each_other() -> None:
    assert set(SERVICES) == {"jaeger", "router", *SERVERS, "locust"}
    assert {name for each in SERVICES.values() for name in each.get("depends_on", [])} <= set(SERVICES)
    assert set(COMPOSE) == {"name", "services", "x-load"}


def test_jaeger_is_a_version_2_with_its_usual_ports() -> None:
    assert re.fullmatch(r"jaegertracing/jaeger:\$\{JAEGER_VERSION:-2\.\d+\.\d+\}", SERVICES["jaeger"]["image"])
    assert published("jaeger") == {port: port for port in (16686, 4317, 4318)}


def test_spans_of_all_go_to_jaeger() -> None:
    (tracing,) = ROUTER["observers"]
    assert (tracing["use"], tracing["endpoint"]) == ("tracing", "http://jaeger:4318/v1/traces")
    for name in (*SERVERS, "locust"):
        assert SERVICES[name]["environment"] == {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://jaeger:4318"}


@pytest.mark.parametrize("pool", ROUTER["pools"], ids=lambda pool: str(pool["name"]))
def test_every_pool_has_the_three_servers_at_the_ports_where_they_listen(pool: dict[str, Any]) -> None:
    urls = {each["id"]: urlsplit(each["url"]) for each in pool["endpoints"]}
    assert list(urls) == list(SERVERS)
    upstream = load("upstream")
    for name, url in urls.items():
        words = SERVICES[name]["command"]
        assert words[:2] == ["python", "loadtests/upstream.py"]
        args = upstream.parser().parse_args(words[2:])
        assert (args.name, args.host, args.port) == (url.hostname, "0.0.0.0", url.port)


def test_locust_loads_the_router_where_it_listens() -> None:
    given = dict(word.removeprefix("--").partition("=")[::2] for word in SERVICES["locust"]["command"][1:])
    port = int(ROUTER["listeners"][0]["bind"].rpartition(":")[2])
    assert given["host"] == f"http://router:{port}"
    assert published("router") == {8080: port}
    assert published("locust") == {8089: 8089}
    assert (ROOT / given["locustfile"]).exists()
    assert '"--trace-ratio"' in (ROOT / given["locustfile"]).read_text()


def test_images_are_built_from_targets_that_exist() -> None:
    stages = re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE)
    for name in set(SERVICES) - {"jaeger"}:
        build = SERVICES[name]["build"]
        assert (FOLDER / build["context"]).resolve() == ROOT
        assert ROOT / build["dockerfile"] == FOLDER / "Dockerfile"
        assert build["target"] in stages
    assert {SERVICES[name]["image"] for name in (*SERVERS, "locust")} == {"router-jaeger/load"}


def test_files_that_are_mounted_or_copied_exist_and_reach_the_builder() -> None:
    (mounted,) = SERVICES["router"]["volumes"]
    source, target, mode = mounted.split(":")
    assert (FOLDER / source).exists()
    assert mode == "ro"
    assert f'"{target}"' in DOCKERFILE
    rules = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if not line.startswith("#")]
    copied = [word for line in re.findall(r"^COPY (.+) \S+$", DOCKERFILE, re.MULTILINE) for word in line.split()]
    assert copied
    for word in copied:
        assert (ROOT / word).exists(), word
        assert f"!{word}" in rules, word
    assert rules[0] == "*"
    assert fnmatch.fnmatch("router/__pycache__", rules[-1])


def test_the_images_hold_what_the_project_installs() -> None:
    installed = [
        shlex.split(line.replace("\\\n", " "))
        for line in re.findall(r"^RUN (pip install (?:.*\\\n)*.*)$", DOCKERFILE, re.MULTILINE)
    ]
    loaded, routed = installed
    assert loaded[2:4] == ["--constraint", "constraints-load.txt"]
    assert set(loaded[4:]) == set(load("load_house").PACKAGES)
    assert routed[2:6] == ["--constraint", "constraints.txt", ".", "&&"]
    (carts,) = [pool for pool in ROUTER["pools"] if "affinity" in pool]
    assert carts["affinity"]["state_dir"] == routed[-1]
    assert re.search(r"^FROM python:3\.1[1-9]-slim", DOCKERFILE, re.MULTILINE)


def test_the_readme_names_the_pages_that_are_published() -> None:
    text = (FOLDER / "README.md").read_text()
    ports = {int(port) for port in re.findall(r"http://localhost:(\d+)", text)}
    assert ports == {16686, 8080, 8089}
    assert f"examples/jaeger/{(FOLDER / 'compose.yaml').name}" in text
