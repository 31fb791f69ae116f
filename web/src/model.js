/** The model as the page fetches it: model.json describes the arrays of weights.bin. */

import { SaeError } from "./errors.js";

const FORMAT = 1;

/**
 * @typedef {object} Stored an array as it is stored.
 * @property {string} name
 * @property {string} dtype "float16", "int8", "int16", "int32", "uint8" or "uint16".
 * @property {number[]} shape
 * @property {number} offset in weights.bin, in bytes.
 */

/**
 * @typedef {object} Description the contents of model.json.
 * @property {number} format
 * @property {string} family name of the family.
 * @property {number} code code of the family in streams.
 * @property {string[]} layers names of the layers.
 * @property {Record<string, any>} config architecture.
 * @property {number} reach receptive field of the transforms, in rows of the latent above and below one.
 * @property {string} fingerprint SHA-256 of the model, in hexadecimal digits.
 * @property {number} bytes length of weights.bin.
 * @property {Stored[]} arrays
 */

const TYPES = {
  int8: Int8Array,
  int16: Int16Array,
  int32: Int32Array,
  uint8: Uint8Array,
  uint16: Uint16Array,
};

/** The arrays of a model. */
export class Model {
  /**
   * @param {Description} description
   * @param {ArrayBuffer} weights
   */
  constructor(description, weights) {
    if (description.format !== FORMAT || weights.byteLength !== description.bytes) {
      throw new SaeError("The model's files do not belong together; write the page again.");
    }
    this.description = description;
    /** @type {Map<string, any>} */
    this._arrays = new Map();
    for (const { name, dtype, shape, offset } of description.arrays) {
      const size = shape.reduce((a, b) => a * b, 1);
      const values =
        dtype === "float16"
          ? fromFloat16(new Uint16Array(weights, offset, size))
          : new TYPES[dtype](weights, offset, size);
      this._arrays.set(name, { shape, values });
    }
  }

  /** @returns {string[]} */
  get names() {
    return [...this._arrays.keys()];
  }

  /** @param {string} name */
  has(name) {
    return this._arrays.has(name);
  }

  /**
   * Returns an array.
   *
   * @param {string} name
   * @returns {{ shape: number[], values: any }}
   */
  array(name) {
    const found = this._arrays.get(name);
    if (!found) throw new SaeError(`The model has no ${name}; write the page again.`);
    return found;
  }
}

/**
 * Fetches a model.
 *
 * @param {string} folder URL of its folder, with a slash at the end.
 * @param {(loaded: number, total: number) => void} progress called as bytes come.
 */
export async function loadModel(folder, progress) {
  const description = await (await fetched(`${folder}model.json`)).json();
  const response = await fetched(`${folder}weights.bin`);
  const weights = new Uint8Array(description.bytes);
  let loaded = 0;
  progress(0, weights.length);
  const reader = /** @type {ReadableStream<Uint8Array>} */ (response.body).getReader();
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (loaded + value.length > weights.length) {
      throw new SaeError("The model's files do not belong together; write the page again.");
    }
    weights.set(value, loaded);
    loaded += value.length;
    progress(loaded, weights.length);
  }
  if (loaded < weights.length) {
    throw new SaeError("The weights of the model did not arrive completely; reload the page.");
  }
  return new Model(description, weights.buffer);
}

/** @param {string} url */
export async function fetched(url) {
  if (globalThis.location?.protocol === "file:") {
    throw new SaeError("A page opened from a file cannot read others; run `python -m sae serve FOLDER`.");
  }
  let response;
  try {
    response = await fetch(url);
  } catch {
    throw new SaeError(`${url} cannot be fetched; check that the server still runs.`);
  }
  if (!response.ok) {
    throw new SaeError(`${url} cannot be fetched (status ${response.status}); write the page again.`);
  }
  return response;
}

/**
 * Returns numbers of half precision as float32.
 *
 * @param {Uint16Array} halves
 */
function fromFloat16(halves) {
  const found = new Float32Array(halves.length);
  for (let k = 0; k < halves.length; k++) {
    const half = halves[k];
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const value =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? NaN
            : Infinity
          : (1 + fraction / 1024) * 2 ** (exponent - 15);
    found[k] = half & 0x8000 ? -value : value;
  }
  return found;
}
