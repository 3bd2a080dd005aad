// Jobs of the studio: how far each is, what came out, and what can be done with it.
import { $, announce, ask, h, lasting, notice, size } from "./dom.js";
import * as api from "./api.js";

const EVERY = 800; // milliseconds
const STATES = { queued: "Waiting", running: "Running", done: "Done", failed: "Failed", cancelled: "Cancelled" };
const VERBS = { convert: "Convert", optimize: "Optimize", compare: "Compare" };
const cards = new Map();
let timer = 0, asked = 0, watching = false, beside = null;

// What a card shows changes with the state alone; a running one has its progress drawn in place, so that
// the button one is about to press stays where it is.
const signature = (job) => JSON.stringify([job.state, job.result, job.error]);

export async function refresh() {
  const mine = ++asked;
  const listed = await api.studio.jobs();
  if (mine !== asked) return true; // a later question knows more
  for (const [id, card] of cards) if (!listed.some((job) => job.id === id)) { card.element.remove(); cards.delete(id); }
  const place = $("jobs");
  if (!listed.length) place.replaceChildren(h("p", { class: "hint" }, "Nothing yet. Jobs go on when this page is closed, and are here when you come back."));
  else place.querySelector(":scope > .hint")?.remove();
  listed.forEach((job, number) => {
    let card = cards.get(job.id);
    if (!card) cards.set(job.id, card = { element: h("article", { class: "job", "aria-label": job.output }), signature: "", open: new Set() });
    if (card.signature !== signature(job)) draw(card, job);
    if (job.state === "running") drawProgress(card, job.progress);
    if (place.children[number] !== card.element) place.insertBefore(card.element, place.children[number] ?? null);
  });
  if (beside) await whenOriginalIsThere(listed);
  return listed.some((job) => job.state === "queued" || job.state === "running");
}

async function tick() {
  clearTimeout(timer);
  let active = true;
  try {
    active = await refresh();
    $("studio-state").replaceChildren();
  } catch (error) {
    $("studio-state").replaceChildren(notice(error));
    active = !error.status;
  }
  clearTimeout(timer); // another question may have been under way
  if (watching) timer = setTimeout(tick, active ? EVERY * (document.hidden ? 5 : 1) : 10 * EVERY);
}
export function watch() { watching = true; tick(); }
export function unwatch() { watching = false; clearTimeout(timer); }

function draw(card, job) {
  const changed = card.signature && card.state !== job.state;
  card.signature = signature(job);
  card.state = job.state;
  const time = job.ended && job.started ? ` · ${lasting(job.ended - job.started)}` : "";
  const head = h("div", { class: "head" },
    h("h3", {}, job.original_of ? `${job.output} (the original, to chat with)` : job.output),
    h("span", { class: `badge ${job.state}` }, STATES[job.state]));
  const about = h("p", { class: "hint" }, `${VERBS[job.verb]} ${job.source}${time}`);
  card.element.replaceChildren(head, about, ...body(card, job));
  if (changed) announce(`${job.output}: ${STATES[job.state]}. ${job.error?.found ?? ""}`);
}

function body(card, job) {
  if (job.state === "queued") return [h("p", {}, "Waits for the job before it."), bar(button("Cancel", () => api.studio.cancel(job.id)))];
  if (job.state === "running") return running(card, job);
  if (job.state === "done") return finished(card, job);
  const tools = bar(button("Try again", () => api.studio.again(job.id), "main"), job.state === "failed" ? logButton(card, job) : null, removeButton(job));
  if (job.state === "cancelled") return [tools];
  const error = job.error ?? { found: "The job failed." };
  const todo = [error.expected && `Expected: ${error.expected}.`, error.todo && `What to do: ${error.todo}.`].filter(Boolean).join(" ");
  return [notice(new api.Failure(error.found, todo)), tools];
}

// Running

function running(card, job) {
  card.bar = h("progress", { "aria-label": `Progress of ${job.output}` });
  card.now = h("p", { class: "now" });
  card.steps = h("p", { class: "hint" });
  return [card.bar, card.now, card.steps, bar(button("Cancel", () => api.studio.cancel(job.id)))];
}

function drawProgress(card, now) {
  if (!card.bar) return;
  const part = now.total ? Math.min(1, now.done / now.total) : null;
  if (part === null) card.bar.removeAttribute("value");
  else card.bar.value = part;
  const amount = now.unit === "bytes" ? [size(now.done ?? 0), now.total && `of ${size(now.total)}`] : [now.done ?? 0, now.total && `of ${now.total} ${now.unit}`];
  const left = now.seconds_left === null ? "" : ` · about ${lasting(now.seconds_left)} left`;
  const whole = now.job_seconds_left == null || now.job_seconds_left < 1 ? "" : `${left ? "," : " ·"} about ${lasting(now.job_seconds_left)} for the whole job`;
  card.now.textContent = now.stage ? `${now.stage}: ${amount.filter(Boolean).join(" ")}${part === null ? "" : ` · ${Math.floor(part * 100)} %`}${left}${whole}` : "Working…";
  const done = now.remarks?.at(-1) ?? (now.steps?.length ? `${now.steps.length} ${now.steps.length === 1 ? "step" : "steps"} done, the last: ${now.steps.at(-1).stage}` : "");
  card.steps.textContent = done;
}

