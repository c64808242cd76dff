/* The charts and the table of one test. */

const { classes } = data;
const size = classes.name.length;
const order = classes.name.map((_, c) => c).sort((a, b) => classes.train[b] - classes.train[a] || a - b);

function about(c) {
  const accuracy = classes.accuracy[c] === null ? "no test images" : `accuracy ${percent(classes.accuracy[c])} % of ${number.format(classes.test[c])} images`;
  return `${classes.name[c]}\n${number.format(classes.train[c])} training images\n${accuracy}`;
}

/* ---- curves ---- */

if (data.curves) {
  const { loss, accuracy, lr, unit } = data.curves;
  const xs = [loss, accuracy, lr].flatMap((series) => Object.values(series)).flat().map((point) => point[0]);
  const x = [0, Math.max(...xs, 0)];
  chart("loss", (box, width) => lines(box, width, "Loss during training", loss, { unit, x }));
  chart("accuracy", (box, width) => lines(box, width, "Accuracy during training, percent", accuracy, { unit, x, y: [0, 100] }));
  chart("lr", (box, width) => lines(box, width, "Learning rate during training", lr, { unit, x }));
}

/* ---- the long tail ---- */

function byRank(box, width, height, label, y, margin) {
  const ticks = niceTicks(1, size, width < 500 ? 4 : 8).filter((tick) => tick >= 1 && Number.isInteger(tick));
  const plot = frame(box, width, height, label, { domain: [0.5, size + 0.5], ticks, format: (rank) => number.format(rank) }, y, margin);
  onHover(plot, (x) => {
    const rank = Math.ceil(((x - plot.left) / (plot.right - plot.left)) * size);
    if (rank < 1 || rank > size) return null;
    return { x: plot.px(rank), text: about(order[rank - 1]) };
  });
  return plot;
}

chart("tail", (box, width) => {
  const largest = Math.max(...classes.train, 1), scale = (domain, range) => {
    const map = linear([Math.log10(0.7), Math.log10(domain[1])], range);
    return (value) => map(Math.log10(Math.max(value, 0.7)));
  };
  const y = { domain: [0.7, largest * 1.25], ticks: logTicks(largest), scale };
  const plot = byRank(box, width, 220, "Training images of each class, largest first", y);
  const step = (plot.right - plot.left) / size, gap = step > 6 ? step * 0.18 : 0;
  const shapes = ["", "", ""];
  order.forEach((c, rank) => {
    const left = plot.left + rank * step + gap / 2, top = plot.py(classes.train[c]);
    shapes[classes.group[c]] += `M${left.toFixed(2)} ${plot.bottom}V${top.toFixed(1)}h${(step - gap).toFixed(2)}V${plot.bottom}z`;
  });
  shapes.forEach((d, group) => { if (d) plot.root.append(svg("path", { class: `fill ${GROUPS[group]}`, d })); });
});

chart("size", (box, width) => {
  const named = size <= 30 && width >= 560 && width / size > 17;
  const clip = (name) => (name.length > 18 ? `${name.slice(0, 17)}…` : name);
  const drop = named ? 0.62 * Math.max(...classes.name.map((name) => textWidth(clip(name)))) : 0;
  const margin = named ? { bottom: 22 + drop } : {};
  const plot = byRank(box, width, 230 + drop, "Accuracy of each class, largest class first", { domain: [0, 100], ticks: [0, 25, 50, 75, 100] }, margin);
  if (named) {
    plot.root.querySelectorAll("text[text-anchor=middle]").forEach((text) => text.remove());
    order.forEach((c, rank) => {
      const [x, y] = [plot.px(rank + 1) + 4, plot.bottom + 16];
      plot.root.append(svg("text", { x, y, "text-anchor": "end", transform: `rotate(-38 ${x} ${y})` }, clip(classes.name[c])));
    });
  }
  const dots = ["", "", ""], stroke = size > 3000 ? 3.5 : size > 300 ? 5 : 9;
  order.forEach((c, rank) => {
    if (classes.accuracy[c] !== null) dots[classes.group[c]] += `M${plot.px(rank + 1).toFixed(1)} ${plot.py(classes.accuracy[c]).toFixed(1)}h0`;
  });
  dots.forEach((d, group) => { if (d) plot.root.append(svg("path", { class: `dots ${GROUPS[group]}`, d, "stroke-width": stroke, "stroke-opacity": size > 300 ? 0.45 : 1 })); });
  if (data.smooth) {
    const tested = order.map((c, rank) => [rank + 1, classes.accuracy[c]]).filter(([, accuracy]) => accuracy !== null);
    const half = Math.max(2, Math.round(tested.length / 40));
    const sums = [0];
    for (const [, accuracy] of tested) sums.push(sums[sums.length - 1] + accuracy);
    const points = tested.map(([rank], i) => {
      const [low, high] = [Math.max(0, i - half), Math.min(tested.length, i + half + 1)];
      return [plot.px(rank), plot.py((sums[high] - sums[low]) / (high - low))];
    });
    plot.root.append(svg("path", { class: "line smooth", d: path(points) }));
  }
});

