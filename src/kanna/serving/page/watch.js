// The gateway's own metrics, every two seconds while they are looked at.
import { $, h, notice, seconds, size, whole } from "./dom.js";
import * as api from "./api.js";

const EVERY = 2000, KEPT = 60;
let timer = 0, before = null;
const lines = new Map();

/** Samples of the Prometheus text format: [name, labels, value]. */
export function parse(text) {
  const found = [];
  for (const line of text.split("\n")) {
    const hit = line.match(/^([a-z_:][a-z0-9_:]*)(?:\{(.*)\})?\s+(\S+)/i);
    if (!hit || line.startsWith("#")) continue;
    const labels = {};
    for (const [, name, value] of (hit[2] || "").matchAll(/([a-z_]\w*)="((?:[^"\\]|\\.)*)"/gi))
      labels[name] = value.replace(/\\(["\\n])/g, (_, c) => (c === "n" ? "\n" : c));
    found.push([hit[1], labels, Number(hit[3].replace("+Inf", "Infinity"))]);
  }
  return found;
}

class Sample {
  constructor(text) {
    this.at = performance.now() / 1000;
    this.rows = parse(text);
  }
  sum(name, model) {
    let found = null;
    for (const [n, labels, value] of this.rows) if (n === name && (model === undefined || labels.model === model)) found = (found ?? 0) + value;
    return found;
  }
  most(name, model) {
    const found = this.rows.filter(([n, l]) => n === name && (model === undefined || l.model === model)).map((r) => r[2]);
    return found.length ? Math.max(...found) : null;
  }
  /** Upper bound → count, over keys; without an earlier sample since the start. */
  buckets(name, model, earlier) {
    const found = new Map();
    for (const [sample, sign] of [[this, 1], [earlier, -1]])
      for (const [n, labels, value] of sample?.rows ?? [])
        if (n === `${name}_bucket` && (model === undefined || labels.model === model)) {
          const bound = Number(labels.le.replace("+Inf", "Infinity"));
          found.set(bound, (found.get(bound) ?? 0) + sign * value);
        }
    return [...found].sort((a, b) => a[0] - b[0]);
  }
  models() {
    return [...new Set(this.rows.filter(([n]) => n.startsWith("kanna_")).map((r) => r[1].model).filter(Boolean))].sort();
  }
}

/** The value a share of the samples lies below, straight between bounds, as Prometheus does it. */
export function quantile(share, buckets) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (!total) return null;
  let low = 0, below = 0;
  for (const [bound, count] of buckets) {
    if (count >= share * total) return bound === Infinity ? low : low + (bound - low) * ((share * total - below) / (count - below || 1));
    [low, below] = [bound, count];
  }
  return low;
}

const ENOUGH = 20;

/** What to show of a histogram: buckets guess too coarsely at few samples, and the only one is known exactly. */
export function estimate(share, buckets, sum) {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total === 1) return sum;
  return share > 0.5 && total < ENOUGH ? null : quantile(share, buckets);
}

function card(name, value, unit, number, bad = false) {
  const kept = lines.get(name) ?? [];
  kept.push(Number.isFinite(number) ? number : 0);
  if (kept.length > KEPT) kept.shift();
  lines.set(name, kept);
  return h("div", { class: bad ? "card bad" : "card" }, h("h3", {}, name), h("div", { class: "value" }, value, unit ? h("small", {}, unit) : null), spark(kept));
}

function spark(values) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const top = Math.max(...values, 1e-9), step = 100 / (KEPT - 1);
  const points = values.map((v, i) => `${(100 - (values.length - 1 - i) * step).toFixed(2)},${(29 - (v / top) * 26).toFixed(2)}`);
  for (const [key, value] of [["viewBox", "0 0 100 30"], ["preserveAspectRatio", "none"], ["aria-hidden", "true"]]) svg.setAttribute(key, value);
  const first = points[0].split(",")[0];
  for (const [name, list] of [["area", [`${first},30`, ...points, "100,30"]], ["line", points]]) {
    const part = document.createElementNS(space, "polyline");
    part.setAttribute("class", name);
    part.setAttribute("points", list.join(" "));
    svg.append(part);
  }
  return svg;
}

