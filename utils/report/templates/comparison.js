/* The charts and the table of a comparison. */

const { classes } = data;
const size = classes.name.length;
const order = classes.name.map((_, c) => c).sort((a, b) => classes.train[b] - classes.train[a] || a - b);
const other = () => Number(byId("other").value);

function change(c) {
  const [before, after] = [data.accuracies[0][c], data.accuracies[other() + 1][c]];
  return before === null || after === null ? null : after - before;
}

const signed = (value) => (value === null ? "–" : `${value > 0 ? "+" : ""}${value.toFixed(2)}`);

/* ---- by shot group ---- */

chart("groups", (box, width) => {
  const titles = { mean_class: "all classes", many: "many", medium: "medium", few: "few" };
  const names = Object.keys(titles).filter((name) => data.groups.some((run) => run[name]));
  const plot = frame(box, width, 270, "Accuracy by shot group and run", { domain: [0, names.length], ticks: names.map((_, i) => i + 0.5), format: (at) => titles[names[Math.floor(at)]] }, { domain: [0, 100], ticks: [0, 25, 50, 75, 100] }, { top: 24 });
  const room = (plot.right - plot.left) / names.length, count = data.runs.length;
  const bar = Math.min(64, (room * 0.8) / count);
  names.forEach((name, g) => data.groups.forEach((run, r) => {
    if (!run[name]) return;
    const [value, low, high] = run[name];
    const x = plot.left + (g + 0.5) * room + (r - count / 2) * bar;
    const kind = name === "mean_class" ? "accent" : name;
    plot.root.append(svg("rect", { class: `fill ${kind}`, x: x + 1, width: Math.max(bar - 2, 1), y: plot.py(value), height: plot.bottom - plot.py(value), opacity: (1 - (0.62 * r) / Math.max(count - 1, 1)).toFixed(2) }));
    if (low !== null) plot.root.append(svg("line", { class: "whisker", x1: x + bar / 2, x2: x + bar / 2, y1: plot.py(low), y2: plot.py(high) }));
    if (bar > 38) plot.root.append(svg("text", { class: "bar-label", x: x + bar / 2, y: plot.py(high === null ? value : high) - 5, "text-anchor": "middle" }, value.toFixed(1)));
  }));
  onHover(plot, (x) => {
    const g = Math.floor((x - plot.left) / room), r = Math.floor((x - plot.left - (g + 0.5) * room) / bar + count / 2);
    const found = names[g] && data.groups[r] && data.groups[r][names[g]];
    if (!found) return null;
    return { text: `${data.runs[r]}\n${titles[names[g]]}: ${percent(found[0])} %${found[1] === null ? "" : `\n${percent(found[1], 1)} to ${percent(found[2], 1)}`}` };
  });
});

/* ---- by class ---- */

const redraw = chart("differences", (box, width) => {
  const changes = order.map(change), largest = Math.max(1, ...changes.map((value) => Math.abs(value || 0)));
  const y = { domain: [-largest * 1.08, largest * 1.08], ticks: niceTicks(-largest, largest, 4), format: (tick) => (tick > 0 ? `+${short(tick)}` : short(tick)) };
  const ticks = niceTicks(1, size, width < 500 ? 4 : 8).filter((tick) => tick >= 1 && Number.isInteger(tick));
  const plot = frame(box, width, 230, "Difference of each class, largest class first", { domain: [0.5, size + 0.5], ticks, format: (rank) => number.format(rank) }, y);
  plot.root.append(svg("line", { class: "axis", x1: plot.left, x2: plot.right, y1: plot.py(0), y2: plot.py(0) }));
  const dots = ["", "", ""], stroke = size > 3000 ? 3.5 : size > 300 ? 5 : 9;
  order.forEach((c, rank) => {
    if (changes[rank] !== null) dots[classes.group[c]] += `M${plot.px(rank + 1).toFixed(1)} ${plot.py(changes[rank]).toFixed(1)}h0`;
  });
  dots.forEach((d, group) => { if (d) plot.root.append(svg("path", { class: `dots ${GROUPS[group]}`, d, "stroke-width": stroke, "stroke-opacity": size > 300 ? 0.45 : 1 })); });
  onHover(plot, (x) => {
    const rank = Math.ceil(((x - plot.left) / (plot.right - plot.left)) * size);
    if (rank < 1 || rank > size) return null;
    const c = order[rank - 1];
    return { x: plot.px(rank), text: `${classes.name[c]}\n${number.format(classes.train[c])} training images\n${signed(changes[rank - 1])} points` };
  });
});

const columns = [
  { title: "class", text: true, first: "ascending", value: (c) => classes.name[c], cell: (c) => classes.name[c] },
  { title: "group", text: true, first: "ascending", value: (c) => classes.group[c], cell: groupName },
  { title: "training", value: (c) => classes.train[c], cell: (c) => number.format(classes.train[c]) },
  { title: "test", value: (c) => classes.test[c], cell: (c) => number.format(classes.test[c]) },
  { title: "first run", value: (c) => data.accuracies[0][c], cell: (c) => weakly(percent(data.accuracies[0][c]), classes.test[c]) },
  { title: "this run", value: (c) => data.accuracies[other() + 1][c], cell: (c) => weakly(percent(data.accuracies[other() + 1][c]), classes.test[c]) },
  { title: "difference", value: change, cell: (c) => element("span", change(c) > 0 ? { class: "gain" } : change(c) < 0 ? { class: "wrong" } : {}, signed(change(c))) },
];
if (data.differences[0].p.length) {
  columns.push(
    { title: "better / worse", value: (c) => data.differences[other()].wins[c] + data.differences[other()].losses[c], cell: (c) => `${data.differences[other()].wins[c]} / ${data.differences[other()].losses[c]}` },
    { title: "p", first: "ascending", value: (c) => data.differences[other()].p[c], cell: (c) => short(data.differences[other()].p[c]) },
  );
}
const render = classTable(columns, 6);
byId("other").addEventListener("change", () => { render(); redraw(); });
