"use strict";
// Every text from the run enters the page through textContent or an attribute, never as HTML.

const CLUSTERS_A_PAGE = 24;
const IMAGES_A_PAGE = 60;
const UPLOAD_BYTES = 64 * 1024 * 1024;
const ENLARGED_SIDE = 200;

const byId = (id) => document.getElementById(id);
const count = (number) => number.toLocaleString("en-US");
let turn = 0; // answers of a page that was left come too late to be shown
let asked = null; // the image that was searched with: {name, url, found}

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter((child) => child !== null));
  return element;
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch {
    throw new Error("The explorer does not answer: it may have ended. Start it again with unlabeled explore.");
  }
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

function shown(source, alt, loading = "eager") {
  const image = make("img", { alt, loading, decoding: "async" });
  const isEnlarged = () => image.naturalWidth < ENLARGED_SIDE && image.clientWidth > 2 * image.naturalWidth;
  image.addEventListener("load", () => image.classList.toggle("small", isEnlarged()));
  image.src = source;
  return image;
}

const picture = (kind, index, alt) => shown(`/${kind}/${index}`, alt, kind === "thumbnail" ? "lazy" : "eager");

function tile(image) {
  const notes = [];
  if ("similarity" in image) notes.push(image.similarity.toFixed(3));
  if (image.unlike) notes.push("unlike the rest");
  return make(
    "li",
    {},
    make(
      "a",
      { href: `#image/${image.index}` },
      picture("thumbnail", image.index, ""),
      make("bdi", { title: image.name }, image.name),
      notes.length ? make("span", { class: image.unlike ? "note unlike" : "note" }, notes.join(" · ")) : null,
    ),
  );
}

const grid = (images, tag = "ul") => make(tag, { class: "grid" }, ...images.map(tile));
const clusterLink = (number, text) => make("a", { href: `#cluster/${number}` }, text ?? `cluster ${number}`);
const describe = (cluster) => `${count(cluster.size)} ${cluster.size === 1 ? "image" : "images"} · spread ${cluster.tightness.toFixed(2)}`;

function pages(total, offset, size, address) {
  if (total <= size) return null;
  const step = (text, to, rel) => (to >= 0 && to < total ? make("a", { href: address(to), rel }, text) : make("span", { "aria-hidden": "true" }, text));
  const last = Math.min(offset + size, total);
  return make(
    "nav",
    { class: "pages", "aria-label": "Pages" },
    step("Previous", offset > 0 ? Math.max(offset - size, 0) : -1, "prev"),
    `${count(offset + 1)} to ${count(last)} of ${count(total)}`,
    step("Next", offset + size, "next"),
  );
}

function choice(label, options, chosen, address) {
  const select = make("select", {}, ...Object.entries(options).map(([value, text]) => make("option", { value }, text)));
  select.value = chosen;
  select.addEventListener("change", () => { location.hash = address(select.value); });
  return make("label", {}, label, select);
}

function facts(entries) {
  const rows = entries.map(([name, value]) => make("div", {}, make("dt", {}, name), make("dd", {}, value)));
  return make("dl", {}, ...rows);
}

async function clusters(by = "size", offset = 0) {
  const found = await ask(`/api/clusters?order=${by}&offset=${offset}&limit=${CLUSTERS_A_PAGE}`);
  const card = (cluster) =>
    make(
      "li",
      {},
      make(
        "a",
        { href: `#cluster/${cluster.number}`, "aria-label": `Cluster ${cluster.number}, ${describe(cluster)}` },
        make("div", { class: "thumbs" }, ...cluster.typical.map((image) => picture("thumbnail", image.index, ""))),
        make("h3", {}, `Cluster ${cluster.number}`),
        make("p", {}, describe(cluster)),
      ),
    );
  const orders = { size: "largest first", tightness: "tightest first", number: "by number" };
  const address = (to) => `#clusters/${by}/${to}`;
  return {
    title: `${count(found.total)} ${found.total === 1 ? "cluster" : "clusters"}`,
    content: [
      make("div", { class: "line" }, choice("Order", orders, by, (value) => `#clusters/${value}`), pages(found.total, offset, CLUSTERS_A_PAGE, address)),
      make("ul", { class: "gallery" }, ...found.clusters.map(card)),
      pages(found.total, offset, CLUSTERS_A_PAGE, address),
    ],
  };
}

