/**
 * The context models of the planes in integers.
 *
 * Kernels, inputs and activations are integers so small that float32 holds every sum of products.
 * The order of the terms, and with it the library that adds them, does not matter. Between two
 * layers a sum is scaled by a power of two, rounded and clipped.
 */

import * as tf from "@tensorflow/tfjs-core";

// Rows and columns modulo two of the passes, in the order of coding.
const PASSES = [
  [0, 0],
  [1, 1],
  [0, 1],
  [1, 0],
];
const LARGEST_INPUT = 64;
const SLOPE = 0.125;
export const MEANS = 8;
export const SCALES = 64;
const ACTIVATION_STEP = 2 ** -5;
const FEATURE_STEP = 2 ** -7;
const LEVELS = 16 / ACTIVATION_STEP;
const LARGEST_MEAN = 2 ** 15 - 1;
// So many positions are convolved at once, for the memory that they take.
const STRIP = 4096;
// Rows above and below one on which the parameters of a plane above 0 depend.
const REACH = 2;

/**
 * Means, in eighths of a step, and indices of scales.
 *
 * @typedef {object} Parameters
 * @property {Int16Array} means
 * @property {Uint8Array} scales
 */

/**
 * A convolution in integers.
 *
 * @typedef {object} Layer
 * @property {number[]} shape height, width, channels and filters of the kernel.
 * @property {Float32Array} values of the kernel.
 * @property {tf.Tensor} kernel
 * @property {tf.Tensor} bias
 * @property {tf.Tensor} factor powers of two that bring sums to the unit of the result.
 */

export class IntegerContext {
  /** @param {import("./model.js").Model} model */
  constructor(model) {
    /** @type {Map<string, Layer>} */
    this._layers = new Map();
    for (const name of model.names) {
      if (!name.endsWith("/exponent")) continue;
      const scope = name.slice(0, name.lastIndexOf("/"));
      const { shape, values } = model.array(`${scope}/kernel`);
      const kernel = Float32Array.from(values);
      this._layers.set(scope, {
        shape,
        values: kernel,
        kernel: tf.tensor(kernel, shape),
        bias: tf.tensor1d(Float32Array.from(model.array(`${scope}/bias`).values)),
        factor: tf.tensor1d(Float32Array.from(model.array(name).values, (e) => 2 ** e)),
      });
    }
    /** Number of channels of each slice of plane 0. */
    this.sizes = [];
    this._passBias = [];
    for (let k = 0; model.has(`plane_0/slice_${k}/pass_bias`); k++) {
      this.sizes.push(this.layer(`plane_0/slice_${k}/embed`).shape[2]);
      this._passBias.push(model.array(`plane_0/slice_${k}/pass_bias`));
    }
    /** Number of channels of each plane. */
    this.depths = [this.sizes.reduce((a, b) => a + b, 0)];
    for (let p = 1; this._layers.has(`plane_${p}/output`); p++) {
      this.depths.push(this.layer(`plane_${p}/output`).shape[3] / 2);
    }
    // Kernels of the spatial context of each slice and pass, whose taps are not all decoded.
    this._spatial = new Map();
  }

  /**
   * @param {string} scope
   * @returns {Layer}
   */
  layer(scope) {
    const found = this._layers.get(scope);
    if (!found) throw new Error(`There is no layer ${scope}.`);
    return found;
  }

  /**
   * Returns the parameters of the plane above those given.
   *
   * @param {Int16Array[]} planes integers of all planes below, lowest first.
   * @param {number} height
   * @param {number} width
   * @returns {Parameters}
   */
  ofPlane(planes, height, width) {
    const depth = this.depths[planes.length];
    const means = new Int16Array(height * width * depth);
    const scales = new Uint8Array(height * width * depth);
    const rows = Math.max(2 * REACH, Math.floor(STRIP / width));
    for (let start = 0; start < height; start += rows) {
      const stop = Math.min(start + rows, height);
      const first = Math.max(0, start - REACH);
      const last = Math.min(stop + REACH, height);
      const found = this._ofRows(planes, first, last, width);
      const skip = (start - first) * width;
      for (let k = 0; k < (stop - start) * width; k++) {
        split(found, skip + k, means, scales, start * width + k, depth);
      }
    }
    return { means, scales };
  }

