/** The page: an index of streams, and a viewer of one as its bytes arrive. */

import { Reader, streamBytes } from "./container.js";
import { fetched } from "./model.js";
import { SaeError } from "./errors.js";
import { Jpeg, Pictures } from "./others.js";
import { drawPlot, INSET } from "./plot.js";
import { imageOf, number, Panel, psnr } from "./panel.js";

/** @param {string} id @returns {any} */
const element = (id) => document.getElementById(id);
// So many bytes of images are kept, those that were shown last.
const KEPT = 96 * 2 ** 20;

const slider = element("slider");
const play = element("play");

/** @param {unknown} error */
function fail(error) {
  const text = error instanceof SaeError ? error.message : `The page failed: ${error}`;
  if (!(error instanceof SaeError)) console.error(error);
  element("error").textContent = text;
  element("error").hidden = false;
}

/** The decoder's thread, which is started once. */
class Decoder {
  constructor() {
    /** @type {Worker | null} */
    this._worker = null;
    this._stream = 0;
    /** @type {(message: any) => void} */
    this.receive = () => {};
  }

  /** @param {string} model URL of the model's folder. */
  load(model) {
    if (this._worker) return;
    this._worker = new Worker("worker.js");
    this._worker.onerror = () => fail(new SaeError("The decoder cannot be started; reload the page."));
    this._worker.onmessage = ({ data }) => {
      if (["ready", "loading"].includes(data.type) || data.id === this._stream) this.receive(data);
      else if (data.type === "error") fail(new SaeError(data.message));
    };
    const base = new URL(".", location.href);
    this._post({ type: "load", model: new URL(model, base).href, library: base.href });
  }

  open() {
    this._post({ type: "open", id: ++this._stream });
  }

  /** @param {Uint8Array} bytes */
  feed(bytes) {
    this._post({ type: "feed", id: this._stream, bytes }, [bytes.buffer]);
  }

  /** @param {number} bytes @param {boolean} draft */
  show(bytes, draft) {
    this._post({ type: "show", id: this._stream, bytes, draft });
  }

  /** @param {any} message @param {Transferable[]} [moved] */
  _post(message, moved = []) {
    this._worker?.postMessage(message, moved);
  }
}

const decoder = new Decoder();

/**
 * One stream on the screen.
 *
 * @typedef {object} Entry an image of index.json.
 * @property {string} name
 * @property {number} width
 * @property {number} height
 * @property {string} [stream] path of the stream.
 * @property {number} bytes length of the stream.
 * @property {string} [thumbnail]
 * @property {string} [preview] image that stands there while the decoder loads.
 * @property {string} [original]
 * @property {[number, number][]} [curve] bytes and PSNR.
 * @property {any[]} [others] other codecs.
 */
class Viewer {
  /**
   * @param {any} index contents of index.json.
   * @param {Entry} entry
   * @param {number | null} bytes number of bytes that are shown first.
   */
  constructor(index, entry, bytes) {
    this._index = index;
    this._entry = entry;
    this._arrived = 0;
    /** @type {import("./container.js").Header | null} */
    this._header = null;
    /** Images by number of bytes, those shown last at the end. @type {Map<number, any>} */
    this._images = new Map();
    /** @type {Uint8ClampedArray | null} */
    this._original = null;
    /** @type {any} */
    this._shown = null;
    this._closed = false;
    this._loading = "";
    this._playing = 0;
    /** Bytes of which the decoder was last asked for the image. */
    this._requested = -1;
    document.title = entry.name;
    element("title").textContent = entry.name;
    element("about").textContent =
      `${entry.width} × ${entry.height} pixels, ${number.format(entry.bytes)} bytes; ` +
      `${index.family}, weights ${index.fingerprint.slice(0, 8)}`;
    const panels = element("panels");
    panels.replaceChildren();
    panels.style.setProperty("--shape", `${entry.width / entry.height}`);
    this._panel = new Panel(panels, "SAE", "--ours", "one stream, decoded here", entry);
    if (entry.preview) this._panel.preview(entry.preview);
    this._others = (entry.others ?? []).map((other) => {
      const color = other.kind === "prefix" ? "--jpeg" : "--jpeg2000";
      const panel = new Panel(panels, other.name, color, other.note, entry);
      return other.kind === "prefix" ? new Jpeg(other, panel) : new Pictures(other, panel);
    });
    const count = panels.children.length;
    panels.dataset.count = String(count);
    panels.style.setProperty("--count", String(count));
    element("original").hidden = !entry.original;
    element("original").setAttribute("aria-pressed", "false");
    element("note").textContent = this._note();
    slider.max = String(entry.bytes);
    slider.value = String(bytes ?? entry.bytes);
    this._marks();
    this._draw();
  }

