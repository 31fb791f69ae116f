/**
 * The decoder in a thread of its own.
 *
 * Messages to it:
 *   load   fetches a model: `model` is the URL of its folder, `library` that of the binaries.
 *   open   begins a stream, number `id`.
 *   feed   has the next `bytes` of the stream.
 *   show   asks for the image of the first `bytes` bytes. Of several requests the last counts.
 *          With `draft`, a coarse image may come before.
 *
 * Messages from it: `loading`, `ready`, `header`, `image` and `error`.
 */

import { startBackend } from "./backend.js";
import { Codec, ProgressiveDecoder } from "./decoder.js";
import { SaeError } from "./errors.js";
import { loadModel } from "./model.js";

// Where images take longer than this many milliseconds, a draft comes first.
const QUICK = 200;

/** @type {Promise<Codec> | null} */
let codec = null;
/** @type {ProgressiveDecoder | null} */
let decoder = null;
let stream = 0;
let announced = false;
let arrived = 0;
/** @type {{ bytes: number, draft: boolean } | null} */
let wanted = null;
/** @type {Uint8Array[]} */
let waiting = [];
let running = false;
let usual = Infinity;

/** @param {any} message @param {Transferable[]} [moved] */
function post(message, moved = []) {
  /** @type {any} */ (self).postMessage({ id: stream, ...message }, moved);
}

/** @param {unknown} error */
function report(error) {
  const known = error instanceof SaeError;
  const text = error instanceof Error ? error.message : String(error);
  if (!known) console.error(error);
  post({ type: "error", message: known ? text : `The decoder failed: ${text}` });
}

/** Lets messages that have come be received. */
const channel = new MessageChannel();
function breathe() {
  return new Promise((resolve) => {
    channel.port1.onmessage = () => resolve(undefined);
    channel.port2.postMessage(null);
  });
}

self.onmessage = async ({ data }) => {
  if (data.type === "load") {
    let last = 0;
    codec = Promise.all([
      startBackend(data.library),
      loadModel(data.model, (loaded, total) => {
        if (loaded < total && performance.now() - last < 50) return;
        last = performance.now();
        post({ type: "loading", loaded, total });
      }),
    ]).then(([, model]) => new Codec(model));
    codec.then(() => post({ type: "ready" }), report);
  } else if (data.type === "open") {
    stream = data.id;
    decoder = null;
    wanted = null;
    waiting = [];
    announced = false;
    arrived = 0;
  } else if (data.id === stream && data.type === "feed") {
    waiting.push(data.bytes);
  } else if (data.id === stream && data.type === "show") {
    wanted = { bytes: data.bytes, draft: data.draft };
  }
  if (!running) {
    running = true;
    await run().catch((error) => {
      // A stream that cannot be read is not read further.
      waiting = [];
      wanted = null;
      report(error);
    });
    running = false;
  }
};

/** Decodes and draws until nothing is left to do. */
async function run() {
  const found = await codec?.catch(() => null);
  if (!found) return;
  for (;;) {
    const current = stream;
    decoder ??= new ProgressiveDecoder(found);
    for (const bytes of waiting.splice(0)) {
      arrived += bytes.length;
      decoder.feed(bytes);
    }
    if (decoder.header && !announced) {
      announced = true;
      post({ type: "header", header: decoder.header });
    }
    if (wanted && decoder.header) {
      const request = wanted;
      const { bytes, draft } = request;
      // Between parts a newer request may come, which then counts.
      if (decoder.advance(bytes)) {
        await breathe();
        continue;
      }
      if (draft && usual > QUICK) {
        await show(bytes, true);
        await breathe();
        if (stream !== current || wanted !== request) continue;
      }
      const start = performance.now();
      await show(bytes, false);
      usual = performance.now() - start;
      await breathe();
      if (wanted === request) wanted = null;
      continue;
    }
    if (!decoder.advance()) {
      await breathe();
      if (!waiting.length && !(wanted && decoder?.header) && stream === current) return;
    } else {
      await breathe();
    }
  }
}

/**
 * Draws the image of a prefix of the stream.
 *
 * @param {number} bytes
 * @param {boolean} draft
 */
async function show(bytes, draft) {
  const shown = decoder;
  // More bytes may come while the image is made, which are not in it.
  const known = Math.min(bytes, arrived);
  const image = await shown?.image(bytes, draft);
  if (!shown || !image || shown !== decoder) return;
  const { damaged, complete } = shown;
  const about = { bytes, arrived: known, draft, damaged, complete };
  post({ type: "image", ...about, ...image }, [image.pixels.buffer]);
}