async function cluster(number, by = "typical", offset = 0) {
  const found = await ask(`/api/cluster/${number}?order=${by}&offset=${offset}&limit=${IMAGES_A_PAGE}`);
  const orders = { typical: "most typical first", far: "farthest from the centre first" };
  const address = (to) => `#cluster/${number}/${by}/${to}`;
  const alike = found.alike.flatMap((other, i) => [i ? ", " : "", clusterLink(other.number, String(other.number))]);
  return {
    title: `Cluster ${number}`,
    content: [
      make("div", { class: "line" }, make("p", {}, describe(found), alike.length ? " · most like it: " : "", ...alike), choice("Order", orders, by, (value) => `#cluster/${number}/${value}`), pages(found.total, offset, IMAGES_A_PAGE, address)),
      grid(found.images),
      pages(found.total, offset, IMAGES_A_PAGE, address),
    ],
  };
}

async function image(index) {
  const found = await ask(`/api/image/${index}`);
  toRing.splice(0, Infinity, index, ...found.neighbours.map((one) => one.index));
  const large = picture("picture", index, found.name);
  large.addEventListener("error", () => ask(`/picture/${index}`).catch((error) => say(error.message)));
  return {
    title: make("bdi", {}, found.name.split("/").pop()),
    content: [
      make(
        "div",
        { class: "one" },
        make("figure", {}, large),
        make(
          "div",
          {},
          facts([
            ["Name", make("bdi", {}, found.name)],
            ["Number", count(found.index)],
            ["Cluster", clusterLink(found.cluster)],
            ["From its centre", found.distance.toFixed(3)],
            ["On the map", make("a", { href: `#map/${index}` }, "show where it lies")],
            ...(found.unlike ? [["Remark", "unlike the rest of the images"]] : []),
          ]),
          make("h2", {}, "Most like it"),
          grid(found.neighbours, "ol"),
        ),
      ),
    ],
  };
}

async function find(text, offset = 0) {
  const found = await ask(`/api/find?text=${encodeURIComponent(text)}&offset=${offset}&limit=${IMAGES_A_PAGE}`);
  const address = (to) => `#find/${encodeURIComponent(text)}/${to}`;
  return {
    title: found.total ? `${count(found.total)} found for “${text}”` : `Nothing found for “${text}”`,
    content: [make("div", { class: "line" }, pages(found.total, offset, IMAGES_A_PAGE, address)), grid(found.images), pages(found.total, offset, IMAGES_A_PAGE, address)],
  };
}

async function like() {
  if (!asked) return clusters();
  const { found } = asked;
  return {
    title: make("bdi", {}, asked.name),
    content: [
      make(
        "div",
        { class: "one" },
        make("figure", {}, shown(asked.url, "the image you searched with")),
        make(
          "div",
          {},
          facts([
            ["Nearest cluster", clusterLink(found.cluster)],
            ["From its centre", found.distance.toFixed(3)],
            ...(found.unlike ? [["Remark", "unlike anything seen in training"]] : []),
          ]),
          make("h2", {}, "Most like it"),
          grid(found.neighbours, "ol"),
        ),
      ),
    ],
  };
}

// The map: made once, kept while other pages are shown -----------------------------------------------------------------
const THUMBNAILS_KEPT = 2000;
const ASKED_AT_ONCE = 6;
let opened = null; // a promise of the map: {locate, ring}
const toRing = []; // the image looked at last, and those most like it

async function values(path, Kind) {
  const response = await fetch(path);
  if (!response.ok) throw new Error((await response.json()).error);
  return new Kind(await response.arrayBuffer());
}