/* ---- classes ---- */

const columns = [
  { title: "class", text: true, first: "ascending", value: (c) => classes.name[c], cell: (c) => classes.name[c] },
  { title: "group", text: true, first: "ascending", value: (c) => classes.group[c], cell: groupName },
  { title: "training", value: (c) => classes.train[c], cell: (c) => number.format(classes.train[c]) },
  { title: "test", value: (c) => classes.test[c], cell: (c) => number.format(classes.test[c]) },
  { title: "accuracy", value: (c) => classes.accuracy[c], first: "ascending", cell: (c) => weakly(percent(classes.accuracy[c]), classes.test[c]) },
];
if (classes.precision) {
  columns.push(
    { title: "precision", value: (c) => classes.precision[c], first: "ascending", cell: (c) => percent(classes.precision[c]) },
    { title: "F1", value: (c) => classes.f1[c], first: "ascending", cell: (c) => percent(classes.f1[c]) },
    { title: "most often confused with", text: true, value: (c) => classes.confused[c], cell: (c) => (classes.confused[c] ? `${classes.name[classes.other[c]]} (${number.format(classes.confused[c])})` : "–") },
  );
}
classTable(columns, 2);

/* ---- confusions ---- */

if (data.confusion) {
  chart("matrix", (box, width) => {
    const { classes: chosen, matrix } = data.confusion, count = chosen.length;
    const names = chosen.map((c) => (classes.name[c].length > 22 ? `${classes.name[c].slice(0, 21)}…` : classes.name[c]));
    const longest = Math.max(...names.map(textWidth)), slope = 0.74; // sine of the angle of the names above
    const side = longest + 12, overhang = longest * 0.68;
    const cell = Math.max(16, Math.min(46, (width - side - overhang) / count));
    const top = 16 + longest * slope, total = side + cell * count;
    const root = svg("svg", { width: Math.max(total + overhang, 1), height: top + cell * count + 6, role: "img", "aria-label": "Confusion matrix" });
    const worst = Math.max(...matrix.flatMap((row, i) => row.map((images, j) => (i === j ? 0 : images / Math.max(classes.test[chosen[i]], 1)))), 1e-9);
    matrix.forEach((row, i) => {
      const images = Math.max(classes.test[chosen[i]], 1), y = top + i * cell;
      root.append(svg("text", { x: side - 7, y: y + cell / 2 + 4, "text-anchor": "end" }, names[i]));
      const x = side + (i + 0.5) * cell + 3;
      root.append(svg("text", { x, y: top - 7, transform: `rotate(-48 ${x} ${top - 7})` }, names[i]));
      row.forEach((entry, j) => {
        const share = entry / images, strength = i === j ? 0.12 + 0.78 * share : 0.16 + 0.84 * Math.sqrt(share / worst);
        const kind = !entry ? "empty" : i === j ? "right" : "wrong";
        root.append(svg("rect", { class: `cell ${kind}`, x: side + j * cell + 0.5, y: y + 0.5, width: cell - 1, height: cell - 1, rx: Math.min(3, cell / 8), ...(entry ? { opacity: strength.toFixed(3) } : {}) }));
        if (entry && cell >= 24 && entry < 1000) {
          root.append(svg("text", { class: strength > 0.6 ? "count strong" : "count", x: side + (j + 0.5) * cell, y: y + cell / 2 + 4, "text-anchor": "middle" }, number.format(entry)));
        }
      });
    });
    root.addEventListener("pointermove", (event) => {
      const at = root.getBoundingClientRect();
      const j = Math.floor((event.clientX - at.left - side) / cell), i = Math.floor((event.clientY - at.top - top) / cell);
      if (i < 0 || j < 0 || i >= count || j >= count) return hideTip();
      const images = classes.test[chosen[i]];
      const share = images ? ` (${percent((100 * matrix[i][j]) / images, 1)} %)` : "";
      const words = i === j ? `${classes.name[chosen[i]]}, correct` : `${classes.name[chosen[i]]}\ntaken for ${classes.name[chosen[j]]}`;
      return showTip(event, `${words}\n${number.format(matrix[i][j])} of ${number.format(images)}${share}`);
    });
    root.addEventListener("pointerleave", hideTip);
    box.append(root);
  });
}

