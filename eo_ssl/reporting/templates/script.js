"use strict";
// The page reads without this file: it only enlarges tiles, sorts tables and marks the section in view.
(() => {
  const box = document.querySelector("dialog");
  document.addEventListener("click", (event) => {
    const tile = event.target.closest(".tiles button");
    if (tile && box) {
      const source = tile.querySelector("img");
      const image = box.querySelector("img");
      image.src = source.src;
      image.alt = source.alt;
      box.querySelector("p").textContent = tile.dataset.caption;
      box.showModal();
    } else if (event.target === box) {
      box.close();
    }
    const head = event.target.closest("th button");
    if (head) sort(head.closest("th"));
  });
  function sort(th) {
    const body = th.closest("table").tBodies[0];
    const column = [...th.parentNode.children].indexOf(th);
    const down = th.getAttribute("aria-sort") !== "descending";
    for (const other of th.parentNode.children) other.removeAttribute("aria-sort");
    th.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
    const compare = (a, b) => {
      const [x, y] = [key(a), key(b)];
      const [n, m] = [Number(x), Number(y)];
      return x !== "" && y !== "" && !Number.isNaN(n) && !Number.isNaN(m) ? n - m : x.localeCompare(y);
    };
    body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)));
  }
  const links = new Map([...document.querySelectorAll(".nav > ol > li > a")].map((a) => [a.hash.slice(1), a]));
  if (!("IntersectionObserver" in window)) return;
  const seen = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const a of links.values()) a.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-15% 0px -75% 0px" });
  for (const id of links.keys()) {
    const part = document.getElementById(id);
    if (part) seen.observe(part);
  }
})();
