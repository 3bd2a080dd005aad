// The page: loads the model that model.json names, asks it, and writes down its answers.
import { open } from "./engine.js";

const at = (id) => document.getElementById(id);
const messages = [];
let engine = null;
let stopping = null;

function megabytes(bytes) {
  return `${(bytes / 1e6).toFixed(0)} MB`;
}

function fail(error) {
  at("error").textContent = `${error?.message ?? error}`;
  at("error").hidden = false;
}

function arrived(loaded, total) {
  at("share").value = total ? loaded / total : 0;
  at("step").textContent = `Loading the model: ${megabytes(loaded)} of ${megabytes(total)}`;
}

function turn(role, text) {
  const box = document.createElement("div");
  box.className = role;
  box.textContent = text;
  at("turns").append(box);
  box.scrollIntoView({ block: "end" });
  return box;
}

function busy(is) {
  at("prompt").disabled = at("send").disabled = at("clear").disabled = is;
  at("stop").hidden = !is;
  if (!is) at("prompt").focus();
}

async function answer(model, text) {
  const options = {
    temperature: Number(at("temperature").value),
    tokens: Math.max(1, Number(at("tokens").value)),
    signal: stopping.signal,
  };
  messages.push({ role: "user", content: text });
  turn("user", text);
  const box = turn("assistant", "");
  const began = performance.now();
  let pieces = 0;
  const show = (piece) => {
    pieces += 1;
    box.textContent += piece;
    box.scrollIntoView({ block: "end" });
  };
  try {
    await engine.write(model.chat ? messages : text, options, show);
  } catch (error) {
    if (error?.name !== "AbortError") throw error;
  } finally {
    messages.push({ role: "assistant", content: box.textContent });
    const seconds = (performance.now() - began) / 1000;
    box.title = `${pieces} pieces in ${seconds.toFixed(1)} s`;
    box.dataset.done = "yes";
  }
}

async function main() {
  const [about, more] = await Promise.all(
    ["model.json", "engine.json"].map(async (name) => (await fetch(name)).json()),
  );
  const model = { ...about, ...more };
  document.title = at("name").textContent = model.name;
  const facts = [megabytes(model.bytes), `${model.context} tokens of context`];
  if (model.licence) facts.push(`licence: ${model.licence}`);
  at("facts").textContent = facts.join(" · ");
  at("prompt").placeholder = model.chat ? "Ask it something" : "Begin a text that it continues";
  at("ask").addEventListener("submit", async (event) => {
    event.preventDefault();
    const text = at("prompt").value;
    if (!engine || !text.trim()) return;
    at("prompt").value = "";
    at("error").hidden = true;
    stopping = new AbortController();
    busy(true);
    try {
      await answer(model, text);
    } catch (error) {
      fail(error);
    } finally {
      busy(false);
    }
  });
  at("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      at("ask").requestSubmit();
    }
  });
  at("stop").addEventListener("click", () => stopping?.abort());
  at("clear").addEventListener("click", () => {
    messages.length = 0;
    at("turns").replaceChildren();
  });
  // ?device=webgpu asks for the graphics card; without it the processor computes.
  const device = new URLSearchParams(location.search).get("device");
  engine = await open(model, { webgpu: device === "webgpu", report: arrived });
  at("loading").hidden = true;
  busy(false);
}

main().catch(fail);
