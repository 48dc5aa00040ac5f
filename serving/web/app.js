// The page: one picture, sentences begun by the reader and finished by the model, boxes over what it names.

import { Refusal, ask, health, servedModel } from "/conversation.js";
import { pictureOf, readPicture } from "/picture.js";

const $ = (id) => document.getElementById(id);
const STATES = {
  starting: "Loading the model …",
  restarting: "Restarting …",
  failed: "The model could not be loaded",
  stopped: "Shutting down",
  unreachable: "No connection",
};
const NUM_HUES = 6;

let model = null;
let picture = null; // {dataUrl, name, ratio}
let turns = []; // [{asked, answer}] about this picture
let reading = Promise.resolve(); // done when the newest picture is on the page
let running = null; // AbortController of the answer that is arriving
let numPhrases = 0; // grounded phrases shown so far; each gets a key that joins words and boxes

// ---- state of the server -------------------------------------------------------------------------------------------

async function watch() {
  let state = "unreachable";
  try {
    ({ status: state } = await health());
    if (state === "ready") model = await servedModel();
  } catch {
    state = "unreachable";
  }
  $("state").dataset.state = state;
  $("state-words").textContent = state === "ready" ? model.id : (STATES[state] ?? state);
  for (const part of document.querySelectorAll(".grounding-only")) part.hidden = !model?.grounding;
  showControls();
  setTimeout(watch, state === "ready" ? 20000 : 1500);
}

function showControls() {
  $("ask").hidden = running !== null;
  $("stop").hidden = running === null;
  $("ask").disabled = $("state").dataset.state !== "ready";
}

// ---- the picture ---------------------------------------------------------------------------------------------------

/** Whoever asks while the picture is being read waits for it: the question is about that picture. */
function show(file) {
  running?.abort();
  const mine = read(file, () => mine === reading);
  reading = mine;
}

async function read(file, isNewest) {
  let found;
  try {
    found = await readPicture(file);
  } catch (error) {
    complain(error.message);
    return;
  }
  if (!isNewest()) return;
  picture = found;
  startOver();
  $("stage").style.setProperty("--ratio", String(picture.ratio));
  $("picture").src = picture.dataUrl;
  $("picture-name").textContent = picture.name;
  $("drop").hidden = true;
  $("stage").hidden = false;
  $("prompt").focus({ preventScroll: true });
}

function removePicture() {
  running?.abort();
  reading = Promise.resolve();
  picture = null;
  $("stage").hidden = true;
  $("drop").hidden = false;
  $("picture").removeAttribute("src");
  startOver();
  $("file").focus();
}

function startOver() {
  turns = [];
  $("answers").replaceChildren();
  $("boxes").replaceChildren();
  $("welcome").hidden = false;
  complain("");
}

// ---- asking --------------------------------------------------------------------------------------------------------

async function submit() {
  await reading;
  const asked = $("prompt").value.trim();
  if (running || $("ask").disabled) return;
  if (!asked && !picture) {
    complain("Choose a picture first, or begin a sentence.");
    return;
  }
  complain("");
  $("welcome").hidden = true;
  $("prompt").value = "";
  grow();
  running = new AbortController();
  showControls();
  const shown = addAnswer(asked);
  const started = performance.now();
  let answer = "";
  const onWords = (words) => {
    answer += words;
    shown.words(answer);
  };
  try {
    const end = await ask({ body: bodyOf(asked), signal: running.signal, onWords });
    turns.push({ asked, answer });
    shown.finish(answer, end, (performance.now() - started) / 1000);
  } catch (error) {
    broken(error, shown, { asked, answer });
  } finally {
    running = null;
    showControls();
  }
}

function broken(error, shown, turn) {
  if (error.name === "AbortError") {
    shown.finish(turn.answer, { boxes: [], reason: "stopped", tokens: 0 }, 0);
    if (turn.answer) turns.push(turn);
    return;
  }
  if (turn.answer) shown.finish(turn.answer, { boxes: [], reason: "broken", tokens: 0 }, 0);
  else shown.remove();
  if (!$("prompt").value) $("prompt").value = turn.asked;
  complain(kindly(error));
  if (!(error instanceof Refusal)) throw error;
}

function bodyOf(asked) {
  const earlier = $("remember").checked ? turns : [];
  const messages = [];
  for (const [index, turn] of [...earlier, { asked, answer: null }].entries()) {
    const content = [];
    if (index === 0 && picture) content.push({ type: "image_url", image_url: { url: picture.dataUrl } });
    if (turn.asked) content.push({ type: "text", text: turn.asked });
    messages.push({ role: "user", content });
    if (turn.answer !== null) messages.push({ role: "assistant", content: turn.answer });
  }
  const body = { model: model.id, messages, max_tokens: Number($("max-tokens").value) };
  if ($("beams").checked) body.num_beams = 5;
  else body.temperature = Number($("temperature").value);
  if (model.grounding && $("grounding").checked && picture) body.grounding = true;
  return body;
}

function kindly(error) {
  if (error.status === 429) return "Many people are asking right now. Please try again in a moment.";
  if (error.status === 503) return "The model is not ready yet. Please try again in a moment.";
  if (error.code === "engine_died") return "The model stopped unexpectedly and is being restarted. Please ask again.";
  const words = error.message.replace(/^messages[.\w]*: /, "");
  return words.charAt(0).toUpperCase() + words.slice(1) + (/[.!?]$/.test(words) ? "" : ".");
}

function complain(words) {
  $("trouble").textContent = words;
  $("trouble").hidden = !words;
}

// ---- an answer on the page -----------------------------------------------------------------------------------------

function element(name, className, text = "") {
  const made = document.createElement(name);
  made.className = className;
  made.textContent = text;
  return made;
}