  /**
   * @param {Int16Array[]} planes
   * @param {number} first
   * @param {number} last
   * @param {number} width
   */
  _ofRows(planes, first, last, width) {
    const scope = `plane_${planes.length}`;
    const height = last - first;
    const count = height * width;
    const channels = 2 * planes.reduce((sum, _, p) => sum + this.depths[p], 0);
    const inputs = new Float32Array(count * channels);
    let offset = 0;
    for (let p = planes.length - 1; p >= 0; p--) {
      const depth = this.depths[p];
      const plane = planes[p];
      for (let k = 0; k < count; k++) {
        const from = (first * width + k) * depth;
        const to = k * channels + offset;
        for (let c = 0; c < depth; c++) {
          const value = plane[from + c];
          if (value === 0) continue;
          const clipped = Math.max(-LARGEST_INPUT, Math.min(LARGEST_INPUT, value));
          inputs[to + c] = clipped;
          inputs[to + depth + c] = Math.abs(clipped);
        }
      }
      offset += 2 * depth;
    }
    return computed(() => {
      const embedded = product(tf.tensor2d(inputs, [count, channels]), this.layer(`${scope}/embed`));
      let x = activation(embedded, 1);
      for (let k = 0; this._layers.has(`${scope}/residual_${k}`); k++) {
        const layer = this.layer(`${scope}/residual_${k}`);
        const image = tf.reshape(x, [1, height, width, x.shape[1] ?? 0]);
        const sums = tf.reshape(convolution(image, layer, "same"), x.shape);
        x = tf.clipByValue(tf.add(x, activation(sums, 1)), -LEVELS, LEVELS);
      }
      return product(/** @type {tf.Tensor2D} */ (x), this.layer(`${scope}/output`));
    });
  }
}

/** Goes through the parts of plane 0, passes of slices, in the order of coding. */
export class FirstPlane {
  /**
   * @param {IntegerContext} context
   * @param {number} height
   * @param {number} width
   */
  constructor(context, height, width) {
    this._context = context;
    this.height = height;
    this.width = width;
    /** Integers so far, [height, width, depth]. */
    this.plane = new Int16Array(height * width * context.depths[0]);
    this._slice = 0;
    this._first = 0;
    this._pass = 0;
    /** @type {Float32Array | null} What earlier slices add to the features. */
    this._features = null;
    this._embedded = this._blank();
    this._skipEmpty();
  }

  /** Returns another walk at the same part. */
  fork() {
    const other = new FirstPlane(this._context, this.height, this.width);
    other.plane = this.plane.slice();
    other._slice = this._slice;
    other._first = this._first;
    other._pass = this._pass;
    other._features = this._features;
    other._embedded = this._embedded.slice();
    return other;
  }

  get complete() {
    return this._slice === this._context.sizes.length;
  }

  /** The part's positions, and its channels. */
  get part() {
    const [row, column] = PASSES[this._pass];
    return {
      row,
      column,
      rows: (this.height + 1 - row) >> 1,
      columns: (this.width + 1 - column) >> 1,
      first: this._first,
      channels: this._context.sizes[this._slice],
    };
  }

