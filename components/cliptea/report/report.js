"use strict";
const value = (row, i) => {
  const cell = row.cells[i];
  return cell.dataset.v === undefined ? cell.textContent.trim() : Number(cell.dataset.v);
};
const byColumn = (i, sign) => (a, b) => {
  const [x, y] = [value(a, i), value(b, i)];
  return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
};
for (const table of document.querySelectorAll("table.sortable")) {
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (!event.target.closest("button.sort")) return;
    const down = head.getAttribute("aria-sort") === "descending" || (!head.ariaSort && head.classList.contains("text"));
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", down ? "ascending" : "descending");
    for (const body of table.tBodies) {
      const rows = [...body.rows].filter((row) => !row.classList.contains("part"));
      body.append(...rows.sort(byColumn(head.cellIndex, down ? 1 : -1)));
    }
  });
}
// What goes on to the right fades out there.
const fade = (part) => part.classList.toggle("more", part.scrollLeft + part.clientWidth < part.scrollWidth - 1);
const sizes = new ResizeObserver((entries) => entries.forEach((entry) => fade(entry.target)));
for (const part of document.querySelectorAll(".scroll")) {
  part.addEventListener("scroll", () => fade(part), { passive: true });
  sizes.observe(part);
}
const viewer = document.getElementById("viewer");
document.addEventListener("click", (event) => {
  const tile = event.target.closest("button.tile");
  if (!tile) {
    if (event.target === viewer) viewer.close();
    return;
  }
  const image = tile.querySelector("img");
  const large = viewer.querySelector("img");
  large.src = image.src;
  large.className = (image.closest(".small") ? "small " : "") + image.className;
  viewer.querySelector("p").textContent = large.alt = image.alt;
  viewer.showModal();
});
// The class under the pointer, read from the colour of a label map.
const className = new Map();
for (const entry of document.querySelectorAll("[data-colour]")) className.set(entry.dataset.colour, entry.textContent.trim());
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
let drawn = "";
document.addEventListener("pointermove", (event) => {
  const map = event.target.closest("img.map");
  for (const probe of document.querySelectorAll(".probe")) probe.hidden = true;
  if (!map) return;
  if (drawn !== map.src) {
    [canvas.canvas.width, canvas.canvas.height] = [map.naturalWidth, map.naturalHeight];
    canvas.drawImage(map, 0, 0);
    drawn = map.src;
  }
  const box = map.getBoundingClientRect();
  const x = Math.floor(((event.clientX - box.left) / box.width) * map.naturalWidth);
  const y = Math.floor(((event.clientY - box.top) / box.height) * map.naturalHeight);
  const colour = "#" + [...canvas.getImageData(x, y, 1, 1).data.slice(0, 3)].map((v) => v.toString(16).padStart(2, "0")).join("");
  const probe = viewer.open ? viewer.querySelector(".probe") : document.querySelector("body > .probe");
  probe.textContent = className.get(colour) ?? "not labelled";
  probe.hidden = false;
  [probe.style.left, probe.style.top] = [`${event.clientX}px`, `${event.clientY}px`];
});
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
