// The frame of the page: views, the key, the list of models, whether the gateway lives.
import { $, announce, h } from "./dom.js";
import * as api from "./api.js";
import * as chat from "./chat.js";
import * as compare from "./compare.js";
import * as watch from "./watch.js";
import * as keys from "./keys.js";
import * as studio from "./studio.js";

// `kanna studio` marks the page; the gateway alone has no jobs.
const making = document.documentElement.hasAttribute("data-studio");
const FIRST = making ? "studio" : "chat";
const VIEWS = { ...(making ? { studio } : {}), chat, compare, watch, keys };
$("tab-studio").hidden = !making;
const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => !tab.hidden);
api.takeKey();
let shown = "";

function show(name, focus = false) {
  if (!(name in VIEWS)) name = FIRST;
  if (name === shown) return;
  if (shown) VIEWS[shown].leave?.();
  shown = name;
  for (const tab of tabs) {
    const chosen = tab.id === `tab-${name}`;
    tab.setAttribute("aria-selected", String(chosen));
    tab.tabIndex = chosen ? 0 : -1;
    $(tab.getAttribute("aria-controls")).hidden = !chosen;
    if (chosen && focus) tab.focus();
  }
  history.replaceState(null, "", `#${name}`);
  document.title = `${$(`tab-${name}`).textContent} · kanna`;
  VIEWS[name].enter?.();
}

for (const [number, tab] of tabs.entries()) {
  tab.addEventListener("click", () => show(tab.id.slice(4)));
  tab.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const next = event.key === "Home" ? 0 : event.key === "End" ? tabs.length - 1 : step ? (number + step + tabs.length) % tabs.length : -1;
    if (next < 0) return;
    event.preventDefault();
    show(tabs[next].id.slice(4), true);
  });
}
addEventListener("hashchange", () => show(location.hash.slice(1)));

// The key

export function askForKey() {
  $("key-input").value = "";
  $("key-forget").hidden = !api.hasKey();
  $("key-dialog").showModal();
}
$("key-button").addEventListener("click", askForKey);
$("key-cancel").addEventListener("click", () => $("key-dialog").close());
$("key-forget").addEventListener("click", () => { api.setKey(""); $("key-dialog").close(); begin(); });
$("key-form").addEventListener("submit", () => {
  if ($("key-input").value.trim()) api.setKey($("key-input").value);
  $("key-input").value = "";
  begin();
});

// Models

function fill(select, names, preferred) {
  const before = select.value;
  select.replaceChildren(...names.map((n) => h("option", { value: n }, n)));
  select.value = names.includes(before) ? before : names[Math.min(preferred, names.length - 1)] ?? "";
  select.disabled = !names.length;
}

async function begin() {
  $("key-label").textContent = api.hasKey() ? "Key in use" : "No key";
  try {
    const names = await api.models();
    fill($("chat-model"), names, 0);
    fill($("model-a"), names, 0);
    fill($("model-b"), names, 1);
    alive(true);
    const make = making ? "Make one in the Studio first." : "Start kanna serve with one.";
    chat.ready(names.length ? null : new api.Failure("No model is served.", make));
  } catch (error) {
    alive(error.status > 0);
    for (const id of ["chat-model", "model-a", "model-b"]) fill($(id), [], 0);
    chat.ready(error);
  }
  VIEWS[shown]?.enter?.();
}

function alive(yes) {
  $("health").className = `dot ${yes ? "good" : "bad"}`;
  $("key-button").title = yes ? "The gateway answers" : "The gateway does not answer";
  if (!yes) announce("The gateway does not answer.");
}

document.addEventListener("kanna:key", askForKey);
document.addEventListener("kanna:again", begin);
// Another view wants a model looked at: {view, select: {id of a select: model}}.
document.addEventListener("kanna:show", async ({ detail }) => {
  await begin();
  for (const [id, model] of Object.entries(detail.select)) $(id).value = model;
  show(detail.view, true);
});
// A pop-up closes when one works elsewhere.
document.addEventListener("click", (event) => {
  for (const open of document.querySelectorAll("details.pop[open]")) if (!open.contains(event.target)) open.open = false;
});
document.addEventListener("keydown", (event) => {
  const open = event.key === "Escape" && document.querySelector("details.pop[open]");
  if (open) { open.open = false; open.querySelector("summary").focus(); event.stopPropagation(); }
}, true);

show(location.hash.slice(1) || FIRST);
begin();
