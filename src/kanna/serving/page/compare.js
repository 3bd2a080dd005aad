// Two models, one prompt: what each says and how fast.
import { $, announce, h, notice, seconds } from "./dom.js";
import * as api from "./api.js";
import { markdown } from "./markdown.js";

const SIDES = ["a", "b"];
const run = $("compare-run");
let stop = null;

function figures(side, reply) {
  const cell = (name, value, unit) => h("div", {}, h("dt", {}, name), h("dd", {}, value, unit ? h("small", {}, ` ${unit}`) : null));
  $(`figures-${side}`).replaceChildren(
    cell("First token", reply?.first != null ? seconds(reply.first) : "–"),
    cell("Speed", reply?.speed ? reply.speed.toFixed(1) : "–", reply?.speed ? "tok/s" : ""),
    cell("Tokens", reply?.tokens ? String(reply.tokens) : "–"),
  );
}

function pale(side, text) {
  $(`reply-${side}`).className = "reply";
  $(`reply-${side}`).replaceChildren(h("p", { class: "pale" }, text));
}

async function ask(side, prompt) {
  const place = $(`reply-${side}`), prose = h("div", { class: "prose" });
  figures(side, null);
  place.replaceChildren(h("div", { class: "waiting" }, "Reading the prompt…"));
  let frame = 0, now = null;
  const draw = () => {
    frame = 0;
    place.className = "reply busy";
    prose.replaceChildren(...markdown(now.text));
    if (!prose.isConnected) place.replaceChildren(prose);
  };
  const body = {
    model: $(`model-${side}`).value, messages: [{ role: "user", content: prompt }], temperature: 0,
    max_tokens: Number($("compare-max").value) || 200,
  };
  try {
    const reply = await api.chat(body, { signal: stop.signal, each: (f) => { now = f; frame ||= requestAnimationFrame(draw); } });
    cancelAnimationFrame(frame);
    place.className = "reply";
    prose.replaceChildren(...markdown(reply.text));
    place.replaceChildren(prose);
    if (!reply.text) place.replaceChildren(h("p", { class: "pale" }, reply.reason === "stopped" ? "Stopped." : "The model had nothing to say."));
    figures(side, reply);
    return reply;
  } catch (error) {
    cancelAnimationFrame(frame);
    place.className = "reply";
    const key = [401, 403].includes(error.status)
      ? [h("button", { type: "button", onclick: () => document.dispatchEvent(new Event("kanna:key")) }, "Give a key")] : [];
    place.replaceChildren(prose.isConnected ? prose : "", notice(error, ...key));
    return null;
  }
}

function verdict(replies) {
  const [a, b] = replies;
  if (!a?.speed || !b?.speed || a.reason === "stopped" || b.reason === "stopped") return "";
  const [fast, slow, name] = a.speed >= b.speed ? [a, b, "a"] : [b, a, "b"];
  const same = a.text === b.text ? " Both say the same, to the letter." : "";
  const times = fast.speed / slow.speed;
  if (times < 1.03) return `Both write equally fast.${same}`;
  return `${$(`model-${name}`).value} (${name.toUpperCase()}) writes ${times.toFixed(times < 10 ? 2 : 0)} × as fast.${same}`;
}

$("compare-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  if (stop) return stop.abort();
  const prompt = $("compare-input").value.trim();
  if (!prompt) return $("compare-input").focus();
  if (!$("model-a").value) return document.dispatchEvent(new Event("kanna:again"));
  stop = new AbortController();
  run.textContent = "Stop";
  run.className = "stop";
  $("verdict").textContent = "";
  pale("b", "Its turn comes next.");
  figures("b", null);
  let replies;
  if ($("compare-together").checked) replies = await Promise.all(SIDES.map((side) => ask(side, prompt)));
  else {
    replies = [await ask("a", prompt)];
    if (stop.signal.aborted) pale("b", "Stopped.");
    else replies.push(await ask("b", prompt));
  }
  stop = null;
  run.textContent = "Compare";
  run.className = "main";
  $("verdict").textContent = verdict(replies);
  if (!$("verdict").textContent) announce("Finished.");
});
$("compare-input").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("compare-form").requestSubmit();
});
$("view-compare").addEventListener("keydown", (event) => { if (event.key === "Escape" && stop) stop.abort(); });

for (const side of SIDES) {
  figures(side, null);
  pale(side, "Its reply comes here.");
}
