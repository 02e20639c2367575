
"use strict";
// What the page does: threshold, wall, detail, layers, theme. Text goes into it as text only, never as markup.
(() => {
const byId = (id) => document.getElementById(id);
const data = JSON.parse(byId("data").textContent);
const wall = data.wall;
const BATCH = innerWidth < 700 ? 24 : 60;

const make = (tag, attributes = {}, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === true) element.setAttribute(name, "");
    else if (value !== null && value !== false) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
};
const drawn = (tag, attributes) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
};
const text = (tag, content, attributes) => make(tag, attributes, String(content));
const percent = (share) => {
  const rounded = (100 * share).toFixed(1);
  if (rounded === "100.0" && share < 1) return "> 99.9%";
  return rounded === "0.0" && share > 0 ? "< 0.1%" : `${rounded}%`;
};
const number = (value) => value.toLocaleString("en");
const name = (place) => (place < 0 ? "" : wall.classes[place]);
const option = (value, label) => text("option", label, { value });
const isWrong = (n) => wall.label[n] >= 0 && wall.prediction[n] >= 0 && wall.label[n] !== wall.prediction[n];
const probability = (n) => (wall.probability[n] === null ? null : wall.probability[n] / 1e6);

// Theme: as the system says, or light, or dark.
const themes = ["auto", "light", "dark"];
const theme = byId("theme");
const setTheme = (chosen) => {
  if (chosen === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = chosen;
  theme.textContent = `Theme: ${chosen}`;
};
theme.hidden = false;
theme.addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  setTheme(themes[(themes.indexOf(now) + 1) % themes.length]);
});