  /**
   * Calls a function with the index of each element of the part in the plane, and in the part.
   *
   * @param {(inPlane: number, inPart: number) => void} visit
   */
  each(visit) {
    const { row, column, rows, columns, first, channels } = this.part;
    const depth = this._context.depths[0];
    let k = 0;
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const start = ((2 * y + row) * this.width + 2 * x + column) * depth + first;
        for (let c = 0; c < channels; c++) visit(start + c, k++);
      }
    }
  }

  /**
   * Returns the parameters of the part.
   *
   * @returns {Parameters}
   */
  parameters() {
    const { row, column, rows, columns, channels } = this.part;
    const count = rows * columns;
    const scope = `plane_0/slice_${this._slice}`;
    const features = this._context._passBias[this._slice];
    const filters = features.shape[1];
    const start = new Float32Array(count * filters);
    const bias = features.values.subarray(this._pass * filters, (this._pass + 1) * filters);
    for (let y = 0, k = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        const from = ((2 * y + row) * this.width + 2 * x + column) * filters;
        for (let c = 0; c < filters; c++, k++) {
          start[k] = bias[c] + (this._features ? this._features[from + c] : 0);
        }
      }
    }
    const { neighbors, layer } = this._spatialContext();
    const found = computed(() => {
      let sums = tf.tensor2d(start, [count, filters]);
      if (layer) {
        const x = tf.tensor2d(neighbors, [count, layer.shape[2]]);
        sums = /** @type {tf.Tensor2D} */ (tf.add(sums, product(x, layer)));
      }
      let x = activation(sums, FEATURE_STEP / ACTIVATION_STEP);
      for (let joint = 0; this._context._layers.has(`${scope}/joint_${joint}`); joint++) {
        x = activation(product(x, this._context.layer(`${scope}/joint_${joint}`)), 1);
      }
      return product(x, this._context.layer(`${scope}/output`));
    });
    const means = new Int16Array(count * channels);
    const scales = new Uint8Array(count * channels);
    for (let k = 0; k < count; k++) split(found, k, means, scales, k, channels);
    return { means, scales };
  }

  /**
   * Goes on to the next part.
   *
   * @param {ArrayLike<number>} values integers of this part.
   */
  advance(values) {
    this.each((inPlane, inPart) => (this.plane[inPlane] = values[inPart]));
    this._embed(values);
    this._pass++;
    this._skipEmpty();
    if (this._pass < PASSES.length) return;
    const sizes = this._context.sizes;
    if (this._slice < sizes.length - 1) this._addChannelContext();
    this._first += sizes[this._slice];
    this._slice++;
    this._pass = 0;
    this._embedded = this._blank();
  }

  /** Skips passes that a narrow latent does not have. */
  _skipEmpty() {
    while (this._pass < PASSES.length && this.part.rows * this.part.columns === 0) this._pass++;
  }

  /** Returns an embedding of zeros, with one position of padding on every side. */
  _blank() {
    if (this._slice === this._context.sizes.length) return new Float32Array(0);
    return new Float32Array((this.height + 2) * (this.width + 2) * this._filters());
  }

  _filters() {
    return this._context.layer(`plane_0/slice_${this._slice}/embed`).shape[3];
  }

  /** @param {ArrayLike<number>} values */
  _embed(values) {
    const { row, column, rows, columns, channels } = this.part;
    const inputs = new Float32Array(values.length);
    for (let k = 0; k < inputs.length; k++) {
      inputs[k] = Math.max(-LARGEST_INPUT, Math.min(LARGEST_INPUT, values[k]));
    }
    const layer = this._context.layer(`plane_0/slice_${this._slice}/embed`);
    const filters = layer.shape[3];
    const found = computed(() =>
      activation(product(tf.tensor2d(inputs, [rows * columns, channels]), layer), 1),
    );
    for (let y = 0, k = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++, k += filters) {
        const to = (2 * y + row + 1) * (this.width + 2) + 2 * x + column + 1;
        this._embedded.set(found.subarray(k, k + filters), to * filters);
      }
    }
  }

  /** Returns the embeddings around the part that are decoded, and the kernel of their positions. */
  _spatialContext() {
    const { row, column, rows, columns } = this.part;
    const taps = [];
    for (let y = 0; y < 3; y++) {
      for (let x = 0; x < 3; x++) {
        const at = [(row + y + 1) % 2, (column + x + 1) % 2];
        const pass = PASSES.findIndex(([r, c]) => r === at[0] && c === at[1]);
        if (pass < this._pass) taps.push([y, x]);
      }
    }
    if (!taps.length) return { neighbors: new Float32Array(0), layer: null };
    const layer = this._spatialLayer(taps);
    const filters = this._filters();
    const neighbors = new Float32Array(rows * columns * taps.length * filters);
    let to = 0;
    for (let y = 0; y < rows; y++) {
      for (let x = 0; x < columns; x++) {
        for (const [up, left] of taps) {
          const at = (2 * y + row + up) * (this.width + 2) + 2 * x + column + left;
          neighbors.set(this._embedded.subarray(at * filters, (at + 1) * filters), to);
          to += filters;
        }
      }
    }
    return { neighbors, layer };
  }

  /**
   * @param {number[][]} taps
   * @returns {Layer}
   */
  _spatialLayer(taps) {
    const cache = this._context._spatial;
    const key = `${this._slice} ${this._pass}`;
    if (!cache.has(key)) {
      const layer = this._context.layer(`plane_0/slice_${this._slice}/spatial`);
      const [, side, channels, filters] = layer.shape;
      const size = channels * filters;
      const values = new Float32Array(taps.length * size);
      taps.forEach(([y, x], k) => {
        const start = (y * side + x) * size;
        values.set(layer.values.subarray(start, start + size), k * size);
      });
      const shape = [1, 1, taps.length * channels, filters];
      // A walk is inside no tidy here, so that the tensor stays.
      cache.set(key, { ...layer, shape, values, kernel: tf.tensor(values, shape) });
    }
    return cache.get(key);
  }

  _addChannelContext() {
    const layer = this._context.layer(`plane_0/channel_context_${this._slice}`);
    const shape = [1, this.height + 2, this.width + 2, this._filters()];
    const added = computed(() => convolution(tf.tensor(this._embedded, shape), layer, "valid"));
    // A fork may read the features before these, so that they stay as they are.
    if (this._features) this._features.forEach((x, k) => (added[k] += x));
    this._features = added;
  }
}

