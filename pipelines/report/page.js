"use strict";
(() => {
  const $ = (selector, within = document) => within.querySelector(selector);
  const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];
  const LAYERS = Object.fromEntries($$("[data-set-layer]").map((b) => [b.dataset.key, b.dataset.setLayer]));
  const lookup = JSON.parse($("#lookup").textContent);
  const viewer = $("#viewer"), grid = $("#grid"), filter = $("#class-filter"), order = $("#order");
  const cards = $$(".card", grid);
  cards.forEach((card) => {
    card.areas = new Map(card.dataset.areas.trim().split(/\s+/).filter(Boolean).map((pair) => pair.split(":")));
  });

  const setLayer = (name) => {
    document.body.dataset.layer = name;
    $$("[data-set-layer]").forEach((b) => b.setAttribute("aria-pressed", b.dataset.setLayer === name));
    $$(".legend").forEach((legend) => { legend.hidden = legend.dataset.for !== name; });
  };
  const toggleKept = () => {
    const on = document.body.dataset.kept !== "true";
    document.body.dataset.kept = on;
    $("#kept").setAttribute("aria-pressed", on);
  };
  const setOpacity = (value) => {
    const opacity = $("#opacity");
    opacity.value = Math.max(0, Math.min(100, value));
    document.body.style.setProperty("--opacity", opacity.value / 100);
  };

  const area = (card) => Number(card.areas.get(filter.value) || 0);
  const byName = (a, b) => (a.dataset.asset < b.dataset.asset ? -1 : a.dataset.asset > b.dataset.asset ? 1 : 0);
  const sure = (card) => Number(card.dataset.confidence);
  const ORDERS = {
    name: byName,
    unsure: (a, b) => sure(a) - sure(b) || byName(a, b),
    sure: (a, b) => sure(b) - sure(a) || byName(a, b),
    area: (a, b) => area(b) - area(a) || byName(a, b),
    different: (a, b) => Number(b.dataset.different) - Number(a.dataset.different) || byName(a, b),
    worst: (a, b) => Number(a.dataset.iou) - Number(b.dataset.iou) || byName(a, b),
  };
  const arrange = () => {
    let shown = 0;
    cards.sort(ORDERS[order.value]).forEach((card) => {
      card.hidden = filter.value !== "" && !card.areas.has(filter.value);
      shown += card.hidden ? 0 : 1;
      grid.append(card);
    });
    $("#shown").textContent = shown;
    $("#none").hidden = shown > 0 || cards.length === 0;
    $$(".key[data-class]").forEach((k) => k.setAttribute("aria-pressed", k.dataset.class === filter.value));
  };

  // What the colour of a layer means, by the kind of the layer; null is a transparent pixel.
  const named = (color) => (color === null ? lookup.background : lookup.classes[color]) || "unknown class";
  const WORDS = {
    class: named,
    gold: (color) => `gold: ${named(color)}`,
    side: (color, title) => `${title}: ${named(color)}`,
    confidence: (color) => `${Math.round(100 * lookup.confidence[color])} % sure`,
    source: (color) => `from ${lookup.sources[color]}`,
    difference: (color) => (color === null ? "" : lookup.differences[color]),
  };
  lookup.layers.forEach((layer) => { layer.words = (color) => WORDS[layer.kind](color, layer.title); });

  // The pixel under the pointer, read from the embedded layers themselves.
  let current = null, pixels = {};
  const readLayer = (image) => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(image, 0, 0);
    return context.getImageData(0, 0, canvas.width, canvas.height);
  };
  const colorAt = (data, x, y) => {
    const at = 4 * (Math.min(data.height - 1, Math.floor(y * data.height)) * data.width
      + Math.min(data.width - 1, Math.floor(x * data.width)));
    if (data.data[at + 3] === 0) return null;
    return "#" + [0, 1, 2].map((c) => data.data[at + c].toString(16).padStart(2, "0")).join("");
  };
  const under = (event) => {
    const box = $("#viewer-frame .stack").getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width, y = (event.clientY - box.top) / box.height;
    if (x < 0 || y < 0 || x >= 1 || y >= 1) return;
    $("#under").textContent = lookup.layers
      .map(({ name, words }) => words(colorAt(pixels[name], x, y))).filter(Boolean).join(" · ");
  };

  const show = (card) => {
    current = card;
    $("#viewer-frame").replaceChildren($(".stack", card).cloneNode(true));
    $("#viewer-title").textContent = card.dataset.asset;
    $("#under").textContent = lookup.invitation;
    $("#facts").textContent = `${card.dataset.size} px · ${card.dataset.facts}`;
    pixels = {};
    lookup.layers.forEach(({ name }) => { pixels[name] = readLayer($(`.layer.${name}`, card)); });
    if (!viewer.open) viewer.showModal();
  };
  const step = (by) => {
    const visible = cards.filter((card) => !card.hidden);
    show(visible[(visible.indexOf(current) + by + visible.length) % visible.length]);
  };

  $$("[data-set-layer]").forEach((b) => b.addEventListener("click", () => setLayer(b.dataset.setLayer)));
  $("#kept").addEventListener("click", toggleKept);
  $("#opacity").addEventListener("input", (event) => setOpacity(event.target.value));
  filter.addEventListener("change", arrange);
  order.addEventListener("change", arrange);
  $$(".key[data-class]").forEach((key) => key.addEventListener("click", () => {
    filter.value = filter.value === key.dataset.class ? "" : key.dataset.class;
    arrange();
  }));
  grid.addEventListener("click", (event) => {
    const frame = event.target.closest(".frame");
    if (frame) show(frame.closest(".card"));
  });
  $("#viewer-frame").addEventListener("pointermove", under);
  $("#previous").addEventListener("click", () => step(-1));
  $("#next").addEventListener("click", () => step(1));
  $("#close").addEventListener("click", () => viewer.close());
  viewer.addEventListener("click", (event) => { if (event.target === viewer) viewer.close(); });
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.tagName === "SELECT") return;
    const key = event.key.toLowerCase();
    if (key in LAYERS) setLayer(LAYERS[key]);
    else if (key === "k") toggleKept();
    else if (key === "-" || key === "+" || key === "=") setOpacity(Number($("#opacity").value) + (key === "-" ? -10 : 10));
    else if (viewer.open && key === "arrowleft") step(-1);
    else if (viewer.open && key === "arrowright") step(1);
  });
  setOpacity($("#opacity").value);
})();
