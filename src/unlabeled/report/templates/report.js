"use strict";
// The page is complete without this script; it adds the order of the clusters and their enlarged view.
(() => {
  const gallery = document.getElementById("gallery");
  if (!gallery) return;
  const viewer = document.getElementById("viewer");
  const order = document.getElementById("order");
  const all = document.getElementById("all");
  const FEW = 24;
  let current = null;

  const showAll = () => {
    gallery.classList.remove("few");
    all.hidden = true;
  };
  if (gallery.children.length > FEW) {
    gallery.classList.add("few");
    all.hidden = false;
    all.addEventListener("click", () => {
      showAll();
      gallery.children[FEW].querySelector(".enlarge").focus();
    });
  }

  document.addEventListener("click", (event) => {
    const link = event.target.closest('a[href^="#cluster-"]');
    if (!link) return;
    if ([...gallery.children].findIndex((card) => `#${card.id}` === link.hash) >= FEW) showAll();
  });

  const value = (card, key) => {
    const text = card.dataset[key];
    return text === "" ? null : Number(text);
  };
  order.closest(".controls").hidden = false;
  order.addEventListener("change", () => {
    const sign = order.value.startsWith("-") ? -1 : 1;
    const key = order.value.replace("-", "");
    const compare = (a, b) => {
      const [x, y] = [value(a, key), value(b, key)];
      // Cards without the number go last, whatever the order.
      if (x === null || y === null) return (x === null) - (y === null);
      return sign * (x - y) || value(a, "id") - value(b, "id");
    };
    gallery.append(...[...gallery.children].sort(compare));
  });

  const show = (card) => {
    current = card;
    document.getElementById("viewer-title").textContent = card.querySelector("h3").textContent;
    document.getElementById("viewer-note").textContent = card.querySelector("p").textContent;
    const figures = [...card.querySelectorAll(".t")].map((thumb) => {
      const item = document.createElement("li");
      // One that has neighbours can be opened in turn.
      const holder = document.createElement("image" in thumb.dataset ? "button" : "div");
      holder.className = "pick";
      const picture = thumb.cloneNode();
      const name = document.createElement("bdi");
      picture.removeAttribute("title");
      picture.setAttribute("role", "img");
      picture.setAttribute("aria-label", thumb.title || "image");
      name.append(...thumb.title.split("/").flatMap((part, i) => (i ? ["/", document.createElement("wbr"), part] : [part])));
      holder.append(picture, name);
      item.append(holder);
      return item;
    });
    viewer.querySelector(".large").replaceChildren(...figures);
    viewer.querySelector('[data-go="-1"]').disabled = !card.previousElementSibling;
    viewer.querySelector('[data-go="1"]').disabled = !card.nextElementSibling;
    if (!viewer.open) viewer.showModal();
  };
  const go = (step) => {
    const card = step < 0 ? current.previousElementSibling : current.nextElementSibling;
    if (card) show(card);
  };
  for (const button of gallery.querySelectorAll(".enlarge")) button.hidden = false;
  gallery.addEventListener("click", (event) => {
    const card = event.target.closest("li");
    // A picture with neighbours shows them instead.
    if (event.target.closest("[data-image]")) return;
    if (card && event.target.closest(".thumbs, .enlarge")) show(card);
  });
  viewer.addEventListener("click", (event) => {
    const button = event.target.closest("[data-go]");
    if (event.target === viewer || (button && button.dataset.go === "0")) viewer.close();
    else if (button) go(Number(button.dataset.go));
  });
  viewer.addEventListener("keydown", (event) => {
    if (event.key === "ArrowLeft") go(-1);
    if (event.key === "ArrowRight") go(1);
  });
  viewer.addEventListener("close", () => {
    if ([...gallery.children].indexOf(current) >= FEW) showAll();
    current.querySelector(".enlarge").focus();
  });
})();
