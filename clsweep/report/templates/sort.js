// A click on a column's head sorts its table: the best first, then the other way round. Empty cells stay last.
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const body = head.closest("table").tBodies[0];
    const column = head.cellIndex;
    const other = { ascending: "descending", descending: "ascending" };
    const direction = other[head.getAttribute("aria-sort")] ?? head.dataset.first;
    const sign = direction === "ascending" ? 1 : -1;
    const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
    const compare = (first, second) => {
      const [a, b] = [value(first), value(second)];
      if (a === "" || b === "") return (a === "") - (b === "");
      const numbers = !isNaN(a) && !isNaN(b);
      return sign * (numbers ? a - b : a.localeCompare(b));
    };
    body.append(...[...body.rows].sort(compare));
    for (const cell of head.parentElement.cells) cell.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", direction);
  });
}
