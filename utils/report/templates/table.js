/* A table of classes: sorted by any column, filtered by name and group, a page of rows at a time.

   columns: {title, value: (class) => number, text or null, cell: (class) => text or element, first: "ascending"} */
function classTable(columns, start) {
  const names = data.classes.name.map((name) => name.toLowerCase());
  const head = byId("table").tHead, body = byId("table").tBodies[0];
  const state = { column: start, direction: columns[start].first || "descending", page: 0, shown: [] };

  function compare(a, b) {
    const value = columns[state.column].value, [x, y] = [value(a), value(b)];
    if (x === null || y === null) return (x === null) - (y === null) || a - b;
    const order = typeof x === "string" ? x.localeCompare(y, "en", { numeric: true }) : x - y;
    return (state.direction === "ascending" ? order : -order) || a - b;
  }

  function select() {
    const text = byId("find").value.trim().toLowerCase(), group = byId("group").value;
    state.shown = names.map((_, c) => c).filter((c) => names[c].includes(text) && (!group || data.classes.group[c] === Number(group)));
    state.shown.sort(compare);
    state.page = 0;
    render();
  }

  function render() {
    const size = Number(byId("rows").value), total = state.shown.length, first = state.page * size;
    const rows = state.shown.slice(first, first + size).map((c) => element("tr", {}, ...columns.map((column) => {
      const cell = element("td", column.text ? {} : { class: "number" });
      cell.append(column.cell(c));
      return cell;
    })));
    body.replaceChildren(...rows);
    const last = Math.min(first + size, total);
    byId("range").textContent = total ? `${number.format(first + 1)} – ${number.format(last)} of ${number.format(total)}` : "no class";
    byId("back").disabled = first === 0;
    byId("next").disabled = last >= total;
  }

  function mark() {
    [...head.rows[0].cells].forEach((cell, i) => {
      if (i === state.column) cell.setAttribute("aria-sort", state.direction); else cell.removeAttribute("aria-sort");
    });
  }

  head.replaceChildren(element("tr", {}, ...columns.map((column, i) => {
    const button = element("button", { type: "button" }, column.title);
    button.addEventListener("click", () => {
      const first = column.first || "descending";
      const other = first === "descending" ? "ascending" : "descending";
      state.direction = state.column === i && state.direction === first ? other : first;
      state.column = i;
      mark();
      select();
    });
    return element("th", { scope: "col", ...(column.text ? {} : { class: "number" }) }, button);
  })));
  if (window.innerWidth < 600) byId("rows").value = "10";
  byId("find").addEventListener("input", select);
  byId("group").addEventListener("change", select);
  byId("rows").addEventListener("change", () => { state.page = 0; render(); });
  byId("back").addEventListener("click", () => { state.page--; render(); });
  byId("next").addEventListener("click", () => { state.page++; render(); });
  mark();
  select();
  return select;
}

function groupName(c) {
  const group = GROUPS[data.classes.group[c]];
  return element("span", { class: "group" }, element("i", { class: `swatch ${group}` }), group);
}

function weakly(text, images) {
  return element("span", images < 5 ? { class: "weak", title: `${images} test images: not reliable` } : {}, text);
}
