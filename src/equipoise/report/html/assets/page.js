"use strict";
(() => {
  const read = (name) => JSON.parse(document.getElementById(`data-${name}`).textContent);
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const figures = read("figures");
  const drawn = new Set();

  // Colours of text and rules follow the page, which follows the system's light or dark mode.
  const look = () => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(`--${name}`).trim();
    const axis = (name) => ({
      [`${name}.gridcolor`]: of("rule"),
      [`${name}.linecolor`]: of("rule"),
      [`${name}.tickcolor`]: of("rule"),
    });
    return {
      "font.color": of("soft"),
      "font.family": getComputedStyle(document.body).fontFamily,
      "font.size": 13,
      "hoverlabel.bgcolor": of("card"),
      "hoverlabel.bordercolor": of("soft"),
      "hoverlabel.font.color": of("ink"),
      "hoverlabel.font.family": getComputedStyle(document.body).fontFamily,
      "hoverlabel.align": "left",
      ...axis("xaxis"),
      ...axis("yaxis"),
    };
  };

  const pressed = (name) => document.querySelector(`[data-toggle="${name}"]`)?.ariaPressed !== "false";
  const selected = (name) => {
    const chip = document.querySelector(`[data-toggle="${name}"]`);
    const text = document.getElementById("filter").value.trim().toLowerCase();
    return pressed(name) && (!chip || chip.dataset.name.toLowerCase().includes(text));
  };
  const visible = (holder) => figures[holder.dataset.figure].data.map(({ meta }) => meta === undefined || selected(meta));

  const draw = (holder) => {
    if (drawn.has(holder) || holder.closest("details:not([open])")) return;
    drawn.add(holder);
    const { data, layout } = figures[holder.dataset.figure];
    const config = { responsive: true, displayModeBar: false };
    Plotly.newPlot(holder, data, layout, config)
      .then(() => Plotly.update(holder, { visible: visible(holder) }, look()))
      .then(() => { holder.dataset.drawn = "yes"; });
  };

  const refresh = () => {
    for (const element of all("[data-model]")) element.hidden = !selected(element.dataset.model);
    for (const chip of all("[data-toggle]")) chip.hidden = pressed(chip.dataset.toggle) && !selected(chip.dataset.toggle);
    document.getElementById("nothing").hidden = all("table.headline tr[data-model]:not([hidden])").length > 0;
    for (const heading of all("tr.apart")) heading.hidden = !heading.parentElement.querySelector("tr[data-model]:not([hidden])");
    for (const holder of drawn) Plotly.restyle(holder, { visible: visible(holder) });
  };

  const sort = (button) => {
    const head = button.parentElement;
    const column = head.cellIndex;
    const down = head.ariaSort ? head.ariaSort === "ascending" : column > 0;
    for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
    head.ariaSort = down ? "descending" : "ascending";
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => (column === 0 ? value(a).localeCompare(value(b)) : value(a) - value(b));
    for (const body of head.closest("table").tBodies) {
      const rows = [...body.rows].filter((row) => row.dataset.model !== undefined);
      body.append(...rows.sort((a, b) => (down ? order(b, a) : order(a, b))));
    }
  };

  const files = {
    csv: () => ["accuracy.csv", "text/csv", read("csv")],
    records: () => ["records.json", "application/json", JSON.stringify(read("records"), null, 2)],
  };
  const download = (kind) => {
    const [name, type, text] = files[kind]();
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  };

  document.getElementById("filter").addEventListener("input", refresh);
  document.addEventListener("click", ({ target }) => {
    const chip = target.closest("[data-toggle]");
    if (chip) {
      chip.ariaPressed = String(chip.ariaPressed === "false");
      refresh();
    }
    const head = target.closest("table.headline thead button");
    if (head) sort(head);
    const file = target.closest("[data-download]");
    if (file) download(file.dataset.download);
  });
  for (const details of all("details")) {
    details.addEventListener("toggle", () => all(".figure", details).forEach(draw));
  }
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const holder of drawn) Plotly.relayout(holder, look());
  });
  all(".figure").forEach(draw);
})();
