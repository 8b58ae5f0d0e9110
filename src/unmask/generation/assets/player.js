// The trace player: draws rows of a trace at any step. Shared by `--trace FILE.html` and the run report.
// Whatever comes from a model or a user is put on the page as text, never as markup.
"use strict";

function el(name, attributes, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  for (const child of children.flat()) if (child !== null && child !== undefined) node.append(child);
  return node;
}

function svg(name, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes || {})) if (value !== null) node.setAttribute(key, value);
  for (const child of children.flat()) if (child) node.append(child);
  return node;
}

const ICONS = {
  first: "M3 3h2v10H3zM13 3v10L6 8z", back: "M12 3v10L4 8z", play: "M4 2.5v11L14 8z", pause: "M4 3h3v10H4zM9 3h3v10H9z",
  next: "M4 3v10l8-5z", last: "M11 3h2v10h-2zM3 3v10l7-5z",
  theme: "M8 1.5a6.5 6.5 0 1 0 0 13zM8 1.5a6.5 6.5 0 0 1 0 13z",
};
function icon(name) {
  const shape = svg("path", { d: ICONS[name] });
  if (name !== "theme") return svg("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" }, shape);
  return svg("svg", { width: 16, height: 16, viewBox: "0 0 16 16", "aria-hidden": "true" },
    svg("circle", { cx: 8, cy: 8, r: 6, fill: "none", stroke: "currentColor", "stroke-width": 1.6 }),
    svg("path", { d: "M8 2a6 6 0 0 1 0 12z" }));
}

function brand(what) {
  const cells = [[0, 0, .95], [7, 0, .35], [14, 0, .95], [0, 7, .35], [7, 7, .95], [14, 7, .2]];
  const mark = svg("svg", { width: 20, height: 13, viewBox: "0 0 20 13", "aria-hidden": "true" },
    cells.map(([x, y, o]) => svg("rect", { x, y, width: 6, height: 6, rx: 1.6, fill: "var(--accent)", opacity: o })));
  return el("div", { class: "brand" }, mark, "unmask", el("span", {}, what));
}

// --- theme: the system's, until the reader chooses

const themes = { get kept() { try { return localStorage.getItem("unmask-theme"); } catch { return null; } } };
function setTheme(name) { document.documentElement.dataset.theme = name; }
setTheme(themes.kept || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
function themeButton() {
  return el("button", { class: "button", title: "Light or dark", "aria-label": "Light or dark", onclick: () => {
    const name = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(name);
    try { localStorage.setItem("unmask-theme", name); } catch { /* a page from a file may not keep anything */ }
  } }, icon("theme"));
}

// --- one tooltip for the whole page

const tip = el("div", { class: "tip", role: "status" });
document.body.append(tip);
function showTip(x, y, ...content) {
  tip.replaceChildren(...content);
  const box = tip.getBoundingClientRect(), gap = 14;
  const left = Math.min(Math.max(8, x - box.width / 2), innerWidth - box.width - 8);
  const above = y - box.height - gap;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 8 ? above : y + gap + 10}px`;
  tip.classList.add("on");
}
function hideTip() { tip.classList.remove("on"); }
addEventListener("scroll", hideTip, { passive: true });

// --- colours: cool first, warm last; or red unsure, green sure

const hueOf = { order: (part) => 265 - 240 * part, confidence: (p) => 25 + 125 * Math.max(0, Math.min(1, p)) };
const tint = (hue) => `oklch(var(--tint-l) var(--tint-c) ${hue.toFixed(0)})`;
const dot = (hue) => `oklch(var(--dot-l) var(--dot-c) ${hue.toFixed(0)})`;
function ramp(kind) {
  const stops = [0, .25, .5, .75, 1].map((part) => dot(hueOf[kind](part)));
  return `linear-gradient(to right, ${stops.join(", ")})`;
}

// --- the history of a row: what stands at each position after each step

class History {
  constructor(row, doc) {
    this.row = row;
    this.doc = doc;
    this.special = new Set(doc.special || []);
    this.masked = new Set(row.masked);
    this.events = row.token_ids.map(() => []);
    this.final = row.token_ids.slice();
    for (const commit of row.commits) {
      commit.positions.forEach((place, i) => {
        this.events[place].push({ step: commit.step, block: commit.block, id: commit.token_ids[i],
          confidence: commit.confidences[i] });
        this.final[place] = commit.token_ids[i];
      });
      for (const place of commit.remasked) this.events[place].push({ step: commit.step, block: commit.block, id: null });
    }
    this.steps = row.commits.reduce((most, commit) => Math.max(most, commit.step + 1), 0);
  }
  at(place, step) {  // after `step` steps: the last event, or null
    let found = null;
    for (const event of this.events[place]) { if (event.step < step) found = event; else break; }
    return found;
  }
  textOf(place, id) {
    if (id === this.final[place] && this.row.pieces && this.row.pieces[place] !== undefined) return this.row.pieces[place];
    const text = this.doc.tokens[id];
    return text === undefined ? `#${id}` : text;
  }
}