function draw(now) {
  const gone = before ? now.at - before.at : 0;
  const rate = (name, model) => (gone && now.sum(name, model) !== null ? Math.max(0, now.sum(name, model) - (before.sum(name, model) ?? 0)) / gone : 0);
  const recent = (name, share) => {
    const buckets = now.buckets(name, undefined, before), enough = (buckets.at(-1)?.[1] ?? 0) >= ENOUGH;
    return enough ? quantile(share, buckets) : estimate(share, now.buckets(name), now.sum(`${name}_sum`));
  };
  const [requests, tokens, errors] = ["kanna_requests_total", "kanna_tokens_total", "kanna_errors_total"].map((n) => rate(n));
  const first = recent("kanna_ttft_seconds", 0.95), between = recent("kanna_inter_token_seconds", 0.5);
  const queue = now.sum("kanna_queue_depth") ?? 0, memory = now.sum("kanna_memory_bytes") ?? 0;
  const cache = now.most("kanna_kv_used_ratio") ?? 0, restarts = now.sum("kanna_engine_restarts_total") ?? 0;
  const [amount, unit] = size(memory).split(" ");
  $("watch-cards").replaceChildren(
    card("Requests", requests.toFixed(1), "a second", requests),
    card("Tokens", whole(tokens), "a second", tokens),
    card("First token, p95", first === null ? "–" : seconds(first), first === null ? `from ${ENOUGH} requests on` : "", first ?? 0),
    card("Between tokens", between === null ? "–" : seconds(between), "", between ?? 0),
    card("Waiting", whole(queue), "requests", queue, queue > 16),
    card("Failed", errors.toFixed(1), "a second", errors, errors > 0),
    card("Memory", amount, unit, memory),
    card("Cache used", `${Math.round(cache * 100)}`, "%", cache, cache > 0.95),
    card("Engine restarts", whole(restarts), "since the start", restarts, restarts > 0),
  );
  const row = (model) => {
    const p = (share) => { const found = estimate(share, now.buckets("kanna_ttft_seconds", model), now.sum("kanna_ttft_seconds_sum", model)); return found === null ? "–" : seconds(found); };
    const cells = [whole(now.sum("kanna_requests_total", model) ?? 0), whole(now.sum("kanna_tokens_total", model) ?? 0),
      whole(now.sum("kanna_errors_total", model) ?? 0), p(0.5), p(0.95), size(now.sum("kanna_memory_bytes", model) ?? 0)];
    return h("tr", {}, h("th", { scope: "row" }, model), ...cells.map((c) => h("td", {}, c)));
  };
  const heads = ["Model", "Requests", "Tokens", "Failed", "First token p50", "p95", "Memory"];
  const models = now.models();
  $("watch-models").replaceChildren(
    models.length
      ? h("table", {}, h("caption", {}, "Since the start"), h("thead", {}, h("tr", {}, ...heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, ...models.map(row)))
      : h("p", { class: "hint" }, "No request has come yet. Figures appear with the first."),
  );
  before = now;
}

async function tick() {
  clearTimeout(timer);
  try {
    const now = new Sample(await (await api.call("/metrics")).text());
    $("watch-state").replaceChildren();
    draw(now);
  } catch (error) {
    const key = h("button", { type: "button", onclick: () => document.dispatchEvent(new Event("kanna:key")) }, "Give a key");
    const again = h("button", { type: "button", onclick: enter }, "Try again");
    $("watch-state").replaceChildren(notice(error, [401, 403].includes(error.status) ? key : again));
    if (error.status) return; // asking again changes nothing
  }
  if (!$("view-watch").hidden) timer = setTimeout(tick, document.hidden ? 5 * EVERY : EVERY);
}

export function enter() {
  if (!$("watch-cards").firstChild) $("watch-state").replaceChildren(h("div", { class: "waiting" }, "Asking the gateway…"));
  tick();
}
export const leave = () => clearTimeout(timer);
