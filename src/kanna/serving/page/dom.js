// Making elements from data. Text only ever becomes text: nothing here, or anywhere on the page, parses HTML.

export const $ = (id) => document.getElementById(id);

/** An element with properties (`class`, `on…`, attributes) and children; strings become text nodes. */
export function h(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined && c !== false));
  return made;
}

/** A notice with what is wrong and what to do. */
export function notice(error, ...buttons) {
  const bar = buttons.length ? h("div", { class: "bar" }, ...buttons) : null;
  return h("div", { class: "notice bad", role: "alert" }, h("strong", {}, error.message), error.todo || "", bar);
}

/** Say something to those who listen instead of look. */
export function announce(text) {
  $("said").textContent = text;
}

export const seconds = (s) => (s < 1 ? `${Math.round(s * 1000)} ms` : `${s.toFixed(s < 10 ? 2 : 1)} s`);
export function lasting(s) {
  const n = Math.max(0, Math.round(s)), two = (x) => String(x).padStart(2, "0");
  if (n < 60) return `${n} s`;
  return n < 3600 ? `${Math.floor(n / 60)} min ${two(n % 60)} s` : `${Math.floor(n / 3600)} h ${two(Math.floor((n % 3600) / 60))} min`;
}
export const whole = (n) => Math.round(n).toLocaleString("en");
export function size(bytes) {
  for (const [unit, factor] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]])
    if (bytes >= factor) return `${(bytes / factor).toFixed(unit === "GB" ? 2 : 1)} ${unit}`;
  return `${bytes} B`;
}

let settle = () => {};
// The event comes a moment after the dialog has closed: by then it may have been opened for another question.
$("ask-dialog").addEventListener("close", (event) => event.target.open || settle(event.target.returnValue === "yes"));

/** Ask before something that cannot be undone; resolves to whether it was agreed to. */
export function ask(title, text, yes) {
  settle(false);
  const dialog = $("ask-dialog");
  $("ask-title").textContent = title;
  $("ask-text").textContent = text;
  $("ask-yes").textContent = yes;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((done) => { settle = done; });
}
