"use strict";
/* Charts as inline SVG. They are redrawn when the width of their box changes; colours come from the style sheet. */

const GROUPS = ["many", "medium", "few"];
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en-US");
const sum = (values) => values.reduce((total, value) => total + value, 0);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

/* ---- numbers ---- */

function percent(value, digits = 2) {
  return value === null || value === undefined ? "–" : value.toFixed(digits);
}

function short(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1000) return number.format(Math.round(value));
  return size >= 0.001 ? String(Number(value.toPrecision(3))) : value.toExponential(1);
}

function niceTicks(low, high, count) {
  const raw = (high - low) / Math.max(count, 1) || 1;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= raw * 0.999);
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) ticks.push(Number((k * step).toPrecision(12)));
  return ticks;
}

function logTicks(high) {
  const ticks = [];
  for (let tick = 1; tick <= high; tick *= 10) ticks.push(tick);
  return ticks;
}

function linear(domain, range) {
  const [a, b] = domain, [c, d] = range, span = b - a || 1;
  return (value) => c + ((value - a) / span) * (d - c);
}

const ruler = document.createElement("canvas").getContext("2d");
ruler.font = "12px system-ui, sans-serif";
const textWidth = (text) => ruler.measureText(text).width * 1.05;

/* ---- the tip ---- */

const tip = byId("tip");

function showTip(event, text) {
  tip.textContent = text;
  tip.hidden = false;
  const box = tip.getBoundingClientRect(), edge = document.documentElement.clientWidth;
  const left = event.clientX + 14 + box.width > edge ? event.clientX - box.width - 14 : event.clientX + 14;
  const top = event.clientY - box.height - 12;
  tip.style.left = `${Math.max(4, left)}px`;
  tip.style.top = `${top < 4 ? event.clientY + 18 : top}px`;
}

function hideTip() {
  tip.hidden = true;
}

/* ---- frames ---- */

/* Draws in every box of this name; returns a function that draws again. */
function chart(name, draw) {
  const all = [...document.querySelectorAll(`[data-chart="${name}"]`)].map((box) => {
    let width = 0;
    const redraw = (always) => {
      const now = Math.floor(box.parentElement.clientWidth);
      if (now && (always || now !== width)) {
        width = now;
        box.replaceChildren();
        draw(box, width);
      }
    };
    redraw(true);
    new ResizeObserver(() => redraw(false)).observe(box.parentElement);
    return redraw;
  });
  return () => all.forEach((redraw) => redraw(true));
}

/* An SVG with axes. x, y: {domain, ticks, format, scale}; hover: (x in pixels, y in pixels) -> text or null. */
function frame(box, width, height, label, x, y, margin = {}) {
  const m = { top: 10, right: 12, bottom: 26, left: 46, ...margin };
  const root = svg("svg", { width, height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  const px = (x.scale || linear)(x.domain, [m.left, width - m.right]);
  const py = (y.scale || linear)(y.domain, [height - m.bottom, m.top]);
  for (const tick of y.ticks) {
    root.append(svg("line", { class: "grid", x1: m.left, x2: width - m.right, y1: py(tick), y2: py(tick) }));
    root.append(svg("text", { x: m.left - 8, y: py(tick) + 4, "text-anchor": "end" }, (y.format || short)(tick)));
  }
  for (const tick of x.ticks) {
    root.append(svg("text", { x: px(tick), y: height - m.bottom + 18, "text-anchor": "middle" }, (x.format || short)(tick)));
  }
  root.append(svg("line", { class: "axis", x1: m.left, x2: width - m.right, y1: height - m.bottom, y2: height - m.bottom }));
  box.append(root);
  return { root, px, py, left: m.left, right: width - m.right, top: m.top, bottom: height - m.bottom, width, height };
}

function onHover(plot, find) {
  const rule = svg("line", { class: "rule", y1: plot.top, y2: plot.bottom, visibility: "hidden" });
  plot.root.append(rule);
  const move = (event) => {
    const box = plot.root.getBoundingClientRect();
    const found = find(event.clientX - box.left, event.clientY - box.top);
    rule.setAttribute("visibility", found && found.x !== undefined ? "visible" : "hidden");
    if (!found) return hideTip();
    if (found.x !== undefined) {
      rule.setAttribute("x1", found.x);
      rule.setAttribute("x2", found.x);
    }
    return showTip(event, found.text);
  };
  plot.root.addEventListener("pointermove", move);
  plot.root.addEventListener("pointerdown", move);
  plot.root.addEventListener("pointerleave", () => { rule.setAttribute("visibility", "hidden"); hideTip(); });
}

const path = (points) => points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");

function nearest(points, value) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < value) low = middle; else high = middle;
  }
  return value - points[low][0] < points[high][0] - value ? low : high;
}

/* ---- lines: series {name: [[x, y], ...]} ---- */

function lines(box, width, label, series, options = {}) {
  const names = Object.keys(series), all = Object.values(series).flat();
  if (!all.length) return void box.append("No values were recorded.");
  if (names.length > 1) {
    box.append(element("ul", { class: "key" }, ...names.map((name, i) => element("li", {}, element("i", { class: `swatch s${i % 3}` }), name))));
  }
  const xs = all.map((point) => point[0]), ys = all.map((point) => point[1]);
  let [low, high] = options.y || [Math.min(0, ...ys), Math.max(...ys)];
  if (high === low) high = low + 1;
  const ticks = niceTicks(low, high, 4);
  high = Math.max(high, options.y ? high : ticks[ticks.length - 1]);
  const domain = options.x || [Math.min(...xs), Math.max(...xs)];
  const plot = frame(box, width, options.height || 210, label, { domain, ticks: niceTicks(...domain, width < 420 ? 4 : 5) }, { domain: [low, high], ticks });
  names.forEach((name, i) => {
    const points = series[name].map(([x, y]) => [plot.px(x), plot.py(y)]);
    plot.root.append(svg("path", { class: `line s${i % 3}`, d: path(points) }));
    if (points.length < 30) for (const [x, y] of points) plot.root.append(svg("circle", { class: `mark s${i % 3}`, cx: x, cy: y, r: 2.4 }));
  });
  const pixels = series[names[0]].map(([x]) => [plot.px(x)]);
  onHover(plot, (x) => {
    const at = series[names[0]][nearest(pixels, x)][0];
    const rows = names.map((name) => `${name} ${short(series[name][nearest(series[name], at)][1])}`);
    return { x: plot.px(at), text: [`${options.unit || ""} ${short(at)}`.trim(), ...rows, ...(options.more ? [options.more(at)] : [])].join("\n") };
  });
}

/* ---- theme and copying ---- */

byId("theme").addEventListener("click", () => {
  const root = document.documentElement;
  const now = root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  root.dataset.theme = now === "dark" ? "light" : "dark";
});

const copy = byId("copy");
if (copy && navigator.clipboard) {
  copy.hidden = false;
  copy.addEventListener("click", () => navigator.clipboard.writeText(byId("command").textContent).then(
    () => { copy.textContent = "Copied"; }, () => { copy.hidden = true; }));
}

for (const image of document.querySelectorAll(".tiles img")) {
  const mark = () => image.classList.toggle("tiny", image.naturalWidth > 0 && image.naturalWidth < 64);
  if (image.complete) mark(); else image.addEventListener("load", mark);
}
