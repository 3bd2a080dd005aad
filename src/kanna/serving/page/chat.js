// One conversation with one model. It lives in this page's memory alone, unless this browser is asked to keep chats.
import { $, announce, ask, h, notice, seconds } from "./dom.js";
import * as api from "./api.js";
import * as attachments from "./attachments.js";
import * as chats from "./chats.js";
import { markdown } from "./markdown.js";

const IDEAS = ["Explain what quantization does to a model.", "Write a haiku about a hand plane.", "Give me three names for a cat."];
const log = $("chat-log"), input = $("chat-input"), send = $("chat-send");
let turns = [];
let identity = null;
let stop = null;
let problem = null;

export function ready(error) {
  problem = error;
  if (!turns.length) empty();
  buttons();
}

export function enter() {
  if (matchMedia("(hover: hover)").matches) input.focus(); // not on a phone: the keyboard would cover the page
}

function empty() {
  if (problem) return log.replaceChildren(h("div", {}, failed(problem, () => document.dispatchEvent(new Event("kanna:again")))));
  const ideas = IDEAS.map((text) => h("button", { type: "button", onclick: () => { input.value = text; submit(); } }, text));
  log.replaceChildren(
    h("div", { class: "empty" }, h("h2", {}, "Ask the model something"), h("p", {}, "It runs on this gateway and nowhere else."), h("div", { class: "bar" }, ...ideas)),
  );
}

function failed(error, again) {
  const buttons = [h("button", { type: "button", onclick: again }, "Try again")];
  if (error.status === 401 || error.status === 403)
    buttons.unshift(h("button", { type: "button", class: "main", onclick: () => document.dispatchEvent(new Event("kanna:key")) }, "Give a key"));
  return notice(error, ...buttons);
}

function buttons() {
  send.textContent = stop ? "Stop" : "Send";
  send.className = stop ? "stop" : "main";
  send.disabled = !stop && (!(input.value.trim() || attachments.any()) || !$("chat-model").value);
  $("chat-new").disabled = !turns.length;
}

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
  buttons();
}

/** Follow the end of the log, unless the reader has scrolled up. */
function follow(change) {
  const near = log.scrollHeight - log.scrollTop - log.clientHeight < 80;
  change();
  if (near) log.scrollTop = log.scrollHeight;
}

function submit() {
  const text = input.value.trim();
  if (!(text || attachments.any()) || stop || !$("chat-model").value) return;
  if (!turns.length) log.replaceChildren();
  const files = attachments.take();
  input.value = "";
  grow();
  const shown = { text, files: files.map(({ name, bytes }) => ({ name, bytes })) };
  turns.push({ role: "user", content: attachments.compose(text, files), shown });
  log.append(asked(turns.at(-1)));
  log.scrollTop = log.scrollHeight;
  reply();
}

function asked(turn) {
  const { text = turn.content, files = [] } = turn.shown ?? {};
  return h("div", { class: "turn user" }, h("div", { class: "text" }, h("span", { class: "visually-hidden" }, "You: "), ...attachments.chips(files), text));
}

async function reply() {
  const model = $("chat-model").value, mine = turns;
  const prose = h("div", { class: "prose" }), about = h("div", { class: "about" });
  const waiting = h("div", { class: "waiting" }, "Reading the prompt…");
  const turn = h("div", { class: "turn model", "aria-busy": "true" }, h("div", { class: "who" }, model), waiting, prose, about);
  follow(() => log.append(turn));
  stop = new AbortController();
  buttons();
  announce(`${model} is replying.`);

  let result = null, error = null, frame = 0;
  const draw = () => {
    frame = 0;
    follow(() => prose.replaceChildren(...markdown(result.text)));
  };
  const rules = $("chat-system").value.trim();
  const body = {
    model,
    messages: [...(rules ? [{ role: "system", content: rules }] : []), ...turns.map(({ role, content }) => ({ role, content }))],
    temperature: Number($("chat-temperature").value) || 0,
    max_tokens: Number($("chat-max").value) || 512,
  };
  try {
    result = await api.chat(body, {
      signal: stop.signal,
      each: (now) => {
        result = now;
        if (waiting.isConnected) { waiting.remove(); turn.classList.add("busy"); }
        frame ||= requestAnimationFrame(draw);
      },
    });
  } catch (failure) {
    error = failure;
    result = failure.partial || result;
  }
  cancelAnimationFrame(frame);
  waiting.remove();
  turn.classList.remove("busy");
  turn.removeAttribute("aria-busy");
  stop = null;
  follow(() => {
    if (result) prose.replaceChildren(...markdown(result.text));
    about.replaceChildren(...figures(result, body.max_tokens));
    if (error) turn.append(failed(error, () => { turn.remove(); reply(); }));
  });
  if (result?.text) mine.push({ role: "assistant", content: result.text });
  if (mine === turns) remember(model); // another chat may be open by now
  announce(error ? `${error.message} ${error.todo}` : result.reason === "stopped" ? "Stopped." : `Reply: ${result.text.slice(0, 400)}`);
  buttons();
}

