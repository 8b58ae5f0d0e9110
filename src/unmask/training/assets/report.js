// The run report: tiles, curves, samples and facts, drawn from the data in the page.
"use strict";

const SI = [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]];
function short(value) {
  const size = Math.abs(value);
  if (size === 0) return "0";
  for (const [unit, letter] of SI) if (size >= unit) {
    const part = value / unit;
    return `${Math.abs(part) < 10 ? Number(part.toFixed(2)) : Math.abs(part) < 100 ? Number(part.toFixed(1)) : part.toFixed(0)}${letter}`;
  }
  if (size >= 100) return value.toFixed(0);
  if (size >= .01) return String(Number(value.toPrecision(3)));
  return value.toExponential(1).replace("e-0", "e-").replace(".0e", "e");
}
const exact = (value) => Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : short(value) === "0" ? "0"
  : Math.abs(value) >= .01 ? value.toFixed(value >= 100 ? 0 : 3) : value.toExponential(2);
function clock(seconds) {
  const s = Math.round(seconds), h = Math.floor(s / 3600), m = Math.floor((s % 3600) / 60);
  return h ? `${h} h ${m} min` : m ? `${m} min ${s % 60} s` : `${s} s`;
}
function bytes(n) {
  for (const [unit, name] of [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"]]) {
    if (n >= unit) return `${(n / unit).toFixed(n / unit < 10 ? 2 : n / unit < 100 ? 1 : 0)} ${name}`;
  }
  return `${n} B`;
}

// --- curves

function niceTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1) || 1, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * power).find((s) => s >= raw * .999);
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}
function logTicks(low, high) {
  const all = [];
  for (let p = Math.floor(Math.log10(low)); p <= Math.ceil(Math.log10(high)); p++) {
    for (const m of [1, 2, 5]) all.push(m * 10 ** p);
  }
  const inside = all.filter((v) => v >= low * .999 && v <= high * 1.001);
  const bare = inside.filter((v) => Math.abs(Math.log10(v) - Math.round(Math.log10(v))) < 1e-9);
  return inside.length > 6 && bare.length > 1 ? bare : inside.length > 1 ? inside : niceTicks(low, high, 3);
}
// Neighbouring ticks must read differently: as many digits as their distance has.
function tickLabels(ticks) {
  const step = ticks.length > 1 ? Math.abs(ticks[1] - ticks[0]) : 0, most = Math.max(...ticks.map(Math.abs));
  if (!step || step < 1e-3 || most >= 1000) return ticks.map(short);
  const digits = [0, 1, 2, 3, 4].find((d) => Math.abs(step * 10 ** d - Math.round(step * 10 ** d)) < 1e-6);
  return ticks.map((tick) => tick.toFixed(digits === undefined ? 4 : digits));
}
function smoothed(points, weight) {
  if (!weight) return points;
  let held = 0, mass = 0;
  return points.map(([x, y]) => { held = weight * held + (1 - weight) * y; mass = weight * mass + 1 - weight; return [x, held / mass]; });
}