function addAnswer(asked) {
  const item = document.createElement("li");
  const line = element("p", "words");
  const answered = element("span", "answer");
  const caret = element("span", "caret");
  caret.setAttribute("aria-hidden", "true");
  line.append(element("span", "asked", asked), answered, caret);
  line.setAttribute("aria-live", "polite");
  line.setAttribute("aria-busy", "true");
  item.append(line);
  $("answers").append(item);
  $("boxes").replaceChildren();
  item.scrollIntoView({ block: "nearest" });
  return {
    words(answer) {
      answered.textContent = joint(asked, answer) + answer;
      item.scrollIntoView({ block: "nearest" });
    },
    finish(answer, end, seconds) {
      caret.remove();
      const marked = withMarks(answer.trim(), end.boxes);
      answered.replaceChildren(joint(asked, answer), ...marked);
      line.setAttribute("aria-busy", "false");
      item.append(about(`${asked}${joint(asked, answer)}${answer}`, answer, end, seconds));
      drawBoxes(end.boxes);
      item.addEventListener("pointerenter", () => drawBoxes(end.boxes));
      item.scrollIntoView({ block: "nearest" });
    },
    remove: () => item.remove(),
  };
}

function joint(asked, answer) {
  return asked && answer && !/^[\s.,;:!?)’']/.test(answer) ? " " : "";
}

function about(whole, answer, end, seconds) {
  const line = element("p", "about");
  const parts = [];
  if (end.tokens) parts.push(`${end.tokens} ${end.tokens === 1 ? "token" : "tokens"}`);
  if (seconds) parts.push(`${seconds.toFixed(1)} s`);
  if (!answer) parts.push("nothing to add");
  if (end.reason === "length") parts.push("cut at the longest answer");
  if (end.reason === "stopped") parts.push("stopped");
  if (end.reason === "broken") parts.push("broke off");
  line.append(element("span", "", parts.join(" · ")));
  if (answer && navigator.clipboard) line.append(copyButton(whole));
  return line;
}

function copyButton(whole) {
  const button = element("button", "quiet", "Copy");
  button.type = "button";
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(whole);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

// ---- boxes ---------------------------------------------------------------------------------------------------------

/** The answer's words, with each grounded phrase as a mark that points at its boxes. Spans count characters, not UTF-16. */
function withMarks(answer, boxes) {
  const characters = [...answer];
  const nodes = [];
  let end = 0;
  for (const [index, phrase] of boxes.entries()) {
    if (phrase.start < end) continue;
    nodes.push(characters.slice(end, phrase.start).join(""));
    const mark = element("mark", `hue-${index % NUM_HUES}`, characters.slice(phrase.start, phrase.end).join(""));
    mark.tabIndex = 0;
    phrase.key = String((numPhrases += 1));
    mark.dataset.phrase = phrase.key;
    const choose = () => {
      drawBoxes(boxes);
      chooseBox(phrase.key);
    };
    mark.addEventListener("pointerenter", choose);
    mark.addEventListener("focus", choose);
    mark.addEventListener("pointerleave", () => chooseBox(null));
    mark.addEventListener("blur", () => chooseBox(null));
    nodes.push(mark);
    end = phrase.end;
  }
  nodes.push(characters.slice(end).join(""));
  return nodes;
}

function drawBoxes(phrases) {
  const drawn = phrases.flatMap((phrase, index) => phrase.boxes.map((box) => drawnBox(phrase, index, box)));
  $("boxes").replaceChildren(...drawn);
}

function drawnBox(phrase, index, [left, top, right, bottom]) {
  // The label stands on the box where there is room above it.
  const box = element("div", `box hue-${index % NUM_HUES}${top > 0.08 ? " below-edge" : ""}`);
  box.dataset.phrase = phrase.key;
  Object.assign(box.style, {
    left: `${left * 100}%`,
    top: `${top * 100}%`,
    width: `${(right - left) * 100}%`,
    height: `${(bottom - top) * 100}%`,
  });
  box.append(element("span", "", phrase.phrase));
  box.addEventListener("pointerenter", () => chooseBox(phrase.key));
  box.addEventListener("pointerleave", () => chooseBox(null));
  return box;
}

function chooseBox(key) {
  $("boxes").classList.toggle("choosing", key !== null);
  for (const part of document.querySelectorAll("[data-phrase]")) {
    part.classList.toggle("chosen", key !== null && part.dataset.phrase === key);
  }
}

// ---- what people do ------------------------------------------------------------------------------------------------

function grow() {
  const field = $("prompt");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight}px`;
}

$("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  submit();
});
$("prompt").addEventListener("input", grow);
$("prompt").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    submit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("file").addEventListener("change", () => {
  if ($("file").files[0]) show($("file").files[0]);
  $("file").value = "";
});
$("replace").addEventListener("click", () => $("file").click());
$("remove").addEventListener("click", removePicture);
$("max-tokens").addEventListener("input", () => ($("max-tokens-shown").textContent = `${$("max-tokens").value} tokens`));
$("temperature").addEventListener("input", () => {
  const value = Number($("temperature").value);
  $("temperature-shown").textContent = value ? value.toFixed(1) : "none";
});
$("beams").addEventListener("change", () => ($("temperature").disabled = $("beams").checked));

document.addEventListener("paste", (event) => {
  const file = pictureOf(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  show(file);
});
document.addEventListener("dragover", (event) => {
  if (![...event.dataTransfer.types].includes("Files")) return;
  event.preventDefault();
  $("veil").hidden = false;
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("veil").hidden = true;
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("veil").hidden = true;
  const file = event.dataTransfer.files[0];
  if (file) show(file);
});

showControls();
watch();
