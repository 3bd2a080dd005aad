// The studio: choose a model, see what fits, press a button, watch, use the result.
import { $, announce, h, lasting, notice, size } from "./dom.js";
import * as api from "./api.js";
import * as jobs from "./jobs.js";
import { collect, upload } from "./upload.js";

const REMEMBERED = "kanna-source";
let source = "", fitted = null, asking = null, sending = null, begun = null;

// Models

function ask(text) {
  source = text.trim();
  $("source").value = source;
  for (const chip of document.querySelectorAll("#known button")) chip.setAttribute("aria-pressed", String(chip.dataset.source === source));
  if (!source) return $("source").focus();
  sessionStorage.setItem(REMEMBERED, source);
  fit();
}

function drawKnown(models) {
  const chip = (m) => h("button", { type: "button", "data-source": m.source, "aria-pressed": String(m.source === source), title: m.source, onclick: () => ask(m.source) },
    h("span", {}, m.name), h("small", {}, [m.place, m.num_bytes ? size(m.num_bytes) : ""].filter(Boolean).join(" · ")));
  $("known").replaceChildren(...models.slice(0, 12).map(chip));
  $("known-models").replaceChildren(...models.map((m) => h("option", { value: m.source }, m.name)));
}

async function fit() {
  asking?.abort();
  const mine = asking = new AbortController();
  $("make-form").hidden = true;
  $("fit-state").replaceChildren(h("div", { class: "waiting" }, "Reading the model’s headers…"));
  try {
    const answer = await api.studio.fit({ source, format: $("format").value || undefined }, mine.signal);
    if (mine === asking) drawFit(answer);
  } catch (error) {
    if (error.name === "AbortError" || mine !== asking) return;
    $("fit-state").replaceChildren(notice(error, h("button", { type: "button", onclick: fit }, "Try again")));
    announce(`${error.message} ${error.todo}`);
  }
  $("format-label").hidden = false;
}

const BADGES = { best: "Recommended", fits: "Fits", large: "Too large" };

function drawFit(answer) {
  fitted = answer;
  const able = answer.rows.filter((r) => r.fits), smaller = able.filter((r) => r.bits_per_weight <= 9);
  const chosen = answer.recommended ?? (smaller[0] ?? able[0] ?? answer.rows.at(-1)).preset;
  const line = (r) => {
    const kind = r.preset === answer.recommended ? "best" : r.fits ? "fits" : "large";
    return h("label", { class: `preset ${kind}`, title: r.use_case },
      h("input", { type: "radio", name: "preset", value: r.preset, checked: r.preset === chosen }),
      h("span", { class: "name" }, r.preset.split(":").at(-1)), h("span", { class: "num" }, size(r.file_bytes)),
      h("span", { class: "num extra" }, `${r.bits_per_weight.toFixed(2)} bits`), h("span", { class: "num extra" }, `${size(r.memory_bytes)} in use`),
      h("span", { class: "num extra" }, `~${Math.round(r.tokens_per_second)} tok/s`), h("span", { class: "badge" }, BADGES[kind]));
  };
  $("presets").replaceChildren($("presets").firstElementChild, ...answer.rows.map(line));
  $("fit-advice").replaceChildren(h("strong", {}, answer.name), ` · ${size(answer.memory)} of memory are free here. `, answer.advice[0].toUpperCase() + answer.advice.slice(1).replace(/\.$/, ""), ".");
  $("fit-state").replaceChildren(...answer.notes.map((text) => h("p", { class: "hint" }, text)));
  $("make-form").hidden = false;
  const list = $("presets"), row = list.querySelector(":checked").closest("label");
  list.scrollTop = row.offsetTop - list.offsetTop - (list.clientHeight - row.offsetHeight) / 2;
  $("do-convert").focus({ preventScroll: true });
  announce(`${answer.name}: ${able.length} of ${answer.rows.length} presets fit. ${answer.advice}`);
}

// Jobs

const number = (id) => ($(id).value ? { [id]: Number($(id).value) } : {});

