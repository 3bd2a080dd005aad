// Keys and what they used, for who has a key with the scope `admin`.
import { $, announce, ask, h, notice, whole } from "./dom.js";
import * as api from "./api.js";

const day = (time) => {
  if (!time) return "–";
  const found = new Date(typeof time === "number" ? time * 1000 : time);
  return Number.isNaN(found.getTime()) ? "–" : found.toISOString().slice(0, 10);
};

export async function enter() {
  if (!$("keys-list").firstChild) $("keys-state").replaceChildren(h("div", { class: "waiting" }, "Asking the gateway…"));
  try {
    draw(await api.keys.list());
    $("keys-state").replaceChildren();
    $("keys-form").hidden = false;
  } catch (error) {
    $("keys-form").hidden = true;
    $("keys-list").replaceChildren();
    const told = error.status === 404 ? new api.Failure("This gateway does not manage keys here.", "Use kanna keys on its machine.", 404)
      : [401, 403].includes(error.status) ? new api.Failure("Keys are shown to a key with the scope admin.", "Make one on the gateway's machine: kanna keys create --name NAME --scope admin", error.status) : error;
    const key = h("button", { type: "button", class: "main", onclick: () => document.dispatchEvent(new Event("kanna:key")) }, "Give a key");
    const again = h("button", { type: "button", onclick: enter }, "Try again");
    $("keys-state").replaceChildren(notice(told, error.status === 404 ? "" : error.status ? key : again));
  }
}

export function leave() {
  $("keys-secret").hidden = true;
  $("keys-secret").replaceChildren();
}

function draw(keys) {
  if (!keys.length) return $("keys-list").replaceChildren(h("p", { class: "hint" }, "There is no key yet. Make the first above."));
  const heads = ["Name", "Scope", "Made", "Ends", "Requests today", "Tokens today", "Limit a day", ""];
  const row = (key) => {
    const over = Boolean(key.revoked);
    const button = h("button", { type: "button", onclick: () => revoke(key) }, "Revoke");
    button.setAttribute("aria-label", `Revoke the key ${key.name}`);
    const used = key.usage ?? {};
    return h("tr", { class: over ? "over" : null },
      h("th", { scope: "row" }, key.name), h("td", {}, (key.scopes ?? []).join(", ")), h("td", {}, day(key.created)), h("td", {}, day(key.expires)),
      h("td", {}, whole(used.requests ?? 0)), h("td", {}, whole(used.tokens ?? 0)),
      h("td", {}, key.tokens_per_day ? whole(key.tokens_per_day) : "–"), h("td", {}, over ? "revoked" : button));
  };
  $("keys-list").replaceChildren(
    h("table", {}, h("caption", {}, "Keys"), h("thead", {}, h("tr", {}, ...heads.map((t) => h("th", { scope: "col" }, t)))), h("tbody", {}, ...keys.map(row))),
  );
}

async function revoke(key) {
  if (!(await ask(`Revoke “${key.name}”?`, "It stops working at once, and cannot be brought back.", "Revoke"))) return;
  try {
    await api.keys.revoke(key.id);
    announce(`${key.name} is revoked.`);
    await enter();
  } catch (error) {
    $("keys-state").replaceChildren(notice(error));
  }
}

$("keys-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const number = (id) => Number($(id).value) || undefined;
  const scope = $("keys-scope").value;
  try {
    const made = await api.keys.create({
      name: $("keys-name").value.trim(), scopes: [scope], expires_in_days: number("keys-days"), tokens_per_day: number("keys-quota"),
    });
    $("keys-form").reset();
    const copy = h("button", { type: "button" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(made.key);
        copy.textContent = "Copied";
      } catch {
        copy.textContent = "Select it and copy";
      }
    });
    const hide = h("button", { type: "button", class: "quiet", onclick: leave }, "I have it");
    $("keys-secret").replaceChildren(
      h("div", { class: "notice" }, h("strong", {}, "The new key, shown this once"), h("div", { class: "secret", tabindex: "0" }, made.key), h("div", { class: "bar" }, copy, hide)),
    );
    $("keys-secret").hidden = false;
    $("keys-secret").querySelector(".secret").focus();
    await enter();
  } catch (error) {
    $("keys-state").replaceChildren(notice(error));
  }
});

$("keys-scope").replaceChildren(...api.SCOPES.map((s) => h("option", { value: s }, s)));