/* ---- confidence ---- */

if (data.bins) {
  chart("reliability", (box, width) => {
    const { images, accuracy, confidence } = data.bins, bins = images.length, total = sum(images);
    const ticks = [0, 25, 50, 75, 100];
    const plot = frame(box, width, 250, "Reliability diagram", { domain: [0, 100], ticks }, { domain: [0, 100], ticks });
    const step = (plot.right - plot.left) / bins;
    images.forEach((count, i) => {
      if (!count) return;
      const x = plot.left + i * step, [a, b] = [plot.py(accuracy[i]), plot.py(confidence[i])];
      const below = Math.max(a, b);
      plot.root.append(svg("rect", { class: "fill accent", x: x + 1, y: below, width: step - 2, height: plot.bottom - below }));
      plot.root.append(svg("rect", { class: a < b ? "fill accent excess" : "gap", x: x + 1, y: Math.min(a, b), width: step - 2, height: Math.abs(a - b) }));
    });
    plot.root.append(svg("path", { class: "diagonal", d: path([[plot.px(0), plot.py(0)], [plot.px(100), plot.py(100)]]) }));
    onHover(plot, (x) => {
      const i = Math.floor((x - plot.left) / step);
      if (i < 0 || i >= bins) return null;
      const range = `confidence ${percent((100 * i) / bins, 0)} to ${percent((100 * (i + 1)) / bins, 0)} %`;
      const found = images[i] ? `accuracy ${percent(accuracy[i])} %\nmean confidence ${percent(confidence[i])} %` : "";
      return { text: `${range}\n${number.format(images[i])} images\n${found}`.trim() };
    });
    const small = frame(box, width, 78, "Images by confidence", { domain: [0, 100], ticks: [] }, { domain: [0, Math.max(...images)], ticks: [] }, { top: 6, bottom: 20 });
    images.forEach((count, i) => small.root.append(svg("rect", { class: "fill quiet", x: small.left + i * step + 1, y: small.py(count), width: step - 2, height: small.bottom - small.py(count) })));
    small.root.append(svg("text", { x: small.left, y: 74 }, `images by confidence, ${number.format(total)} in all`));
  });
  chart("coverage", (box, width) => {
    const low = Math.min(...data.coverage.map((point) => point[1]));
    const floor = Math.max(0, Math.floor((low - 2) / 10) * 10);
    const series = { accuracy: data.coverage.map(([covered, accuracy]) => [covered, accuracy]) };
    lines(box, width, "Accuracy against coverage, percent", series, {
      height: 250, unit: "decided by the model, %:", x: [0, 100], y: [floor, 100],
      more: (covered) => `confidence from ${data.coverage.find((point) => point[0] === covered)[2].toFixed(3)}`,
    });
  });
}