class Chart {
  constructor(spec, board) {
    this.spec = spec;
    this.board = board;
    this.series = spec.series.filter((series) => series.points.length);
    this.keys = el("div", { class: "keys" });
    this.svg = svg("svg", { role: "img", "aria-label": spec.title });
    this.root = el("section", { class: `card chart ${spec.wide ? "wide" : spec.small ? "small" : ""}` },
      el("div", { class: "title" }, el("b", {}, spec.title), el("span", { class: "unit" }, spec.unit || ""), this.keys), this.svg);
    this.svg.addEventListener("pointermove", (event) => board.hover(this.stepAt(event)));
    this.svg.addEventListener("pointerdown", (event) => board.hover(this.stepAt(event)));
    this.svg.addEventListener("pointerleave", () => board.hover(null));
    new ResizeObserver(() => requestAnimationFrame(() => this.draw())).observe(this.root);
  }
  stepAt(event) {
    const box = this.svg.getBoundingClientRect(), { left, width } = this.frame;
    return this.board.low + Math.max(0, Math.min(1, (event.clientX - box.left - left) / width)) * (this.board.high - this.board.low);
  }
  draw() {
    const whole = this.svg.clientWidth || this.root.clientWidth - 30, height = this.spec.wide ? 262 : 176;
    if (whole < 40) return;
    const log = this.board.log && this.spec.log !== false;
    const values = this.series.flatMap((series) => series.points.map((point) => point[1]));
    if (this.spec.yard) values.push(this.spec.yard.value);
    const usable = log ? values.filter((v) => v > 0) : values;
    let low = Math.min(...usable), high = Math.max(...usable);
    if (!usable.length) return;
    if (low === high) { low -= Math.abs(low) * .1 || 1; high += Math.abs(high) * .1 || 1; if (log) low = Math.max(low, high / 10); }
    const pad = log ? 0 : (high - low) * .05;
    if (log) { low *= .96; high *= 1.04; } else { low = low >= 0 && low - pad < 0 ? 0 : low - pad; high += pad; }
    const ticks = log ? logTicks(low, high) : niceTicks(low, high, this.spec.wide ? 5 : 4);
    const labels = log ? ticks.map(short) : tickLabels(ticks);
    const left = 10 + 6.4 * Math.max(...labels.map((label) => label.length)), top = 8, bottom = 24;
    const width = whole - left - 8, tall = height - top - bottom, scale = log ? Math.log : (v) => v;
    this.frame = { left, width };
    const x = (step) => left + width * (step - this.board.low) / Math.max(this.board.high - this.board.low, 1e-9);
    const y = (v) => top + tall * (1 - (scale(v) - scale(low)) / (scale(high) - scale(low)));
    this.x = x; this.y = y; this.isLog = log;
    const parts = [];
    for (const [i, tick] of ticks.entries()) {
      parts.push(svg("line", { class: "grid", x1: left, x2: left + width, y1: y(tick), y2: y(tick) }),
        svg("text", { x: left - 7, y: y(tick) + 4, "text-anchor": "end" }, labels[i]));
    }
    for (const tick of niceTicks(this.board.low, this.board.high, Math.max(2, Math.floor(width / 110)))) {
      const at = x(tick), anchor = at > left + width - 14 ? "end" : at < left + 14 ? "start" : "middle";
      parts.push(svg("text", { x: at, y: height - 6, "text-anchor": anchor }, short(tick)));
    }
    if (this.spec.yard) {
      const at = y(this.spec.yard.value);
      parts.push(svg("line", { class: "yard", x1: left, x2: left + width, y1: at, y2: at }),
        svg("text", { class: "yard-name", x: left + width - 4, y: at - 6 < top + 6 ? at + 14 : at - 6, "text-anchor": "end" },
          `${this.spec.yard.name} ${short(this.spec.yard.value)}`));
    }
    for (const series of this.series) parts.push(...this.curve(series, log));
    this.marker = svg("g", {});
    this.svg.setAttribute("viewBox", `0 0 ${whole} ${height}`);
    this.svg.style.height = `${height}px`;
    this.svg.replaceChildren(...parts, this.marker);
    this.mark(this.board.at);
  }
  weightOf(series) { return series.dots || this.spec.exact ? 0 : this.board.smoothing; }
  curve(series, log) {
    const path = (points) => points.filter((p) => !log || p[1] > 0)
      .map(([sx, sy], i) => `${i ? "L" : "M"}${this.x(sx).toFixed(1)} ${this.y(sy).toFixed(1)}`).join("");
    const weight = this.weightOf(series), parts = [];
    if (weight) parts.push(svg("path", { d: path(series.points), stroke: series.colour, "stroke-width": 1, opacity: .25 }));
    parts.push(svg("path", { d: path(smoothed(series.points, weight)), stroke: series.colour, "stroke-width": 1.9 }));
    if (series.dots && series.points.length < 80 || series.points.length === 1) {
      for (const [sx, sy] of series.points) {
        if (log && sy <= 0) continue;
        parts.push(svg("circle", { cx: this.x(sx), cy: this.y(sy), r: 3.2, fill: series.colour, stroke: "var(--card)", "stroke-width": 1.2 }));
      }
    }
    return parts;
  }
  mark(step) {
    if (!this.marker) return;
    this.marker.replaceChildren();
    const chosen = this.series.map((series) => {
      const points = smoothed(series.points, this.weightOf(series));
      return step === null ? points[points.length - 1]
        : points.reduce((best, point) => Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best);
    });
    this.keys.replaceChildren(...this.series.map((series, i) => {
      const swatch = el("i", { class: series.dots ? "dots" : "" });
      swatch.style.background = series.colour;
      return el("span", {}, swatch, series.label, el("b", {}, exact(chosen[i][1])));
    }));
    if (step === null) return;
    const main = chosen[0][0];
    this.marker.append(svg("line", { class: "at", x1: this.x(main), x2: this.x(main), y1: 4, y2: this.svg.clientHeight - 22 }));
    this.keys.prepend(el("span", {}, `step ${main.toLocaleString("en")}`));
    chosen.forEach(([sx, sy], i) => {
      if (this.isLog && sy <= 0) return;
      this.marker.append(svg("circle", { cx: this.x(sx), cy: this.y(sy), r: 4, fill: this.series[i].colour, stroke: "var(--card)", "stroke-width": 1.5 }));
    });
  }
}

