"use strict";
// Draws the block of JSON in the page; whatever a log says becomes text or a number, never markup.

const content = JSON.parse(document.getElementById("content").textContent);
const SVG = "http://www.w3.org/2000/svg";
const MARGIN = { top: 16, right: 10, bottom: 24, left: 52 };
const KERNELS = [0, 0.006, 0.025]; // deviation of the smoothing kernel as a share of what is shown
const AS_THEY_ARE = ["learning_rate", "skipped"]; // exact, so never smoothed
const FEW = 40; // points that are each drawn as a dot
const view = { from: 0, to: Math.max(content.last, 1), smoothing: 1, step: null };
const charts = [];

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

function shape(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

// Numbers as people write them.
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
function written(value, name) {
  if (value === null || value === undefined) return "not finite";
  if (name === "mfu") return `${(100 * value).toFixed(1)} %`;
  const size = Math.abs(value);
  if (size === 0) return "0";
  if (size < 1e-3 || size >= 1e7) return value.toExponential(2).replace("e+", "e");
  if (size >= 1000) return whole.format(value);
  return String(Number(value.toPrecision(4)));
}

function exact(value, name) {
  if (value === null || value === undefined) return "not finite";
  return name === "mfu" ? `${(100 * value).toFixed(2)} %` : String(value);
}

function stageOf(step) {
  return content.stages.find((stage) => step <= stage.ends) || content.stages[content.stages.length - 1];
}

function placeOf(step) {
  const stage = stageOf(step);
  if (!stage || content.stages.length < 2) return `step ${whole.format(step)}`;
  return `${stage.name} ${whole.format(step - stage.begins)}`;
}

// Scales: a value to a place on the sheet, and round values in between.
function linear(low, high, from, to) {
  const scale = (value) => from + ((value - low) / (high - low || 1)) * (to - from);
  scale.invert = (place) => low + ((place - from) / (to - from || 1)) * (high - low);
  return scale;
}

function logarithmic(low, high, from, to) {
  const inner = linear(Math.log(low), Math.log(high), from, to);
  return (value) => inner(Math.log(value));
}

function roundValues(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((times) => times * power).find((size) => size >= rough * 0.999);
  const found = [];
  for (let number = Math.ceil(low / step - 1e-9); number * step <= high + step * 1e-9; number++) found.push(number * step);
  return found.map((value) => Number(value.toPrecision(12)));
}

function roundLogs(low, high) {
  const found = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.log10(high); power++)
    for (const times of [1, 2, 5]) found.push(times * 10 ** power);
  const inside = found.filter((value) => value >= low * 0.999 && value <= high * 1.001);
  const tens = inside.filter((value) => Math.log10(value) % 1 === 0);
  return inside.length > 7 && tens.length > 1 ? tens : inside.length > 1 ? inside : roundValues(low, high, 3).filter((v) => v > 0);
}

// Each stage by itself: what changes with a stage changes at once.
function smooth(points, deviation) {
  return content.stages.flatMap(({ begins, ends }) => smoothStage(points.filter(([step]) => step > begins && step <= ends), deviation));
}

// At each point the straight line that fits its neighbours best, the nearer the more: no shift, and no bias at the ends.
function smoothStage(points, deviation) {
  const reach = 3 * deviation;
  let first = 0;
  return points.map(([step, value]) => {
    if (value === null) return [step, null];
    while (points[first][0] < step - reach) first++;
    let w = 0, wx = 0, wy = 0, wxx = 0, wxy = 0;
    for (let place = first; place < points.length && points[place][0] <= step + reach; place++) {
      if (points[place][1] === null) continue;
      const x = (points[place][0] - step) / deviation, y = points[place][1], weight = Math.exp(-0.5 * x * x);
      w += weight; wx += weight * x; wy += weight * y; wxx += weight * x * x; wxy += weight * x * y;
    }
    const spread = w * wxx - wx * wx;
    return [step, spread > 1e-9 * w * w ? (wxx * wy - wx * wxy) / spread : wy / w];
  });
}

function pathOf(points, x, y) {
  let path = "", open = false;
  for (const [step, value] of points) {
    if (value === null) { open = false; continue; }
    path += `${open ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`;
    open = true;
  }
  return path;
}

function bandOf(points, x, y) {
  const known = points.filter((point) => point.length > 2 && point[1] !== null);
  if (known.length < 2) return "";
  const above = known.map((point) => `${x(point[0]).toFixed(1)} ${y(point[3]).toFixed(1)}`);
  const below = known.map((point) => `${x(point[0]).toFixed(1)} ${y(point[2]).toFixed(1)}`).reverse();
  return `M${above.join("L")}L${below.join("L")}Z`;
}