function figures(result, most) {
  if (!result) return [];
  const parts = [];
  if (result.reason === "stopped") parts.push(h("span", { class: "state" }, "Stopped by you"));
  if (result.reason === "length") parts.push(h("span", { class: "state" }, `Cut off at ${most} tokens: raise “Max tokens” in Settings`));
  if (result.reason === "stop" && !result.text) parts.push(h("span", { class: "state" }, "The model had nothing to say"));
  if (result.first !== null) parts.push(h("span", {}, `first token ${seconds(result.first)}`));
  if (result.speed) parts.push(h("span", {}, `${result.speed.toFixed(1)} tokens/s`));
  if (result.tokens) parts.push(h("span", {}, `${result.tokens} tokens`));
  return parts;
}

$("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (stop) stop.abort();
  else submit();
});
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
});
$("view-chat").addEventListener("keydown", (event) => { if (event.key === "Escape" && stop) stop.abort(); });
$("chat-model").addEventListener("change", buttons);
$("chat-new").addEventListener("click", () => {
  stop?.abort();
  turns = [];
  identity = null;
  empty();
  buttons();
  input.focus();
});
attachments.onchange(buttons);

// Chats that are kept

/** Keep the chat as it is now. */
function remember(model) {
  if (!chats.keeping() || !turns.length) return;
  identity ??= `${Date.now()}-${Math.random().toString(36).slice(2)}`;
  const first = turns[0].shown?.text || turns[0].shown?.files?.[0]?.name || turns[0].content;
  if (!chats.store({ id: identity, title: first.slice(0, 80), model, turns })) announce("This chat is too long to be kept.");
  drawChats();
}

function drawChats() {
  const keeping = chats.keeping(), all = chats.list();
  $("chat-keep").checked = keeping;
  $("chat-memory").textContent = keeping ? "Chats are kept in this browser." : "Nothing is kept after you leave.";
  $("chat-kept").hidden = !keeping;
  const rows = all.map((chat) => h("div", {},
    h("button", { type: "button", class: "quiet", onclick: () => open(chat) }, chat.title || "Without words"),
    h("button", { type: "button", class: "quiet", "aria-label": `Forget: ${chat.title}`, onclick: () => { chats.forget(chat.id); if (identity === chat.id) identity = null; drawChats(); } }, "×")));
  $("chat-list").replaceChildren(...(rows.length ? rows : [h("p", { class: "hint" }, "None yet.")]));
}

/** Go on with a kept chat. */
function open(chat) {
  stop?.abort();
  [turns, identity] = [chat.turns.map((turn) => ({ ...turn })), chat.id];
  const models = $("chat-model");
  if ([...models.options].some((option) => option.value === chat.model)) models.value = chat.model;
  log.replaceChildren(...turns.map((turn) => (turn.role === "user" ? asked(turn)
    : h("div", { class: "turn model" }, h("div", { class: "who" }, chat.model || ""), h("div", { class: "prose" }, ...markdown(turn.content))))));
  log.scrollTop = log.scrollHeight;
  $("chat-kept").open = false;
  buttons();
  input.focus();
}

$("chat-keep").addEventListener("change", async (event) => {
  const box = event.target, count = chats.list().length;
  if (!box.checked && count && !(await ask("Forget the chats?", `${count === 1 ? "One chat is" : `${count} chats are`} kept in this browser.`, "Forget"))) box.checked = true;
  else if (chats.keep(box.checked) !== box.checked) announce("This browser does not let pages keep anything.");
  if (box.checked) remember($("chat-model").value);
  drawChats();
});
addEventListener("storage", drawChats); // another tab
drawChats();
