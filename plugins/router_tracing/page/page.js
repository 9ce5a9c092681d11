// The list, the keys and the address: asks each second for what is new, opens the trace that stands after "#".

import { back, showTrace } from "./detail.js";
import { h, pill, timeOfDay, took } from "./words.js";

const [list, pane, empty, state, pause, text, errors, retried] =
  ["list", "trace", "empty", "state", "pause", "text", "errors", "retried"].map((id) => document.getElementById(id));

let traces = [];
let tag = "";
let paused = false;
let opened = "";
// What the pane shows: drawn anew only when the trace went on.
let drawn = "";
const rows = new Map();

const links = () => [...list.querySelectorAll("a")];
const linkOf = (id) => links().find((link) => link.hash.slice(1) === id);

// List

const marksOf = (trace) => [
  [trace.error, "error", "bad"],
  [trace.retried, "retried", "warn"],
  [trace.hedged, "hedged"],
  [trace.kept === "slower", "slower"],
  [trace.requests > 1, `${trace.requests} requests`],
].filter(([is]) => is);

function makeRow(trace) {
  const where = trace.endpoints.join(" \u2192 ") || (trace.status ? "the router itself" : "");
  return h("li", null, h("a", { href: `#${trace.id}` },
    pill(trace.status, trace.error),
    h("span", { class: "target", title: `${trace.method} ${trace.path}` }, h("b", null, trace.method), ` ${trace.path}`),
    h("span", { class: "took" }, took(trace.duration)),
    h("span", { class: "line" },
      h("span", null, timeOfDay(trace.start)),
      h("span", { class: "where" }, [trace.route, where].filter(Boolean).join(" \u00b7 ")),
      marksOf(trace).map(([, word, kind]) => h("span", { class: `tag ${kind || ""}` }, word)))));
}

function matches(trace) {
  if ((errors.checked && !trace.error) || (retried.checked && !trace.retried)) return false;
  const marks = marksOf(trace).map(([, word]) => word);
  const all = [trace.id, trace.method, trace.path, trace.route, trace.pool, trace.status, trace.error, ...marks, ...trace.endpoints];
  return text.value.toLowerCase().split(/\s+/).every((word) => all.join(" ").toLowerCase().includes(word));
}

function draw() {
  const shown = traces.filter(matches);
  const wanted = new Map(shown.map((trace) => [trace.id, JSON.stringify(trace)]));
  const focused = list.contains(document.activeElement) ? document.activeElement.hash.slice(1) : "";
  for (const [id, { item, version }] of rows) {
    if (wanted.get(id) === version) continue;
    item.remove();
    rows.delete(id);
  }
  let before = null;
  // From the oldest on: what stands right is not touched, and keeps the focus.
  for (const trace of shown.toReversed()) {
    if (!rows.has(trace.id)) rows.set(trace.id, { item: makeRow(trace), version: wanted.get(trace.id) });
    const { item } = rows.get(trace.id);
    if (item.parentNode !== list || item.nextSibling !== before) list.insertBefore(item, before);
    before = item;
  }
  if (focused && !list.contains(document.activeElement)) focusOn(linkOf(focused));
  mark();
  empty.hidden = shown.length > 0;
  empty.textContent = traces.length ? "No trace fits the filter." : "No trace yet. Send the router a request.";
  say(`${shown.length === traces.length ? "" : `${shown.length} of `}${traces.length} ${traces.length === 1 ? "trace" : "traces"}`);
}

function say(words, bad) {
  if (state.textContent !== words) state.textContent = words;
  state.classList.toggle("bad", Boolean(bad));
}

function mark() {
  for (const link of links()) link.setAttribute("aria-current", link.hash.slice(1) === opened);
}

async function refresh() {
  const answer = await fetch("api/traces", { headers: tag ? { "If-None-Match": tag } : {} });
  if (answer.ok) {
    traces = (await answer.json()).traces;
    tag = answer.headers.get("ETag") || "";
  } else if (answer.status !== 304) throw new Error();
  draw();
  if (opened) await load();
}

async function trying(act) {
  try {
    await act();
  } catch {
    say("The router does not answer; trying on", true);
  }
}

async function keepFresh() {
  if (!paused && !document.hidden) await trying(refresh);
  setTimeout(keepFresh, 1000);
}

// One trace

async function load() {
  const id = opened;
  const version = JSON.stringify(traces.find((trace) => trace.id === id) || id);
  if (version === drawn) return;
  const answer = await fetch(`api/traces/${encodeURIComponent(id)}`);
  if (answer.status >= 500) throw new Error();
  const content = answer.ok ? showTrace(await answer.json()) : [back(), h("p", { class: "hint" }, await answer.text())];
  if (id !== opened) return;
  // One that has left the list is still being read.
  if (answer.ok || !drawn) pane.replaceChildren(...content);
  drawn = version;
}

async function open() {
  const before = opened;
  opened = location.hash.slice(1);
  document.body.classList.toggle("open", Boolean(opened));
  drawn = "";
  mark();
  if (!opened) {
    pane.replaceChildren(h("p", { class: "hint" }, "Choose a trace to see where it went, and why."));
    return focusOn(linkOf(before));
  }
  await trying(load);
  pane.scrollTop = 0;
  pane.focus({ preventScroll: true });
}

// Keys

function focusOn(link) {
  if (!link) return;
  link.focus();
  link.scrollIntoView({ block: "nearest" });
}

function move(step) {
  const reading = pane.contains(document.activeElement);
  const all = links();
  const focused = reading ? -1 : all.indexOf(document.activeElement);
  const at = focused < 0 ? all.indexOf(linkOf(opened)) : focused;
  const next = all[Math.min(Math.max(at + step, 0), all.length - 1)];
  if (reading && next) location.hash = next.hash;
  else focusOn(next);
}

const KEYS = {
  j: () => move(1),
  k: () => move(-1),
  "/": () => text.focus(),
  p: () => pause.click(),
  Escape: () => { location.hash = ""; },
};
// In an open trace these scroll.
const LIST_KEYS = { ArrowDown: KEYS.j, ArrowUp: KEYS.k, Home: () => move(-Infinity), End: () => move(Infinity) };
const TEXT_KEYS = { ArrowDown: () => focusOn(links()[0]), Enter: () => focusOn(links()[0]) };

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const keys = event.target === text ? TEXT_KEYS : pane.contains(document.activeElement) ? KEYS : { ...LIST_KEYS, ...KEYS };
  if (!Object.hasOwn(keys, event.key)) return;
  event.preventDefault();
  keys[event.key]();
});

for (const input of [text, errors, retried]) input.addEventListener("input", draw);
pause.addEventListener("click", () => {
  paused = !paused;
  pause.setAttribute("aria-pressed", paused);
});
window.addEventListener("hashchange", open);
open();
keepFresh();
