"use strict";

// Light and dark: as the system has it, until somebody chooses; within another site as it says.
const root = document.documentElement;
const system = matchMedia("(prefers-color-scheme: dark)");
const toggle = document.getElementById("theme");
let chosen = null;

function paint() {
  const dark = chosen === null ? system.matches : chosen;
  if (toggle) {
    root.dataset.theme = dark ? "dark" : "light";
    toggle.textContent = dark ? "light" : "dark";
    toggle.setAttribute("aria-pressed", String(dark));
  }
  for (const plot of document.querySelectorAll(".plot.js-plotly-plot")) {
    Plotly.relayout(plot, inks());
  }
}

// What a plot takes from the page: keys as Plotly.relayout wants them.
function inks() {
  const probe = document.querySelector(".report").appendChild(document.createElement("span"));
  const colour = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color;
  };
  const found = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    "font.color": colour("ink"),
    "font.family": getComputedStyle(probe).fontFamily,
    "hoverlabel.bgcolor": colour("paper"),
    "hoverlabel.font.color": colour("ink"),
  };
  for (const axis of ["xaxis", "yaxis"]) {
    found[axis + ".gridcolor"] = colour("rule");
    found[axis + ".linecolor"] = colour("rule");
  }
  probe.remove();
  return found;
}

const drawn = JSON.parse(document.getElementById("plots").textContent);
const config = { responsive: true, displaylogo: false, displayModeBar: false };

function draw(element) {
  const { data, layout } = drawn[Number(element.dataset.plot)];
  for (const [path, value] of Object.entries(inks())) {
    const names = path.split("."), last = names.pop();
    names.reduce((inner, name) => (inner[name] ??= {}), layout)[last] = value;
  }
  return Plotly.newPlot(element, data, layout, config);
}

// A method in the legend is shown or hidden in all plots of its figure.
for (const button of document.querySelectorAll(".legend button")) {
  button.addEventListener("click", () => {
    const shown = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(shown));
    for (const plot of button.closest("figure").querySelectorAll(".plot.js-plotly-plot")) {
      const which = plot.data.flatMap((trace, k) => (trace.meta === button.dataset.method ? [k] : []));
      if (which.length) Plotly.restyle(plot, { visible: shown }, which);
    }
  });
}

// A column is sorted by its numbers, or else by its words; what is missing stands last.
function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return String(a).localeCompare(String(b), undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.firstElementChild.addEventListener("click", () => {
      const sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
      const key = (row) => {
        const cell = row.cells[column];
        return cell.dataset.value === undefined ? cell.textContent.trim() : Number(cell.dataset.value);
      };
      const rows = [...table.tBodies[0].rows].map((row) => [key(row), row]);
      rows.sort(([a], [b]) => (a === "") - (b === "") || sign * compare(a, b));
      table.tBodies[0].append(...rows.map(([, row]) => row));
    });
  });
}

if (toggle) {
  toggle.addEventListener("click", () => {
    chosen = root.dataset.theme !== "dark";
    paint();
  });
} else {
  const observed = { attributes: true, attributeFilter: ["data-md-color-scheme"] };
  new MutationObserver(paint).observe(document.body, observed);
}
system.addEventListener("change", paint);
paint();

// One after the other, so that the page answers meanwhile.
async function drawAll() {
  for (const element of document.querySelectorAll(".plot")) {
    await draw(element);
    await new Promise((done) => setTimeout(done));
  }
}
drawAll();