// What is within the view, with one neighbour on each side so that lines run to the edge.
function within(points) {
  let first = points.findIndex(([step]) => step >= view.from);
  if (first < 0) return [];
  let last = points.length - 1;
  while (last > first && points[last][0] > view.to) last--;
  return points.slice(Math.max(0, first - 1), last + 2);
}

function nearest(points, step) {
  let best = null;
  for (const point of points) if (best === null || Math.abs(point[0] - step) < Math.abs(best[0] - step)) best = point;
  return best;
}

class Chart {
  constructor(record, wide) {
    this.record = record;
    this.hidden = new Set();
    this.wide = wide;
    this.log = false;
    this.card = element("section", { class: `chart${wide ? " wide" : ""}`, "aria-label": record.title });
    const top = element("div", { class: "top" }, element("h2", {}, record.title));
    const lowest = Math.min(...record.series.map((curve) => (curve.lowest ? curve.lowest[1] : 0)));
    const highest = Math.max(...record.series.map((curve) => (curve.highest ? curve.highest[1] : 0)));
    if (lowest > 0 && highest > 1.5 * lowest) top.append(this.scaleButton());
    this.legend = element("div", { class: `legend${record.series.length === 1 ? " alone" : ""}` });
    this.names = record.series.map((curve) => this.nameOf(curve));
    this.plot = shape("svg", { class: "plot", role: "img", tabindex: "0" });
    this.plot.setAttribute("aria-label", `${record.title}: ${record.series.map((curve) => `${curve.name} ${curve.latest ? written(curve.latest[1], curve.name) : ""}`).join(", ")}. Arrow keys read values.`);
    this.card.append(top, this.legend, this.plot, ...this.faults(), this.table());
    this.listen();
  }

  scaleButton() {
    const button = element("button", { type: "button", class: "scale", "aria-pressed": "false" }, "log scale");
    button.addEventListener("click", () => {
      this.log = !this.log;
      button.setAttribute("aria-pressed", String(this.log));
      this.draw();
    });
    return button;
  }

  nameOf(curve) {
    const value = element("span", { class: "value" }), range = element("span", { class: "range" });
    const button = element("button", { type: "button", class: `hue${curve.hue % 8}`, "aria-pressed": "true" }, element("span", { class: "label" }, curve.name.replace(/^validation_/, "").replaceAll("_", " ")), value, range);
    button.addEventListener("click", () => {
      if (this.record.series.length < 2) return;
      this.hidden.has(curve.name) ? this.hidden.delete(curve.name) : this.hidden.add(curve.name);
      button.setAttribute("aria-pressed", String(!this.hidden.has(curve.name)));
      this.draw();
    });
    this.legend.append(button);
    return { value, range };
  }

  faults() {
    const lost = this.record.series.filter((curve) => curve.not_finite);
    if (!lost.length) return [];
    const words = lost.map((curve) => `${curve.name.replaceAll("_", " ")} in ${curve.not_finite} of ${whole.format(curve.count)} lines`).join(", ");
    return [element("p", { class: "faults" }, `Not finite: ${words}`)];
  }

  table() {
    const details = element("details", {}, element("summary", {}, "Exact values"));
    details.addEventListener("toggle", () => {
      if (details.open && details.children.length < 2) details.append(this.rows());
    });
    return details;
  }

  rows() {
    const series = this.record.series;
    const found = new Map();
    series.forEach((curve, column) => {
      for (const point of curve.points) {
        if (!found.has(point[0])) found.set(point[0], []);
        found.get(point[0])[column] = point;
      }
    });
    const condensed = series.some((curve) => curve.points.some((point) => point.length > 2));
    const head = element("tr", {}, element("th", {}, condensed ? "to step" : "step"), ...series.map((curve) => element("th", {}, curve.name)));
    const body = element("tbody");
    for (const [step, points] of [...found].sort((one, other) => other[0] - one[0])) {
      const cells = series.map((curve, column) => {
        const point = points[column];
        if (!point) return element("td");
        const cell = element("td", {}, exact(point[1], curve.name));
        if (point.length > 2 && point[1] !== null) cell.append(" ", element("small", {}, `${written(point[2], curve.name)} to ${written(point[3], curve.name)}`));
        return cell;
      });
      body.append(element("tr", {}, element("td", {}, placeOf(step)), ...cells));
    }
    return element("div", { class: "rows" }, element("table", {}, element("thead", {}, head), body));
  }

