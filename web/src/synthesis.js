/**
 * The synthesis transform: a linear path of blocks in parallel to a convolutional one.
 *
 * A transposed convolution of stride 2 is four convolutions, one for each parity of rows and
 * columns, whose results alternate. These run at the speed of the library's convolutions, and none
 * of their products is with a zero.
 */

import * as tf from "@tensorflow/tfjs-core";

import { SaeError } from "./errors.js";

export const STRIDE = 16;
const LINEAR_SCALE = (3 * STRIDE ** 2) ** -0.5;
const FROM_LATENT = 0.25;
const TO_IMAGE = 0.1;
// Blocks of the last convolution.
const BLOCK = 4;
// The slope below zero of the activation in residual blocks.
const LEAK = 0.1;
// So many positions of the latent are transformed at once, for the memory that they take.
const STRIP = 4096;

export class Synthesis {
  /** @param {import("./model.js").Model} model */
  constructor(model) {
    const used = new Set();
    const read = (name) => {
      used.add(`synthesis/${name}`);
      return model.array(`synthesis/${name}`);
    };
    this._step = model.description.config.step;
    const matrix = read("matrix");
    this._depth = matrix.shape[1];
    this._matrix = transposed(matrix.values, matrix.shape, LINEAR_SCALE);
    this._gains = ["linear_gain", "linear_expected_gain", "latent_gain", "latent_expected_gain"].map(read);
    /** @type {{ kernel: any, bias: tf.Tensor }[]} */
    this._convolutions = [];
    this._igdn = [];
    this._tables = [];
    for (let k = 0; k < 2; k++) {
      const bias = tf.tensor1d(read(`conv_${k}/bias`).values);
      this._convolutions.push({ kernel: read(`conv_${k}/kernel`), bias });
      const { shape, values } = read(`igdn_${k}/gamma`);
      const beta = read(`igdn_${k}/beta`).values;
      this._igdn.push({
        gamma: tf.tensor(values.map((x) => x * x), [1, 1, ...shape]),
        beta: tf.tensor1d(beta.map((x) => x * x + 1e-6)),
      });
      this._tables.push({ gain: read(`gain_${k}`), bias: read(`bias_${k}`) });
    }
    const output = read("conv_2/kernel");
    const count = model.description.config.synthesis_blocks;
    this._blocks = Array.from({ length: count }, (_, k) => new ResidualBlock((part) => read(`block_${k}/${part}`)));
    // Rows of the latent above and below one on which its rows of the image depend.
    this._reach = model.description.reach;
    this._output = tf.tensor(output.values.map((x) => x * TO_IMAGE), output.shape);
    const unused = model.names.find((name) => name.startsWith("synthesis/") && !used.has(name));
    if (unused) {
      throw new SaeError(`The model has ${unused}, which this page does not use; build it again.`);
    }
    // Kernels for each number of channels that planes have.
    this._kernels = new Map();
  }

  /**
   * Returns an image of rows [height, width, 4] of bytes.
   *
   * @param {import("./plane_decoder.js").Decoded} decoded
   * @param {number} rows of the latent.
   * @param {number} columns
   * @param {number} width of the image.
   * @param {number} height
   * @param {boolean} [draft] whether the convolutional path is left out.
   * @returns {Promise<Uint8ClampedArray>}
   */
  async image(decoded, rows, columns, width, height, draft = false) {
    const image = new Uint8ClampedArray(4 * width * height);
    const size = Math.max(2 * this._reach, Math.floor(STRIP / columns));
    for (let start = 0; start < rows; start += size) {
      const stop = Math.min(start + size, rows);
      const first = Math.max(0, start - this._reach);
      const last = Math.min(stop + this._reach, rows);
      const { blocks, details } = await this._strip(decoded, first, last, columns, draft);
      paint(image, width, height, blocks, details, first, start, stop, columns);
    }
    return image;
  }

