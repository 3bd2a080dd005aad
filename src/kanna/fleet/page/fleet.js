// The state of a fleet, asked for again and again. Text only ever becomes text: nothing here parses HTML.

const $ = (id) => document.getElementById(id);
const EVERY = 5000;
let timer = 0;

function h(name, options = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(options)) made.setAttribute(key, value);
  made.append(...children.flat().map((c) => (c === null || c === undefined ? "" : c instanceof Node ? c : String(c))));
  return made;
}

const table = (title, columns, rows) => [
  h("h2", {}, title),
  h("table", {},
    h("thead", {}, h("tr", {}, columns.map((c) => h("th", { scope: "col" }, c)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell)))))),
];
const when = (seconds) => (seconds ? new Date(seconds * 1000).toLocaleString() : "never");
const short = (digest) => (digest ? digest.slice(0, 12) : "–");
const counts = (statuses) => Object.entries(statuses).map(([name, n]) => `${n} ${name}`).join(", ");

async function ask(path, key) {
  const answer = await fetch(path, { headers: { authorization: `Bearer ${key}` } });
  const body = await answer.json();
  if (!answer.ok) throw new Error(body.error ? body.error.message : `HTTP ${answer.status}`);
  return body;
}

async function show() {
  clearTimeout(timer);
  const key = sessionStorage.getItem("fleet-key");
  if (!key) return;
  try {
    const status = await ask("/v1/status", key);
    const { devices } = await ask("/v1/devices?most=200", key);
    $("state").textContent =
      `${status.devices} devices, ${status.seen} seen lately, ${status.current} have what they should`;
    $("rollouts").replaceChildren(...table("Rollouts", ["rollout", "model", "state", "ring", "devices", "why"],
      status.rollouts.map((r) => [r.id, short(r.model), r.state, `${r.ring} of ${r.rings.length}`,
        r.rings.map((ring, n) => h("div", {}, `ring ${n + 1}: ${counts(ring.statuses) || "none"}`)), r.reason])));
    $("devices").replaceChildren(...table("Devices", ["device", "target", "has", "should have", "last", "seen"],
      devices.map((d) => [d.id, d.target, short(d.reported), short(d.wanted), `${d.outcome} ${d.detail}`, when(d.seen)])));
    $("events").replaceChildren(...table("What happened", ["when", "what", "rollout", "device", "detail"],
      status.events.map((e) => [when(e.at), e.kind, e.rollout, e.device, e.detail])));
  } catch (error) {
    $("state").textContent = error.message;
  }
  timer = setTimeout(show, EVERY);
}

$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("fleet-key", $("key").value.trim());
  $("key").value = "";
  show();
});
show();