  get shown() {
    return this.record.series.filter((curve) => !this.hidden.has(curve.name));
  }

  draw() {
    const width = Math.max(this.card.clientWidth - 2 * parseFloat(getComputedStyle(this.card).paddingLeft), 160);
    const height = this.wide ? Math.min(340, Math.max(230, width * 0.42)) : 190;
    this.plot.replaceChildren();
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.setAttribute("height", height);
    this.box = { left: MARGIN.left, right: width - MARGIN.right, top: MARGIN.top, bottom: height - MARGIN.bottom };
    this.x = linear(view.from, view.to, this.box.left, this.box.right);
    this.drawStages();
    this.drawAxes();
    this.drawCurves();
    this.over = this.plot.appendChild(shape("g", {}));
    this.point();
  }

  drawStages() {
    const { top, bottom, left, right } = this.box;
    if (content.stages.length < 2) return;
    content.stages.forEach((stage, number) => {
      const from = Math.max(left, this.x(stage.begins)), to = Math.min(right, this.x(stage.ends));
      if (to <= from) return;
      if (number % 2) this.plot.append(shape("rect", { class: "stage", x: from, y: top, width: to - from, height: bottom - top }));
      if (number && this.x(stage.begins) >= left) this.plot.append(shape("line", { class: "border", x1: from, x2: from, y1: top, y2: bottom }));
      // A stage too narrow for its name has it on the left of its border, where the one before has room.
      const room = to - from > 7 * stage.name.length + 8;
      if (room || from - left > 14 * stage.name.length) this.plot.append(shape("text", { class: "stage-name", x: room ? from + 5 : from - 5, y: top - 4, "text-anchor": room ? "start" : "end" }, stage.name));
    });
  }

  domain() {
    let low = Infinity, high = -Infinity;
    for (const curve of this.shown) {
      for (const point of within(curve.points)) {
        if (point[1] === null) continue;
        low = Math.min(low, point.length > 2 ? point[2] : point[1]);
        high = Math.max(high, point.length > 2 ? point[3] : point[1]);
      }
    }
    if (low > high) return [0, 1];
    if (this.log && low > 0) return low === high ? [low / 1.5, high * 1.5] : [low / (high / low) ** 0.04, high * (high / low) ** 0.04];
    if (low === high) return low === 0 ? [0, 1] : [Math.min(low * 0.9, low * 1.1), Math.max(high * 0.9, high * 1.1)];
    const pad = 0.05 * (high - low);
    return [low >= 0 && low - pad < 0 ? 0 : low - pad, high + pad];
  }