// --- the player

const LONG_PROMPT = 120;  // tokens
class Player {
  // options: keys (listen to the keyboard), start ("first" or "last"), titles (row -> text)
  constructor(doc, options = {}) {
    this.doc = doc;
    this.histories = doc.rows.map((row) => new History(row, doc));
    this.steps = this.histories.reduce((most, history) => Math.max(most, history.steps), 0);
    this.colour = "order";
    this.speed = 1;
    this.timer = null;
    this.root = el("section", { class: "card player", tabindex: "0", "aria-label": "How the text was written" });
    this.root.append(this.controls(), this.settings(), ...doc.rows.map((row, i) => this.drawRow(row, i, options)));
    this.root.addEventListener("keydown", (event) => this.key(event));
    if (options.keys) {
      document.addEventListener("keydown", (event) => { if (event.target === document.body) this.key(event); });
    }
    this.go(options.start === "first" ? 0 : this.steps);
  }

  controls() {
    const make = (name, title, act, extra = "") =>
      el("button", { class: `button ${extra}`, title, "aria-label": title, onclick: act }, icon(name));
    this.playButton = make("play", "Play or pause", () => this.toggle(), "main");
    this.scrub = el("input", { type: "range", min: 0, max: this.steps, step: 1, "aria-label": "Step",
      oninput: () => { this.pause(); this.go(Number(this.scrub.value)); } });
    this.count = el("div", { class: "count" });
    return el("div", { class: "bar" }, this.playButton,
      make("first", "To the beginning", () => { this.pause(); this.go(0); }, "hide-narrow"),
      make("back", "One step back", () => { this.pause(); this.go(this.step - 1); }),
      make("next", "One step on", () => { this.pause(); this.go(this.step + 1); }),
      make("last", "To the end", () => { this.pause(); this.go(this.steps); }, "hide-narrow"),
      el("div", { class: "scrub" }, this.scrub), this.count);
  }

  settings() {
    const speeds = el("select", { "aria-label": "Speed", onchange: () => { this.speed = Number(speeds.value); } },
      [.25, .5, 1, 2, 4].map((speed) => el("option", { value: speed, selected: speed === 1 }, `${speed}×`)));
    this.legend = el("span", { class: "legend" });
    const buttons = [["order", "order"], ["confidence", "confidence"], ["none", "none"]].map(([kind, label]) =>
      el("button", { "data-kind": kind, onclick: () => this.paint(kind) }, label));
    this.colourButtons = buttons;
    return el("div", { class: "more" }, el("span", {}, "Colour"), el("span", { class: "choice" }, buttons), this.legend,
      el("label", {}, "Speed ", speeds));
  }

  paint(kind) {
    this.colour = kind;
    this.go(this.step, true);
  }

