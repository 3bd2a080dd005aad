// Text files that go along with a message.
import { $, announce, h, size } from "./dom.js";

const LARGEST = 1 << 20;
const box = $("chat-files"), input = $("chat-file"), log = $("chat-log");
let files = [];
let changed = () => {};

export const any = () => files.length > 0;
export function onchange(callback) { changed = callback; }

/** The files so far, which are not attached any more. */
export function take() {
  const taken = files;
  files = [];
  draw();
  return taken;
}

/** A message with its files, as the model reads it. A fence is longer than any in the file. */
export function compose(text, attached) {
  const parts = attached.map((file) => {
    const ticks = Math.max(2, ...(file.text.match(/`+/g) || []).map((run) => run.length)) + 1, fence = "`".repeat(ticks);
    return `${file.name}:\n${fence}\n${file.text.replace(/\n$/, "")}\n${fence}`;
  });
  return [...parts, text].filter(Boolean).join("\n\n");
}

export const chips = (attached) => attached.map((file) => h("span", { class: "chip" }, `${file.name} · ${size(file.bytes)}`));

function draw(problem = "") {
  const items = files.map((file, place) =>
    h("span", { class: "chip" }, `${file.name} · ${size(file.bytes)}`,
      h("button", { type: "button", class: "quiet", "aria-label": `Leave ${file.name} out`, onclick: () => { files.splice(place, 1); draw(); } }, "×")));
  if (problem) items.push(h("span", { class: "state", role: "alert" }, problem));
  box.replaceChildren(...items);
  box.hidden = !items.length;
  changed();
}

async function add(list) {
  const problems = [];
  for (const file of list) {
    if (file.size > LARGEST) { problems.push(`${file.name} is larger than 1 MB.`); continue; }
    try {
      const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
      if (text.includes("\0")) throw new TypeError();
      files.push({ name: file.name, text, bytes: file.size });
      announce(`${file.name} is attached.`);
    } catch {
      problems.push(`${file.name} is no text (UTF-8): pictures and documents are not read.`);
    }
  }
  draw(problems.join(" "));
}

$("chat-attach").addEventListener("click", () => input.click());
input.addEventListener("change", async () => { const chosen = [...input.files]; input.value = ""; await add(chosen); });
for (const place of [log, $("chat-form")]) {
  place.addEventListener("dragover", (event) => { if (event.dataTransfer.types.includes("Files")) event.preventDefault(); });
  place.addEventListener("drop", (event) => {
    if (!event.dataTransfer.files.length) return;
    event.preventDefault();
    add([...event.dataTransfer.files]);
  });
}