function thumbnails(redraw) {
  const kept = new Map(); // by number, those drawn last at the end; null: it cannot be shown
  let wanted = [], loading = 0, asking = 0;
  const load = () => {
    asking = 0;
    while (wanted.length && loading < ASKED_AT_ONCE) {
      const index = wanted.shift();
      if (kept.has(index)) continue;
      const found = Object.assign(new Image(), { decoding: "async" });
      kept.set(index, found);
      loading++;
      const end = (isThere) => {
        loading--;
        if (!isThere) kept.set(index, null);
        redraw();
        load();
      };
      found.addEventListener("load", () => end(true));
      found.addEventListener("error", () => end(false));
      found.src = `/thumbnail/${index}`;
    }
    for (const [index, found] of kept) {
      if (kept.size <= THUMBNAILS_KEPT) break;
      if (!found || found.complete) kept.delete(index);
    }
    wanted = []; // what is still in sight is asked for again when it is drawn
  };
  return (index) => {
    const found = kept.get(index);
    if (found === undefined) {
      wanted.push(index);
      if (!asking) asking = requestAnimationFrame(load);
      return null;
    }
    if (!found || !found.complete || !found.naturalWidth) return null;
    kept.delete(index);
    kept.set(index, found);
    const side = Math.min(found.naturalWidth, found.naturalHeight);
    return [found, (found.naturalWidth - side) / 2, (found.naturalHeight - side) / 2, side, side];
  };
}

async function openMap(mine) {
  let about = await ask("/api/map");
  while (!about.ready) {
    const bar = make("progress", { max: about.count, value: about.placed, "aria-label": "Images placed" });
    if (!about.placed) bar.removeAttribute("value");
    const words = about.placed ? `${count(about.placed)} of ${count(about.count)} images have their place.` : "First some of the images are arranged; that takes up to a minute.";
    if (mine === turn) {
      byId("title").textContent = "Map of all images";
      byId("content").replaceChildren(make("div", { class: "making" }, make("p", {}, `The map is being made. ${words}`), bar));
    }
    await new Promise((done) => { setTimeout(done, 700); });
    about = await ask("/api/map");
  }
  const [positions, clusterOf] = await Promise.all([values("/map/positions", Uint16Array), values("/map/clusters", about.wide ? Uint32Array : Uint16Array)]);
  const listeners = [];
  const tell = (what, value) => { for (const one of listeners) one(what, value); };
  let begun = null;
  const name = (number) => `Cluster ${number}`;
  const named = async (rows) => (await ask("/api/names", { method: "POST", body: Uint32Array.from(rows), headers: { "Content-Type": "application/octet-stream" } })).names;
  const thumbnail = (index) => {
    const found = shown(`/thumbnail/${index}`, "");
    found.classList.add("pixels");
    return found;
  };
  begun = imageMap.begin({
    count: about.count, positions, side: 72, mostZoom: Math.max(80, 0.8 * Math.sqrt(about.count)),
    colourings: about.colourings.map((one, i) => ({ ...one, load: () => values(`/map/${i}`, one.categories ? Uint16Array : Uint8Array) })),
    groupOf: (index) => clusterOf[index], groupName: name, numGroups: () => about.clusters, clusterName: (index) => name(clusterOf[index]),
    names: named, image: thumbnails(() => begun?.repaint()), picture: thumbnail,
    pick: (index) => make("li", {}, make("a", { href: `#image/${index}`, "aria-label": `Image ${count(index)}` }, thumbnail(index))),
    open: (index) => { location.hash = `image/${index}`; },
    onChange: (listener) => listeners.push(listener), ready: [],
    note: [
      about.arranged < about.count ? `All ${count(about.count)} images: ${count(about.arranged)} arranged by t-SNE, each other one beside the three of them most like it.` : "",
      about.measured ? "" : "To have brightness, sharpness and the like as colours, write the report anew (unlabeled report RUN).",
    ].filter(Boolean).join(" "),
  });
  return { locate: (index) => tell("locate", index), ring: (rows) => tell("open", rows) };
}

