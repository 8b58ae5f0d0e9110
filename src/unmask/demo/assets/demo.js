// The demo's page: figures by kind of question, answers, and how they were written.
// Whatever comes from a model is put on the page as text, never as markup.
"use strict";

const percent = (part) => `${(100 * part).toFixed(0)} %`;
const share = (score) => score.right / Math.max(score.asked, 1);

function tile(name, value, note) {
  return el("div", { class: "card tile" }, el("div", { class: "name" }, name), el("div", { class: "value" }, value),
    el("div", { class: "note" }, note));
}

function part(title, ...content) { return el("section", { class: "part" }, el("h2", {}, title), content); }

function bar(score, [low, high]) {
  const range = el("i", { class: "range" }), filled = el("i", { class: "share" });
  filled.style.width = `${100 * share(score)}%`;
  range.style.left = `${100 * low}%`;
  range.style.width = `${100 * (high - low)}%`;
  return el("div", { class: "track" }, filled, range);
}

function figures(data) {
  const others = Object.keys(data.baselines), head = ["question", "before", "after", "", "95 % interval", ...others];
  const rows = Object.entries(data.after).map(([kind, after]) => {
    const [low, high] = data.intervals[kind];
    return el("tr", { class: kind === "all" ? "all" : "" }, el("td", {}, kind),
      el("td", {}, `${data.before[kind].right} of ${data.before[kind].asked}`), el("td", {}, `${after.right} of ${after.asked}`),
      el("td", { class: "bar" }, bar(after, data.intervals[kind])), el("td", {}, `${percent(low)} to ${percent(high)}`),
      others.map((name) => el("td", {}, percent(share(data.baselines[name][kind])))));
  });
  return el("div", { class: "card figures" }, el("table", {}, el("thead", {}, el("tr", {}, head.map((name) => el("th", {}, name)))),
    el("tbody", {}, rows)));
}

function answer(example) {
  return el("div", { class: "card answer" }, el("h3", {}, example.kind), el("pre", {}, example.whole),
    el("p", {}, el("b", { class: example.is_right ? "right" : "wrong" }, `${example.is_right ? "✓" : "✗"} ${example.answer || "(nothing)"}`),
      example.is_right ? null : el("span", { class: "soft" }, `  right: ${example.expected}`)));
}

function sentence(data) {
  const made = (name, text) => el("p", {}, el("span", { class: "soft" }, `${name}  `), text);
  return el("div", { class: "card answer" }, el("pre", {}, data.filled.given), made("before", data.filled.before), made("after", data.filled.after));
}

// A conversation of one turn ends with its question, below the table.
function asked(row) { return row.prompt[row.prompt.length - 1].content.split("\n").pop(); }

function drawDemo(data) {
  const of = (score) => `${score.right} of ${score.asked}`, seconds = data.seconds;
  document.getElementById("page").append(
    el("div", { class: "top" }, brand("demo"), el("div", { class: "space" }), themeButton()),
    el("h1", {}, "Questions about tables, before and after fine-tuning"),
    el("p", { class: "sub" }, `${data.base}, ${data.parameters.toLocaleString("en")} parameters; a LoRA adapter, ${data.steps.toLocaleString("en")} steps; seed ${data.seed}. `
      + "All figures are of tables that were not trained on."),
    el("div", { class: "tiles" },
      tile("Exact answers before", percent(share(data.before.all)), of(data.before.all)),
      tile("Exact answers after", percent(share(data.after.all)), of(data.after.all)),
      tile("Sentences filled in before", percent(share(data.filled_before)), of(data.filled_before)),
      tile("Sentences filled in after", percent(share(data.filled_after)), of(data.filled_after)),
      tile("Time", `${Math.round(seconds.total)} s`, `of which fine-tuning ${Math.round(seconds["fine-tuning"])} s`)),
    part("Exact match by kind of question", figures(data)),
    part("Some answers", el("div", { class: "answers" }, data.examples.map(answer))),
    part("A sentence with a word missing", sentence(data)),
    part("How answers were written", new Player(data.recording, { keys: true, titles: data.recording.rows.map(asked) }).root),
    el("p", { class: "foot" }, "The training run has a page of its own: ", el("a", { href: "lora/report.html" }, "lora/report.html"),
      ". This file is complete in itself: it asks nothing of any network."));
}
drawDemo(JSON.parse(document.getElementById("data").textContent));
