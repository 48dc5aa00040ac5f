// Shows documents. Whatever comes from one goes in as text or as an attribute's value, never as markup.
"use strict";

const content = JSON.parse(document.getElementById("content").textContent);
const fields = Object.fromEntries(["words", "source", "pictures", "fate"].map((name) => [name, document.getElementById(name)]));
const list = document.getElementById("documents");
const state = document.getElementById("state");
const more = document.getElementById("more");
const BATCH = 20;
let asked = 0; // the number of the newest question: answers to older ones come too late
let next = 0; // where the next batch begins; null at the end
let read = 0; // documents looked at for what is shown

// ---- where documents come from: this file, or the server it came from

async function held(wanted, after) {
  const found = [];
  let place = after;
  for (; place < content.documents.length && found.length < BATCH; place += 1) {
    if (matches(content.documents[place], wanted)) found.push(content.documents[place]);
  }
  return { documents: found, next: place < content.documents.length ? place : null, read: place };
}

async function served(wanted, after) {
  const answer = await fetch(`/documents?${new URLSearchParams({ ...wanted, after })}`);
  if (!answer.ok) throw new Error(await answer.text());
  return answer.json();
}

const ask = content.served ? served : held;

function matches(record, wanted) { // the rules of matching.py
  if (wanted.source && record.source !== wanted.source) return false;
  if (wanted.pictures && String(Math.min(record.pictures, 2)) !== wanted.pictures) return false;
  const broken = "fault" in record;
  const general = { "": true, kept: !record.dropped && !broken, dropped: Boolean(record.dropped), broken };
  if (!(Object.hasOwn(general, wanted.fate) ? general[wanted.fate] : record.dropped === wanted.fate)) return false;
  const words = [record.key, ...record.segments.flatMap((segment) => [segment.text, segment.alt])];
  return words.filter(Boolean).join("\n").toLowerCase().includes(wanted.words.toLowerCase());
}

// ---- one document

function element(name, kind, ...children) {
  const made = document.createElement(name);
  if (kind) made.className = kind;
  made.append(...children);
  return made;
}

function card(record) {
  const broken = "fault" in record;
  const made = element("li", `document${broken ? " broken" : ""}${record.dropped ? " dropped" : ""}`, margin(record), body(record));
  made.tabIndex = -1;
  if (isLong(record) && !fields.words.value) made.append(folding(made.lastChild));
  if (Object.keys(record.meta).length) {
    const written = typeof record.meta === "string" ? record.meta : JSON.stringify(record.meta, null, 2);
    made.append(element("details", "about-document", element("summary", "", "meta"), element("pre", "", written)));
  }
  return made;
}

function isLong(record) {
  return record.segments.reduce((sum, { text = "" }) => sum + 40 + text.length, 600 * record.pictures) > 3000;
}

function folding(body) {
  body.classList.add("folded");
  const button = element("button", "unfold", "Read on");
  button.type = "button";
  button.addEventListener("click", () => {
    body.classList.remove("folded");
    button.remove();
  });
  return button;
}

function margin(record) {
  const key = element("button", "key", record.key);
  key.type = "button";
  key.title = "Copy the key";
  key.addEventListener("click", () => copy(key));
  const lines = [
    `${record.tokens.toLocaleString("en")} tokens` + (record.pictures ? ` · ${record.pictures} ${record.pictures === 1 ? "picture" : "pictures"}` : ""),
    record.source,
    `${record.shard} · no. ${record.number.toLocaleString("en")}`,
  ];
  const made = element("div", "margin", key);
  if (record.dropped) made.append(element("p", "reason", record.dropped));
  made.append(...lines.filter(Boolean).map((line) => element("p", "", line)));
  return made;
}

function body(record) {
  const made = element("div", "body");
  if ("fault" in record) made.append(element("p", "fault", record.fault));
  let line = null; // a paragraph that begins with special tokens and still waits for words
  let boxes = null; // of the nearest picture before
  let hue = 0;
  for (const segment of record.segments) {
    if ("image" in segment) {
      const shown = picture(segment);
      boxes = shown.boxes;
      line = null;
      made.append(shown.figure);
    } else if ("control" in segment) {
      if (line === null) made.append((line = element("p")));
      line.append(element("span", "control", segment.control));
    } else if ("text" in segment) {
      if (line === null) made.append((line = element("p")));
      line.append(text(segment, boxes, () => hue++ % 6));
      if (segment.cut) line.append(element("span", "cut", ` … ${segment.cut.toLocaleString("en")} more characters`));
      line = null;
    } else {
      made.append(element("p", "cut", segment.note));
    }
  }
  return made;
}

function text(segment, boxes, nextHue) {
  const made = element("span", segment.loss === false ? "untrained" : "");
  if (segment.loss === false) made.title = "read, but not learned";
  // Python counts characters, JavaScript halves of some of them.
  const characters = segment.phrases ? Array.from(segment.text) : [];
  let end = 0;
  for (const phrase of segment.phrases ?? []) {
    made.append(characters.slice(end, phrase.start).join(""));
    made.append(grounded(characters.slice(phrase.start, phrase.end).join(""), phrase.boxes, boxes, nextHue()));
    end = phrase.end;
  }
  made.append(segment.phrases ? characters.slice(end).join("") : segment.text);
  return made;
}