// Pictures: a thumbnail with the place where the model looked; the rest is darkened.
const spotlight = (n) => {
  const values = Uint8Array.from(atob(wall.attention[n]), (letter) => letter.charCodeAt(0));
  const rows = wall.rows[n], columns = values.length / rows;
  const small = make("canvas", { width: columns, height: rows });
  const pixels = new ImageData(columns, rows);
  values.forEach((value, place) => { pixels.data[4 * place + 3] = 184 * (1 - Math.sqrt(value / 255)); });
  small.getContext("2d").putImageData(pixels, 0, 0);
  const canvas = make("canvas", { width: 112, height: 112, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.drawImage(small, 0, 0, 112, 112);
  return canvas;
};
const look = (pic) => {
  const n = Number(pic.dataset.n);
  if (wall.attention[n] && !pic.querySelector("canvas")) pic.append(spotlight(n));
};
const pic = (n) => make("span", { class: "pic", "data-n": n },
  wall.thumbnail[n] ? make("img", { src: wall.thumbnail[n], alt: "", decoding: "async" })
    : text("small", wall.path[n]));
const said = (n) => [
  wall.path[n],
  wall.prediction[n] >= 0 ? `predicted ${name(wall.prediction[n])} ${percent(probability(n) ?? 0)}` : null,
  wall.label[n] >= 0 ? `true ${name(wall.label[n])}` : null,
].filter(Boolean).join(", ");
const opener = (n) => make("button", { type: "button", "data-open": n, "aria-label": said(n), title: wall.path[n] }, pic(n));
document.addEventListener("pointerover", (event) => event.target.closest?.("button")?.querySelectorAll(".pic").forEach(look));
document.addEventListener("focusin", (event) => event.target.querySelectorAll?.(":scope > .pic").forEach(look));

// Threshold.
const slider = byId("threshold");
let threshold = 0;
const setThreshold = () => {
  const [at, kept, right, low, high, x, dotX, dotY] = data.thresholds[slider.value];
  const total = data.thresholds[0][1];
  threshold = at;
  slider.setAttribute("aria-valuetext", `${at}`);
  const share = data.has_truth && kept
    ? ` ${percent(right / kept)} of them are right (${percent(low)} to ${percent(high)}).` : "";
  byId("kept").textContent = `At ${at}: ${number(kept)} of ${number(total)} pictures are kept ` +
    `(${percent(kept / Math.max(total, 1))}).${share} ${number(total - kept)} go to a person.`;
  for (const bar of document.querySelectorAll("#histogram rect")) bar.classList.toggle("out", Number(bar.dataset.upto) <= at + 1e-9);
  const mark = document.querySelector("#histogram .mark");
  mark.setAttribute("d", mark.getAttribute("d").replace(/^M[\d.]+/, `M${x}`));
  byId("at")?.setAttribute("cx", dotX);
  byId("at")?.setAttribute("cy", dotY);
};
if (slider) {
  slider.addEventListener("input", () => { setThreshold(); if (filters?.elements.range.value) show(); });
  setThreshold();
}

// Curves of another class.
byId("curve")?.addEventListener("change", (event) => {
  const of = data.curves[event.target.value];
  for (const [id, path, what, area] of [["roc", of.roc, "area", of.roc_area], ["recall", of.recall, "average precision", of.average_precision]]) {
    const figure = byId(id);
    figure.querySelector(".line.validation").setAttribute("d", path);
    figure.querySelector(".summary").textContent = `${what} ${area.toFixed(3)}`;
    figure.querySelector("svg").setAttribute("aria-label", `${of.name}: ${what} ${area.toFixed(3)}`);
  }
});

// The wall: filters give an order, of which so many are shown.
const filters = byId("filters");
const tiles = byId("tiles");
let order = [];
let numShown = 0;
const nullLast = (values, sign) => (a, b) => {
  if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null) || a - b;
  return sign * (values[a] - values[b]) || a - b;
};
const shuffled = (seed) => {
  // Mulberry32: the same seed gives the same order everywhere.
  let state = seed >>> 0;
  return wall.path.map(() => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  });
};
const sorts = {
  mistakes: () => (a, b) => isWrong(b) - isWrong(a) || nullLast(wall.probability, isWrong(a) ? -1 : 1)(a, b),
  uncertain: () => nullLast(wall.probability, 1),
  doubt: () => nullLast(wall.doubt, -1),
  typical: () => nullLast(wall.typical, -1),
  unusual: () => nullLast(wall.typical, 1),
  random: (seed) => nullLast(shuffled(seed), 1),
  path: () => (a, b) => (wall.path[a] < wall.path[b] ? -1 : 1),
};
const chosen = () => {
  const value = (field) => filters.elements[field]?.value ?? "";
  const members = value("group") === "" ? null : new Set(data.groups[value("group")].members);
  const tests = {
    result: (n, wanted) => wall.label[n] >= 0 && isWrong(n) === (wanted === "wrong"),
    label: (n, wanted) => wall.label[n] === Number(wanted),
    prediction: (n, wanted) => wall.prediction[n] === Number(wanted),
    status: (n, wanted) => wall.status[n] === wanted,
    range: (n, wanted) => probability(n) !== null && (probability(n) < threshold) === (wanted === "below"),
  };
  const active = Object.entries(tests).filter(([field]) => value(field) !== "");
  const split = value("split");
  return [...wall.path.keys()].filter((n) =>
    (members ? members.has(n) && (split === "" || wall.split[n] === split)
      : split === "" ? wall.split[n] !== "train" : wall.split[n] === split) &&
    active.every(([field, test]) => test(n, value(field))));
};
const tile = (n) => {
  const button = opener(n);
  const item = make("li", { class: isWrong(n) ? "tile is-wrong" : "tile" }, button);
  const caption = make("span", { class: "cap" },
    make("b", {}, text("bdi", name(wall.prediction[n] >= 0 ? wall.prediction[n] : wall.label[n]))),
    text("span", probability(n) === null ? "" : percent(probability(n))));
  button.append(caption);
  if (isWrong(n)) button.append(make("span", { class: "miss" }, "\u2715 true: ", text("bdi", name(wall.label[n]))));
  return item;
};
const showMore = () => {
  tiles.append(...order.slice(numShown, numShown + BATCH).map(tile));
  numShown = Math.min(order.length, numShown + BATCH);
  byId("more").hidden = numShown >= order.length;
  byId("more").textContent = `Show ${Math.min(BATCH, order.length - numShown)} more of ${number(order.length)}`;
  if (tiles.classList.contains("looked")) tiles.querySelectorAll(".pic").forEach(look);
};
const show = () => {
  const seed = Number(filters.elements.seed.value) || 0;
  filters.querySelector("[data-for=random]").hidden = filters.elements.sort.value !== "random";
  order = chosen().sort(sorts[filters.elements.sort.value](seed));
  numShown = 0;
  tiles.replaceChildren();
  showMore();
  const total = wall.split.filter((split) => (split === "train") === (filters.elements.split.value === "train")).length;
  byId("shown").textContent = `${number(order.length)} of ${number(total)} pictures` +
    (filters.elements.range.value ? `, threshold ${threshold}` : "");
  for (const button of document.querySelectorAll("[data-cell]")) {
    const [label, prediction] = button.dataset.cell.split(",");
    button.setAttribute("aria-pressed",
      filters.elements.label?.value === label && filters.elements.prediction.value === prediction);
  }
};
const fill = (field, pairs) => {
  const select = filters.elements[field];
  if (!select) return;
  select.append(...pairs.map(([value, label]) => option(value, label)));
  select.parentElement.hidden = pairs.length < (field === "group" ? 1 : 2);
};
const goToWall = () => byId("wall").scrollIntoView();
if (filters) {
  filters.hidden = false;
  const different = (values) => [...new Set(values)].sort().map((value) => [value, value]);
  const classes = wall.classes.map((label, place) => [place, label]);
  fill("label", classes);
  fill("prediction", classes);
  fill("split", different(wall.split));
  fill("status", different(wall.status.filter((_, n) => wall.split[n] !== "train")));
  fill("group", data.groups.map((group, place) => [place, `${group.kind}: ${group.name} (${group.members.length})`]));
  if (wall.typical.every((value) => value === null)) {
    filters.querySelectorAll("[value=typical], [value=unusual]").forEach((sort) => sort.remove());
  }
  filters.addEventListener("input", show);
  filters.addEventListener("reset", () => setTimeout(show));
  filters.addEventListener("submit", (event) => event.preventDefault());
  byId("more").addEventListener("click", () => {
    const first = numShown;
    showMore();
    tiles.children[first]?.querySelector("button").focus({ preventScroll: true });
  });
  byId("attention").addEventListener("click", (event) => {
    const isOn = tiles.classList.toggle("looked");
    event.target.setAttribute("aria-pressed", isOn);
    if (isOn) tiles.querySelectorAll(".pic").forEach(look);
  });
  byId("attention").hidden = !wall.attention.some(Boolean);
  show();
}
document.addEventListener("click", (event) => {
  const cell = event.target.closest("[data-cell]");
  const group = event.target.closest("button[data-group]");
  const opened = event.target.closest("[data-open]");
  if (cell && filters) {
    const [label, prediction] = cell.dataset.cell.split(",");
    const isOn = cell.getAttribute("aria-pressed") === "true";
    filters.reset();
    filters.elements.label.value = isOn ? "" : label;
    filters.elements.prediction.value = isOn ? "" : prediction;
    if (!isOn) goToWall();
  } else if (group && filters) {
    filters.reset();
    filters.elements.group.value = group.dataset.group;
    goToWall();
  } else if (opened) {
    open(Number(opened.dataset.open));
  }
});
for (const place of document.querySelectorAll("[data-place]")) place.append(opener(Number(place.dataset.place)));

