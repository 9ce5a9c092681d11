"""The page of traces in a real browser: what it shows, its keys, its looks; and that it holds nothing but its own.

Chromium is driven over its debugging protocol; it may reach this machine alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio
from router_tracing import viewer as viewer_module
from router_tracing.span import Event
from router_tracing.store import Store
from router_tracing.viewer import Viewer

_spec = importlib.util.spec_from_file_location("tracing_samples", Path(__file__).with_name("samples.py"))
assert _spec
assert _spec.loader
samples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(samples)

request, attempt, retried, MS, BEGAN = samples.request, samples.attempt, samples.retried, samples.MS, samples.BEGAN
PATIENCE = 20
FILES = sorted(Path(viewer_module.__file__).with_name("page").iterdir())
HOSTILE = "/<img src=x onerror=\"document.title='owned'\">"
needs_chromium = pytest.mark.skipif(shutil.which("chromium") is None, reason="chromium is not installed")
#: One browser serves all tests here, so they share a loop.
in_browser = [needs_chromium, pytest.mark.asyncio(loop_scope="module")]


# Without a browser


def test_the_page_is_small_and_needs_nobody() -> None:
    texts = {file.name: file.read_text("ascii") for file in FILES}
    assert sum(map(len, texts.values())) < 30 * 1024
    for name, text in texts.items():
        links = set(re.findall(r"https?://[^\s\"']+", text)) - {"http://www.w3.org/2000/svg"}
        assert not links, name
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|\bon\w+=|style=", text), (
            name
        )


def test_all_files_of_the_page_are_served() -> None:
    assert {name for name, _ in viewer_module._FILES.values()} == {file.name for file in FILES}


# With one


class Browser:
    """A page of Chromium."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._calls = 0
        #: What it complained of: scripts that failed, and what the policy of the page forbade.
        self.complaints: list[str] = []

    async def call(self, method: str, **arguments: Any) -> dict[str, Any]:
        self._calls += 1
        await self._socket.send_json({"id": self._calls, "method": method, "params": arguments})
        while True:
            said = await self._socket.receive_json(timeout=PATIENCE)
            if said.get("method") in ("Runtime.exceptionThrown", "Log.entryAdded"):
                self.complaints.append(json.dumps(said["params"]))
            if said.get("id") == self._calls:
                assert "error" not in said, said
                return dict(said["result"])

    async def run(self, script: str) -> Any:
        done = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    async def until(self, script: str) -> None:
        """Waits until the expression is true."""
        loop = asyncio.get_running_loop()
        end = loop.time() + PATIENCE
        while not await self.run(f"Boolean({script})"):
            assert loop.time() < end, (script, await self.run("document.body.innerText"))
            await asyncio.sleep(0.02)

    async def press(self, *keys: str) -> None:
        for key in keys:
            more = (
                {"text": key}
                if len(key) == 1
                else {"text": "\r", "windowsVirtualKeyCode": 13}
                if key == "Enter"
                else {}
            )
            await self.call("Input.dispatchKeyEvent", type="keyDown", key=key, **more)
            await self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    async def open(self, url: str, *, width: int = 1280, dark: bool = False) -> None:
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False
        )
        # Another address in between: one that differs after "#" alone would load nothing.
        await self.call("Page.navigate", url="about:blank")
        await self.call("Page.navigate", url=url)
        await self.until("document.querySelector('#state') && document.querySelector('#state').textContent")

    async def texts(self, selector: str) -> list[str]:
        """What can be seen there."""
        found = f"[...document.querySelectorAll({json.dumps(selector)})].filter((e) => e.getClientRects().length)"
        return list(await self.run(f"{found}.map((e) => e.innerText.trim())"))

    async def text(self, selector: str) -> str:
        return " ".join(" ".join(await self.texts(selector)).split())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Browser]:
    home = tmp_path_factory.mktemp("chromium")
    process = await asyncio.create_subprocess_exec(
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--no-proxy-server",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        f"--user-data-dir={home / 'profile'}",
        "--remote-debugging-port=0",
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
    )
    assert process.stderr is not None
    try:
        async with asyncio.timeout(2 * PATIENCE), aiohttp.ClientSession() as session:
            found = None
            while found is None:
                line = (await process.stderr.readline()).decode()
                assert line, "Chromium ended"
                found = re.search(r"ws://(127\.0\.0\.1:\d+)/", line)
            async with session.get(f"http://{found[1]}/json/list") as answer:
                pages = [page for page in await answer.json(content_type=None) if page["type"] == "page"]
        async with aiohttp.ClientSession() as session, session.ws_connect(pages[0]["webSocketDebuggerUrl"]) as socket:
            made = Browser(socket)
            for domain in ("Page", "Runtime", "Log"):
                await made.call(f"{domain}.enable")
            await made.call("Emulation.setFocusEmulationEnabled", enabled=True)
            yield made
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        # What it still says has to go somewhere, or it would not end.
        await process.communicate()