  drawRow(row, number, options) {
    const history = this.histories[number];
    history.cells = row.token_ids.map((id, place) => {
      const final = history.final[place], given = !history.masked.has(place);
      const special = given && history.special.has(id) ? "special" : "";
      return el("span", { class: `t ${given ? "given" : "masked"} ${special}`, "data-row": number, "data-place": place },
        this.glyph(history, place, given ? id : final));
    });
    const canvas = el("div", { class: "canvas" }, this.folded(history));
    canvas.addEventListener("pointerover", (event) => this.hover(event));
    canvas.addEventListener("pointerleave", hideTip);
    const facts = [el("b", {}, (options.titles && options.titles[number]) || `Text ${number + 1}`)];
    facts.push(el("span", {}, `${row.masked.length} masked`));
    if (row.forwards) facts.push(el("span", {}, row.forwards === 1 ? "1 forward" : `${row.forwards} forwards`));
    if (row.finish_reason) facts.push(el("span", {}, row.finish_reason === "stop" ? "ended by itself" : "ran to its end"));
    const parts = [el("div", { class: "facts" }, facts), canvas];
    if (row.expected) {
      parts.push(el("div", { class: "expected" }, el("span", {}, "expected"), el("div", {}, row.expected)));
    }
    parts.push(this.drawMap(history));
    return el("div", { class: "row" }, parts);
  }

  // Of a long prompt only the end is shown, until the reader asks for all of it.
  folded(history) {
    const given = history.masked.size ? Math.min(...history.masked) : 0;
    if (given <= LONG_PROMPT) return history.cells;
    const early = history.cells.slice(0, given - LONG_PROMPT / 2), whole = el("span", { hidden: true }, early);
    const button = el("button", { class: "unfold", onclick: () => {
      whole.hidden = !whole.hidden;
      button.textContent = whole.hidden ? `… ${early.length} tokens before` : "fold the prompt";
    } }, `… ${early.length} tokens before`);
    return [button, whole, ...history.cells.slice(early.length)];
  }

