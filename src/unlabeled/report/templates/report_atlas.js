"use strict";
// All images of the page: thumbnail, name, cluster, neighbours. Opens the neighbours of any of them, and merges clusters.
(() => {
  const element = document.getElementById("atlas");
  if (!element) return;
  const data = JSON.parse(element.textContent);
  element.remove();
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const pairs = (text) => new Uint16Array(bytes(text).buffer);
  const { make, plural, breaking, valueOf, NONE } = imageMap;
  const count = data.count;
  const clusters = pairs(data.clusters);
  const distances = pairs(data.distances);
  const neighbours = pairs(data.neighbours);
  const similarities = bytes(data.similarities);
  const repeated = bytes(data.repeated);
  const sizes = data.tree.sizes;
  const names = data.names;
  const colourings = data.colourings.map((one) => ({ ...one, values: one.categories ? pairs(one.values) : bytes(one.values) }));
  const listeners = [];

  // Thumbnails ------------------------------------------------------------------------------------------------------
  const sheets = data.sheets.map((uri) => Object.assign(new Image(), { decoding: "async", src: uri }));
  const ready = sheets.map((sheet) => sheet.decode());
  const perSheet = data.columns * data.columns;
  const pitch = data.side + 2 * data.margin;
  const image = (i) => {
    const sheet = sheets[Math.floor(i / perSheet)];
    if (!sheet.complete || !sheet.naturalWidth) return null;
    const place = i % perSheet;
    const left = (place % data.columns) * pitch + data.margin;
    const top = Math.floor(place / data.columns) * pitch + data.margin;
    return [sheet, left, top, data.side, data.side];
  };
  const picture = (i) => {
    const canvas = document.createElement("canvas");
    canvas.className = "pixels";
    canvas.width = canvas.height = data.side;
    ready[Math.floor(i / perSheet)].then(() => canvas.getContext("2d").drawImage(...image(i), 0, 0, data.side, data.side));
    return canvas;
  };

  // Merging ---------------------------------------------------------------------------------------------------------
  let groups = sizes.map((_, cluster) => cluster);
  let shown = sizes.length;
  const cut = (wanted) => {
    const total = sizes.length;
    const group = Array.from({ length: 2 * total - 1 }, (_, node) => node);
    for (let merge = total - wanted - 1; merge >= 0; merge--) {
      for (const node of data.tree.pairs[merge]) group[node] = group[total + merge];
    }
    const roots = [...new Set(group.slice(0, total))].sort((a, b) => a - b);
    const images = new Map(roots.map((root) => [root, 0]));
    sizes.forEach((size, cluster) => images.set(group[cluster], images.get(group[cluster]) + size));
    // Largest first; the sort is stable, as in `unlabeled cluster`.
    const rank = new Map([...roots].sort((a, b) => images.get(b) - images.get(a)).map((root, i) => [root, i]));
    return sizes.map((_, cluster) => rank.get(group[cluster]));
  };
  const isMerged = () => shown < sizes.length;
  const groupOf = (i) => groups[clusters[i]];
  const groupName = (number) => `${isMerged() ? "Group" : "Cluster"} ${number}`;
  const clusterName = (i) => (isMerged() ? `${groupName(groupOf(i))} (cluster ${clusters[i]})` : `Cluster ${clusters[i]}`);

  // Pictures of each cluster, the nearest to its centre first.
  const typical = sizes.map(() => []);
  for (let i = 0; i < count; i++) typical[clusters[i]].push(i);
  for (const members of typical) members.sort((a, b) => distances[a] - distances[b]);
  const samples = (parts, most) => {
    const found = [];
    for (let round = 0; found.length < most && parts.some((part) => typical[part].length > round); round++) {
      for (const part of parts) if (typical[part].length > round && found.length < most) found.push(typical[part][round]);
    }
    return found;
  };

  // Neighbours of one image -----------------------------------------------------------------------------------------
  const dialog = document.getElementById("picture");
  const trail = [];
  const pick = (i, note) => {
    const button = make("button", { type: "button", className: "pick" }, picture(i), make("bdi", {}, ...breaking(names[i])));
    button.dataset.image = i;
    if (note) button.append(make("span", { className: "similarity", textContent: note }));
    return make("li", {}, button);
  };
  const alike = (i) => Array.from(neighbours.subarray(i * data.width, (i + 1) * data.width));
  const SAME = ["", "nearly the same", "same picture"];
  const show = () => {
    const i = trail[trail.length - 1];
    document.getElementById("picture-title").replaceChildren(...breaking(names[i]));
    document.getElementById("picture-note").textContent = clusterName(i);
    document.getElementById("picture-back").disabled = trail.length < 2;
    const facts = colourings.map((one) => make("div", {}, make("dt", { textContent: one.name }), make("dd", { textContent: valueOf(one, i) })));
    dialog.querySelector(".asked-for").replaceChildren(picture(i), make("dl", {}, ...facts));
    const items = alike(i).map((other, place) => {
      const at = i * data.width + place;
      const same = SAME[repeated[at] || 0];
      return pick(other, `${(similarities[at] / 250).toFixed(2)}${same ? `, ${same}` : ""}`);
    });
    dialog.querySelector(".alike").replaceChildren(...items);
    dialog.scrollTop = 0;
    if (!dialog.open) dialog.showModal();
    for (const tell of listeners) tell("open", [i, ...alike(i)]);
  };
  const open = (i) => {
    if (!dialog.open) trail.length = 0;
    trail.push(i);
    show();
  };
  document.addEventListener("click", (event) => {
    const target = event.target.closest("[data-image]");
    if (target) open(Number(target.dataset.image));
  });
  document.getElementById("picture-back").addEventListener("click", () => {
    trail.pop();
    show();
  });
  document.getElementById("picture-close").addEventListener("click", () => dialog.close());
  dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  document.getElementById("picture-map").addEventListener("click", () => {
    document.getElementById("viewer").close();
    dialog.close();
    for (const tell of listeners) tell("locate", trail[trail.length - 1]);
  });

  // Duplicates ------------------------------------------------------------------------------------------------------
  const sameness = new Uint16Array(count);
  for (let at = 0; at < repeated.length; at++) {
    const i = Math.floor(at / data.width);
    sameness[i] = Math.max(sameness[i], repeated[at]);
  }
  if (repeated.length) colourings.push({ name: "duplicates", categories: ["one of a kind", "nearly the same as another", "same as another"], values: sameness });
  const repeatNote = (members) => {
    const found = members.filter((i) => sameness[i]);
    if (!found.length) return null;
    const kind = found.every((i) => sameness[i] === 2) ? "the same" : "nearly the same";
    const button = make("button", { type: "button", className: "link", textContent: `${plural(found.length, "image")} ${kind} as others` });
    button.dataset.image = found[0];
    return button;
  };

  // The gallery of fewer clusters -----------------------------------------------------------------------------------
  const gallery = document.getElementById("gallery");
  const merged = document.getElementById("merged");
  const MOST_CARDS = 60;
  const card = (number, parts) => {
    const size = parts.reduce((sum, part) => sum + sizes[part], 0);
    const pictures = samples(parts, 12).map((i) => {
      const canvas = picture(i);
      canvas.dataset.image = i;
      canvas.title = names[i];
      return canvas;
    });
    const thumbs = make("div", { className: "thumbs" }, ...pictures);
    thumbs.setAttribute("role", "img");
    thumbs.setAttribute("aria-label", `${pictures.length} sample images of group ${number}`);
    const list = parts.length > 12 ? `${parts.slice(0, 12).join(", ")} and ${parts.length - 12} more` : parts.join(", ");
    const made = make("li", {}, thumbs, make("h3", { textContent: `Group ${number}` }));
    if (pictures.length) {
      const opener = make("button", { type: "button", className: "enlarge", textContent: "Open" });
      opener.setAttribute("aria-label", `Open the most typical image of group ${number}`);
      opener.dataset.image = pictures[0].dataset.image;
      made.append(opener);
    }
    made.append(make("p", { textContent: `${plural(size, "image")}, from ${parts.length === 1 ? "cluster" : "clusters"} ${list}` }));
    const note = repeatNote(parts.flatMap((part) => typical[part]));
    if (note) made.append(make("p", {}, note));
    return made;
  };
  const setCount = (wanted) => {
    shown = wanted;
    groups = cut(wanted);
    document.getElementById("merge-count").textContent = isMerged() ? `${wanted} of ${sizes.length}` : `all ${sizes.length}`;
    // Broken between words only, and copied as one line.
    const words = `unlabeled cluster ${data.run} --num-clusters ${wanted} --out clusters-${wanted}.csv`.split(" ");
    document.getElementById("merge-command").replaceChildren(...words.flatMap((word, i) => [i ? " " : "", make("span", { textContent: word })]));
    if (gallery) {
      gallery.hidden = isMerged();
      merged.hidden = !isMerged();
      document.getElementById("order").disabled = isMerged();
      document.getElementById("hidden-note")?.toggleAttribute("hidden", isMerged());
      document.getElementById("all").closest("p").hidden = isMerged();
      const parts = Array.from({ length: wanted }, () => []);
      groups.forEach((group, cluster) => sizes[cluster] && parts[group].push(cluster));
      const cards = parts.slice(0, MOST_CARDS).map((members, number) => [number, members]).filter(([, members]) => members.length);
      merged.replaceChildren(...(isMerged() ? cards.map(([number, members]) => card(number, members)) : []));
    }
    for (const tell of listeners) tell("groups");
  };
  const slider = document.getElementById("num-clusters");
  if (slider && sizes.length > 1) {
    slider.max = sizes.length;
    slider.value = sizes.length;
    document.getElementById("merging").hidden = false;
    let asked = 0;
    slider.addEventListener("input", () => {
      cancelAnimationFrame(asked);
      asked = requestAnimationFrame(() => setCount(Number(slider.value)));
    });
    setCount(sizes.length);
  }
  // A link to one cluster needs the cards of single clusters.
  document.addEventListener("click", (event) => {
    if (!event.target.closest('a[href^="#cluster-"]') || !isMerged()) return;
    slider.value = sizes.length;
    setCount(sizes.length);
  });
  for (const item of gallery ? gallery.children : []) {
    const note = repeatNote(typical[Number(item.dataset.id)] || []);
    const line = item.querySelector(".repeated");
    if (note) line.append(note);
    line.hidden = !note;
  }

  // Clusters without a card are shown by their most typical image.
  for (const place of document.querySelectorAll("[data-cluster]")) {
    const [first] = typical[Number(place.dataset.cluster)] || [];
    if (first === undefined) continue;
    const text = place.textContent || `Look at cluster ${place.dataset.cluster}`;
    const button = make("button", { type: "button", className: "link", textContent: text });
    button.setAttribute("aria-label", `Cluster ${place.dataset.cluster}: its most typical image`);
    button.dataset.image = first;
    place.replaceChildren(button);
  }

  const { total } = data;
  imageMap.begin({
    count, colourings, positions: pairs(data.positions), side: data.side * 1.25, mostZoom: 80, groupOf, groupName, clusterName,
    numGroups: () => shown, names: (rows) => Array.from(rows, (i) => names[i]), image, picture, pick, open, ready,
    onChange: (tell) => listeners.push(tell),
    note: total > count ? `An even sample: ${count.toLocaleString("en")} of ${total.toLocaleString("en")} images.` : "",
  });
})();
