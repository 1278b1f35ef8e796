// The page of `spark-embed explore`. What comes from the data set is shown as text only, never as HTML.

const $ = (id) => document.getElementById(id);
const STEP = 48;
const ALL = { kind: "all" };
const pictures = new Map(); // chosen in this visit, by number: a reload forgets them
let info = null;
let asked = ALL; // {kind: all | text | like | image, text, like, id, where}
let hits = [];
let k = STEP;
let current = 0; // the card that the arrow keys are at
let asking = new AbortController();

const thumbnail = (number, width) => `api/thumbnail/${number}?w=${width}&v=${encodeURIComponent(info.state)}`;
const captionOf = (hit) => String(hit.columns[info.caption] ?? hit.image_id);
const cut = (text, n) => (text.length > n ? `${text.slice(0, n)}…` : text);
const pause = (ms) => new Promise((done) => setTimeout(done, ms));

function say(text, isBad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", isBad);
}

async function json(path, options) {
  const response = await fetch(path, options).catch((error) => {
    if (error.name === "AbortError") throw error;
    throw new Error("no answer: is spark-embed explore still running?");
  });
  const body = await response.json();
  if (!response.ok) throw new Error(body.error.message);
  return body;
}

// What is looked for

async function modelReady() {
  while (info.model.state === "loading") {
    await pause(700);
    showInfo(await json("api/info"));
  }
}

async function search({ keepFocus = false } = {}) {
  asking.abort();
  const mine = (asking = new AbortController());
  showAsked();
  $("grid").classList.add("old");
  try {
    if ((asked.kind === "text" || asked.kind === "image") && info.model.state === "loading") {
      say("The model is being loaded…");
      await modelReady();
    }
    if (mine.signal.aborted) return;
    const started = performance.now();
    const found = await json("api/search", { method: "POST", signal: mine.signal, ...body() });
    hits = found.hits;
    showHits(keepFocus);
    const took = `${Math.round(performance.now() - started)} ms`;
    const only = asked.where ? ` where ${asked.where}` : "";
    const of = info.n_vectors.toLocaleString("en");
    if (!hits.length) say(`Nothing found${only}.`);
    else if (asked.kind === "all") say(`${hits.length} of ${of} pictures${only}, from all over the data set. Choose one to see more like it.`);
    else say(`The ${hits.length} nearest of ${of} pictures${only}, by cosine. ${took}`);
  } catch (error) {
    if (mine.signal.aborted) return;
    hits = [];
    showHits(true);
    say(error.message, true);
  } finally {
    if (!mine.signal.aborted) $("grid").classList.remove("old");
  }
}

function body() {
  const rest = { k, ...(asked.where ? { where: asked.where } : {}) };
  if (asked.kind === "image") {
    const form = new FormData();
    form.append("image", pictures.get(asked.id).file);
    for (const [name, value] of Object.entries(rest)) form.append(name, value);
    return { body: form };
  }
  const what = asked.kind === "all" ? {} : { [asked.kind]: asked[asked.kind] };
  return { headers: { "content-type": "application/json" }, body: JSON.stringify({ ...what, ...rest }) };
}

function ask(question, { keepFocus = false } = {}) {
  asked = { where: $("where").value.trim(), ...question };
  k = STEP;
  const parts = new URLSearchParams();
  for (const name of ["text", "like", "where"]) if (asked[name] || asked[name] === 0) parts.set(name, asked[name]);
  history.pushState(asked, "", `#${parts}`);
  search({ keepFocus });
}

function fromAddress() {
  const parts = new URLSearchParams(location.hash.slice(1));
  const where = parts.get("where") ?? "";
  if (parts.has("text")) return { kind: "text", text: parts.get("text"), where };
  if (/^\d{1,15}$/.test(parts.get("like") ?? "")) return { kind: "like", like: Number(parts.get("like")), where };
  return { ...ALL, where };
}

function askPicture(file) {
  if (!file) return;
  const id = pictures.size;
  pictures.set(id, { file, url: URL.createObjectURL(file) });
  ask({ kind: "image", id, name: file.name });
}

// What is shown