/**
 * Returns the values that a function computes.
 *
 * @param {() => tf.Tensor} compute
 * @returns {Float32Array}
 */
function computed(compute) {
  const found = tf.tidy(compute);
  const values = /** @type {Float32Array} */ (found.dataSync());
  found.dispose();
  return values;
}

/**
 * Returns the sums of a convolution of size 1, in the unit of its result.
 *
 * @param {tf.Tensor2D} x
 * @param {Layer} layer
 * @returns {tf.Tensor2D}
 */
function product(x, layer) {
  const [, , channels, filters] = layer.shape;
  return finished(tf.matMul(x, tf.reshape(layer.kernel, [channels, filters])), layer);
}

/**
 * @param {tf.Tensor} x
 * @param {Layer} layer
 * @param {"same" | "valid"} padding
 * @returns {any}
 */
function convolution(x, layer, padding) {
  return finished(tf.conv2d(/** @type {any} */ (x), /** @type {any} */ (layer.kernel), 1, padding), layer);
}

/**
 * @param {any} sums
 * @param {Layer} layer
 * @returns {any}
 */
function finished(sums, layer) {
  return tf.round(tf.mul(tf.add(sums, layer.bias), layer.factor));
}

/**
 * Returns the activation of x in its unit, for x in units of `factor` of that.
 *
 * @param {any} x
 * @param {number} factor
 * @returns {any}
 */
function activation(x, factor) {
  const scaled = factor === 1 ? x : tf.mul(x, factor);
  const rounded = tf.round(tf.maximum(scaled, tf.mul(scaled, SLOPE)));
  return tf.clipByValue(rounded, -LEVELS, LEVELS);
}

/**
 * Takes the parameters of one position.
 *
 * @param {ArrayLike<number>} found means and scales of all positions, not clipped.
 * @param {number} from index of the position there.
 * @param {Int16Array} means receives them.
 * @param {Uint8Array} scales
 * @param {number} to index of the position there.
 * @param {number} depth
 */
function split(found, from, means, scales, to, depth) {
  let k = from * 2 * depth;
  for (let c = 0; c < depth; c++, k++) {
    means[to * depth + c] = Math.max(-LARGEST_MEAN, Math.min(LARGEST_MEAN, found[k]));
  }
  for (let c = 0; c < depth; c++, k++) {
    scales[to * depth + c] = Math.max(0, Math.min(SCALES - 1, found[k]));
  }
}