class Board {
  constructor(data) {
    const history = data.history, steps = history.map((line) => line.step);
    this.low = Math.min(0, ...steps);
    this.high = Math.max(1, ...steps);
    this.smoothing = history.filter((line) => "loss" in line).length > 40 ? .6 : 0;
    this.log = false;
    this.at = null;
    const of = (key, label, colour, dots = false) => ({ label, colour, dots,
      points: history.filter((line) => typeof line[key] === "number").map((line) => [line.step, line[key]]) });
    const yard = data.yardstick ? { name: "counting tokens alone", value: data.yardstick } : null;
    const specs = [
      { title: "Bound", unit: "nats per token, less is better", wide: true, yard,
        series: [of("nll", "training", "var(--accent)"), of("eval_nll", "evaluation", "var(--second)", true)] },
      { title: "Loss", unit: data.loss_unit, series: [of("loss", "training", "var(--accent)"), of("eval_loss", "evaluation", "var(--second)", true)] },
      { title: "Cross-entropy of masked tokens", unit: "nats", series: [of("unscaled_loss", "training", "var(--accent)"),
        of("eval_unscaled_loss", "evaluation", "var(--second)", true)] },
      { title: "Learning rate", small: true, exact: true, unit: "", series: [of("learning_rate", "", "var(--good)")] },
      { title: "Gradient norm", small: true, unit: "before clipping", series: [of("grad_norm", "", "var(--warn)")] },
      { title: "Throughput", small: true, unit: "tokens per second", series: [of("tokens_per_second", "", "var(--accent)"),
        of("padded_tokens_per_second", "with padding", "var(--second)")] },
      { title: "Utilisation", small: true, unit: "per cent of the peak", log: false, series: [of("mfu", "", "var(--good)")] },
      { title: "Where the time goes", unit: "per cent", log: false, series: [of("time_data", "data", "var(--warn)"),
        of("time_forward", "forward", "var(--accent)"), of("time_backward", "backward", "var(--second)"),
        of("time_optimizer", "optimizer", "var(--good)")] },
    ];
    this.charts = specs.filter((spec) => spec.series.some((series) => series.points.length)).map((spec) => new Chart(spec, this));
    this.root = el("div", { class: "charts" }, this.charts.map((chart) => chart.root));
  }
  hover(step) {
    this.at = step;
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => { this.waiting = null; for (const chart of this.charts) chart.mark(this.at); });
  }
  redraw() { for (const chart of this.charts) chart.draw(); }
  controls() {
    const range = el("input", { type: "range", min: 0, max: .98, step: .02, value: this.smoothing, "aria-label": "Smoothing",
      oninput: () => { this.smoothing = Number(range.value); paint(); this.redraw(); } });
    const paint = () => range.style.setProperty("--part", `${100 * this.smoothing / .98}%`);
    paint();
    const buttons = [["linear", false], ["log", true]].map(([name, log]) => el("button", { "aria-pressed": String(this.log === log),
      onclick: () => { this.log = log; buttons.forEach((b) => b.setAttribute("aria-pressed", String(b.textContent === name))); this.redraw(); } }, name));
    return [el("label", {}, "smoothing", range), el("span", { class: "choice" }, buttons)];
  }
}

// --- the page from top to bottom

const last = (history, key) => { const found = history.filter((line) => typeof line[key] === "number"); return found[found.length - 1]; };
const first = (history, key) => history.find((line) => typeof line[key] === "number");
function median(values) { const sorted = [...values].sort((a, b) => a - b); return sorted[Math.floor(sorted.length / 2)]; }