  // The letters of a token; a newline is shown, or it would look like nothing.
  glyph(history, place, id) {
    const cell = [];
    if (history.special.has(id)) return [this.specialName(id)];
    const text = history.textOf(place, id);
    text.split("\n").forEach((part, i) => {
      if (i) cell.push(el("span", { class: "nl" }, "↵"), "\n");
      cell.push(part.replace(/[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g, "\ufffd"));
    });
    return cell;
  }
  specialName(id) {
    const name = this.doc.tokens[id] || `#${id}`;
    return id === this.doc.mask_token_id ? "mask" : name.replace(/^<\|?|\|?>$/g, "") || name;
  }

  // Position from left to right, step from top to bottom: the order in which the text came to be.
  drawMap(history) {
    const places = history.row.masked, wide = Math.max(places.length, 1), high = Math.max(this.steps, 1);
    const map = svg("svg", { class: "map", viewBox: `0 0 ${wide} 60`, preserveAspectRatio: "none", role: "img",
      "aria-label": "Position from left to right, step from top to bottom" });
    history.marks = [];
    places.forEach((place, column) => {
      for (const event of history.events[place]) {
        if (event.id === null) continue;
        const mark = svg("rect", { x: column + .1, width: .8, y: 54 * (event.step / high), height: Math.max(54 / high, 4) });
        history.marks.push({ mark, event });
        map.append(mark);
      }
    });
    history.now = svg("line", { class: "now", x1: 0, x2: wide, "vector-effect": "non-scaling-stroke" });
    map.append(history.now);
    map.addEventListener("pointerdown", (event) => {
      const box = map.getBoundingClientRect();
      this.pause();
      this.go(Math.ceil(((event.clientY - box.top) / box.height) * (60 / 54) * high));
    });
    return map;
  }

  hueFor(event, kind) {
    return kind === "confidence" ? hueOf.confidence(event.confidence) : hueOf.order(event.step / Math.max(this.steps - 1, 1));
  }

  go(step, repaint = false) {
    step = Math.max(0, Math.min(this.steps, step));
    if (step === this.step && !repaint) return;
    this.step = step;
    this.scrub.value = step;
    this.scrub.style.setProperty("--part", `${this.steps ? (100 * step) / this.steps : 100}%`);
    this.count.textContent = `step ${step} / ${this.steps}`;
    for (const button of this.colourButtons) button.setAttribute("aria-pressed", button.dataset.kind === this.colour);
    this.drawLegend();
    for (const history of this.histories) this.show(history, step);
  }

  drawLegend() {
    const kind = this.colour;
    this.legend.replaceChildren();
    if (kind === "none") return;
    const bar = el("i");
    bar.style.background = ramp(kind);
    this.legend.append(kind === "order" ? "first" : "unsure", bar, kind === "order" ? "last" : "sure");
  }

  show(history, step) {
    for (const place of history.masked) {
      const cell = history.cells[place], event = history.at(place, step);
      const id = event && event.id !== null ? event.id : null;
      const shown = id === null ? history.final[place] : id;
      if (cell.shown !== undefined && cell.shown !== shown) cell.replaceChildren(...this.glyph(history, place, shown));
      cell.shown = shown;
      const special = history.special.has(shown) || shown === this.doc.mask_token_id;
      const narrow = !special && !history.textOf(place, shown).trim();
      const fresh = id !== null && event.step === step - 1 && step < this.steps;
      cell.className = ["t", id === null ? "masked" : "written", fresh ? "fresh" : "", special ? "special" : "",
        narrow && id === null ? "narrow" : "", history.events[place].length ? "" : "unused"].join(" ");
      cell.style.setProperty("--tint", id !== null && this.colour !== "none" ? tint(this.hueFor(event, this.colour)) : "transparent");
    }
    for (const { mark, event } of history.marks) {
      mark.setAttribute("fill", dot(this.hueFor(event, this.colour === "none" ? "order" : this.colour)));
      mark.setAttribute("opacity", event.step < step ? 1 : .16);
    }
    const y = 54 * (step / Math.max(this.steps, 1)) + (step ? 2 : 0);
    history.now.setAttribute("y1", y);
    history.now.setAttribute("y2", y);
  }

  hover(event) {
    const cell = event.target.closest(".t");
    if (!cell) return hideTip();
    const history = this.histories[Number(cell.dataset.row)], place = Number(cell.dataset.place);
    const now = history.at(place, this.step), lines = [];
    if (!history.masked.has(place)) {
      const id = history.row.token_ids[place];
      lines.push(this.word(history, place, id), el("div", {}, `given · position ${place} · id ${id}`));
    } else if (!now || now.id === null) {
      lines.push(el("div", { class: "word" }, "masked"), el("div", {}, `position ${place}`));
      const later = history.events[place].find((other) => other.step >= this.step && other.id !== null);
      if (later) lines.push(el("div", {}, `written at step ${later.step + 1}`));
    } else {
      const part = Math.max(0, Math.min(1, now.confidence)), meter = el("i");
      meter.style.width = `${100 * part}%`;
      meter.style.background = dot(hueOf.confidence(part));
      lines.push(this.word(history, place, now.id),
        el("div", {}, `step ${now.step + 1} of ${this.steps} · block ${now.block + 1}`),
        el("div", {}, `position ${place} · id ${now.id}`),
        el("div", {}, `confidence ${now.confidence.toFixed(3)}`), el("div", { class: "meter" }, meter));
      const times = history.events[place].filter((other) => other.id !== null).length;
      if (times > 1) lines.push(el("div", {}, `written ${times} times`));
    }
    const box = cell.getClientRects()[0] || cell.getBoundingClientRect();
    showTip(Math.min(Math.max(event.clientX, box.left), box.right), box.top, ...lines);
  }
  word(history, place, id) {
    const text = history.special.has(id) ? this.doc.tokens[id] || "" : JSON.stringify(history.textOf(place, id));
    return el("div", { class: "word" }, text);
  }

  get playing() { return this.timer !== null; }
  toggle() { if (this.playing) this.pause(); else this.play(); }
  play() {
    if (this.step >= this.steps) this.go(0);
    this.playButton.replaceChildren(icon("pause"));
    const tick = () => {
      this.go(this.step + 1);
      if (this.step >= this.steps) return this.pause();
      this.timer = setTimeout(tick, this.pace());
    };
    this.timer = setTimeout(tick, this.pace());
  }
  // about eight seconds for the whole, but never a blur and never a wait
  pace() { return Math.max(45, Math.min(500, 8000 / Math.max(this.steps, 1))) / this.speed; }
  pause() {
    clearTimeout(this.timer);
    this.timer = null;
    this.playButton.replaceChildren(icon("play"));
  }
  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const acts = { " ": () => this.toggle(), ArrowLeft: () => { this.pause(); this.go(this.step - 1); },
      ArrowRight: () => { this.pause(); this.go(this.step + 1); }, Home: () => { this.pause(); this.go(0); },
      End: () => { this.pause(); this.go(this.steps); } };
    if (!(event.key in acts) || (event.key === " " && event.target.tagName === "BUTTON")) return;
    event.preventDefault();
    acts[event.key]();
  }
}

