"use strict";
// The map of images, for the report and the explorer: points and thumbnails on a canvas, moved, zoomed, searched by pointer,
// finger and keyboard; and the lasso. A host says where the images lie and how each is drawn, named and opened.
const imageMap = (() => {
  const NONE = 65535;
  const EDGE = 24;
  const LISTED = 12;
  const DRAWN_ONE_BY_ONE = 15000; // more points than these are written into pixels, without their shapes
  const RINGED = 40; // more rings would hide what they are around: the images that are not chosen fade instead
  const GRID = 256;
  // Okabe and Ito's colours, told apart with any kind of colour vision; after eight the shape of the point changes.
  const PALETTE = {
    light: ["#0072b2", "#d98a00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b3a200", "#3a3a3a"],
    dark: ["#4aa3e0", "#e69f00", "#1fbf92", "#e29cc4", "#8fd0f5", "#f07a33", "#f0e442", "#d8d8d8"],
  };
  // Categories that are colours are shown in them, or "blue" would be orange; what some eyes take for the same has another
  // shape (0 round, 1 square, 2 triangle) or is much lighter.
  const NAMED = {
    black: ["#16191c", "#59616a", 1], grey: ["#868f97", "#98a1aa", 0], white: ["#d3d9de", "#ffffff", 2],
    red: ["#c8102e", "#f2545b", 1], orange: ["#f39200", "#ffa733", 1], yellow: ["#cdb400", "#f5e050", 2],
    green: ["#2a9d3a", "#45b957", 0], cyan: ["#19b5c9", "#4fd3e3", 2], blue: ["#1d4ed8", "#6b95ff", 0],
    purple: ["#6f3aad", "#a57ee0", 1], pink: ["#ec6fae", "#f79ccb", 1],
  };
  const RAMP = { light: ["#440154", "#3b528b", "#21918c", "#45b04f", "#c9b400"], dark: ["#7b4fa3", "#5f7fc4", "#2fb0a8", "#7ad151", "#fde725"] };
  const GREY = { light: "#b4bcc3", dark: "#4b555d" };

  // Words -----------------------------------------------------------------------------------------------------------
  const make = (tag, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };
  const plural = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
  const breaking = (name) => name.split("/").flatMap((part, i) => (i ? ["/", document.createElement("wbr"), part] : [part]));
  const scaled = (value, scale) => {
    if (scale === "share") return `${(100 * value).toFixed(0)} %`;
    if (scale === "pixels") return `${Math.round(2 ** value).toLocaleString("en")} pixels`;
    if (scale === "ratio") return `${(2 ** value).toFixed(2)} : 1`;
    if (scale === "date") return new Date(value * 864e5).toISOString().slice(0, 10);
    return value.toPrecision(3);
  };
  const valueOf = (colouring, i) => {
    const value = colouring.values[i];
    if (colouring.categories) return value === NONE ? "none" : colouring.categories[value];
    return scaled(colouring.low + (value / 255) * (colouring.high - colouring.low), colouring.scale);
  };

  // host: count, positions, colourings (values may come later, from load), side, mostZoom, groupOf, groupName, numGroups,
  // clusterName, names (of rows, or a promise of them), image (what drawImage takes before the place, or null while it is
  // not there), picture, pick, open, onChange, ready (promises after which to draw again), note.
  const begin = (host) => {
    const { count, colourings, positions } = host;
    const byId = (id) => document.getElementById(id);
    const canvas = byId("canvas");
    const context = canvas.getContext("2d");
    const card = byId("card");
    const select = byId("colouring");
    const legend = byId("legend");
    const isDark = matchMedia("(prefers-color-scheme: dark)");
    const theme = () => (isDark.matches ? "dark" : "light");

    const view = { x: 0, y: 0, zoom: 1 };
    let width = 0, height = 0;
    let lit = null;
    let hovered = -1;
    let ringed = [];
    let chosen = [];
    const isChosen = new Uint8Array(count);
    let outline = [];
    let colour = null;
    let version = 0; // of what the points look like

    // Images by the cell of a grid they lie in, so that what is near the pointer or in sight is found without asking all.
    const starts = new Uint32Array(GRID * GRID + 1);
    const members = new Uint32Array(count);
    const cellOf = (i) => (positions[2 * i + 1] >> 8) * GRID + (positions[2 * i] >> 8);
    for (let i = 0; i < count; i++) starts[cellOf(i) + 1]++;
    for (let cell = 0; cell < GRID * GRID; cell++) starts[cell + 1] += starts[cell];
    const next = starts.slice();
    for (let i = 0; i < count; i++) members[next[cellOf(i)]++] = i;
    const scratch = new Uint32Array(count);
    const within = (left, top, right, bottom) => {
      // At least the images in this part of the screen, as rows of a buffer that the next call uses again.
      const cell = (at, offset, spread) => Math.min(GRID - 1, Math.max(0, Math.floor(((at - offset) / (spread * view.zoom)) * 65535 / 256)));
      const [x0, x1] = [left, right].map((x) => cell(x, view.x, width - 2 * EDGE));
      const [y0, y1] = [top, bottom].map((y) => cell(y, view.y, height - 2 * EDGE));
      let found = 0;
      for (let row = y0; row <= y1; row++) {
        const part = members.subarray(starts[row * GRID + x0], starts[row * GRID + x1 + 1]);
        scratch.set(part, found);
        found += part.length;
      }
      return scratch.subarray(0, found);
    };

    // What a point looks like -----------------------------------------------------------------------------------------
    const codesOf = () => {
      if (select.value !== "cluster") return colourings[Number(select.value)];
      const values = new Uint32Array(count);
      for (let i = 0; i < count; i++) values[i] = host.groupOf(i);
      return { categories: Array.from({ length: host.numGroups() }, (_, i) => host.groupName(i)), values, none: -1 };
    };
    const channel = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
    const mix = (share) => {
      const ramp = RAMP[theme()];
      const at = share * (ramp.length - 1);
      const low = Math.min(Math.floor(at), ramp.length - 2);
      const rgb = [0, 1, 2].map((k) => Math.round(channel(ramp[low], k) + (at - low) * (channel(ramp[low + 1], k) - channel(ramp[low], k))));
      return `#${rgb.map((value) => value.toString(16).padStart(2, "0")).join("")}`;
    };
    // A colour as the pixels of a canvas have it, on machines that store the small end first: all that run browsers.
    const bitsOf = (hex, alpha = 255) => ((alpha << 24) | (channel(hex, 2) << 16) | (channel(hex, 1) << 8) | channel(hex, 0)) >>> 0;
    const isLit = (i) => colour.isLit(i) && (chosen.length <= RINGED || isChosen[i] === 1);
    const isFaded = () => lit !== null || chosen.length > RINGED;
    const recolour = async () => {
      const wanted = select.value;
      if (wanted !== "cluster" && !colourings[Number(wanted)].values) {
        const one = colourings[Number(wanted)];
        legend.replaceChildren(make("p", { textContent: "Loading." }));
        try {
          one.values = await one.load();
        } catch (error) {
          legend.replaceChildren(make("p", { textContent: error.message }));
          return;
        }
        if (select.value !== wanted) return;
      }
      const { categories, values, low, high, scale, ends: words, none = NONE } = codesOf();
      lit = null;
      version++;
      if (!categories) {
        const shades = Array.from({ length: 256 }, (_, value) => mix(value / 255));
        const bits = Uint32Array.from(shades, (shade) => bitsOf(shade));
        colour = { of: (i) => shades[values[i]], bits: (i) => bits[values[i]], shape: () => 0, isLit: () => true };
        const bar = make("span", { className: "ramp" });
        bar.style.background = `linear-gradient(90deg, ${[0, 63, 127, 191, 255].map((value) => shades[value]).join(", ")})`;
        const ends = make("span", { className: "ends" }, ...[low, high].map((value, i) => make("span", { textContent: `${words[i]} ${scaled(value, scale)}` })));
        legend.replaceChildren(bar, ends);
        ask();
        return;
      }
      const totals = new Array(categories.length).fill(0);
      for (const value of values) if (value !== none) totals[value]++;
      const order = totals.map((_, code) => code).sort((a, b) => totals[b] - totals[a] || a - b).filter((code) => totals[code]);
      const slot = new Int32Array(categories.length).fill(-1);
      order.forEach((code, i) => { slot[code] = i; });
      const named = (code) => (scale === "hue" ? NAMED[categories[code]] : undefined);
      const paint = (code) => named(code)?.[theme() === "dark" ? 1 : 0] ?? (slot[code] >= 0 ? PALETTE[theme()][slot[code] % 8] : GREY[theme()]);
      const shape = (code) => named(code)?.[2] ?? (slot[code] >= 0 ? Math.floor(slot[code] / 8) % 3 : 0);
      const bits = Uint32Array.from(categories, (_, code) => bitsOf(paint(code)));
      const missing = bitsOf(GREY[theme()]);
      colour = {
        of: (i) => paint(values[i]), bits: (i) => (values[i] === none ? missing : bits[values[i]]), shape: (i) => shape(values[i]),
        isLit: (i) => lit === null || values[i] === lit,
      };
      const entries = order.slice(0, LISTED).map((code) => {
        const button = make("button", { type: "button" }, swatch(paint(code), shape(code)), make("bdi", { textContent: categories[code], title: categories[code] }), make("span", { textContent: totals[code].toLocaleString("en") }));
        button.setAttribute("aria-pressed", "false");
        button.addEventListener("click", () => {
          lit = lit === code ? null : code;
          version++;
          for (const other of legend.querySelectorAll("button")) other.setAttribute("aria-pressed", String(other === button && lit !== null));
          ask();
        });
        return button;
      });
      legend.replaceChildren(...entries);
      if (order.length > LISTED) {
        const repeat = order.length > 24 ? "; colours and shapes repeat after 24" : "";
        legend.append(make("p", { textContent: `and ${(order.length - LISTED).toLocaleString("en")} more${repeat}` }));
      }
      ask();
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
    const thumbSize = () => Math.min(host.side, 14 + 6 * view.zoom);
    let asked = 0;
    const ask = () => {
      if (!asked) asked = requestAnimationFrame(paint);
    };
    let sheet = null, pixels = null, written = "", paintsOf = -1;
    const paints = new Uint32Array(count > DRAWN_ONE_BY_ONE ? count : 0);
    const paintDots = (seen, sharpness) => {
      const [across, down] = [canvas.width, canvas.height];
      if (!sheet || sheet.width !== across || sheet.height !== down) {
        sheet = context.createImageData(across, down);
        pixels = new Uint32Array(sheet.data.buffer);
        written = "";
      }
      const wanted = [view.x, view.y, view.zoom, width, height, version].join();
      if (wanted !== written) {
        written = wanted;
        pixels.fill(0);
        if (paintsOf !== version) {
          // Asked once for each point and not in every frame.
          paintsOf = version;
          const faded = bitsOf(GREY[theme()], 150);
          for (let i = 0; i < count; i++) paints[i] = isLit(i) ? colour.bits(i) : faded;
        }
        const dot = Math.max(1, Math.round(sharpness * (seen.length > 400000 ? 1 : seen.length > 50000 ? 1.5 : 2.2)));
        const scaleX = ((width - 2 * EDGE) * view.zoom * sharpness) / 65535, scaleY = ((height - 2 * EDGE) * view.zoom * sharpness) / 65535;
        const left = view.x * sharpness - dot / 2 + 0.5, top = view.y * sharpness - dot / 2 + 0.5;
        // What is faded lies below: it is drawn in a round of its own.
        for (let round = isFaded() ? 0 : 1; round < 2; round++) {
          for (let k = 0; k < seen.length; k++) {
            const i = seen[k];
            const paint = paints[i];
            if (round === 0 ? paint >>> 24 === 255 : paint >>> 24 !== 255) continue;
            const x = Math.floor(left + positions[2 * i] * scaleX), y = Math.floor(top + positions[2 * i + 1] * scaleY);
            if (x < 0 || y < 0 || x + dot > across || y + dot > down) continue;
            for (let row = 0; row < dot; row++) {
              for (let at = (y + row) * across + x, end = at + dot; at < end; at++) pixels[at] = paint;
            }
          }
        }
      }
      context.putImageData(sheet, 0, 0);
    };
    function paint() {
      asked = 0;
      if (!colour || !width) return;
      const sharpness = devicePixelRatio || 1;
      context.setTransform(sharpness, 0, 0, sharpness, 0, 0);
      context.clearRect(0, 0, width, height);
      const size = thumbSize();
      const margin = 2 * size;
      const near = within(-margin, -margin, width + margin, height + margin);
      let inSight = 0;
      const scaleX = ((width - 2 * EDGE) * view.zoom) / 65535, scaleY = ((height - 2 * EDGE) * view.zoom) / 65535;
      for (let k = 0; k < near.length; k++) {
        const i = near[k];
        const x = view.x + positions[2 * i] * scaleX, y = view.y + positions[2 * i + 1] * scaleY;
        if (x > -margin && y > -margin && x < width + margin && y < height + margin) near[inSight++] = i;
      }
      const seen = near.subarray(0, inSight);
      const radius = Math.min(2.2 + view.zoom * 0.35 + (count < 3000 ? 0.8 : 0), 5);
      const room = seen.length * size * size < 1.5 * width * height || view.zoom >= 3;
      const large = [];
      const isLarge = new Set();
      if (room) {
        const taken = new Set();
        for (const i of seen) {
          if (!isLit(i)) continue;
          // Cells that move with the map: what has a thumbnail keeps it while the map is moved.
          const cell = Math.floor((screenX(i) - view.x) / size) * 1e6 + Math.floor((screenY(i) - view.y) / size);
          if (taken.has(cell)) continue;
          taken.add(cell);
          large.push(i);
          isLarge.add(i);
        }
      }
      if (seen.length > DRAWN_ONE_BY_ONE) paintDots(seen, sharpness);
      else {
        for (const round of isFaded() ? [false, true] : [true]) {
          for (const i of seen) {
            if (isLarge.has(i) || isLit(i) !== round) continue;
            context.globalAlpha = round ? 0.85 : 0.3;
            context.fillStyle = round ? colour.of(i) : GREY[theme()];
            point(context, screenX(i), screenY(i), radius, colour.shape(i));
          }
        }
      }
      context.globalAlpha = 1;
      let shown = 0;
      for (const i of large) {
        const x = screenX(i) - size / 2, y = screenY(i) - size / 2;
        context.fillStyle = colour.of(i);
        const found = host.image(i);
        if (found) {
          context.fillRect(x - 2, y - 2, size + 4, size + 4);
          context.drawImage(...found, x, y, size, size);
          shown++;
        } else point(context, screenX(i), screenY(i), radius, colour.shape(i));
      }
      canvas.dataset.thumbnails = shown;
      canvas.dataset.points = seen.length - shown;
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
      if (chosen.length <= RINGED) for (const i of chosen) ring(i, 1);
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
      const zoom = Math.min(host.mostZoom, Math.max(1, view.zoom * factor));
      view.x = x - ((x - view.x) * zoom) / view.zoom;
      view.y = y - ((y - view.y) * zoom) / view.zoom;
      view.zoom = zoom;
      if (zoom === 1) view.x = view.y = EDGE;
      settle();
    };
    const whole = () => zoomAt(0, 0, 1 / host.mostZoom);
    const nearest = (x, y, radius) => {
      let best = -1, least = radius * radius;
      for (const i of within(x - radius, y - radius, x + radius, y + radius)) {
        const gap = (screenX(i) - x) ** 2 + (screenY(i) - y) ** 2;
        if (gap < least && colour.isLit(i)) [best, least] = [i, gap];
      }
      return best;
    };
    const middle = () => {
      for (let radius = 60; radius < 1e6; radius *= 4) {
        const found = nearest(width / 2, height / 2, radius);
        if (found >= 0) return found;
      }
      return 0;
    };
    const reach = () => Math.max(12, view.zoom >= 3 ? thumbSize() * 0.7 : 0);
    const tell = async (rows, say) => {
      // The report has its names, the explorer asks for them.
      try {
        const found = host.names(rows);
        say(found instanceof Promise ? await found : found);
      } catch (error) {
        say([error.message]);
      }
    };
    const hover = (x, y) => {
      if (!colour) return;
      const found = nearest(x, y, reach());
      if (found === hovered) return;
      hovered = found;
      canvas.classList.toggle("pointing", found >= 0);
      card.hidden = found < 0;
      ask();
      if (found < 0) return;
      const name = make("bdi");
      tell([found], ([one]) => name.replaceChildren(...breaking(one)));
      const words = make("div", {}, name, make("span", { textContent: host.clusterName(found) }));
      if (select.value !== "cluster") words.append(make("span", { textContent: `${colourings[Number(select.value)].name}: ${valueOf(colourings[Number(select.value)], found)}` }));
      card.replaceChildren(host.picture(found), words);
      const right = screenX(found) > width / 2, low = screenY(found) > height / 2;
      Object.assign(card.style, {
        left: right ? "auto" : `${screenX(found) + 16}px`, right: right ? `${width - screenX(found) + 16}px` : "auto",
        top: low ? "auto" : `${screenY(found) + 8}px`, bottom: low ? `${height - screenY(found) + 8}px` : "auto",
      });
    };

    // Pointers --------------------------------------------------------------------------------------------------------
    const fingers = new Map();
    let moved = 0;
    const lasso = byId("lasso");
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
        if (found >= 0) host.open(found);
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
    let saying = 0;
    const announce = () => {
      // For who moves the map by keys and does not see it: what Enter would open.
      clearTimeout(saying);
      saying = setTimeout(() => {
        const i = middle();
        tell([i], ([name]) => { byId("map-middle").textContent = `In the middle: ${name}, ${host.clusterName(i)}`; });
      }, 400);
    };
    canvas.addEventListener("keydown", (event) => {
      const steps = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };
      const zooms = { "+": 1.5, "=": 1.5, "-": 1 / 1.5, "0": 1 / host.mostZoom };
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (steps[event.key]) {
        view.x += steps[event.key][0];
        view.y += steps[event.key][1];
        settle();
        announce();
      } else if (zooms[event.key]) {
        zoomAt(width / 2, height / 2, zooms[event.key]);
        announce();
      } else if (event.key === "Enter") host.open(middle());
      else if (event.key.toLowerCase() === "c") {
        outline = [[0, 0], [width, 0], [width, height], [0, height]];
        choose();
        outline = [];
        ask();
      } else if (event.key === "Escape") forget();
      else return;
      event.preventDefault();
    });
    canvas.addEventListener("focus", announce);
    for (const event of ["focus", "blur"]) canvas.addEventListener(event, ask);
    byId("zoom-in").addEventListener("click", () => zoomAt(width / 2, height / 2, 1.6));
    byId("zoom-out").addEventListener("click", () => zoomAt(width / 2, height / 2, 1 / 1.6));
    byId("zoom-all").addEventListener("click", whole);

    // Choosing --------------------------------------------------------------------------------------------------------
    const panel = byId("chosen");
    const listed = byId("chosen-names");
    const setLasso = (on) => {
      lasso.setAttribute("aria-pressed", String(on));
      canvas.classList.toggle("lassoing", on);
    };
    lasso.addEventListener("click", () => setLasso(lasso.getAttribute("aria-pressed") !== "true"));
    const isInside = (xs, ys, x, y) => {
      let inside = false;
      for (let i = 0, j = xs.length - 1; i < xs.length; j = i++) {
        if (ys[i] > y !== ys[j] > y && x < ((xs[j] - xs[i]) * (y - ys[i])) / (ys[j] - ys[i]) + xs[i]) inside = !inside;
      }
      return inside;
    };
    const choose = () => {
      const xs = Float64Array.from(outline, ([x]) => x), ys = Float64Array.from(outline, ([, y]) => y);
      const [left, right] = [Math.min(...xs), Math.max(...xs)], [top, bottom] = [Math.min(...ys), Math.max(...ys)];
      const near = within(left, top, right, bottom);
      let inside = 0;
      for (let k = 0; k < near.length; k++) {
        const i = near[k];
        const x = screenX(i), y = screenY(i);
        if (x >= left && x <= right && y >= top && y <= bottom && colour.isLit(i) && isInside(xs, ys, x, y)) near[inside++] = i;
      }
      const found = near.slice(0, inside).sort();
      mark(found);
      setLasso(false);
      panel.hidden = !found.length;
      byId("chosen-title").textContent = `${plural(found.length, "image")} chosen`;
      byId("copied").textContent = "";
      byId("chosen-label").textContent = "Names";
      listed.value = "";
      if (!found.length) return;
      tell(found, (names) => {
        if (chosen !== found) return;
        listed.value = names.join("\n");
        if (names.length < found.length) byId("chosen-label").textContent = `The first ${names.length.toLocaleString("en")} names`;
      });
      // An even sample: neighbours in the order of the names are often alike.
      const shown = Math.min(found.length, 48);
      panel.querySelector("ul").replaceChildren(...Array.from({ length: shown }, (_, k) => host.pick(found[Math.floor((k * found.length) / shown)])));
    };
    const mark = (rows) => {
      for (const i of chosen) isChosen[i] = 0;
      chosen = rows;
      for (const i of chosen) isChosen[i] = 1;
      version++;
    };
    const forget = () => {
      mark([]);
      ringed = [];
      panel.hidden = true;
      ask();
    };
    byId("unchoose").addEventListener("click", () => {
      forget();
      canvas.focus();
    });
    byId("copy").addEventListener("click", async () => {
      let done = true;
      try {
        await navigator.clipboard.writeText(listed.value);
      } catch {
        // Browsers that keep the clipboard from pages on disk let a selection be copied.
        listed.select();
        done = document.execCommand("copy");
      }
      byId("copied").textContent = done ? "Copied." : "Select the names below and copy them.";
    });

    let sought = -1; // to be shown as soon as the map has a size
    const locate = (i) => {
      sought = width ? -1 : i;
      if (!width) return;
      view.zoom = Math.max(view.zoom, 6, count > 10000 ? host.mostZoom / 8 : 0);
      view.x = view.y = 0;
      [view.x, view.y] = [width / 2 - screenX(i), height / 2 - screenY(i)];
      byId("map").scrollIntoView();
      canvas.focus();
      settle();
    };

    // Beginning -------------------------------------------------------------------------------------------------------
    select.append(make("option", { value: "cluster", textContent: "cluster" }), ...colourings.map((one, i) => make("option", { value: i, textContent: one.name })));
    select.addEventListener("change", recolour);
    isDark.addEventListener("change", recolour);
    host.onChange((what, value) => {
      if (what === "groups" && select.value === "cluster") recolour();
      if (what === "open") ringed = value;
      if (what === "locate") locate(value);
      ask();
    });
    byId("map-sample").textContent = host.note;
    byId("map-missing").hidden = true;
    byId("map-controls").hidden = byId("map-body").hidden = false;
    new ResizeObserver(() => {
      if (!canvas.clientWidth) return; // another page of the explorer is shown
      const [old, oldHeight] = [width, height];
      [width, height] = [canvas.clientWidth, canvas.clientHeight];
      canvas.width = Math.round(width * (devicePixelRatio || 1));
      canvas.height = Math.round(height * (devicePixelRatio || 1));
      if (!old) whole();
      else [view.x, view.y] = [(view.x * width) / old, (view.y * height) / oldHeight];
      settle();
      if (sought >= 0) locate(sought);
      paint();
    }).observe(canvas);
    for (const one of host.ready) one.then(ask);
    recolour();
    return { repaint: ask };
  };
  return { NONE, make, plural, breaking, scaled, valueOf, begin };
})();
