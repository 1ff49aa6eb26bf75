// A box above each long table that leaves the rows in which every typed word stands.
for (const holder of document.querySelectorAll(".filtered")) {
  const rows = [...holder.querySelectorAll("tbody tr")];
  const box = Object.assign(document.createElement("input"), {
    type: "search", className: "filter", placeholder: `Filter ${rows.length} models: name, family…`,
  });
  box.setAttribute("aria-label", "Filter the table");
  const count = Object.assign(document.createElement("p"), { className: "count" });
  const filter = () => {
    const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
      shown += !row.hidden;
    }
    count.textContent = `${shown} of ${rows.length} models`;
  };
  box.addEventListener("input", filter);
  holder.prepend(box, count);
  filter();
}