// --- a page of its own; the report calls Player by itself

function titleOf(row, number) {
  const prompt = row.prompt;
  const text = typeof prompt === "string" ? prompt
    : Array.isArray(prompt) && prompt.length && prompt[prompt.length - 1].content ? prompt[prompt.length - 1].content : "";
  const flat = String(text).replace(/\s+/g, " ").trim();
  return flat ? (flat.length > 90 ? `${flat.slice(0, 88)}…` : flat) : `Text ${number + 1}`;
}

function drawTrace(doc) {
  const page = document.getElementById("page"), facts = [];
  const say = (name, value) => { if (value !== null && value !== undefined && value !== "") {
    facts.push(el("span", {}, `${name} `, el("b", {}, String(value)))); } };
  const options = doc.options || {};
  say("model", doc.model);
  for (const name of ["strategy", "steps", "block_size", "temperature", "guidance_scale", "cache", "seed"]) {
    if (!(name === "guidance_scale" && !options[name]) && !(name === "cache" && options[name] === "none")) {
      say(name.replace("_", " "), options[name]);
    }
  }
  const emitted = doc.rows.reduce((sum, row) => sum + (row.emitted || 0), 0);
  if (emitted) say("tokens", emitted);
  if (doc.seconds) { say("seconds", doc.seconds.toFixed(1)); if (emitted) say("tokens/s", Math.round(emitted / doc.seconds)); }
  const player = new Player(doc, { keys: true, start: "first", titles: doc.rows.map(titleOf) });
  page.append(el("div", { class: "top" }, brand("trace"), el("div", { class: "space" }), themeButton()),
    el("h1", {}, doc.rows.length === 1 ? "How one text was written" : `How ${doc.rows.length} texts were written`),
    el("div", { class: "about" }, facts), player.root,
    el("p", { class: "keys" }, el("kbd", {}, "space"), " play or pause  ", el("kbd", {}, "←"), " ", el("kbd", {}, "→"),
      " one step  ", el("kbd", {}, "Home"), " ", el("kbd", {}, "End"), " to the ends. Point at a token to see its step and confidence."));
  const asked = /step=(\d+)/.exec(location.hash);
  if (asked) player.go(Number(asked[1]));
  else if (!matchMedia("(prefers-reduced-motion: reduce)").matches) setTimeout(() => player.play(), 600);
}