  _note() {
    const { others, original, curve } = this._entry;
    const sentences = ["Any number of bytes of the stream gives an image."];
    if (others?.length) {
      sentences.push("Other codecs are shown at the same number of bytes.");
      for (const other of others) if (other.about) sentences.push(other.about);
    }
    if (curve && original) {
      sentences.push("Curves were computed when the page was written; PSNR under images, here.");
    }
    sentences.push("Arrow keys move by half a percent, with Shift by one byte; Space plays.");
    return sentences.join(" ");
  }

  /** Fetches the stream and shows what has arrived. @param {Uint8Array} [data] */
  async run(data) {
    decoder.load(this._index.model);
    decoder.receive = (message) => this._received(message);
    decoder.open();
    this._other();
    if (data) this._arrive(data);
    else await this._fetch();
    if (this._closed) return;
    if (this._entry.original) {
      const original = await imageOf(this._entry.original);
      if (this._closed) return;
      this._original = original.data;
      this._panel.original = original;
      for (const other of this._others) other.setOriginal(original);
      this._measure();
    }
  }

  async _fetch() {
    const response = await fetched(/** @type {string} */ (this._entry.stream));
    const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done || this._closed) break;
      this._arrive(value);
    }
  }

  /** @param {Uint8Array} data */
  _arrive(data) {
    this._arrived += data.length;
    decoder.feed(data.slice());
    this._request(false);
    this._state();
  }

  close() {
    this._closed = true;
    this.stop();
    decoder.receive = () => {};
  }

  /** The number of bytes of which the image is shown. */
  get _bytes() {
    return Number(slider.value);
  }

  /** @param {any} message */
  _received(message) {
    if (message.type === "loading") {
      const total = (message.total / 2 ** 20).toFixed(1);
      this._loading = `Loading the decoder: ${(message.loaded / 2 ** 20).toFixed(1)} of ${total} MiB`;
    } else if (message.type === "ready") {
      this._loading = "";
    } else if (message.type === "header") {
      this._header = message.header;
      this._marks();
      this._draw();
    } else if (message.type === "image") {
      this._drawn(message);
    } else if (message.type === "error") {
      this.stop();
      fail(new SaeError(message.message));
    }
    this._state();
  }

  /** @param {any} message */
  _drawn(message) {
    if (!message.draft && message.arrived >= message.bytes) {
      this._images.delete(message.bytes);
      this._images.set(message.bytes, message);
      const most = Math.max(2, Math.floor(KEPT / message.pixels.length));
      for (const key of this._images.keys()) {
        if (this._images.size <= most) break;
        this._images.delete(key);
      }
    }
    if (message.damaged) {
      fail(new SaeError("The stream is damaged; the image is that of the bytes before."));
    }
    // What was asked for earlier may come after an image that was kept.
    const shown = this._shown;
    if (message.bytes !== this._requested && shown?.bytes === this._requested && !shown.draft) return;
    this._shown = message;
    this._panel.show(message);
    this._measure();
  }

  _measure() {
    const shown = this._shown;
    if (!shown) return;
    shown.psnr ??= this._original && psnr(this._original, shown.pixels);
    const draft = shown.draft ? ", draft" : "";
    this._panel.caption(shown.arrived, shown.psnr, draft);
    this._draw();
    this._state();
  }

  /** Asks for the image of the slider's bytes. @param {boolean} draft */
  _request(draft) {
    const bytes = this._bytes;
    this._requested = bytes;
    const kept = this._images.get(bytes);
    if (!kept) decoder.show(bytes, draft);
    else if (this._shown !== kept) this._drawn(kept);
  }

  /** Shows another number of bytes. @param {number} bytes @param {boolean} draft */
  moveTo(bytes, draft) {
    slider.value = String(Math.max(0, Math.min(this._entry.bytes, Math.round(bytes))));
    this._draw();
    this._other();
    this._request(draft);
    this._state();
    clearTimeout(this._later);
    this._later = setTimeout(() => this._link(), 300);
  }

  _link() {
    if (this._closed || !this._entry.stream) return;
    const found = new URLSearchParams({ image: this._entry.name, bytes: slider.value });
    history.replaceState(null, "", `#${found}`);
  }

  _other() {
    for (const other of this._others) other.show(this._bytes);
  }

  _state() {
    const { bytes: total, width, height } = this._entry;
    const bytes = this._bytes;
    const bpp = ((8 * bytes) / (width * height)).toFixed(3);
    element("rate").value = `${number.format(bytes)} of ${number.format(total)} bytes, ${bpp} bpp`;
    slider.setAttribute("aria-valuetext", `${bytes} bytes, ${bpp} bits per pixel`);
    let text = this._loading;
    if (!text && this._arrived < Math.min(bytes, total)) {
      text = `${number.format(this._arrived)} bytes have arrived`;
    } else if (!text && (!this._shown || this._shown.bytes !== bytes || this._shown.draft)) {
      text = this._header && bytes < this._header.bytes ? "The header has not arrived" : "Decoding";
    } else if (!text) {
      text = this._shown.complete && bytes === total ? "Complete" : position(this._shown.level);
    }
    element("state").value = text;
  }

  /** Named layers over the slider. */
  _marks() {
    const marks = element("marks");
    marks.replaceChildren();
    if (!this._header) return;
    // A cut stream has the ends of all layers in its header.
    this._layers = this._header.ends
      .map((end, k) => ({
        name: this._index.layers[k],
        bytes: streamBytes(/** @type {any} */ (this._header), end),
      }))
      .filter(({ bytes }) => bytes <= this._entry.bytes);
    const row = marks.getBoundingClientRect().width - 2 * INSET;
    let free = -Infinity;
    for (const { name, bytes } of this._layers) {
      const part = bytes / this._entry.bytes;
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = name;
      button.title = `${name} ends after ${number.format(bytes)} bytes`;
      button.style.left = `calc(${INSET}px + ${part} * (100% - ${2 * INSET}px))`;
      button.addEventListener("click", () => {
        this.stop();
        this.moveTo(bytes, true);
      });
      // Names that would cover one another move down to the end of the one before.
      const at = part * row;
      if (at - free < 30) button.style.marginLeft = `${free + 30 - at}px`;
      free = Math.max(at, free + 30);
      marks.append(button);
    }
  }

  _draw() {
    const part = this._bytes / this._entry.bytes;
    slider.style.setProperty("--part", `${100 * part}%`);
    const frame = element("plot-frame");
    const curve = this._entry.curve;
    frame.hidden = !curve;
    if (!curve) return;
    const curves = [
      { color: "--ours", points: curve },
      ...this._others.map((other) => ({ color: other.panel.color, points: other.curve })),
    ];
    const panels = [this._panel, ...this._others.map((other) => other.panel)];
    const dots = panels.flatMap(({ color, point }) => (point ? [{ color, point }] : []));
    const layers = (this._layers ?? []).map((layer) => layer.bytes);
    drawPlot(element("plot"), this._entry.bytes, this._bytes, curves, dots, layers);
  }

  togglePlay() {
    if (this._playing) this.stop();
    else this._play();
  }

  _play() {
    if (this._bytes >= this._entry.bytes) this.moveTo(0, false);
    play.textContent = "Pause";
    let before = performance.now();
    let bytes = this._bytes;
    const step = (/** @type {number} */ now) => {
      bytes += ((now - before) * Number(element("speed").value)) / 8;
      before = now;
      if (Math.round(bytes) > this._bytes) this.moveTo(bytes, false);
      if (bytes >= this._entry.bytes) this.stop();
      else this._playing = requestAnimationFrame(step);
    };
    this._playing = requestAnimationFrame(step);
  }

  stop() {
    cancelAnimationFrame(this._playing);
    this._playing = 0;
    play.textContent = "Play";
  }

  /** @param {boolean} on */
  showOriginal(on) {
    this._panel.showOriginal(on);
    for (const other of this._others) other.panel.showOriginal(on);
  }

  resized() {
    this._marks();
    this._draw();
  }
}

