// The page of wrong answers: a card for each, with its table, both answers, and a player of how it was written.
// Whatever comes from a model or a user is put on the page as text, never as markup.

const plain = (text) => String(text).toLowerCase().replace(/[\p{P}\p{S}]/gu, "").replace(/\b(a|an|the)\b/g, " ")
  .replace(/\s+/g, " ").trim();
const count = (number) => number.toLocaleString("en");

function sheet(item) {
  const right = new Set([...item.answers, item.gold].map(plain));
  const given = new Set([item.prediction, ...item.prediction.split(", ")].map(plain));
  given.delete("");
  const mark = (cell) => { const text = plain(cell); return right.has(text) ? "gold" : given.has(text) ? "said" : null; };
  const { header, rows, left_out } = item.table;
  const body = rows.map((row) => el("tr", {}, row.map((cell) => el("td", { class: mark(cell) }, cell))));
  const rest = left_out ? `${count(left_out)} ${left_out === 1 ? "row" : "rows"} of this table were not shown to the model` : "";
  return [el("div", { class: "sheet", tabindex: 0 }, el("table", {},
    el("thead", {}, el("tr", {}, header.map((name) => el("th", {}, name)))), el("tbody", {}, body))),
    rest ? el("div", { class: "rest" }, rest) : null];
}

function choices(item) {
  const scores = Object.entries(item.choices), best = Math.max(...scores.map(([, [nats]]) => nats));
  const parts = scores.map(([, [nats]]) => Math.exp(nats - best)), all = parts.reduce((sum, part) => sum + part, 0);
  return el("div", { class: "choices" }, scores.flatMap(([name, [nats, error]], i) => {
    const bar = el("i", { class: plain(name) === plain(item.gold) ? "gold" : null });
    bar.style.width = `${(100 * parts[i]) / all}%`;
    return [el("span", { class: "mono" }, name), el("div", { class: "track" }, bar),
      el("span", { class: "soft" }, `${nats.toFixed(2)}${error ? ` ± ${error.toFixed(2)}` : ""} nats`)];
  }));
}

function answers(item) {
  const said = item.prediction ? el("div", { class: "text" }, item.prediction) : el("div", { class: "none" }, "nothing");
  return el("div", { class: "both" },
    el("div", { class: "right" }, el("div", { class: "name" }, "right answer"), el("div", { class: "text" }, item.gold)),
    el("div", { class: "given" }, el("div", { class: "name" }, "given answer"), said));
}

function card(item, recording, row) {
  const metrics = Object.entries(item.metrics).filter(([, value]) => value > 0 && value < 1)
    .map(([name, value]) => el("span", {}, `${name.replace("_", " ")} ${(100 * value).toFixed(0)} %`));
  const parts = [el("div", { class: "head" }, el("b", {}, `question ${count(item.number)}`),
    item.kind ? el("span", { class: "tag" }, item.kind) : null,
    item.cut_off ? el("span", { class: "tag warn" }, "cut off at max_new_tokens") : null, metrics,
    item.id !== String(item.number - 1) ? el("span", {}, item.id) : null)];
  if (item.before) parts.push(el("div", { class: "before" }, item.before));
  // text of a report may stand between table and question
  const lines = item.question.split("\n\n"), question = lines.pop();
  if (!item.table && lines.length) parts.push(el("div", { class: "before long" }, lines.join("\n\n")));
  parts.push(el("div", { class: "question" }, question), answers(item));
  if (item.choices) parts.push(choices(item));
  if (item.table) parts.push(...sheet(item));
  if (item.table && lines.length) parts.push(el("div", { class: "before long" }, lines.join("\n\n")));
  if (recording) {
    const player = new Player({ ...recording, rows: [row] }, { titles: [""] });
    player.root.classList.remove("card");
    parts.push(el("div", { class: "written" }, player.root));
  }
  return el("article", { class: "card case" }, parts);
}

function drawErrors(data) {
  const facts = Object.entries(data.about).filter(([, value]) => value !== null && value !== "")
    .map(([name, value]) => el("span", {}, `${name} `, el("b", {}, String(value))));
  const cards = data.cases.map((item, i) => card(item, data.recording, data.recording && data.recording.rows[i]));
  const kinds = [...new Set(data.cases.map((item) => item.kind))].sort();
  const show = (kind) => cards.forEach((node, i) => { node.hidden = kind !== "" && data.cases[i].kind !== kind; });
  const chosen = el("select", { "aria-label": "Kind", onchange: () => show(chosen.value) }, el("option", { value: "" }, "all kinds"),
    kinds.map((kind) => el("option", { value: kind }, kind || "other")));
  const key = (colour, name) => {
    const box = el("i", {});
    box.style.background = `var(${colour})`;
    return el("span", { class: "key" }, box, name);
  };
  document.getElementById("page").append(
    el("div", { class: "top" }, brand("errors"), el("div", { class: "space" }), themeButton()),
    el("h1", {}, data.wrong ? `${count(data.wrong)} of ${count(data.asked)} answers are wrong` : "No answer is wrong"),
    el("div", { class: "about" }, facts),
    el("div", { class: "pick" }, kinds.length > 1 ? chosen : null,
      data.cases.length < data.wrong ? `${count(data.cases.length)} of them are shown` : null,
      data.cases.some((item) => item.table) ? [key("--good", "a cell that is right"), key("--second", "a cell that was given")] : null),
    ...cards);
}
drawErrors(JSON.parse(document.getElementById("data").textContent));
