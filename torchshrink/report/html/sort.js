// Sort the table of files by the heading whose button is pressed; pressed again, the other way round.
document.querySelectorAll("table.sortable th button").forEach((button) => {
  button.addEventListener("click", () => {
    const heading = button.closest("th");
    const body = heading.closest("table").tBodies[0];
    const isDown = heading.getAttribute("aria-sort") === "ascending";
    const key = (row) => {
      const cell = row.cells[heading.cellIndex];
      return "value" in cell.dataset ? parseFloat(cell.dataset.value) : cell.textContent.trim();
    };
    const compare = (a, b) => {
      if (typeof a === "string") return isDown ? b.localeCompare(a) : a.localeCompare(b);
      if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown ones last
      return isDown ? b - a : a - b;
    };
    for (const other of heading.parentElement.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", isDown ? "descending" : "ascending");
    body.append(...[...body.rows].sort((a, b) => compare(key(a), key(b))));
  });
});