function header(data) {
  const silent = data.state === "running" && Date.now() - Date.parse(data.updated) > 15 * 60e3;
  const words = { running: "running", finished: "finished", stopped: "stopped" };
  const pill = el("span", { class: `pill ${silent ? "silent" : data.state}` }, el("i"), silent ? "no news" : words[data.state] || data.state);
  const top = el("div", { class: "top" }, brand("run report"), el("div", { class: "space" }), pill);
  if (data.state === "running" && !silent) top.append(follow());
  top.append(themeButton());
  const part = data.max_steps ? Math.min(1, data.step / data.max_steps) : 0, fill = el("i");
  fill.style.width = `${100 * part}%`;
  const words2 = [`step ${data.step.toLocaleString("en")} of ${data.max_steps.toLocaleString("en")}`];
  if (data.epoch) words2.push(`epoch ${data.epoch.toFixed(2)}`);
  const left = data.state === "running" && data.seconds_left ? `about ${clock(data.seconds_left)} left` : data.reason || "";
  return [top, el("h1", {}, data.title), el("p", { class: "sub" }, data.subtitle),
    el("div", { class: "progress" }, el("div", { class: "track" }, fill), el("div", { class: "words" },
      el("span", {}, words2.join(" · ")), el("span", {}, left), el("span", {}, `${clock(data.seconds)} so far · written ${new Date(data.updated).toLocaleString()}`)))];
}

// A page opened from a file can only look for news by loading itself again.
function follow() {
  let on = true;
  try { on = sessionStorage.getItem("unmask-follow") !== "off"; } catch { /* a file may not keep anything */ }
  const box = el("input", { type: "checkbox", checked: on, onchange: () => {
    try { sessionStorage.setItem("unmask-follow", box.checked ? "on" : "off"); } catch { /* as above */ } } });
  setInterval(() => { if (box.checked && !document.hidden && !(shownPlayer && shownPlayer.playing)) location.reload(); }, 20000);
  return el("label", { class: "soft hide-narrow", title: "Load this page again every 20 seconds" }, box, " follow");
}

function tile(name, value, unit, note) {
  return el("div", { class: "card tile" }, el("div", { class: "name" }, name), el("div", { class: "value" }, value),
    el("div", { class: "note" }, [unit, note].filter(Boolean).join(", ")));
}

function tiles(data) {
  const history = data.history, found = [];
  const evaluated = last(history, "eval_nll"), trained = last(history, "nll"), began = first(history, "nll");
  if (evaluated) {
    const all = history.filter((line) => typeof line.eval_nll === "number");
    const best = all.reduce((a, b) => (b.eval_nll < a.eval_nll ? b : a));
    found.push(tile("Bound, unseen rows", evaluated.eval_nll.toFixed(3), "nats/token",
      best.step === evaluated.step ? "the best so far" : `best ${best.eval_nll.toFixed(3)} at step ${best.step.toLocaleString("en")}`));
  }
  if (trained) found.push(tile("Bound, training rows", trained.nll.toFixed(3), "nats/token", `began at ${began.nll.toFixed(2)}`));
  if (data.yardstick) found.push(tile("Counting tokens", data.yardstick.toFixed(3), "nats/token", "to be beaten"));
  const speeds = history.map((line) => line.tokens_per_second).filter((v) => typeof v === "number");
  if (speeds.length) found.push(tile("Throughput", short(median(speeds)), "tokens/s", "median of the reports"));
  if (data.memory && data.memory.peak) found.push(tile("Peak memory", bytes(data.memory.peak), "", data.memory.where));
  if (data.trainable) {
    found.push(tile("Trained weights", short(data.trainable), "", data.trainable === data.parameters ? "all of them"
      : `${(100 * data.trainable / data.parameters).toFixed(2)} % of ${short(data.parameters)}`));
  }
  return el("div", { class: "tiles" }, found);
}

let shownPlayer = null;
function samples(data) {
  if (!data.samples.length) return data.samples_note ? [el("div", { class: "head" }, el("h2", {}, "Samples")), el("p", { class: "soft" }, data.samples_note)] : [];
  const place = el("div"), chips = data.samples.map((sample, i) => el("button", { onclick: () => choose(i) },
    sample.step ? `step ${sample.step.toLocaleString("en")}` : "before training"));
  const choose = (i) => {
    chips.forEach((chip, j) => chip.setAttribute("aria-pressed", String(i === j)));
    if (shownPlayer) shownPlayer.pause();
    const sample = data.samples[i];
    shownPlayer = new Player(sample.recording, { titles: sample.recording.rows.map((row) => row.title) });
    place.replaceChildren(shownPlayer.root);
  };
  choose(data.samples.length - 1);
  return [el("div", { class: "head" }, el("h2", {}, "Samples"), el("span", { class: "soft" }, data.samples_note || "")),
    el("div", { class: "sampled" }, chips), place, data.samples.length > 1 ? progress(data.samples) : null];
}