function grounded(words, places, boxes, hue) {
  const mark = element("mark", `hue-${hue}`, words);
  const drawn = boxes === null ? [] : places.map(([left, top, right, bottom]) => {
    const box = document.createElementNS("http://www.w3.org/2000/svg", "rect");
    const about = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top), class: `hue-${hue}` };
    for (const [name, value] of Object.entries(about)) box.setAttribute(name, value);
    box.append(document.createElementNS("http://www.w3.org/2000/svg", "title"));
    box.firstChild.textContent = words;
    boxes.append(box);
    return box;
  });
  const together = [mark, ...drawn];
  const choose = (chosen) => {
    boxes?.classList.toggle("choosing", chosen && drawn.length > 0);
    for (const one of together) one.classList.toggle("chosen", chosen);
  };
  for (const one of together) {
    one.addEventListener("pointerenter", () => choose(true));
    one.addEventListener("pointerleave", () => choose(false));
  }
  mark.tabIndex = 0;
  mark.addEventListener("focus", () => choose(true));
  mark.addEventListener("blur", () => choose(false));
  return mark;
}

function picture(segment) {
  const figure = element("figure");
  if (segment.image === null) {
    figure.append(element("p", "fault", segment.fault));
    return { figure, boxes: null };
  }
  const image = element("img");
  image.alt = segment.alt || "";
  image.loading = "lazy";
  image.addEventListener("error", () => figure.replaceChildren(element("p", "fault", "picture is cut short, damaged or of another format")));
  image.src = segment.image;
  const boxes = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  boxes.setAttribute("viewBox", "0 0 1 1");
  boxes.setAttribute("preserveAspectRatio", "none");
  figure.append(element("div", "frame", image, boxes));
  if (segment.alt) figure.append(element("figcaption", "", segment.alt));
  return { figure, boxes };
}

// ---- the list

function wanted() {
  return Object.fromEntries(Object.entries(fields).map(([name, field]) => [name, field.value]));
}

function startOver() {
  for (const field of Object.values(fields)) field.classList.toggle("chosen", field.value !== "");
  list.replaceChildren();
  [next, read] = [0, 0];
  return show();
}

async function show() {
  const question = (asked += 1);
  more.hidden = true;
  const want = wanted();
  const goal = list.children.length + BATCH;
  try {
    while (next !== null && list.children.length < goal) {
      state.textContent = list.children.length ? state.textContent : "Reading …";
      const answer = await ask(want, next);
      if (question !== asked) return;
      list.append(...answer.documents.map(card));
      answer.documents.forEach(offer);
      [next, read] = [answer.next, answer.read];
      state.textContent = counted(want);
    }
    if (next === null) state.textContent = counted(want);
  } catch (error) {
    if (question === asked) state.textContent = `The documents cannot be read: ${error.message}`;
  }
  more.hidden = next === null;
  mark(want.words);
}

function counted(want) {
  const shown = list.children.length.toLocaleString("en");
  const all = (content.served ? content.total : content.documents.length).toLocaleString("en");
  if (!Object.values(want).some(Boolean)) return next === null ? `All ${all} documents` : `${shown} of ${all} documents`;
  return `${shown} found in ${next === null ? `all ${all}` : `the first ${read.toLocaleString("en")}`} documents`;
}

// Sources and reasons become choices as they are met.
function offer(record) {
  for (const [field, value] of [[fields.source, record.source], [fields.fate, record.dropped]]) {
    if (value && field.options.length < 200 && !Array.from(field.options).some((option) => option.value === value)) {
      field.add(new Option(field === fields.fate ? `dropped: ${value}` : value, value));
    }
  }
}

function mark(words) {
  if (!("highlights" in CSS)) return;
  CSS.highlights.delete("found");
  if (!words) return;
  const ranges = [];
  const walker = document.createTreeWalker(list, NodeFilter.SHOW_TEXT);
  const low = words.toLowerCase();
  while (walker.nextNode() && ranges.length < 2000) {
    const inside = walker.currentNode.data.toLowerCase();
    if (inside.length !== walker.currentNode.data.length) continue; // a letter that grows in lower case
    for (let at = inside.indexOf(low); at >= 0; at = inside.indexOf(low, at + low.length)) {
      const range = new Range();
      range.setStart(walker.currentNode, at);
      range.setEnd(walker.currentNode, at + low.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}

async function copy(key) {
  try {
    await navigator.clipboard.writeText(key.textContent);
  } catch { // no leave to use the clipboard: leave the key selected
    getSelection().selectAllChildren(key);
    document.execCommand("copy");
  }
  key.classList.add("copied");
  setTimeout(() => key.classList.remove("copied"), 1500);
}

// ---- keyboard

function step(by) {
  const cards = Array.from(list.children);
  const here = cards.findIndex((one) => one.contains(document.activeElement));
  const there = cards[Math.min(cards.length - 1, Math.max(0, here < 0 ? 0 : here + by))];
  there?.focus({ preventScroll: true });
  there?.scrollIntoView({ block: "start", behavior: "instant" });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const here = document.activeElement.closest(".document");
  const details = here?.querySelector("details");
  if (event.key === "/") fields.words.focus();
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "c" && here) copy(here.querySelector(".key"));
  else if (event.key === "m" && details) details.open = !details.open;
  else return;
  event.preventDefault();
});

let typing = 0;
fields.words.addEventListener("input", () => {
  clearTimeout(typing);
  typing = setTimeout(startOver, 150);
});
for (const name of ["source", "pictures", "fate"]) fields[name].addEventListener("change", startOver);
document.getElementById("filters").addEventListener("submit", (event) => event.preventDefault());
more.addEventListener("click", show);

const left = content.served ? 0 : content.wanted - content.documents.length;
document.getElementById("about").textContent = [
  content.title,
  `${content.total.toLocaleString("en")} documents in ${content.shards.toLocaleString("en")} ${content.shards === 1 ? "shard" : "shards"}`,
  content.served || content.documents.length === content.total ? "" : `${content.documents.length.toLocaleString("en")} in this page`,
  left > 0 ? `${left.toLocaleString("en")} more would have made it too large` : "",
].filter(Boolean).join(" · ");
if (!content.served) content.documents.forEach(offer);
startOver();
