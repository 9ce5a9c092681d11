// Words and elements: how numbers, times and reasons read. What came from outside gets into the page as text, never as markup.

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (name === "style") Object.assign(element.style, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children.flat().filter((child) => child != null && child !== ""));
  return element;
}

export function took(us) {
  if (us < 1000) return `${Math.round(us)} \u00b5s`;
  if (us < 999500) return `${(us / 1000).toPrecision(3)} ms`;
  if (us < 6e7) return `${(us / 1e6).toPrecision(3)} s`;
  return `${Math.floor(us / 6e7)} min ${Math.floor((us % 6e7) / 1e6)} s`;
}

const clock = new Intl.DateTimeFormat([], { timeStyle: "medium", hourCycle: "h23" });
const calendar = new Intl.DateTimeFormat([], { dateStyle: "medium" });
export const timeOfDay = (us) => clock.format(us / 1000);
export const fullTime = (us) =>
  `${calendar.format(us / 1000)}, ${timeOfDay(us)}.${String(Math.floor(us / 1000) % 1000).padStart(3, "0")}`;
export const percent = (share) => `${+(share * 100).toPrecision(3)} %`;
export const strong = (words) => h("b", null, String(words));

export function pill(status, failed) {
  const kind = failed || status >= 500 ? "bad" : status >= 400 ? "warn" : status ? "good" : "";
  return h("span", { class: `pill ${kind}` }, status ? String(status) : "\u2013");
}

export function parsed(text) {
  try {
    return text ? JSON.parse(text) : null;
  } catch {
    return null;
  }
}

// Spans

const statusOf = (span) => span.attributes["http.response.status_code"];
export const name = (attempt) => attempt.attributes["lb.endpoint"] || attempt.attributes["server.address"] || attempt.name;
// A 404 is an error of the span, and no failure of the server.
export const failed = ({ attributes: own, error }) => (own["lb.outcome"] || (error && "failure")) === "failure";
const when = (span, what) => span.events.find((event) => event.name === what);

// What an attempt came to, in a few words.
export function outcome(attempt) {
  const own = attempt.attributes;
  if (failed(attempt) || !statusOf(attempt)) return own["lb.cause"] || attempt.error || own["error.type"] || "no response";
  return `status ${statusOf(attempt)}`;
}

// When it waited for a place: pairs of microseconds from its start.
export function queued(request) {
  const found = [];
  for (const { name, at } of request.events) {
    if (name === "queued") found.push([at, request.duration]);
    else if (name === "left queue" && found.length) found[found.length - 1][1] = at;
  }
  return found;
}

// "Why did it go there, and why was it slow?" in sentences.
export function story(request, attempts) {
  const status = statusOf(request);
  const all = took(request.duration);
  const left = when(request, "client left");
  const last = when(request, "no retry");
  const answer = attempts.filter((a) => statusOf(a) && statusOf(a) === status && name(a) === (request.attributes["lb.endpoint"] || name(a))).pop();
  const said = [];
  if (answer) {
    const count = attempts.indexOf(answer) + 1;
    const late = count > 1 && !answer.attributes["lb.hedge"] ? `, at attempt ${count}` : "";
    const broke = failed(answer) && status < 400 ? `, and broke off: ${outcome(answer)}` : "";
    said.push(strong(name(answer)), " answered with ", strong(status), ` after ${all}${late}${broke}.`);
  } else if (attempts.length) {
    said.push("No server answered", ...(status ? [", so the router said ", strong(status)] : []), ` after ${all}.`);
  } else {
    const why = ownReason(request);
    said.push(status ? "The router answered itself with " : "Nothing was sent or answered", status ? strong(status) : "", ` after ${all}${why ? `: ${why}` : ""}.`);
  }
  for (const attempt of attempts) {
    if (attempt === answer) continue;
    if (failed(attempt)) said.push(" ", strong(name(attempt)), ` failed after ${took(attempt.duration)}: ${outcome(attempt)}.`);
    else if (answer) said.push(" ", strong(name(attempt)), " was slower.");
  }
  if (last && last.attributes["lb.reason"]) said.push(` There was no further attempt: ${last.attributes["lb.reason"]}.`);
  if (left) said.push(` The client left after ${took(left.at)}.`);
  said.push(whatTookLong(request, attempts, answer));
  return said;
}

function ownReason(request) {
  const explained = parsed(request.attributes["lb.explain"]) || {};
  const decisions = (explained.pools || []).map((pool) => pool.decision.replace(/^\d{3}: /, ""));
  return explained.reason || decisions.join("; ") || request.attributes["lb.error"] || request.error;
}

function whatTookLong(request, attempts, answer) {
  const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);
  const bad = attempts.filter((a) => a !== answer && failed(a) && !a.attributes["lb.hedge"]);
  const head = answer ? (when(answer, "head") || { at: answer.duration }).at : 0;
  const parts = [
    [sum(queued(request).map(([from, to]) => to - from)), "waiting in the queue"],
    [sum(bad.map((a) => a.duration)), bad.length > 1 ? "attempts that failed" : "the attempt that failed"],
    [head, answer ? `waiting for the response of ${name(answer)}` : ""],
    [answer ? answer.duration - head : 0, "passing the body on"],
  ];
  const [time, what] = parts.reduce((most, part) => (part[0] > most[0] ? part : most));
  const share = Math.min(time / request.duration, 1);
  return share < 0.4 || request.duration < 1000 ? "" : ` ${percent(+share.toPrecision(2))} of the time went into ${what}.`;
}