async function places(at) {
  opened ??= openMap(turn);
  let found;
  try {
    found = await opened;
  } catch (error) {
    opened = null; // it may go better the next time
    throw error;
  }
  return {
    title: "Map of all images",
    content: [],
    map: () => {
      found.ring([...toRing]);
      if (at !== undefined) found.locate(whole(at));
    },
  };
}

async function searchWith(file) {
  const mine = ++turn;
  say("");
  if (file.size > UPLOAD_BYTES) return say(`${file.name} has ${count(file.size)} bytes and a search takes at most ${count(UPLOAD_BYTES)}: make it smaller.`);
  byId("main").setAttribute("aria-busy", "true");
  try {
    const found = await ask("/api/search", { method: "POST", body: file, headers: { "Content-Type": "application/octet-stream" } });
    if (mine !== turn) return;
    if (asked) URL.revokeObjectURL(asked.url);
    asked = { name: file.name, url: URL.createObjectURL(file), found };
    if (location.hash === "#like") await show();
    else location.hash = "like";
  } catch (error) {
    say(error.message);
  } finally {
    byId("main").setAttribute("aria-busy", "false");
  }
}

function say(text) { byId("said").textContent = text; }

const whole = (text) => (/^[0-9]{1,15}$/.test(text ?? "") ? Number(text) : 0);
const oneOf = (text, known) => (known.includes(text) ? text : known[0]);

function route() {
  const [kind, ...rest] = location.hash.slice(1).split("/");
  if (kind === "cluster") return cluster(whole(rest[0]), oneOf(rest[1], ["typical", "far"]), whole(rest[2]));
  if (kind === "image") return image(whole(rest[0]));
  if (kind === "find") return find(decodeURIComponent(rest[0] ?? ""), whole(rest[1]));
  if (kind === "like") return like();
  if (kind === "map") return places(rest[0]);
  return clusters(oneOf(rest[0], ["size", "tightness", "number"]), whole(rest[1]));
}

async function show(isFirst = false) {
  if (location.hash === "#main") return;
  const mine = ++turn;
  const main = byId("main");
  main.setAttribute("aria-busy", "true");
  say("");
  try {
    const page = await route();
    if (mine !== turn) return;
    const title = byId("title");
    title.replaceChildren(page.title);
    byId("content").replaceChildren(...page.content.filter((part) => part !== null));
    byId("map-page").hidden = !page.map;
    document.title = `${title.textContent} · ${byId("run").textContent}`;
    if (!isFirst) {
      window.scrollTo(0, 0);
      title.focus({ preventScroll: true });
    }
    page.map?.();
  } catch (error) {
    if (mine === turn) say(error.message);
  } finally {
    if (mine === turn) main.setAttribute("aria-busy", "false");
  }
}

async function begin() {
  try {
    const run = await ask("/api/run");
    byId("run").textContent = run.title;
    byId("subtitle").textContent = run.subtitle;
    byId("generator").textContent = run.generator;
  } catch (error) {
    say(error.message);
  }
  await show(true);
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = byId("text").value.trim();
  if (text) location.hash = `find/${encodeURIComponent(text)}`;
});
byId("file").addEventListener("change", (event) => {
  const [file] = event.target.files;
  if (file) searchWith(file);
  event.target.value = ""; // the same file may be chosen again
});
document.addEventListener("dragover", (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dropping"); });
document.addEventListener("drop", (event) => {
  document.body.classList.remove("dropping");
  const file = event.dataTransfer?.files[0];
  if (!file) return;
  event.preventDefault();
  searchWith(file);
});
document.addEventListener("paste", (event) => {
  const file = event.clipboardData?.files[0];
  if (file) searchWith(file);
});
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input, select, textarea, canvas")) return;
  if (event.key === "/") { event.preventDefault(); byId("text").focus(); }
  const rel = { ArrowLeft: "prev", ArrowRight: "next" }[event.key];
  if (rel) document.querySelector(`.pages a[rel="${rel}"]`)?.click();
});
window.addEventListener("hashchange", () => show());
begin();
