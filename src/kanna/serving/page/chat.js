// One conversation with one model. It lives in this page's memory alone.
import { $, announce, h, notice, seconds } from "./dom.js";
import * as api from "./api.js";
import { markdown } from "./markdown.js";

const IDEAS = ["Explain what quantization does to a model.", "Write a haiku about a hand plane.", "Give me three names for a cat."];
const log = $("chat-log"), input = $("chat-input"), send = $("chat-send");
let turns = [];
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
  send.disabled = !stop && (!input.value.trim() || !$("chat-model").value);
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
  if (!text || stop || !$("chat-model").value) return;
  if (!turns.length) log.replaceChildren();
  input.value = "";
  grow();
  turns.push({ role: "user", content: text });
  log.append(h("div", { class: "turn user" }, h("div", { class: "text" }, h("span", { class: "visually-hidden" }, "You: "), text)));
  log.scrollTop = log.scrollHeight;
  reply();
}

async function reply() {
  const model = $("chat-model").value;
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
    messages: [...(rules ? [{ role: "system", content: rules }] : []), ...turns],
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
  if (result?.text) turns.push({ role: "assistant", content: result.text });
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
  empty();
  buttons();
  input.focus();
});