/**
 * Returns in words up to where a latent is decoded.
 *
 * @param {number} level
 */
function position(level) {
  const plane = Math.ceil(level);
  const share = Math.round(100 * (level - plane + 1));
  return plane ? `Plane ${plane}: ${share} % of its expected bits` : "Plane 0";
}

/** @type {Viewer | null} */
let viewer = null;
/** @type {any} */
let index = null;

/** @param {Entry} entry @param {number | null} bytes @param {Uint8Array} [data] */
function open(entry, bytes, data) {
  viewer?.close();
  element("error").hidden = true;
  element("index").hidden = true;
  element("viewer").hidden = false;
  element("back").hidden = index.images.length < 2;
  viewer = new Viewer(index, entry, bytes);
  viewer.run(data).catch(fail);
}

function showIndex() {
  viewer?.close();
  viewer = null;
  document.title = element("title").textContent = "Progressive image decoding";
  element("about").textContent =
    `${index.images.length} streams; ${index.family}, weights ${index.fingerprint.slice(0, 8)}`;
  element("error").hidden = true;
  element("back").hidden = true;
  element("viewer").hidden = true;
  const list = element("index");
  list.hidden = false;
  list.replaceChildren(
    ...index.images.map((/** @type {Entry} */ entry) => {
      const item = document.createElement("li");
      const link = document.createElement("a");
      link.href = `#${new URLSearchParams({ image: entry.name })}`;
      if (entry.thumbnail) {
        const picture = document.createElement("img");
        picture.src = entry.thumbnail;
        picture.alt = "";
        picture.loading = "lazy";
        link.append(picture);
      }
      const name = document.createElement("span");
      name.textContent = entry.name;
      const size = document.createElement("span");
      size.className = "faint";
      const bpp = ((8 * entry.bytes) / (entry.width * entry.height)).toFixed(3);
      size.textContent = `${number.format(entry.bytes)} bytes, ${bpp} bpp`;
      link.append(name, size);
      item.append(link);
      return item;
    }),
  );
}