// One prompt after another, what became of it as training went on.
function progress(groups) {
  const rows = groups[groups.length - 1].recording.rows;
  return el("details", { class: "card story" }, el("summary", {}, "The same prompts through the run"), rows.map((row, number) =>
    el("div", {}, el("h3", {}, row.title), el("ol", {}, groups.map((group) => {
      const then = group.recording.rows[number];
      return el("li", {}, el("span", {}, `step ${short(group.step)}`), el("div", {}, then ? then.text : ""));
    }), row.expected ? el("li", { class: "wanted" }, el("span", {}, "expected"), el("div", {}, row.expected)) : null))));
}

function panel(title, rows, wide) {
  return el("section", { class: `card panel ${wide ? "wide" : ""}` }, el("h3", {}, title),
    el("dl", {}, rows.flatMap(([name, value]) => [el("dt", {}, name), el("dd", {}, String(value))])));
}

const SHARES = ["var(--accent)", "var(--second)", "var(--good)", "var(--warn)", "var(--faint)"];
function memoryPanel(memory) {
  const parts = (memory.parts || []).filter(([, size]) => size > 0), total = parts.reduce((sum, [, size]) => sum + size, 0);
  const bar = el("div", { class: "stack" }), names = el("div", { class: "swatches" });
  parts.forEach(([name, size], i) => {
    const share = el("i"), swatch = el("i");
    share.style.width = `${100 * size / total}%`;
    share.style.background = swatch.style.background = SHARES[i % SHARES.length];
    bar.append(share);
    names.append(el("span", {}, swatch, name, el("b", {}, bytes(size))));
  });
  const measured = memory.peak ? `measured peak ${bytes(memory.peak)} (${memory.where})` : "";
  return el("section", { class: "card panel wide" }, el("h3", {}, "Memory"),
    el("p", { class: "soft" }, [total ? `estimated ${bytes(memory.estimate)} ${memory.per || ""}` : "", measured].filter(Boolean).join(" · ")),
    total ? bar : null, total ? names : null);
}

function commandPanel(command) {
  const copy = el("button", { class: "button", onclick: async () => {
    try { await navigator.clipboard.writeText(command); copy.textContent = "copied"; }
    catch { getSelection().selectAllChildren(line); copy.textContent = "selected"; }
    setTimeout(() => { copy.textContent = "copy"; }, 1500);
  } }, "copy");
  const line = el("pre", {}, command);
  return el("section", { class: "card panel wide" }, el("h3", {}, "The same run again"), el("div", { class: "command" }, line, copy));
}

function settings(rows) {
  return el("details", { class: "card fold" }, el("summary", {}, "All settings"),
    el("p", { class: "soft" }, "Coloured: other than the default."),
    el("div", { class: "settings" }, rows.map(([name, value, changed]) =>
      el("div", { class: changed ? "ours" : "" }, el("span", { class: "mono" }, name), el("b", { class: "mono" }, value)))));
}

function drawReport(data) {
  const board = data.history.length ? new Board(data) : null;
  const curves = board ? [el("div", { class: "head" }, el("h2", {}, "Curves"), el("div", { class: "space" }), board.controls()), board.root]
    : [el("p", { class: "soft" }, "Nothing has been reported yet.")];
  const facts = data.panels.map(([title, rows]) => panel(title, rows));
  document.getElementById("page").append(...[header(data), tiles(data), curves, samples(data),
    el("div", { class: "head" }, el("h2", {}, "The run")),
    el("div", { class: "panels" }, data.command ? commandPanel(data.command) : null, facts, data.memory ? memoryPanel(data.memory) : null),
    settings(data.settings), el("p", { class: "foot" }, `Written by unmask ${data.version}. This file is complete in itself: it asks nothing of any network.`),
  ].flat(3).filter(Boolean));
  document.title = `${data.title} · ${data.state === "running" ? `${Math.floor(100 * data.step / Math.max(data.max_steps, 1))} %` : data.state}`;
}
drawReport(JSON.parse(document.getElementById("data").textContent));
