// Files that are dropped or chosen: which of them make up the model, and sending them.
import * as api from "./api.js";

// What a model has beside its weights; the rest of a folder stays where it is.
const WANTED = /\.(gguf|safetensors|jinja|tiktoken)$|^(.*config|tokenizer|vocab|added_tokens|special_tokens_map|chat_template|preprocessor.*|model\.safetensors\.index)\.json$|^(tokenizer\.model|merges\.txt|vocab\.txt)$/i;

/** Files of a drop, those of a dropped folder included. */
export async function collect(transfer) {
  // Entries are gone once the event is over: they are asked for before anything is waited for.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files];
  return (await Promise.all(entries.map((entry) => files(entry, true)))).flat();
}

async function files(entry, deep) {
  if (entry.isFile) return [await new Promise((resolve, reject) => entry.file(resolve, reject))];
  if (!deep) return [];
  const reader = entry.createReader(), all = [];
  for (;;) { // a reader gives a hundred entries at a time
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) break;
    all.push(...some);
  }
  return (await Promise.all(all.map((inner) => files(inner, false)))).flat();
}

/** Send a model; `each` gets bytes sent and bytes of all. Resolves to the source. */
export async function upload(given, { signal, each }) {
  const kept = given.filter((f) => WANTED.test(f.name) && (f.webkitRelativePath || "").split("/").length <= 2);
  if (!kept.length) throw new api.Failure("There is no model in what you dropped.", "Drop a .gguf file, or a folder with config.json and .safetensors files. Pickled files (.bin, .pt) are not read: they can run any code.");
  const total = kept.reduce((sum, f) => sum + f.size, 0);
  const { id } = await api.studio.begin(kept.map((f) => ({ name: f.name, bytes: f.size })));
  let sent = 0, source = null;
  try {
    for (const file of kept) {
      source = await api.sendFile(id, file.name, file, { signal, each: (part) => each(sent + part, total) });
      sent += file.size;
      each(sent, total);
    }
  } catch (error) {
    api.studio.abandon(id).catch(() => {});
    throw error;
  }
  return source;
}
