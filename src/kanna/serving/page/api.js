// What the page asks of the gateway. Errors are Failures: what happened, and what to do.

let key = sessionStorage.getItem("kanna-key") || "";
export const hasKey = () => Boolean(key);
export function setKey(value) {
  key = value.trim();
  if (key) sessionStorage.setItem("kanna-key", key);
  else sessionStorage.removeItem("kanna-key");
}

/** Take the key out of the address, where `kanna studio` puts it. */
export function takeKey() {
  const given = new URLSearchParams(location.hash.slice(1)).get("key");
  if (!given) return;
  setKey(given);
  history.replaceState(null, "", location.pathname);
}

export class Failure extends Error {
  constructor(message, todo = "", status = 0) {
    super(message);
    this.todo = todo;
    this.status = status;
  }
}

const TODO = {
  401: "Give a key: this gateway answers those who have one.",
  403: "This key may not do that. Use one with the scope for it.",
  404: "Reload the page: the gateway may serve other models now.",
  413: "Send less at once.",
  500: "Look at the gateway's log.",
  502: "The engine was restarted. Try again in a moment.",
  503: "The gateway is busy or still loading. Try again in a moment.",
  504: "Ask for fewer tokens, or try again.",
};

export async function call(path, { method = "GET", body, signal } = {}) {
  const headers = key ? { Authorization: `Bearer ${key}` } : {};
  if (body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal, cache: "no-store", credentials: "omit" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The gateway does not answer.", "Is kanna serve still running? Then try again.");
  }
  if (!answer.ok) throw await failure(answer);
  return answer;
}

async function failure(answer) {
  let message = "", advice = "";
  try {
    const body = await answer.json();
    advice = body?.error?.todo || "";
    message = body?.error?.message || (typeof body?.detail === "string" ? body.detail : "");
  } catch { /* no JSON: the status says enough */ }
  let todo = advice || TODO[answer.status] || "";
  if (answer.status === 429) {
    const wait = answer.headers.get("Retry-After");
    todo = wait ? `Try again in ${wait} s.` : "Try again later, or ask for a higher limit.";
  }
  return new Failure(message || `The gateway says ${answer.status}.`, todo, answer.status);
}

export async function models() {
  return (await (await call("/v1/models")).json()).data.map((m) => m.id);
}

/** Stream a chat. `each` gets every piece of text; returns text, times in seconds, tokens, speed and why it ended. */
export async function chat(body, { signal, each }) {
  const started = performance.now();
  const reply = { text: "", tokens: 0, first: null, total: 0, speed: null, reason: "" };
  const done = () => {
    reply.total = (performance.now() - started) / 1000;
    const after = reply.total - reply.first;
    if (reply.first !== null && reply.tokens > 1 && after > 0) reply.speed = (reply.tokens - 1) / after;
    return reply;
  };
  try {
    const answer = await call("/v1/chat/completions", {
      method: "POST", signal, body: { ...body, stream: true, stream_options: { include_usage: true } },
    });
    let pieces = 0;
    for await (const event of events(answer.body)) {
      if (event.error) throw new Failure(event.error.message || "The engine failed.", "Try again.", event.error.code);
      const choice = event.choices?.[0];
      const text = choice?.delta?.content;
      if (text) {
        reply.first ??= (performance.now() - started) / 1000;
        reply.text += text;
        reply.tokens = ++pieces;
        each(reply);
      }
      reply.reason = choice?.finish_reason || reply.reason;
      if (event.usage?.completion_tokens) reply.tokens = event.usage.completion_tokens;
    }
    if (!reply.reason) throw new Failure("The reply broke off.", "Try again; if it happens often, look at the gateway's log.");
  } catch (error) {
    if (error.name === "AbortError") reply.reason = "stopped";
    else throw Object.assign(error instanceof Failure ? error : new Failure("The connection broke off.", "Try again."), { partial: done() });
  }
  return done();
}

/** Objects of a server-sent event stream, until [DONE]. */
async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    rest += value || "";
    const lines = rest.split(/\r\n|\n/);
    rest = done ? "" : lines.pop();
    for (const line of lines) {
      if (!line.startsWith("data:")) continue;
      const data = line.slice(5).trim();
      if (data === "[DONE]") return;
      yield JSON.parse(data);
    }
    if (done) return;
  }
}

// Keys and usage, for a key with the scope `admin`.
export const keys = {
  list: async () => (await (await call("/admin/keys")).json()).keys,
  create: async (body) => (await call("/admin/keys", { method: "POST", body })).json(),
  revoke: async (id) => call(`/admin/keys/${encodeURIComponent(id)}`, { method: "DELETE" }),
};
export const SCOPES = ["infer", "metrics", "admin"];

// The studio: jobs, models to choose from, files that are sent. For its key, which is an `admin` key.
const post = async (path, body) => (await call(path, { method: "POST", body })).json();
const job = (id, action = "") => `/studio/jobs/${encodeURIComponent(id)}${action}`;
export const studio = {
  state: async () => (await call("/studio/state")).json(),
  models: async () => (await (await call("/studio/models")).json()).models,
  fit: async (body, signal) => (await call("/studio/fit", { method: "POST", body, signal })).json(),
  jobs: async () => (await (await call("/studio/jobs")).json()).jobs,
  start: (body) => post("/studio/jobs", body),
  cancel: (id) => post(job(id, "/cancel")),
  again: (id) => post(job(id, "/again")),
  original: (id) => post(job(id, "/original")),
  remove: (id) => call(job(id), { method: "DELETE" }),
  log: async (id) => (await call(job(id, "/log"))).text(),
  begin: (files) => post("/studio/uploads", { files }),
  abandon: (id) => call(`/studio/uploads/${id}`, { method: "DELETE" }),
};

/** Send one file of an upload; `each` gets the bytes that have left. Resolves to the source once all files are there. */
export function sendFile(id, name, file, { signal, each }) {
  // fetch does not tell how much of a body has left.
  const request = new XMLHttpRequest();
  return new Promise((resolve, reject) => {
    request.open("PUT", `/studio/uploads/${id}/${encodeURIComponent(name)}`);
    if (key) request.setRequestHeader("Authorization", `Bearer ${key}`);
    request.setRequestHeader("Content-Type", "application/octet-stream");
    request.upload.addEventListener("progress", (event) => each(event.loaded));
    request.addEventListener("error", () => reject(new Failure("The connection broke off.", "Drop the model again.")));
    request.addEventListener("abort", () => reject(new DOMException("", "AbortError")));
    request.addEventListener("load", () => {
      let answer = {};
      try { answer = JSON.parse(request.responseText); } catch { /* the status says enough */ }
      if (request.status === 200) resolve(answer.source);
      else reject(new Failure(answer.error?.message || `The gateway says ${request.status}.`, answer.error?.todo || "", request.status));
    });
    signal.addEventListener("abort", () => request.abort());
    request.send(file);
  });
}