  drawAxes() {
    const { top, bottom, left, right } = this.box;
    const [low, high] = this.domain();
    const logs = this.log && low > 0;
    this.y = logs ? logarithmic(low, high, bottom, top) : linear(low, high, bottom, top);
    const name = this.record.series[0].name;
    for (const value of logs ? roundLogs(low, high) : roundValues(low, high, this.wide ? 6 : 4)) {
      const y = this.y(value);
      this.plot.append(shape("line", { class: "grid", x1: left, x2: right, y1: y, y2: y }), shape("text", { x: left - 8, y: y + 4, "text-anchor": "end" }, tick(value, name)));
    }
    this.plot.append(shape("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
    for (const step of roundValues(view.from, view.to, Math.max(2, Math.floor((right - left) / 75))).filter(Number.isInteger)) {
      const end = this.x(step) > right - 16 ? "end" : "middle";
      this.plot.append(shape("text", { x: this.x(step), y: bottom + 17, "text-anchor": end }, short(step)));
    }
  }

  drawCurves() {
    const { top, bottom, left, right } = this.box;
    const clip = shape("clipPath", { id: `clip${charts.indexOf(this)}` });
    clip.append(shape("rect", { x: left - 4, y: top - 4, width: right - left + 8, height: bottom - top + 8 }));
    const curves = shape("g", { "clip-path": `url(#${clip.id})` });
    const deviation = KERNELS[view.smoothing] * (view.to - view.from);
    for (const curve of this.shown) {
      const hue = `hue${curve.hue % 8}`, points = within(curve.points), few = points.length <= FEW;
      const smoothed = deviation && !few && !AS_THEY_ARE.includes(curve.name);
      const band = bandOf(points, this.x, this.y);
      if (band) curves.append(shape("path", { class: `band ${hue}`, d: band }));
      curves.append(shape("path", { class: `curve ${hue}${smoothed ? " raw" : ""}`, d: pathOf(points, this.x, this.y) }));
      if (smoothed) curves.append(shape("path", { class: `curve ${hue}`, d: pathOf(within(smooth(curve.points, deviation)), this.x, this.y) }));
      if (few) for (const [step, value] of points) if (value !== null) curves.append(shape("circle", { class: `dot ${hue}`, cx: this.x(step), cy: this.y(value), r: 2.6 }));
    }
    this.plot.append(clip, curves);
  }

  // The step that is pointed at, on this chart or another; without one the legend says the latest values.
  point() {
    this.over.replaceChildren();
    const inside = view.step !== null && view.step >= view.from && view.step <= view.to;
    if (inside) this.over.append(shape("line", { class: "cross", x1: this.x(view.step), x2: this.x(view.step), y1: this.box.top, y2: this.box.bottom }));
    this.record.series.forEach((curve, column) => {
      const point = inside ? nearest(curve.points, view.step) : null;
      const value = point ? point[1] : curve.latest ? curve.latest[1] : null;
      this.names[column].value.textContent = written(value, curve.name);
      this.names[column].range.textContent = point && point.length > 2 && point[1] !== null ? `${written(point[2], curve.name)} to ${written(point[3], curve.name)}` : "";
      if (point && point[1] !== null && !this.hidden.has(curve.name) && point[0] >= view.from && point[0] <= view.to)
        this.over.append(shape("circle", { class: `mark hue${curve.hue % 8}`, cx: this.x(point[0]), cy: this.y(point[1]), r: 4.5 }));
    });
    if (this.drag) this.over.append(shape("rect", { class: "chosen", x: Math.min(...this.drag), y: this.box.top, width: Math.abs(this.drag[1] - this.drag[0]), height: this.box.bottom - this.box.top }));
  }

  placeOf(event) {
    const sheet = this.plot.getBoundingClientRect();
    return Math.min(Math.max(event.clientX - sheet.left, this.box.left), this.box.right);
  }

  // The logged step nearest to a place.
  stepAt(place) {
    const wanted = this.x.invert(place);
    const points = this.shown.map((curve) => nearest(within(curve.points), wanted)).filter(Boolean);
    const found = nearest(points, wanted);
    return found ? Math.min(Math.max(found[0], view.from), view.to) : Math.round(wanted);
  }

  listen() {
    const plot = this.plot;
    plot.addEventListener("pointermove", (event) => {
      const place = this.placeOf(event);
      if (this.drag) this.drag[1] = place;
      pointAt(this.stepAt(place));
    });
    plot.addEventListener("mousedown", (event) => event.preventDefault()); // a click is no focus
    plot.addEventListener("pointerleave", () => { if (!this.drag) pointAt(null); });
    plot.addEventListener("pointerdown", (event) => {
      if (event.pointerType !== "mouse" || event.button !== 0) return pointAt(this.stepAt(this.placeOf(event)));
      plot.setPointerCapture(event.pointerId);
      this.drag = [this.placeOf(event), this.placeOf(event)];
    });
    plot.addEventListener("pointerup", () => {
      if (!this.drag) return;
      const [from, to] = this.drag.map((place) => this.x.invert(place)).sort((one, other) => one - other);
      const wide = Math.abs(this.drag[1] - this.drag[0]) > 8;
      this.drag = null;
      wide ? look(Math.floor(from), Math.ceil(to)) : pointAt(view.step);
    });
    plot.addEventListener("pointercancel", () => { this.drag = null; pointAt(null); });
    plot.addEventListener("dblclick", () => look(0, Math.max(content.last, 1)));
    plot.addEventListener("blur", () => pointAt(null));
    plot.addEventListener("keydown", (event) => {
      const direction = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (event.key === "Escape") return look(0, Math.max(content.last, 1));
      if (!direction) return;
      event.preventDefault();
      const steps = [...new Set(this.shown.flatMap((curve) => curve.points.map(([step]) => step)))].filter((step) => step >= view.from && step <= view.to).sort((one, other) => one - other);
      if (!steps.length) return;
      const place = view.step === null ? (direction > 0 ? -1 : steps.length) : steps.indexOf(nearest(steps.map((step) => [step]), view.step)[0]);
      pointAt(steps[Math.min(Math.max(place + direction * (event.shiftKey ? 10 : 1), 0), steps.length - 1)]);
    });
  }
}

function short(value) {
  const size = Math.abs(value);
  if (size >= 1e6) return `${Number((value / 1e6).toPrecision(4))} M`;
  return size >= 1e4 ? `${Number((value / 1e3).toPrecision(4))} k` : whole.format(value);
}

function tick(value, name) {
  if (name === "mfu") return `${Number((100 * value).toPrecision(3))} %`;
  const size = Math.abs(value);
  if (size >= 1000) return short(value);
  return size > 0 && size < 1e-3 ? value.toExponential() : String(Number(value.toPrecision(6)));
}

function pointAt(step) {
  view.step = step;
  const line = document.getElementById("readout");
  line.replaceChildren();
  if (step !== null) line.append("values at ", element("b", {}, placeOf(step)));
  else line.textContent = view.from > 0 || view.to < content.last ? `steps ${whole.format(view.from)} to ${whole.format(view.to)}` : "";
  for (const chart of charts) chart.point();
}

function look(from, to) {
  view.from = Math.max(0, from);
  view.to = Math.min(Math.max(content.last, 1), Math.max(to, from + 1));
  document.getElementById("whole").hidden = view.from === 0 && view.to >= content.last;
  redraw();
  pointAt(null);
}

function redraw() {
  for (const chart of charts) chart.draw();
}

// What a person asks first: how far, how good, how fast, and what went wrong.
function facts() {
  const curves = new Map(content.charts.flatMap((chart) => chart.series).map((curve) => [curve.name, curve]));
  const list = document.getElementById("facts");
  const add = (label, value, more = "", kind = "") => {
    const entry = element("dd", {}, value);
    if (more) entry.append(element("small", {}, more));
    list.append(element("div", kind ? { class: kind } : {}, element("dt", {}, label), entry));
  };
  if (content.last) add("step", whole.format(content.last), content.stages.length > 1 ? placeOf(content.last) : "");
  for (const chart of content.charts.filter((chart) => chart.group === "validation")) {
    const loss = chart.series.find((curve) => curve.name === "validation_loss");
    const curve = loss || chart.series[0], best = loss ? curve.lowest : curve.highest;
    if (!best || (!loss && chart.series.length > 1)) continue;
    const title = /^.[a-z]/.test(chart.title) ? chart.title[0].toLowerCase() + chart.title.slice(1) : chart.title;
    add(`${loss ? "lowest" : "highest"} ${title}`, written(best[1], curve.name), `at ${placeOf(best[0])}`);
  }
  for (const [name, label] of [["tokens_per_s", "tokens a second"], ["images_per_s", "pictures a second"], ["mfu", "MFU"]]) {
    const curve = curves.get(name);
    if (curve && curve.latest) add(label, written(curve.latest[1], name));
  }
  const skipped = curves.get("skipped"), lost = [...curves.values()].reduce((sum, curve) => sum + curve.not_finite, 0);
  if (skipped && skipped.latest && skipped.latest[1]) add("steps passed over", written(skipped.latest[1], "skipped"), "", "bad");
  if (lost) add("figures not finite", whole.format(lost), "", "bad");
}

// With several stages, each can be looked at alone.
function stages() {
  if (content.stages.length < 2) return;
  const line = document.getElementById("stages");
  line.hidden = false;
  for (const stage of content.stages) {
    const button = element("button", { type: "button", title: "look at this stage alone" }, element("b", {}, stage.name), ` ${whole.format(stage.ends - stage.begins)} steps`);
    button.addEventListener("click", () => look(stage.begins, stage.ends));
    line.append(button);
  }
}

function samples() {
  if (!content.samples.length) return;
  document.getElementById("written").hidden = false;
  const list = document.getElementById("samples");
  for (const sample of [...content.samples].reverse()) {
    const where = element("p", { class: "where" }, `${placeOf(sample.step)} · ${sample.name}`);
    list.append(element("li", {}, where, element("p", { class: "words" }, sample.words)));
  }
}

function start() {
  stages();
  document.getElementById("empty").hidden = content.charts.length > 0;
  document.getElementById("tools").hidden = content.charts.length === 0;
  const sheet = document.getElementById("charts");
  for (const record of content.charts) {
    const chart = new Chart(record, record.group === "loss" && charts.length === 0);
    charts.push(chart);
    sheet.append(chart.card);
  }
  facts();
  samples();
  document.getElementById("smoothing").addEventListener("change", (event) => {
    view.smoothing = Number(event.target.value);
    redraw();
  });
  document.getElementById("whole").addEventListener("click", () => look(0, Math.max(content.last, 1)));
  redraw();
  let width = 0;
  new ResizeObserver(() => {
    if (document.body.clientWidth === width) return;
    width = document.body.clientWidth;
    redraw();
  }).observe(document.body);
}

start();