async function start(verb) {
  const preset = $("presets").querySelector(":checked")?.value ?? "";
  const body = { verb, source };
  if (verb === "convert") Object.assign(body, { preset, verify: $("verify").checked });
  if (verb === "optimize") Object.assign(body, { preset, size: $("budget").value.trim(), effort: $("effort").value, ...number("tokens") });
  if (verb !== "convert") Object.assign(body, number("windows"));
  // Comparing means several presets of this format: those it has by default are GGUF's.
  if (verb === "compare" && $("format").value !== "gguf") body.presets = fitted.rows.filter((r) => r.fits).map((r) => r.preset);
  try {
    await api.studio.start(body);
    $("make-options").open = false;
    await jobs.refresh();
    document.querySelector("#jobs .job")?.scrollIntoView({ block: "nearest", behavior: "smooth" });
    announce("Started.");
  } catch (error) {
    $("fit-state").replaceChildren(notice(error));
  }
}

// Uploads

async function take(files) {
  if (!files.length || sending) return;
  sending = new AbortController();
  const bar = h("progress", { max: 1, value: 0, "aria-label": "Copied" }), text = h("span", {}, "");
  const stop = h("button", { type: "button", onclick: () => sending.abort() }, "Cancel");
  $("upload").replaceChildren(h("div", { class: "notice" }, h("strong", {}, "Copying the model"), bar, h("div", { class: "bar" }, text, stop)));
  $("upload").hidden = false;
  const began = performance.now();
  try {
    const made = await upload(files, {
      signal: sending.signal,
      each: (sent, total) => {
        const passed = (performance.now() - began) / 1000, left = sent ? (passed * (total - sent)) / sent : null;
        bar.value = total ? sent / total : 1;
        text.textContent = `${size(sent)} of ${size(total)}${left === null ? "" : `, about ${lasting(left)} left`}`;
      },
    });
    $("upload").hidden = true;
    ask(made);
    drawKnown(await api.studio.models());
  } catch (error) {
    if (error.name === "AbortError") $("upload").hidden = true;
    else $("upload").replaceChildren(notice(error));
  } finally {
    sending = null;
  }
}

const drop = $("view-studio");
let inside = 0; // elements are entered before others are left
const lit = (on) => $("drop").classList.toggle("over", on);
drop.addEventListener("dragenter", (event) => { event.preventDefault(); inside += 1; lit(true); });
drop.addEventListener("dragover", (event) => event.preventDefault());
drop.addEventListener("dragleave", () => { inside -= 1; if (inside <= 0) { inside = 0; lit(false); } });
drop.addEventListener("drop", async (event) => {
  event.preventDefault();
  inside = 0;
  lit(false);
  take(await collect(event.dataTransfer));
});
for (const kind of ["file", "folder"]) {
  $(`pick-${kind}`).addEventListener("click", () => $(`${kind}-input`).click());
  $(`${kind}-input`).addEventListener("change", (event) => {
    take([...event.target.files]);
    event.target.value = "";
  });
}

$("source-form").addEventListener("submit", (event) => { event.preventDefault(); ask($("source").value); });
$("source").addEventListener("change", () => { if ($("known-models").querySelector(`option[value="${CSS.escape($("source").value)}"]`)) ask($("source").value); });
$("format").addEventListener("change", () => source && fit());
$("make-form").addEventListener("submit", (event) => { event.preventDefault(); start("convert"); });
$("do-optimize").addEventListener("click", () => start("optimize"));
$("do-compare").addEventListener("click", () => start("compare"));

async function begin() {
  const [state, models] = await Promise.all([api.studio.state(), api.studio.models()]);
  $("drop-hint").textContent = `At most ${size(state.upload_limit)}. Nothing leaves this machine.`;
  $("format").replaceChildren(...state.formats.map((f) => h("option", { value: f.name }, f.title)));
  $("effort").replaceChildren(...state.efforts.map((e) => h("option", { value: e.name, title: e.summary, selected: e.name === "balanced" }, e.name)));
  drawKnown(models);
  const before = sessionStorage.getItem(REMEMBERED);
  if (before && !source) ask(before);
}

export async function enter() {
  try {
    await (begun ??= begin());
    $("studio-state").replaceChildren();
    jobs.watch();
  } catch (error) {
    begun = null;
    const key = h("button", { type: "button", class: "main", onclick: () => document.dispatchEvent(new Event("kanna:key")) }, "Give the key");
    const again = h("button", { type: "button", onclick: enter }, "Try again");
    const refused = [401, 403].includes(error.status);
    const shown = refused ? new api.Failure("The studio is for whoever has its key.", "kanna studio prints an address that holds it: open that, or give the key here.", error.status) : error;
    $("studio-state").replaceChildren(notice(shown, refused ? key : again));
  }
}
export const leave = jobs.unwatch;
