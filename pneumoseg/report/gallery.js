"use strict";
// Sorts and filters the cards of the list #gallery by their data attributes. #sort chooses "attribute:sign", or
// "attribute:text"; each .filter is a checkbox for one value of the attribute data-key; #search is text in data-id.
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const sort = document.getElementById("sort"), status = document.getElementById("status"), search = document.getElementById("search");
  const boxes = [...document.querySelectorAll(".filter")], cards = [...gallery.children];
  const text = (a, b) => a.localeCompare(b, "en", { numeric: true });
  const value = (card, key) => { const number = parseFloat(card.dataset[key]); return Number.isNaN(number) ? -Infinity : number; };
  const compare = (key, sign) => sign === "text" ? (a, b) => text(a.dataset[key], b.dataset[key])
    : (a, b) => { const [left, right] = [a, b].map((card) => Number(sign) * value(card, key)); return left === right ? 0 : left - right; };
  const arrange = () => {
    const order = compare(...sort.value.split(":"));
    const hidden = boxes.filter((box) => !box.checked), wanted = search ? search.value.trim().toLowerCase() : "";
    // Cards that are equal keep the order of the page, since sorting is stable.
    gallery.append(...[...cards].sort(order));
    for (const card of cards) {
      card.hidden = hidden.some((box) => card.dataset[box.dataset.key] === box.value) || !(card.dataset.id || "").toLowerCase().includes(wanted);
    }
    status.textContent = `${cards.filter((card) => !card.hidden).length} of ${cards.length} images shown`;
  };
  sort.addEventListener("change", arrange);
  if (search) search.addEventListener("input", arrange);
  for (const box of boxes) box.addEventListener("change", arrange);
  arrange();
})();