// Finished

function finished(card, job) {
  const r = job.result;
  const cell = (name, value, kind) => (value === null || value === undefined || value === "" ? null : h("div", { class: kind }, h("dt", {}, name), h("dd", {}, value)));
  const figures = h("dl", { class: "figures" },
    cell("Size", r.bytes && size(r.bytes)), cell("Bits per weight", r.bits?.toFixed(2)),
    cell("Checks", r.gate, r.gate === "failed" ? "bad" : ""), cell("Closeness", r.grade),
    cell("Same next token", r.top1 !== null && r.top1 !== undefined ? `${(r.top1 * 100).toFixed(0)} of 100` : null),
    cell("KL divergence", r.kl !== null && r.kl !== undefined ? r.kl.toFixed(4) : null));
  const link = (text, address, save) => h("a", { class: "button", href: address, ...(save ? { download: "" } : { target: "_blank", rel: "noopener" }) }, text);
  const one = r.files.find((f) => r.path?.endsWith(f.name.split("/").at(-1)));
  const tools = bar(
    r.model ? button("Chat", () => open("chat", { "chat-model": r.model }), "main") : null,
    r.model && !job.original_of ? button("Beside the original", () => besideOriginal(job)) : null,
    r.report ? link("Report", r.report) : null,
    one ? link("Download", one.address, true) : r.archive ? link("Download as zip", r.archive, true) : null,
    removeButton(job),
  );
  return [figures, r.advice ? h("p", { class: "hint" }, r.advice[0].toUpperCase() + r.advice.slice(1)) : null, tools, card.wait = h("div", {}), r.no_model ? h("p", { class: "hint" }, `No chat with it here: ${r.no_model}`) : null,
    fold(card, "Commands", code("In a shell", job.command), code("In Python", job.python)),
    fold(card, "Details", ...details(r))].filter(Boolean);
}

function details(r) {
  const parts = [];
  if (r.path) parts.push(code("Where it is", r.path));
  if (r.checks.length) parts.push(h("ul", { class: "checks" }, ...r.checks.map((c) => h("li", {}, `${c.ok === true ? "✓" : c.ok === false ? "✗" : "–"} ${c.name}: ${c.detail ?? ""}`))));
  if (r.notes.length) parts.push(h("ul", {}, ...r.notes.map((text) => h("li", {}, text))));
  if (r.files.length > 1) parts.push(h("ul", { class: "files" }, ...r.files.map((f) => h("li", {}, h("a", { href: f.address, download: "" }, f.name), ` ${size(f.bytes)}`))));
  return parts;
}

function fold(card, title, ...inner) {
  const made = h("details", { class: "fold", open: card.open.has(title) }, h("summary", {}, title), ...inner);
  made.addEventListener("toggle", () => (made.open ? card.open.add(title) : card.open.delete(title)));
  return made;
}

function code(title, text) {
  const copy = h("button", { type: "button" }, "Copy");
  copy.setAttribute("aria-label", `Copy: ${title}`);
  copy.addEventListener("click", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      copy.textContent = "Select it and copy";
    }
  });
  return h("div", { class: "code" }, h("div", { class: "bar" }, h("span", {}, title), copy), h("pre", { tabindex: "0" }, text.trim()));
}

const open = (view, select) => document.dispatchEvent(new CustomEvent("kanna:show", { detail: { view, select } }));

// The original beside it: the file the job began from, or a 16-bit copy of it that is made first.

async function besideOriginal(job) {
  const answer = await api.studio.original(job.id);
  if (answer.model) return open("compare", { "model-a": answer.model, "model-b": job.result.model });
  beside = { job: answer.job, model: job.result.model, place: cards.get(job.id).wait };
  beside.place.replaceChildren(h("div", { class: "waiting" }, "A copy of the original in 16 bits is made first…"));
}

async function whenOriginalIsThere(listed) {
  const made = listed.find((job) => job.id === beside.job), { model, place } = beside;
  if (made && (made.state === "queued" || made.state === "running")) return;
  beside = null;
  place.replaceChildren();
  if (made?.result?.model) open("compare", { "model-a": made.result.model, "model-b": model });
  else place.replaceChildren(notice(new api.Failure("The original cannot be shown beside it.", made?.result?.no_model || made?.error?.found || "")));
}

// Buttons

const bar = (...buttons) => h("div", { class: "bar" }, ...buttons.filter(Boolean));

function button(text, action, kind = "") {
  const made = h("button", { type: "button", class: kind || null }, text);
  made.addEventListener("click", async () => {
    made.disabled = true;
    try {
      await action();
      await tick();
    } catch (error) {
      $("studio-state").replaceChildren(notice(error));
    }
    made.disabled = false;
  });
  return made;
}

function logButton(card, job) {
  return button("Log", async () => {
    const text = await api.studio.log(job.id);
    card.element.querySelector(".log-text")?.remove();
    card.element.append(h("pre", { class: "log-text", tabindex: "0" }, text || "The log is empty."));
  });
}

const removeButton = (job) => {
  const made = button("Delete", async () => {
    if (await ask(`Delete “${job.output}”?`, "What the job made is removed from the disk.", "Delete")) await api.studio.remove(job.id);
  }, "quiet");
  made.setAttribute("aria-label", `Delete ${job.output}`);
  return made;
};