  /**
   * @param {import("./plane_decoder.js").Decoded} decoded
   * @param {number} first
   * @param {number} last
   * @param {number} columns
   * @param {boolean} draft
   */
  async _strip(decoded, first, last, columns, draft) {
    const { depth, level } = decoded;
    const from = first * columns * depth;
    const to = last * columns * depth;
    const yHat = decoded.yHat.subarray(from, to);
    const expected = decoded.expected.subarray(from, to);
    /** @param {number} k index of the gains of the path. */
    const input = (k) => {
      const gain = interpolated(this._gains[k], level);
      const ofExpected = interpolated(this._gains[k + 1], level);
      const scale = k ? FROM_LATENT * this._step : this._step;
      const found = new Float32Array(yHat.length);
      for (let i = 0; i < found.length; ) {
        for (let c = 0; c < depth; c++, i++) {
          found[i] = scale * (yHat[i] * gain[c] + expected[i] * ofExpected[c]);
        }
      }
      return found;
    };
    const height = last - first;
    const { matrix, kernels } = this._of(depth);
    const blocks = tf.tidy(() => tf.matMul(tf.tensor2d(input(0), [height * columns, depth]), matrix));
    const ofBlocks = await blocks.data();
    blocks.dispose();
    if (draft) return { blocks: ofBlocks, details: null };
    const details = tf.tidy(() => {
      let h = /** @type {any} */ (tf.tensor4d(input(2), [1, height, columns, depth]));
      this._convolutions.forEach(({ bias }, k) => {
        const { gamma, beta } = this._igdn[k];
        const table = this._tables[k];
        const x = upsampled(h, kernels[k], bias);
        h = tf.mul(x, convolution(tf.abs(x), gamma, "same", beta));
        h = tf.mul(h, tf.tensor1d(interpolated(table.gain, level)));
        h = tf.add(h, tf.tensor1d(interpolated(table.bias, level)));
      });
      for (const block of this._blocks) h = block.apply(h);
      return tf.conv2d(h, /** @type {any} */ (this._output), 1, "same");
    });
    const ofDetails = await details.data();
    details.dispose();
    return { blocks: ofBlocks, details: ofDetails };
  }

  /**
   * Returns the matrix and the kernels for a latent of fewer channels.
   *
   * @param {number} depth
   */
  _of(depth) {
    const key = `${tf.getBackend()} ${depth}`;
    if (!this._kernels.has(key)) {
      const side = this._matrix.length / this._depth;
      this._kernels.set(key, {
        matrix: tf.tensor2d(this._matrix.subarray(0, depth * side), [depth, side]),
        kernels: this._convolutions.map(({ kernel }, k) => phases(kernel, k ? kernel.shape[3] : depth)),
      });
    }
    return this._kernels.get(key);
  }
}

/** A depthwise convolution, and two layers over the channels, whose result is added to the input. */
class ResidualBlock {
  /** @param {(part: string) => { shape: number[], values: Float32Array }} read */
  constructor(read) {
    const [depthwise, expand, reduce] = ["depthwise", "expand/kernel", "reduce/kernel"].map((part) => {
      const { values, shape } = read(part);
      return /** @type {any} */ (tf.tensor(values, shape));
    });
    const [expandBias, reduceBias] = ["expand", "reduce"].map((part) => tf.tensor1d(read(`${part}/bias`).values));
    /** @param {any} x */
    this.apply = (x) => {
      let h = convolution(tf.depthwiseConv2d(x, depthwise, 1, "same"), expand, "same", expandBias);
      h = tf.leakyRelu(h, LEAK);
      return tf.add(x, convolution(h, reduce, "same", reduceBias));
    };
  }
}

/**
 * Returns a vector between those of the planes.
 *
 * @param {{ shape: number[], values: Float32Array }} table
 * @param {number} level
 */
function interpolated({ shape, values }, level) {
  const [planes, channels] = shape;
  const below = Math.min(Math.floor(level), planes - 1);
  const above = Math.min(below + 1, planes - 1);
  const weight = level - below;
  const found = new Float32Array(channels);
  for (let c = 0; c < channels; c++) {
    found[c] = (1 - weight) * values[below * channels + c] + weight * values[above * channels + c];
  }
  return found;
}

/**
 * Returns a matrix [channels, rows] of one [rows, channels], scaled.
 *
 * @param {Float32Array} values
 * @param {number[]} shape
 * @param {number} scale
 */
function transposed(values, [rows, channels], scale) {
  const found = new Float32Array(values.length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < channels; c++) found[c * rows + r] = scale * values[r * channels + c];
  }
  return found;
}

