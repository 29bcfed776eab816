// Filter: hides every item that lacks one of the words typed. Without scripts the field stays hidden and all is shown.
for (const box of document.querySelectorAll("[data-filter]")) {
  const input = box.querySelector("input"), count = box.querySelector("output");
  box.hidden = false;
  input.addEventListener("input", () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    const items = [...document.querySelectorAll(box.dataset.filter)];
    for (const item of items) {
      const text = (item.dataset.words ?? item.textContent).toLowerCase();
      item.hidden = !words.every((word) => text.includes(word));
    }
    count.textContent = words.length ? `${items.filter((item) => !item.hidden).length} of ${items.length} shown` : "";
  });
}
