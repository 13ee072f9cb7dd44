"use strict";
// The map: points and thumbnails on a canvas, moved, zoomed, searched by pointer, finger and keyboard; and the lasso.
if (atlas) (() => {
  const { count, names, colourings, positions, make } = atlas;
  const canvas = document.getElementById("canvas");
  const context = canvas.getContext("2d");
  const card = document.getElementById("card");
  const select = document.getElementById("colouring");
  const legend = document.getElementById("legend");
  const MOST_ZOOM = 80;
  const EDGE = 24;
  const LISTED = 12;
  const isDark = matchMedia("(prefers-color-scheme: dark)");
  // Okabe and Ito's colours, told apart with any kind of colour vision; after eight the shape of the point changes.
  const PALETTE = {
    light: ["#0072b2", "#d98a00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a200", "#3a3a3a"],
    dark: ["#4aa3e0", "#e69f00", "#1fbf92", "#e29cc4", "#8fd0f5", "#f07a33", "#f0e442", "#d8d8d8"],
  };
  const RAMP = { light: ["#440154", "#3b528b", "#21918c", "#45b04f", "#c9b400"], dark: ["#7b4fa3", "#5f7fc4", "#2fb0a8", "#7ad151", "#fde725"] };
  const GREY = { light: "#b4bcc3", dark: "#4b555d" };
  const theme = () => (isDark.matches ? "dark" : "light");

  const view = { x: 0, y: 0, zoom: 1 };
  let width = 0, height = 0;
  let lit = null;
  let hovered = -1;
  let ringed = [];
  let chosen = new Set();
  let outline = [];
  let colour = null;

  // What a point looks like -----------------------------------------------------------------------------------------
  const codesOf = () => {
    if (select.value !== "cluster") return colourings[Number(select.value)];
    const values = Uint16Array.from({ length: count }, (_, i) => atlas.groupOf(i));
    return { categories: Array.from({ length: atlas.numGroups() }, (_, i) => atlas.groupName(i)), values };
  };
  const mix = (share) => {
    const ramp = RAMP[theme()];
    const at = share * (ramp.length - 1);
    const low = Math.min(Math.floor(at), ramp.length - 2);
    const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    const rgb = [0, 1, 2].map((k) => Math.round(part(ramp[low], k) + (at - low) * (part(ramp[low + 1], k) - part(ramp[low], k))));
    return `rgb(${rgb.join(" ")})`;
  };
  const recolour = () => {
    const { categories, values, low, high, scale, ends: words } = codesOf();
    lit = null;
    if (!categories) {
      const shades = Array.from({ length: 256 }, (_, value) => mix(value / 255));
      colour = { of: (i) => shades[values[i]], shape: () => 0, isLit: () => true };
      const bar = make("span", { className: "ramp" });
      bar.style.background = `linear-gradient(90deg, ${[0, 63, 127, 191, 255].map((value) => shades[value]).join(", ")})`;
      const ends = make("span", { className: "ends" }, ...[low, high].map((value, i) => make("span", { textContent: `${words[i]} ${atlas.scaled(value, scale)}` })));
      legend.replaceChildren(bar, ends);
      return ask();
    }
    const totals = new Array(categories.length).fill(0);
    for (const value of values) if (value !== atlas.NONE) totals[value]++;
    const order = totals.map((_, code) => code).sort((a, b) => totals[b] - totals[a] || a - b).filter((code) => totals[code]);
    const slot = new Map(order.map((code, i) => [code, i]));
    const paint = (code) => (slot.has(code) ? PALETTE[theme()][slot.get(code) % 8] : GREY[theme()]);
    const shape = (code) => (slot.has(code) ? Math.floor(slot.get(code) / 8) % 3 : 0);
    colour = { of: (i) => paint(values[i]), shape: (i) => shape(values[i]), isLit: (i) => lit === null || values[i] === lit };
    const entries = order.slice(0, LISTED).map((code) => {
      const button = make("button", { type: "button" }, swatch(paint(code), shape(code)), make("bdi", { textContent: categories[code] }), make("span", { textContent: totals[code].toLocaleString("en") }));
      button.setAttribute("aria-pressed", "false");
      button.addEventListener("click", () => {
        lit = lit === code ? null : code;
        for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && lit !== null));
        ask();
      });
      return button;
    });
    legend.replaceChildren(...entries);
    if (order.length > LISTED) legend.append(make("p", { textContent: `and ${order.length - LISTED} more; colours and shapes repeat after 24` }));
    return ask();
  };
  const swatch = (paint, shape) => {
    const made = make("canvas", { className: "swatch", width: 24, height: 24 });
    const brush = made.getContext("2d");
    brush.fillStyle = paint;
    point(brush, 12, 12, 9, shape);
    return made;
  };
  const point = (brush, x, y, radius, shape) => {
    if (shape === 1) return brush.fillRect(x - radius * 0.9, y - radius * 0.9, radius * 1.8, radius * 1.8);
    brush.beginPath();
    if (shape === 2) {
      brush.moveTo(x, y - radius * 1.2);
      brush.lineTo(x + radius * 1.15, y + radius * 0.9);
      brush.lineTo(x - radius * 1.15, y + radius * 0.9);
    } else brush.arc(x, y, radius, 0, 6.3);
    return brush.fill();
  };

  // Drawing ---------------------------------------------------------------------------------------------------------
  const screenX = (i) => view.x + (positions[2 * i] / 65535) * (width - 2 * EDGE) * view.zoom;
  const screenY = (i) => view.y + (positions[2 * i + 1] / 65535) * (height - 2 * EDGE) * view.zoom;
  const thumbSize = () => Math.min(atlas.data.side * 1.25, 14 + 6 * view.zoom);
  let asked = 0;
  const ask = () => {
    if (!asked) asked = requestAnimationFrame(paint);
  };
  function paint() {
    asked = 0;
    const sharpness = devicePixelRatio || 1;
    context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
    context.clearRect(0, 0, width, height);
    const seen = [];
    for (let i = 0; i < count; i++) {
      const x = screenX(i), y = screenY(i);
      if (x > -40 && y > -40 && x < width + 40 && y < height + 40) seen.push(i);
    }
    const size = thumbSize();
    const radius = Math.min(2.2 + view.zoom * 0.35 + (count < 3000 ? 0.8 : 0), 5);
    const room = seen.length * size * size < 1.5 * width * height || view.zoom >= 3;
    const taken = new Set();
    const large = [];
    for (const i of seen) {
      const isLit = colour.isLit(i);
      if (room && isLit) {
        // Cells that move with the map: what has a thumbnail keeps it while the map is moved.
        const cell = `${Math.floor((screenX(i) - view.x) / size)},${Math.floor((screenY(i) - view.y) / size)}`;
        if (!taken.has(cell)) {
          taken.add(cell);
          large.push(i);
          continue;
        }
      }
      context.globalAlpha = isLit ? 0.85 : 0.25;
      context.fillStyle = isLit ? colour.of(i) : GREY[theme()];
      point(context, screenX(i), screenY(i), radius, colour.shape(i));
    }
    context.globalAlpha = 1;
    for (const i of large) {
      const x = screenX(i) - size / 2, y = screenY(i) - size / 2;
      context.fillStyle = colour.of(i);
      context.fillRect(x - 2, y - 2, size + 4, size + 4);
      atlas.draw(context, i, x, y, size);
    }
    canvas.dataset.thumbnails = large.length;
    paintMarks(room ? size * 0.75 : radius + 4);
  }
  const paintMarks = (radius) => {
    const style = getComputedStyle(document.body);
    const ink = style.color;
    const ring = (i, thick) => {
      for (const [paint, line] of [[style.backgroundColor, thick + 3], [ink, thick]]) {
        context.strokeStyle = paint;
        context.lineWidth = line;
        context.beginPath();
        context.arc(screenX(i), screenY(i), radius, 0, 6.3);
        context.stroke();
      }
    };
    for (const i of chosen) ring(i, 1);
    ringed.forEach((i, place) => ring(i, place ? 1.5 : 3));
    if (hovered >= 0) ring(hovered, 2);
    if (outline.length > 1) {
      context.beginPath();
      outline.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
      context.closePath();
      context.strokeStyle = context.fillStyle = ink;
      context.lineWidth = 1.5;
      context.stroke();
      context.globalAlpha = 0.1;
      context.fill();
      context.globalAlpha = 1;
    }
    if (canvas.matches(":focus-visible")) {
      context.strokeStyle = ink;
      context.lineWidth = 1;
      context.strokeRect(width / 2 - 5, height / 2 - 5, 10, 10);
    }
  };

  // Moving ----------------------------------------------------------------------------------------------------------
  const settle = () => {
    // Some of the map stays in sight.
    const spread = [(width - 2 * EDGE) * view.zoom, (height - 2 * EDGE) * view.zoom];
    view.x = Math.min(width * 0.6, Math.max(width * 0.4 - spread[0], view.x));
    view.y = Math.min(height * 0.6, Math.max(height * 0.4 - spread[1], view.y));
    // A finger moves the page until the map is zoomed.
    canvas.style.touchAction = view.zoom > 1 ? "none" : "pan-y";
    card.hidden = true;
    hovered = -1;
    ask();
  };
  const zoomAt = (x, y, factor) => {
    const zoom = Math.min(MOST_ZOOM, Math.max(1, view.zoom * factor));
    view.x = x - ((x - view.x) * zoom) / view.zoom;
    view.y = y - ((y - view.y) * zoom) / view.zoom;
    view.zoom = zoom;
    if (zoom === 1) view.x = view.y = EDGE;
    settle();
  };
  const whole = () => zoomAt(0, 0, 1 / MOST_ZOOM);
  const nearest = (x, y, within) => {
    let best = -1, least = within * within;
    for (let i = 0; i < count; i++) {
      const gap = (screenX(i) - x) ** 2 + (screenY(i) - y) ** 2;
      if (gap < least && colour.isLit(i)) [best, least] = [i, gap];
    }
    return best;
  };
  const reach = () => Math.max(12, view.zoom >= 3 ? thumbSize() * 0.7 : 0);
  const hover = (x, y) => {
    const found = nearest(x, y, reach());
    if (found === hovered) return;
    hovered = found;
    card.hidden = found < 0;
    ask();
    if (found < 0) return;
    const words = make("div", {}, make("bdi", {}, ...atlas.breaking(names[found])), make("span", { textContent: atlas.clusterName(found) }));
    if (select.value !== "cluster") words.append(make("span", { textContent: `${colourings[Number(select.value)].name}: ${atlas.valueOf(colourings[Number(select.value)], found)}` }));
    card.replaceChildren(atlas.picture(found), words);
    const right = screenX(found) > width / 2, low = screenY(found) > height / 2;
    Object.assign(card.style, {
      left: right ? "auto" : `${screenX(found) + 16}px`, right: right ? `${width - screenX(found) + 16}px` : "auto",
      top: low ? "auto" : `${screenY(found) + 8}px`, bottom: low ? `${height - screenY(found) + 8}px` : "auto",
    });
  };

  // Pointers --------------------------------------------------------------------------------------------------------
  const fingers = new Map();
  let moved = 0;
  const lasso = document.getElementById("lasso");
  const here = (event) => {
    const box = canvas.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, here(event));
    if (fingers.size === 1) moved = 0;
    const isLasso = fingers.size === 1 && (event.shiftKey || lasso.getAttribute("aria-pressed") === "true");
    outline = isLasso ? [here(event)] : [];
  });
  canvas.addEventListener("pointermove", (event) => {
    const [x, y] = here(event);
    const last = fingers.get(event.pointerId);
    if (!last) return hover(x, y);
    const others = [...fingers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    moved += Math.hypot(x - last[0], y - last[1]);
    fingers.set(event.pointerId, [x, y]);
    if (outline.length) {
      outline.push([x, y]);
      return ask();
    }
    view.x += (x - last[0]) / fingers.size;
    view.y += (y - last[1]) / fingers.size;
    if (!others.length) return moved > 4 ? settle() : undefined;
    const before = Math.hypot(last[0] - others[0][0], last[1] - others[0][1]);
    return zoomAt((x + others[0][0]) / 2, (y + others[0][1]) / 2, Math.hypot(x - others[0][0], y - others[0][1]) / Math.max(before, 1));
  });
  const lift = (event) => {
    if (!fingers.delete(event.pointerId) || fingers.size) return;
    if (outline.length > 2 && moved > 8) choose();
    else if (event.type === "pointerup" && moved <= 4) {
      const found = nearest(...here(event), reach());
      if (found >= 0) atlas.open(found);
    }
    outline = [];
    ask();
  };
  canvas.addEventListener("pointerup", lift);
  canvas.addEventListener("pointercancel", lift);
  canvas.addEventListener("pointerleave", () => hover(-1e6, -1e6));
  canvas.addEventListener("wheel", (event) => {
    // The page scrolls on until the map is clicked.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoomAt(...here(event), Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0015)));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
    const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, "0": 1 / MOST_ZOOM };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (steps[event.key]) {
      view.x += steps[event.key][0];
      view.y += steps[event.key][1];
      settle();
    } else if (zooms[event.key]) zoomAt(width / 2, height / 2, zooms[event.key]);
    else if (event.key === "Enter") atlas.open(Math.max(nearest(width / 2, height / 2, 1e5), 0));
    else if (event.key === "Escape") forget();
    else return;
    event.preventDefault();
  });
  for (const event of ["focus", "blur"]) canvas.addEventListener(event, ask);
  document.getElementById("zoom-in").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.6));
  document.getElementById("zoom-out").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.6));
  document.getElementById("zoom-all").addEventListener("click", whole);

  // Choosing --------------------------------------------------------------------------------------------------------
  const panel = document.getElementById("chosen");
  const listed = document.getElementById("chosen-names");
  const setLasso = (on) => {
    lasso.setAttribute("aria-pressed", String(on));
    canvas.classList.toggle("lassoing", on);
  };
  lasso.addEventListener("click", () => setLasso(lasso.getAttribute("aria-pressed") !== "true"));
  const isInside = (x, y) => {
    let inside = false;
    for (let i = 0, j = outline.length - 1; i < outline.length; j = i++) {
      const [[ax, ay], [bx, by]] = [outline[i], outline[j]];
      if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
    }
    return inside;
  };
  const choose = () => {
    const found = [];
    for (let i = 0; i < count; i++) if (colour.isLit(i) && isInside(screenX(i), screenY(i))) found.push(i);
    chosen = new Set(found);
    setLasso(false);
    panel.hidden = !found.length;
    document.getElementById("chosen-title").textContent = `${atlas.plural(found.length, "image")} chosen`;
    document.getElementById("copied").textContent = "";
    listed.value = found.map((i) => names[i]).join("\n");
    panel.querySelector("ul").replaceChildren(...found.slice(0, 48).map((i) => atlas.pick(i)));
  };
  const forget = () => {
    chosen = new Set();
    ringed = [];
    panel.hidden = true;
    ask();
  };
  document.getElementById("unchoose").addEventListener("click", () => {
    forget();
    canvas.focus();
  });
  document.getElementById("copy").addEventListener("click", async () => {
    let done = true;
    try {
      await navigator.clipboard.writeText(listed.value);
    } catch {
      // Browsers that keep the clipboard from pages on disk let a selection be copied.
      listed.select();
      done = document.execCommand("copy");
    }
    document.getElementById("copied").textContent = done ? "Copied." : "Select the names below and copy them.";
  });

  // Beginning -------------------------------------------------------------------------------------------------------
  select.append(make("option", { value: "cluster", textContent: "cluster" }), ...colourings.map((one, i) => make("option", { value: i, textContent: one.name })));
  select.addEventListener("change", recolour);
  isDark.addEventListener("change", recolour);
  atlas.onChange((what, value) => {
    if (what === "groups" && select.value === "cluster") recolour();
    if (what === "open") ringed = value;
    if (what === "locate") {
      view.zoom = Math.max(view.zoom, 6);
      view.x = view.y = 0;
      [view.x, view.y] = [width / 2 - screenX(value), height / 2 - screenY(value)];
      document.getElementById("map").scrollIntoView();
      canvas.focus();
      settle();
    }
    ask();
  });
  const { total } = atlas.data;
  document.getElementById("map-sample").textContent = total > count ? `An even sample: ${count.toLocaleString("en")} of ${total.toLocaleString("en")} images.` : "";
  document.getElementById("map-missing").hidden = true;
  document.getElementById("map-controls").hidden = document.getElementById("map-body").hidden = false;
  new ResizeObserver(() => {
    const [old, oldHeight] = [width, height];
    [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = Math.round(width * (devicePixelRatio || 1));
    canvas.height = Math.round(height * (devicePixelRatio || 1));
    if (!old) whole();
    else [view.x, view.y] = [(view.x * width) / old, (view.y * height) / oldHeight];
    settle();
    paint();
  }).observe(canvas);
  for (const sheet of atlas.ready) sheet.then(ask);
  recolour();
})();