function showInfo(news) {
  info = news;
  document.title = `${info.name} · spark-embed`;
  $("name").textContent = info.name;
  $("name").title = `${info.n_vectors.toLocaleString("en")} pictures`;
  const { state, takes_words: takesWords } = info.model;
  const isLoading = state === "loading";
  $("words").disabled = !isLoading && !takesWords;
  $("choose").disabled = state === "failed";
  $("words").placeholder = takesWords
    ? "Search by words, or drop or paste a picture"
    : isLoading
      ? "The model is being loaded…"
      : state === "failed"
        ? "The model could not be loaded: choose a picture below to see more like it"
        : "Words need a CLIP or SigLIP; drop or paste a picture";
  const words = info.columns.find((one) => one.kind === "text");
  $("where").placeholder = words ? `${words.name} like '%dog%'` : "a condition on the columns, in SQL";
}

function showColumns() {
  for (const { name, kind } of info.columns) {
    const button = document.createElement("button");
    const small = document.createElement("small");
    button.type = "button";
    small.textContent = ` ${kind}`;
    button.append(name, small);
    button.addEventListener("click", () => {
      const field = $("where");
      const written = /^[a-z_][a-z0-9_]*$/.test(name) ? name : `"${name.replaceAll('"', '""')}"`;
      field.setRangeText(written, field.selectionStart, field.selectionEnd, "end");
      field.focus();
    });
    $("columns").append(button);
  }
}

function showAsked() {
  $("asked").hidden = asked.kind === "all";
  $("words").value = asked.kind === "text" ? asked.text : "";
  $("where").value = asked.where ?? "";
  const picture = $("asked-picture");
  picture.hidden = asked.kind !== "image" && !(asked.kind === "like" && info.has_pictures);
  picture.removeAttribute("src");
  if (asked.kind === "image") picture.src = pictures.get(asked.id).url;
  else if (!picture.hidden) picture.src = thumbnail(asked.like, 160);
  const what = { image: asked.name, text: asked.text, like: asked.title ?? `row ${asked.like}` }[asked.kind] ?? "";
  $("asked-words").textContent = `${asked.kind === "text" ? "Nearest to the words: " : "More like: "}${cut(String(what), 200)}`;
}

function showHits(keepFocus) {
  const cards = hits.map((hit, number) => {
    const card = $("card").content.cloneNode(true).firstElementChild;
    const caption = captionOf(hit);
    const image = card.querySelector("img");
    const picture = card.querySelector(".picture");
    const gone = card.querySelector(".gone");
    image.alt = cut(caption, 200);
    picture.title = "More like this";
    image.addEventListener("error", () => { image.hidden = true; gone.hidden = false; });
    if (info.has_pictures) image.src = thumbnail(hit.number, innerWidth <= 640 ? 640 : 320);
    else { image.hidden = true; gone.hidden = false; }
    card.querySelector(".rank").textContent = hit.score === null ? "" : `${number + 1}`;
    const score = card.querySelector(".score");
    score.textContent = hit.score === null ? (caption === hit.image_id ? "" : hit.image_id) : hit.score.toFixed(3);
    score.title = hit.score === null ? hit.image_id : "cosine";
    card.querySelector(".caption").textContent = cut(caption, 300);
    card.querySelector(".open").setAttribute("aria-label", `Details of ${cut(caption, 80)}`);
    picture.addEventListener("click", () => like(hit));
    card.querySelector(".open").addEventListener("click", () => showDetails(hit));
    return card;
  });
  $("grid").replaceChildren(...cards);
  $("more").hidden = hits.length < k || k >= info.max_k;
  moveTo(0, keepFocus);
  if (!keepFocus && asked.kind !== "all") scrollTo({ top: 0 });
}

function like(hit) {
  ask({ kind: "like", like: hit.number, title: captionOf(hit) });
}

function showDetails(hit) {
  $("details-title").textContent = captionOf(hit);
  const picture = $("details-picture");
  picture.hidden = !info.has_pictures;
  picture.alt = cut(captionOf(hit), 200);
  if (info.has_pictures) picture.src = thumbnail(hit.number, 1280);
  const rows = Object.entries({ ...hit.columns, image_id: hit.image_id, shard: hit.shard, shard_row: hit.shard_row });
  $("details-columns").replaceChildren(
    ...rows.flatMap(([name, value]) => {
      const term = document.createElement("dt");
      const text = document.createElement("dd");
      term.textContent = name;
      text.textContent = value === null ? "—" : String(value);
      text.dir = "auto";
      return [term, text];
    }),
  );
  $("details-like").onclick = () => { $("details").close(); like(hit); };
  $("details").showModal();
}