@pytest_asyncio.fixture(loop_scope="module")
async def browser(chromium: Browser) -> AsyncIterator[Browser]:
    chromium.complaints.clear()
    yield chromium
    assert chromium.complaints == []


@pytest.fixture
def store() -> Store:
    return Store()


@pytest_asyncio.fixture(loop_scope="module")
async def viewer(store: Store, browser: Browser) -> AsyncIterator[Viewer]:
    made = Viewer(store, "127.0.0.1:0")
    await made.start()
    yield made
    # A page that stayed would complain of the server that has gone.
    await browser.call("Page.navigate", url="about:blank")
    await made.close()


OUT = dict.fromkeys(("one", "two", "three"), "ejected")
OWN = (("lb.explain", samples.decision("", left=OUT, status=503)),)
NO_RETRY = Event(BEGAN + 5 * MS, "no retry", (("lb.reason", "budget spent"),))
#: What becomes of a request, and what is said of it.
STORIES: dict[str, tuple[list[Any], str]] = {
    "own": (
        request(1, status=503, error="nothing_ready", more=OWN),
        "The router answered itself with 503 after 10.0 ms: 0 of 3 endpoints ready.",
    ),
    "queue": (
        request(1, "/", attempt(0, "one", 8, 2), events=(Event(BEGAN, "queued"), Event(BEGAN + 8 * MS, "left queue"))),
        "one answered with 200 after 10.0 ms. 80 % of the time went into waiting in the queue.",
    ),
    "hedge": (
        request(1, "/", attempt(0, "one", 0, 9, 0, lb__outcome="neutral"), attempt(1, "two", 5, 4, lb__hedge=True)),
        "two answered with 200 after 10.0 ms. one was slower. "
        "40 % of the time went into waiting for the response of two.",
    ),
    "failed": (
        request(1, "/", attempt(0, "one", 0, 5, 0, error="reset"), status=502, error="502", events=(NO_RETRY,)),
        "No server answered, so the router said 502 after 10.0 ms. one failed after 5.00 ms: reset. "
        "There was no further attempt: budget spent. 50 % of the time went into the attempt that failed.",
    ),
    "left": (
        request(
            1,
            "/",
            attempt(0, "one", 0, 9, 0, lb__outcome="neutral"),
            status=0,
            events=(Event(BEGAN + 9 * MS, "client left"),),
        ),
        "No server answered after 10.0 ms. The client left after 9.00 ms.",
    ),
    "no route": (request(1, status=404), "The router answered itself with 404 after 10.0 ms."),
    "not found": (
        request(1, "/", attempt(0, "one", 0, 1, 404, lb__outcome="success", error="404"), status=404),
        "one answered with 404 after 10.0 ms.",
    ),
    "truncated": (
        request(1, "/", attempt(0, "one", 0, 10, error="upstream_body_error", lb__cause="truncated in body")),
        "one answered with 200 after 10.0 ms, and broke off: truncated in body. "
        "100 % of the time went into waiting for the response of one.",
    ),
}
FOCUSED = "document.activeElement.hash"


