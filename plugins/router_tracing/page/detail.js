// One trace: what happened, when, and why each attempt went where it went.

import { failed, fullTime, h, name, outcome, parsed, percent, pill, queued, story, strong, took } from "./words.js";

export const back = () => h("a", { href: "#", class: "back" }, "\u2190 All traces");

export function showTrace({ id, lost, spans }) {
  const requests = spans.filter((span) => span.kind === "server");
  const attempts = spans.filter((span) => span.kind === "client");
  const views = requests.map((request) => requestView(request, attempts.filter((a) => a.parent === request.id)));
  const lone = attempts.filter((a) => !requests.some((request) => request.id === a.parent));
  const last = views.length - 1;
  return [
    back(),
    ...(last > 0 ? views.map((view, i) => h("details", { open: i === last }, h("summary", null, title(requests[i])), view)) : views),
    lone.length ? h("section", null, h("h3", null, "Attempts whose request is not kept"), timeline(lone)) : "",
    lost ? h("p", { class: "note" }, `${lost} more spans of this trace were not kept.`) : "",
    h("p", { class: "note links" },
      h("a", { href: `traces.json?trace=${encodeURIComponent(id)}`, download: `trace-${id}.json` }, "Download for Jaeger"),
      h("span", null, "trace ", h("code", null, id))),
  ];
}

const title = ({ attributes: own, name }) =>
  `${own["http.request.method"] || name} ${own["url.path"] || ""}${own["url.query"] ? `?${own["url.query"]}` : ""}`;

function requestView(request, attempts) {
  const own = request.attributes;
  const itself = parsed(own["lb.explain"]);
  return h("section", null,
    h("h2", null, pill(own["http.response.status_code"], request.error), h("span", { class: "target" }, title(request))),
    h("p", { class: "story" }, story(request, attempts)),
    facts(request, own),
    h("h3", null, "Timeline"),
    timeline([request, ...attempts]),
    attempts.map((attempt, i) => why(attempt, attempts.length > 1 ? `attempt ${i + 1}, ${outcome(attempt)}` : "")),
    itself ? decision(itself, "", "Why the router answered itself") : "",
    h("h3", null, "Attributes"),
    [request, ...attempts].map((span, i) =>
      h("details", null, h("summary", null, i ? `Attempt ${i}, ${name(span)}` : `Request, ${request.name}`), pairs(Object.entries(span.attributes)))));
}

function facts(request, own) {
  const known = [
    ["Began", fullTime(request.start)],
    ["Route", own["http.route"]],
    ["Pool", own["lb.pool"]],
    ["Session", own["lb.affinity"]],
    ["Client", own["client.address"]],
    ["Caller", request.parent && `span ${request.parent}${request.remote ? ", elsewhere" : ""}`],
    ["Kept for", own["lb.kept"]],
    ["Bytes to client", own["lb.bytes_to_client"]],
    ["Bytes to server", own["lb.bytes_to_endpoint"]],
  ].filter(([, value]) => value != null && value !== "");
  return h("dl", { class: "facts" }, known.map(([label, value]) => h("div", null, h("dt", null, label), h("dd", null, String(value)))));
}

const pairs = (entries) => h("dl", { class: "pairs" }, entries.map(([key, value]) => h("div", null, h("dt", null, key), h("dd", null, String(value)))));

// Timeline

function timeline(spans) {
  const from = Math.min(...spans.map((span) => span.start));
  const whole = Math.max(...spans.map((span) => span.start + span.duration)) - from || 1;
  const ticks = [0, 0.25, 0.5, 0.75, 1].map((part) => h("span", { style: { left: `${part * 100}%` } }, part ? took(part * whole) : "0"));
  return h("div", { class: "timeline" },
    h("div", { class: "axis lane", "aria-hidden": "true" }, h("span"), h("span", { class: "track" }, ticks)),
    spans.map((span) => lane(span, (at) => ((span.start + at - from) / whole) * 100)));
}

function lane(span, place) {
  const own = span.attributes;
  const isRequest = span.kind === "server";
  const kind = isRequest ? "whole" : failed(span) ? "bad" : own["lb.outcome"] === "neutral" ? "" : "good";
  const label = isRequest ? "request" : name(span);
  const said = isRequest ? "" : `${own["lb.hedge"] ? "hedge, " : ""}${outcome(span)}`;
  const side = place(0) > 60 ? { right: `${100 - place(0)}%` } : { left: `${place(0)}%` };
  const bar = (from, to, type) => h("span", { class: `bar ${type}`, style: { left: `${place(from)}%`, width: `${Math.max(place(to) - place(from), 0)}%` } });
  const events = span.events.map((event) => [took(event.at), [event.name, ...Object.values(event.attributes)].join(", ")]);
  const tip = h("div", { class: "tip", role: "tooltip", id: `tip-${span.id}` },
    events.length ? pairs(events) : "", pairs(Object.entries(own).filter(([key]) => key !== "lb.explain")));
  return h("div", { class: `lane ${kind}`, tabindex: "0", role: "group", "aria-label": `${label}, ${took(span.duration)}, ${said}`, "aria-describedby": tip.id },
    h("span", { class: "who" }, label),
    h("span", { class: "track" },
      bar(0, span.duration, ""),
      queued(span).map(([from, to]) => bar(from, to, "queue")),
      span.events.map((event) => h("span", { class: `mark ${event.name.replaceAll(" ", "-")}`, style: { left: `${place(event.at)}%` } })),
      h("span", { class: "said", style: side }, said)),
    h("span", { class: "took" }, took(span.duration)), tip);
}