/**
 * Returns the kernels of the rows and columns of each parity of a transposed convolution.
 *
 * With padding "same", row r of the input and tap t of a kernel of n rows add to the row
 * 2 r + t - floor((n - 2 + 1) / 2) of the result.
 *
 * @param {{ shape: number[], values: Float32Array }} kernel [n, n, filters, channels].
 * @param {number} depth number of channels of the input; those above are zero.
 */
function phases({ shape, values }, depth) {
  const [side, , filters, channels] = shape;
  const before = Math.floor((side - 2) / 2);
  const taps = [0, 1].map((parity) => {
    const found = [];
    for (let t = side - 1; t >= 0; t--) {
      const offset = parity + before - t;
      if (offset % 2 === 0) found.push({ tap: t, offset: offset / 2 });
    }
    return found;
  });
  return taps.map((down) =>
    taps.map((right) => {
      const kernel = new Float32Array(down.length * right.length * depth * filters);
      let k = 0;
      for (const { tap: y } of down) {
        for (const { tap: x } of right) {
          for (let c = 0; c < depth; c++) {
            const start = (y * side + x) * filters * channels + c;
            for (let f = 0; f < filters; f++) kernel[k++] = values[start + f * channels];
          }
        }
      }
      const padding = [down, right].map((list) => [-list[0].offset, list[list.length - 1].offset]);
      return {
        kernel: tf.tensor(kernel, [down.length, right.length, depth, filters]),
        padding: [[0, 0], ...padding, [0, 0]],
      };
    }),
  );
}

/**
 * Returns the result of a transposed convolution of stride 2.
 *
 * @param {any} x [1, height, width, channels].
 * @param {any} kernels
 * @param {tf.Tensor} bias
 */
function upsampled(x, kernels, bias) {
  const [, height, width] = x.shape;
  const rows = kernels.map((right) => {
    const columns = right.map(({ kernel, padding }) => convolution(x, kernel, padding, bias));
    const filters = columns[0].shape[3];
    return tf.reshape(tf.concat(columns, 3), [height, 2 * width * filters]);
  });
  return tf.reshape(tf.concat(rows, 1), [1, 2 * height, 2 * width, -1]);
}

/**
 * @param {any} x
 * @param {any} kernel
 * @param {any} padding
 * @param {any} bias
 */
function convolution(x, kernel, padding, bias) {
  return tf.fused.conv2d({ x, filter: kernel, strides: 1, pad: padding, bias });
}

/**
 * Adds both paths, and writes the rows of the image that belong to some rows of the latent.
 *
 * @param {Uint8ClampedArray} image
 * @param {number} width
 * @param {number} height
 * @param {ArrayLike<number>} blocks linear path, blocks of 16 x 16 pixels.
 * @param {ArrayLike<number> | null} details convolutional path, blocks of 4 x 4 pixels.
 * @param {number} first row of the latent with which the paths begin.
 * @param {number} start
 * @param {number} stop
 * @param {number} columns
 */
function paint(image, width, height, blocks, details, first, start, stop, columns) {
  const fine = STRIDE / BLOCK;
  for (let y = start * STRIDE; y < Math.min(stop * STRIDE, height); y++) {
    const row = y - first * STRIDE;
    const ofBlock = 3 * STRIDE * (row % STRIDE);
    const ofDetail = 3 * BLOCK * (row % BLOCK);
    const blockRow = Math.floor(row / STRIDE) * columns;
    const detailRow = Math.floor(row / BLOCK) * columns * fine;
    let to = 4 * y * width;
    for (let x = 0; x < width; x++) {
      const b = (blockRow + (x >> 4)) * 3 * STRIDE ** 2 + ofBlock + 3 * (x & 15);
      const d = (detailRow + (x >> 2)) * 3 * BLOCK ** 2 + ofDetail + 3 * (x & 3);
      for (let c = 0; c < 3; c++) {
        // Clamped arrays round to the nearest integer, halves to even ones.
        image[to++] = 255 * (0.5 + blocks[b + c] + (details ? details[d + c] : 0));
      }
      image[to++] = 255;
    }
  }
}