/** Shows what the address names. */
function route() {
  const found = new URLSearchParams(location.hash.slice(1));
  const name = found.get("image");
  const only = index.images.length === 1 ? index.images[0] : null;
  const entry = index.images.find((/** @type {Entry} */ one) => one.name === name) ?? only;
  const bytes = found.get("bytes");
  if (entry) open(entry, bytes === null ? null : Math.max(0, Number(bytes) || 0));
  else showIndex();
}

/** @param {File} file */
async function openFile(file) {
  const data = new Uint8Array(await file.arrayBuffer());
  // The header gives the size of the image; the decoder checks the rest.
  const reader = new Reader({ [index.code]: index.layers.length });
  reader.feed(data);
  if (!reader.header) throw new SaeError(`${file.name} ends before its header does.`);
  const { width, height } = reader.header;
  open({ name: file.name, width, height, bytes: data.length }, null, data);
}

slider.addEventListener("input", () => {
  viewer?.stop();
  viewer?.moveTo(Number(slider.value), true);
});
slider.addEventListener("keydown", (/** @type {KeyboardEvent} */ event) => {
  const way = { ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1 }[event.key];
  if (!way || !viewer) return;
  event.preventDefault();
  viewer.stop();
  const step = event.shiftKey ? 1 : Math.max(1, Math.round(Number(slider.max) / 200));
  viewer.moveTo(Number(slider.value) + way * step, true);
});
play.addEventListener("click", () => viewer?.togglePlay());
document.addEventListener("keydown", (event) => {
  const target = /** @type {HTMLElement} */ (event.target);
  if (event.key !== " " || target.closest("button, select, a, .file") || !viewer) return;
  event.preventDefault();
  viewer.togglePlay();
});
element("original").addEventListener("click", (/** @type {MouseEvent} */ event) => {
  const button = /** @type {HTMLElement} */ (event.currentTarget);
  const on = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", String(on));
  viewer?.showOriginal(on);
});
element("plot").addEventListener("pointerdown", (/** @type {PointerEvent} */ event) => {
  const box = element("plot").getBoundingClientRect();
  const part = (event.clientX - box.left - INSET) / (box.width - 2 * INSET);
  viewer?.stop();
  viewer?.moveTo(part * Number(slider.max), true);
});
element("file").addEventListener("change", (/** @type {Event} */ event) => {
  const [file] = /** @type {HTMLInputElement} */ (event.target).files ?? [];
  if (file) openFile(file).catch(fail);
});
addEventListener("hashchange", route);
addEventListener("resize", () => viewer?.resized());

fetched("index.json")
  .then((response) => response.json())
  .then((found) => {
    index = found;
    route();
  })
  .catch(fail);