// By keyboard: one card is a stop of the Tab key, the arrows move it

const cardButtons = () => [...$("grid").querySelectorAll(".picture")];

function moveTo(number, keepFocus = false) {
  const buttons = cardButtons();
  if (!buttons.length) return;
  current = Math.max(0, Math.min(buttons.length - 1, number));
  buttons.forEach((button, at) => {
    button.tabIndex = at === current ? 0 : -1;
    button.closest("li").querySelector(".open").tabIndex = button.tabIndex;
  });
  if (!keepFocus) buttons[current].focus({ preventScroll: number === 0 && asked.kind !== "all" });
}

$("grid").addEventListener("focusin", ({ target }) => {
  const at = cardButtons().indexOf(target.closest("li")?.querySelector(".picture"));
  if (at >= 0 && at !== current) moveTo(at, true);
});

$("grid").addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const columns = getComputedStyle($("grid")).gridTemplateColumns.split(" ").length;
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns, Home: -Infinity, End: Infinity };
  if (event.key in steps) {
    event.preventDefault();
    if (event.key === "ArrowUp" && current < columns) $("where").focus();
    else moveTo(current + steps[event.key]);
  } else if (event.key === "d" || event.key === "D") showDetails(hits[current]);
});

document.addEventListener("keydown", (event) => {
  if ($("details").open) return;
  const isTyping = event.target.matches("input");
  if (event.key === "/" && !isTyping) {
    event.preventDefault();
    ($("words").disabled ? $("where") : $("words")).focus();
  } else if (event.key === "Escape" && (asked.kind !== "all" || asked.where)) {
    event.preventDefault();
    $("where").value = "";
    ask(ALL, { keepFocus: isTyping });
  } else if (event.key === "ArrowDown" && isTyping && hits.length) {
    event.preventDefault();
    moveTo(current);
  }
});

// Pictures come in by the button, the clipboard or a drop

$("choose").addEventListener("click", () => $("file").click());
$("file").addEventListener("change", () => { askPicture($("file").files[0]); $("file").value = ""; });
$("clear").addEventListener("click", () => ask(ALL));
$("more").addEventListener("click", async () => {
  const before = hits.length;
  k = Math.min(info.max_k, k + STEP);
  await search({ keepFocus: true });
  if (asked.kind !== "all") moveTo(before);
});
$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("words").value.trim();
  const { where, ...before } = asked;
  const keepFocus = document.activeElement !== $("where"); // whose list of columns would lie over what is found
  if (text) ask({ kind: "text", text }, { keepFocus });
  else ask(before.kind === "text" ? ALL : before, { keepFocus });
});

const pictureIn = (data) => [...data.files].find((file) => file.type.startsWith("image/")) ?? data.files[0];

document.addEventListener("paste", (event) => {
  const file = pictureIn(event.clipboardData);
  if (!file) return;
  event.preventDefault();
  askPicture(file);
});
document.addEventListener("dragover", (event) => { event.preventDefault(); $("drop").hidden = false; });
document.addEventListener("dragleave", (event) => { if (!event.relatedTarget) $("drop").hidden = true; });
document.addEventListener("drop", (event) => {
  event.preventDefault();
  $("drop").hidden = true;
  const file = pictureIn(event.dataTransfer);
  if (file) askPicture(file);
  else say("Drop a file: pictures of other pages are not fetched.", true);
});

addEventListener("popstate", (event) => {
  asked = event.state ?? fromAddress();
  if (asked.kind === "image" && !pictures.has(asked.id)) asked = ALL;
  k = STEP;
  search({ keepFocus: true });
});

try {
  showInfo(await json("api/info"));
  showColumns();
  asked = history.state ?? fromAddress();
  if (asked.kind === "image") asked = ALL;
  await search({ keepFocus: true });
  if (info.n_new_files || info.n_gone_files) say(`${$("status").textContent} The data set has changed since it was indexed: index it again.`);
  await modelReady();
} catch (error) {
  say(error.message, true);
}
