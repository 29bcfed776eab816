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
    const rows = items.filter((item) => item.localName === "tr");  // a run is a row and an entry of the list below: counted once
    count.textContent = words.length ? `${rows.filter((row) => !row.hidden).length} of ${rows.length} shown` : "";
  });
}

// A link to a run opens it; a filter that hides it is cleared first.
function show(id) {
  const details = document.getElementById(id)?.closest("details");
  if (!details) return;
  if (details.hidden) {
    const input = document.querySelector("#runs [data-filter] input");
    input.value = "";
    input.dispatchEvent(new Event("input"));
  }
  details.open = true;
  document.getElementById(id).scrollIntoView();
}
addEventListener("hashchange", () => show(decodeURIComponent(location.hash.slice(1))));
addEventListener("click", (event) => {  // also where the address does not change: the same link again
  const link = event.target.closest?.("a[href^='#run-']");
  if (link) show(link.getAttribute("href").slice(1));
});