// Decisions

function why(attempt, sub) {
  const explained = parsed(attempt.attributes["lb.explain"]);
  if (explained) return decision(explained, explained.chosen || attempt.attributes["lb.endpoint"], `Why ${name(attempt)}?`, sub);
  return h("section", null, h("h3", null, `Why ${name(attempt)}?`), h("p", { class: "note" }, "Not recorded: this trace was kept at its end, not sampled."));
}

function decision(explained, chosen, head, sub) {
  return h("section", null,
    h("h3", null, head, " ", h("small", null, sub)),
    explained.status ? h("p", null, strong(`${explained.status}: ${explained.reason}`)) : "",
    explained.target ? h("p", null, `Sent as ${explained.target}`) : "",
    (explained.pools || []).map((pool) => poolView(pool, chosen)));
}

function poolView(pool, chosen) {
  const shown = new Set();
  const could = pool.choices.flatMap((choice) => choiceRows(choice, chosen, shown, pool.choices.length > 1 || choice.priority > 0));
  const out = pool.left_out.flatMap((group) => [
    ...group.endpoints.map(({ id, detail }) => row(id, chosen, shown, "out", h("td", { colspan: 4 }, strong(group.reason), detail ? `: ${detail}` : ""))),
    more(group.count - group.endpoints.length, group.reason),
  ]);
  if (chosen && !shown.has(chosen)) could.unshift(row(chosen, chosen, shown, "", h("td", { colspan: 4 }, pool.affinity)));
  const head = pool.choices.length ? ["Server", "Load", "Weight", "Share", "State"] : ["Server", "Why"];
  return h("div", { class: "pool" },
    h("p", null, strong(pool.decision), ` \u00b7 pool ${pool.name} (${pool.selection}): ${pool.ready} of ${pool.members} ready, ${pool.in_flight} in flight`),
    pool.affinity ? h("p", null, `Session: ${pool.affinity}`) : "",
    pool.waiting ? h("p", null, `Has to wait: ${pool.waiting.reason}; ${pool.waiting.taken} of ${pool.waiting.places} places taken`) : "",
    h("div", { class: "card" }, h("table", null,
      h("thead", null, h("tr", null, head.map((text) => h("th", { scope: "col" }, text)))),
      h("tbody", null, could, out))),
    pool.retries ? h("p", { class: "note" }, `On failure: ${retries(pool.retries)}`) : "");
}

function choiceRows(choice, chosen, shown, tiers) {
  const head = [tiers ? `Tier ${choice.priority}, ${percent(choice.share)} of requests` : "", choice.why].filter(Boolean).join(": ");
  return [
    head ? note(head) : "",
    ...choice.options.map(({ id, load, weight, share, state }) => row(id, chosen, shown, "",
      h("td", null, String(load)), h("td", null, String(+weight.toPrecision(3))),
      h("td", null, share == null ? "" : h("span", { class: "share" }, h("i", { style: { width: `${share * 100}%` } }), percent(share))),
      h("td", null, state))),
    more(choice.count - choice.options.length, "that could take it"),
    choice.failed ? note(choice.failed) : "",
  ];
}

function row(id, chosen, shown, kind, ...cells) {
  shown.add(id);
  const tick = id === chosen ? h("span", { class: "tick", role: "img", "aria-label": "chosen" }, "\u2713 ") : "";
  return h("tr", { class: id === chosen ? "chosen" : kind }, h("th", { scope: "row", title: id }, tick, id), cells);
}

const note = (words) => h("tr", { class: "out" }, h("td", { colspan: 5 }, words));
const more = (count, what) => (count > 0 ? note(`and ${count} more: ${what}`) : "");

function retries(rule) {
  if (!rule.attempts) return "no second attempt";
  return [
    `up to ${rule.attempts} more at others`,
    rule.on.length ? `on ${rule.on.join(", ")}` : "if nothing was sent",
    rule.only_unsent && rule.on.length ? "as long as nothing was sent" : "",
    `budget ${Math.floor(rule.budget)}`,
    rule.hedge_after == null ? "" : `after ${rule.hedge_after} s without a response another is asked as well`,
  ].filter(Boolean).join("; ");
}
