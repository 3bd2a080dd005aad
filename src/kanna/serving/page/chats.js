// Chats that this browser keeps, when it is asked to: in its local storage, and nowhere else.

const WANTED = "kanna-keep-chats", KEPT = "kanna-chats", MOST = 100;

/** Whether chats are kept; storage that is switched off keeps none. */
export function keeping() {
  try { return localStorage.getItem(WANTED) === "yes"; } catch { return false; }
}

/** Begin to keep chats, or stop it and forget all of them. Returns whether that is so now. */
export function keep(yes) {
  try {
    if (yes) localStorage.setItem(WANTED, "yes");
    else for (const name of [WANTED, KEPT]) localStorage.removeItem(name);
  } catch { /* no storage */ }
  return keeping();
}

const sound = (chat) => typeof chat?.id === "string" && typeof chat.title === "string" && Array.isArray(chat.turns)
  && chat.turns.every((turn) => ["user", "assistant"].includes(turn?.role) && typeof turn.content === "string");

/** Every kept chat, the last one first. */
export function list() {
  try {
    const chats = JSON.parse(localStorage.getItem(KEPT) || "[]");
    return Array.isArray(chats) ? chats.filter(sound) : [];
  } catch { return []; }
}

/** Keep a chat as it is now. Older ones make room where there is too little; false: it is too large alone. */
export function store(chat) {
  if (!keeping()) return true;
  const chats = [chat, ...list().filter((other) => other.id !== chat.id)].slice(0, MOST);
  for (; chats.length; chats.pop()) {
    try {
      localStorage.setItem(KEPT, JSON.stringify(chats));
      return true;
    } catch { /* full */ }
  }
  return false;
}

export function forget(id) {
  try { localStorage.setItem(KEPT, JSON.stringify(list().filter((chat) => chat.id !== id))); } catch { /* no storage */ }
}
