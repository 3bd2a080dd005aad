// The little Markdown that models write, as elements: fences, headings, lists, paragraphs, `code`, **strong**, *emphasis*.
// Links and images stay text: a model's output leads nowhere and loads nothing.
import { h } from "./dom.js";

export function markdown(text) {
  const blocks = [];
  const lines = text.split("\n");
  for (let i = 0; i < lines.length; ) {
    const fence = lines[i].match(/^\s*(`{3,}|~{3,})/);
    if (fence) {
      const body = [];
      for (i++; i < lines.length && !lines[i].trim().startsWith(fence[1]); i++) body.push(lines[i]);
      i++; // an open fence runs to the end: more is still to come
      blocks.push(h("pre", { tabindex: "0" }, h("code", {}, body.join("\n"))));
      continue;
    }
    if (!lines[i].trim()) { i++; continue; }
    const head = lines[i].match(/^#{1,6}\s+(.*)/);
    if (head) { blocks.push(h("h3", {}, ...inline(head[1]))); i++; continue; }
    const item = /^\s*(?:([-*+])|(\d{1,9})[.)])\s+(.*)/;
    const first = lines[i].match(item);
    if (first) {
      const list = first[1] ? h("ul") : h("ol", { start: first[2] });
      for (let found; i < lines.length && (found = lines[i].match(item)) && !found[1] === !first[1]; i++)
        list.append(h("li", {}, ...inline(found[3])));
      blocks.push(list);
      continue;
    }
    const part = [];
    for (; i < lines.length && lines[i].trim() && !/^\s*(`{3,}|~{3,}|#{1,6}\s)/.test(lines[i]) && !(part.length && item.test(lines[i])); i++)
      part.push(lines[i]);
    blocks.push(h("p", {}, ...inline(part.join("\n"))));
  }
  return blocks;
}

// Bounded on both sides, so that no text takes long.
const MARKS = /(`[^`\n]{1,500}`)|(\*\*[^*\n]{1,500}\*\*)|(\*[^*\s][^*\n]{0,500}\*)/;

function inline(text) {
  const found = [];
  let rest = text;
  for (let hit; (hit = rest.match(MARKS)); rest = rest.slice(hit.index + hit[0].length)) {
    if (hit.index) found.push(...broken(rest.slice(0, hit.index)));
    if (hit[1]) found.push(h("code", {}, hit[1].slice(1, -1)));
    else if (hit[2]) found.push(h("strong", {}, hit[2].slice(2, -2)));
    else found.push(h("em", {}, hit[3].slice(1, -1)));
  }
  return [...found, ...broken(rest)];
}

const broken = (text) => text.split("\n").flatMap((part, i) => (i ? [h("br"), part] : [part]));