// One picture, with the next ones of the wall by arrow keys.
const dialog = byId("detail");
let current = 0;
let isLooking = false;
const bars = (n) => {
  const list = make("div", { class: "bars" });
  for (let at = 0; at < wall.top[n].length; at += 2) {
    const [place, share] = [wall.top[n][at], wall.top[n][at + 1] / 1e6];
    const svg = drawn("svg", { viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    svg.append(drawn("rect", { width: 100 * share, height: 10 }));
    list.append(text("bdi", name(place)), svg, text("span", percent(share)));
  }
  return list;
};
const near = ([place, label, similarity]) => make("li", {},
  typeof place === "number" ? opener(place) : text("span", place),
  text("bdi", name(label)), ` ${(similarity / 1000).toFixed(3)}`);
const facts = (n) => {
  const [brightness, contrast, sharpness] = wall.looks[n].map((value) => (value === null ? null : value / 1000));
  return [
    wall.split[n], wall.status[n] === "scored" ? null : wall.status[n], wall.size[n] || null,
    brightness === null ? null : `brightness ${brightness}`, contrast === null ? null : `contrast ${contrast}`,
    sharpness === null ? null : `sharpness ${sharpness}`,
    wall.typical[n] === null ? null : `typicality ${(wall.typical[n] / 1e4).toFixed(3)}`,
    ...data.groups.filter((group) => group.members.includes(n)).map((group) => `${group.kind}: ${group.name}`),
  ].filter(Boolean).join(" \u00b7 ");
};
const verdict = (n) => {
  if (wall.prediction[n] < 0) return ["true: ", text("bdi", name(wall.label[n]))];
  const parts = [text("bdi", name(wall.prediction[n])), ` ${percent(probability(n) ?? 0)}`];
  return wall.label[n] < 0 ? parts : [...parts, isWrong(n) ? "; true: " : "; right", isWrong(n) ? text("bdi", name(wall.label[n])) : ""];
};
const fillDialog = () => {
  const n = current, at = order.indexOf(n);
  const big = make("button", { type: "button", class: "big", "data-look": true, "aria-pressed": isLooking,
    "aria-label": `${said(n)}; where the model looked` }, pic(n));
  const control = (label, what) => text("button", label, { type: "button", "data-do": what, autofocus: what === "1" });
  const nearest = wall.nearest[n].map(near);
  dialog.replaceChildren(
    make("div", { class: "head" }, text("span", at < 0 ? "" : `${number(at + 1)} of ${number(order.length)}`, { role: "status" }),
      control("Previous", "-1"), control("Next", "1"), control("Close", "close")),
    make("div", { class: "both" },
      make("div", {}, big, wall.attention[n] ? text("small", "Press the picture (or A) for where the model looked.") : null),
      make("div", {}, make("p", { class: "verdict" }, ...verdict(n)), make("p", {}, text("bdi", wall.path[n])), bars(n),
        text("small", facts(n)), nearest.length ? text("h3", "Nearest training pictures, with cosine similarity") : null,
        nearest.length ? make("ul", { class: "near" }, ...nearest) : null)));
  setLook();
};
const setLook = () => {
  const big = dialog.querySelector(".big .pic");
  look(big);
  big.classList.toggle("looked", isLooking);
  dialog.querySelector(".big").setAttribute("aria-pressed", isLooking);
};
const open = (n) => {
  current = n;
  fillDialog();
  if (!dialog.open) dialog.showModal();
};
const step = (by) => {
  const at = order.indexOf(current);
  const next = order[(at + by + order.length) % order.length];
  if (next === undefined) return;
  const focused = document.activeElement?.dataset.do;
  open(next);
  dialog.querySelector(focused ? `[data-do="${focused}"]` : ".big").focus();
};
dialog.addEventListener("keydown", (event) => {
  if (event.altKey || event.ctrlKey || event.metaKey) return;
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") { event.preventDefault(); step(event.key === "ArrowRight" ? 1 : -1); }
  else if (event.key.toLowerCase() === "a") { isLooking = !isLooking; setLook(); }
});
dialog.addEventListener("click", (event) => {
  const control = event.target.closest("[data-do]");
  if (event.target === dialog || control?.dataset.do === "close") dialog.close();
  else if (control) step(Number(control.dataset.do));
  else if (event.target.closest("[data-look]")) { isLooking = !isLooking; setLook(); }
});
dialog.addEventListener("close", () => {
  tiles?.querySelector(`[data-open="${current}"]`)?.focus();
});

// What the layers respond to.
const chooser = (id, pairs, draw) => {
  const select = byId(id);
  select.append(...pairs.map(([value, label]) => option(value, label)));
  select.addEventListener("change", () => draw(select.value));
  if (pairs.length) draw(pairs[0][0]);
};
const grouped = (rows, key) => [...Map.groupBy([...rows].sort((a, b) => a.rank - b.rank), (row) => row[key])]
  .sort(([a], [b]) => a - b);
const strip = (heading, rows, caption) => make("div", { class: "block" }, heading,
  make("div", {}, ...rows.map((row) => make("figure", {},
    make("img", { src: row.image, alt: `${row.path}, block ${row.block}, channel ${row.channel}`,
      title: `${row.path}, channel ${row.channel}, response ${row.value === null ? "unknown" : row.value / 1000}` }),
    text("figcaption", caption(row))))));
if (byId("layers")) {
  const [ofPicture, ofChannel] = ["picture", "channel"].map((view) => data.layers.filter((row) => row.view === view));
  const paths = [...new Set(ofPicture.map((row) => row.path))];
  const about = (path) => {
    const n = wall.path.indexOf(path);
    return n < 0 ? path : said(n);
  };
  chooser("layer-picture", paths.map((path) => [path, about(path)]), (path) => {
    const rows = ofPicture.filter((row) => row.path === path);
    const n = wall.path.indexOf(path);
    byId("of-picture").replaceChildren(
      ...(n < 0 ? [] : [make("div", { class: "block" }, "picture", make("div", {}, opener(n)))]),
      ...grouped(rows, "block").map(([block, of]) => strip(`block ${block}`, of, (row) => `channel ${row.channel}`)));
  });
  const blocks = [...new Set(ofChannel.map((row) => row.block))].sort();
  chooser("layer-block", blocks.map((block) => [block, `block ${block}`]), (block) => {
    const rows = ofChannel.filter((row) => row.block === Number(block));
    byId("of-channel").replaceChildren(...grouped(rows, "channel").map(([channel, of]) => strip(`channel ${channel}`, of, () => "")));
  });
}
})();