class TestPage:
    pytestmark = in_browser

    async def test_the_list_shows_texts_as_texts_and_grows(
        self, browser: Browser, viewer: Viewer, store: Store
    ) -> None:
        store.export(request(1, HOSTILE, attempt(0, "<b>one</b>", 0, 5)))
        store.export(retried(2))
        await browser.open(viewer.url)
        await browser.until("document.querySelectorAll('#list li').length === 2")
        rows = [" ".join(text.split()) for text in await browser.texts("#list li")]
        assert re.fullmatch(r"200 GET /slow 4\.00 s \d\d:\d\d:\d\d web \u00b7 two \u2192 one retried", rows[0])
        assert HOSTILE in rows[1]
        assert "<b>one</b>" in rows[1]
        assert await browser.text("#state") == "2 traces"
        await browser.press("j", "j")
        await browser.run("window.same = true")
        store.export(request(3, "/new", status=503, error="nothing_ready"))
        await browser.until("document.querySelectorAll('#list li').length === 3")
        assert "503 GET /new" in " ".join((await browser.texts("#list li"))[0].split())
        # Neither loaded again nor moved away from under the reader.
        assert await browser.run("window.same && " + FOCUSED) == f"#{1:032x}"
        await browser.run(f"location.hash = '{1:032x}'")
        await browser.until("document.querySelector('.story')")
        assert await browser.text("h2") == f"200 GET {HOSTILE}"
        assert await browser.run("document.title") == "Traces"
        assert await browser.run("document.querySelectorAll('main img').length") == 0

    async def test_where_too_many_ask_it_asks_again(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export(retried(1))
        await browser.open(viewer.url)
        viewer._under_way["page"] = 1000
        await browser.run(f"location.hash = '{1:032x}'")
        await browser.until("document.querySelector('#state').textContent.endsWith('trying on')")
        viewer._under_way["page"] = 0
        await browser.until("document.querySelector('.story')")
        assert await browser.text("#state") == "1 trace"
        # Those of the answers that were refused.
        browser.complaints[:] = [complaint for complaint in browser.complaints if "503" not in complaint]

    async def test_a_retried_request_is_explained(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export(retried(1))
        await browser.open(f"{viewer.url}#{1:032x}")
        await browser.until("document.querySelector('.story')")
        assert await browser.text(".story") == (
            "one answered with 200 after 4.00 s, at attempt 2. two failed after 3.00 s: reset in head. "
            "75 % of the time went into the attempt that failed."
        )
        lanes = [" ".join(text.split()) for text in await browser.texts(".lane:not(.axis)")]
        assert lanes == ["request 4.00 s", "two reset in head 3.00 s", "one status 200 1.00 s"]
        places = "[...document.querySelectorAll('.bar')].map((bar) => [bar.style.left, bar.style.width])"
        assert await browser.run(places) == [["0%", "100%"], ["0%", "75%"], ["75%", "25%"]]
        assert await browser.run("document.querySelector('.mark.retry').style.left") == "75%"
        assert await browser.texts(".axis span span") == ["0", "1.00 s", "2.00 s", "3.00 s", "4.00 s"]
        heads = [" ".join(text.split()) for text in await browser.texts("h3")]
        assert heads[1:3] == ["Why two? attempt 1, reset in head", "Why one? attempt 2, status 200"]
        first, second = "section section:nth-of-type(1)", "section section:nth-of-type(2)"
        tables = [[text.split() for text in await browser.texts(f"{table} tbody tr")] for table in (first, second)]
        standing = ["2", "0.5", "33.3", "%", "ready"]
        assert tables[0] == [["one", *standing], ["\u2713", "two", *standing], ["three", *standing]]
        assert tables[1] == [
            ["\u2713", "one", "2", "0.5", "100", "%", "ready"],
            ["two", "tried:", "back", "in", "21", "s"],
            ["three", "ejected:", "back", "in", "21", "s"],
        ]
        assert await browser.texts(f"{second} tr.chosen th") == ["\u2713 one"]
        assert "pool web (least_request): 1 of 3 ready, 4 in flight" in await browser.text(f"{second} .pool")
        assert "On failure: up to 2 more at others; on connect, reset; budget 11" in await browser.text(second)
        link = await browser.run("document.querySelector('.links a').href")
        assert link == f"{viewer.url}traces.json?trace={1:032x}"

    async def test_attributes_and_events_show_on_focus(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export(retried(1))
        await browser.open(f"{viewer.url}#{1:032x}")
        await browser.until("document.querySelector('.story')")
        assert await browser.text(".tip") == ""
        await browser.run("document.querySelector('.lane.bad').focus()")
        assert await browser.text(".tip") == "lb.endpoint two lb.attempt 0 lb.outcome failure lb.cause reset in head"
        await browser.run("document.querySelector('.lane.whole').focus()")
        assert (await browser.text(".tip")).startswith(
            "3.00 s retry, connection closed http.request.method GET url.path"
        )

    async def test_the_story(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        for number, (spans, _) in enumerate(STORIES.values(), 1):
            store.export([msgspec.structs.replace(span, trace_id=f"{number:032x}") for span in spans])
        await browser.open(viewer.url)
        for number, (name, (_, story)) in enumerate(STORIES.items(), 1):
            await browser.run(f"location.hash = '{number:032x}'")
            await browser.until(
                f"(document.querySelector('.links') || document.body).innerText.includes('{number:032x}')"
            )
            assert await browser.text(".story") == story, name

    async def test_the_keys(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        for number in (1, 2, 3):
            store.export(request(number, f"/{number}"))
        await browser.open(viewer.url)
        await browser.until("document.querySelectorAll('#list li').length === 3")
        await browser.press("ArrowDown", "j", "ArrowUp", "ArrowDown")
        assert await browser.run(FOCUSED) == f"#{2:032x}"
        await browser.press("j", "j", "k")
        assert await browser.run(FOCUSED) == f"#{2:032x}"
        outline = "getComputedStyle(document.activeElement).outlineStyle"
        assert await browser.run(outline) == "solid"
        await browser.press("Enter")
        await browser.until("document.querySelector('.story')")
        assert await browser.run("document.activeElement.id") == "trace"
        assert await browser.texts("[aria-current=true] .target") == ["GET /2"]
        await browser.press("j")
        await browser.until("document.querySelector('h2').innerText.includes('/1')")
        await browser.press("Escape")
        await browser.until("!document.querySelector('.story')")
        assert await browser.run(FOCUSED) == f"#{1:032x}"
        await browser.press("/", "3", "ArrowDown")
        assert await browser.run("document.querySelector('#text').value") == "3"
        assert await browser.run(FOCUSED) == f"#{3:032x}"
        await browser.press("p")
        assert await browser.run("document.querySelector('#pause').getAttribute('aria-pressed')") == "true"

    async def test_the_filters(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export(request(1, "/cart", attempt(0, "one", 0, 1)))
        store.export(retried(2, "/Slow"))
        store.export(request(3, "/cart", status=500, error="500"))
        await browser.open(viewer.url)
        await browser.until("document.querySelectorAll('#list li').length === 3")

        async def shown(words: str) -> list[str]:
            script = f"e = document.querySelector('#text'); e.value = {words!r}; e.dispatchEvent(new Event('input'))"
            await browser.run(f"var {script}")
            return await browser.texts("#list .target")

        assert await shown("cart") == ["GET /cart", "GET /cart"]
        assert await shown(" two SLOW ") == ["GET /Slow"]
        assert await shown(f"{1:032x}") == ["GET /cart"]
        assert await browser.text("#state") == "1 of 3 traces"
        assert await shown("nothing of this kind") == []
        assert await browser.text("#empty") == "No trace fits the filter."
        assert await shown("") == ["GET /cart", "GET /Slow", "GET /cart"]
        await browser.run("document.querySelector('#errors').click()")
        assert await browser.texts("#list .pill") == ["500"]
        await browser.run("document.querySelector('#errors').click()")
        await browser.run("document.querySelector('#retried').click()")
        assert await browser.texts("#list .target") == ["GET /Slow"]

    async def test_several_requests_of_one_trace(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export([*request(1, "/a"), *request(1, "/b")])
        await browser.open(f"{viewer.url}#{1:032x}")
        await browser.until("document.querySelector('.story')")
        assert await browser.texts("details > summary:has(+ section)") == ["GET /a", "GET /b"]
        assert "2 requests" in await browser.text("#list")

    async def test_what_is_gone_and_who_is_gone(self, browser: Browser, store: Store) -> None:
        viewer = Viewer(store, "127.0.0.1:0")
        await viewer.start()
        await browser.open(f"{viewer.url}#{7:032x}")
        await browser.until("document.querySelector('.hint')")
        assert await browser.text(".hint") == "This trace is not kept, or not any more."
        assert await browser.text("#empty") == "No trace yet. Send the router a request."
        # The browser says of itself that the answer was 404.
        assert all("404" in complaint for complaint in browser.complaints)
        await viewer.close()
        await browser.until("document.querySelector('#state.bad')")
        assert await browser.text("#state") == "The router does not answer; trying on"
        again = Viewer(store, viewer.url.removeprefix("http://").rstrip("/"))
        await again.start()
        store.export(request(1))
        await browser.until("document.querySelectorAll('#list li').length === 1")
        assert await browser.run("document.querySelector('#state.bad')") is None
        await browser.call("Page.navigate", url="about:blank")
        await again.close()
        browser.complaints.clear()

    async def test_its_looks(self, browser: Browser, viewer: Viewer, store: Store) -> None:
        store.export(retried(1, "/" + "a-long-way/" * 30))
        shades = []
        for dark, width in ((False, 1280), (True, 1280), (True, 360)):
            await browser.open(f"{viewer.url}#{1:032x}", width=width, dark=dark)
            await browser.until("document.querySelector('.story') && document.querySelector('#list li')")
            shades.append(await browser.run("getComputedStyle(document.body).backgroundColor"))
            assert await browser.run("document.documentElement.scrollWidth") <= width
            wide = await browser.run("document.querySelector('nav').offsetWidth > 0")
            assert wide is (width > 860)
        assert shades[0] != shades[1] == shades[2]
        await browser.run("location.hash = ''")
        await browser.until("document.querySelector('nav').offsetWidth > 0")
        assert await browser.run("document.querySelector('article').offsetWidth") == 0
        assert await browser.run("document.documentElement.scrollWidth") <= 360
