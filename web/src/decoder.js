/** Decodes a stream to images as its bytes come. */

import { codeBytes, Reader } from "./container.js";
import { SaeError } from "./errors.js";
import { IntegerContext } from "./integer_context.js";
import { PlaneDecoder, tablesOf } from "./plane_decoder.js";
import { STRIDE, Synthesis } from "./synthesis.js";

/** What all streams of a model share. */
export class Codec {
  /** @param {import("./model.js").Model} model */
  constructor(model) {
    this.description = model.description;
    this.context = new IntegerContext(model);
    this.tables = tablesOf(model);
    this.synthesis = new Synthesis(model);
  }
}

export class ProgressiveDecoder {
  /** @param {Codec} codec */
  constructor(codec) {
    const { code, layers } = codec.description;
    this._codec = codec;
    this._reader = new Reader(Object.fromEntries([[code, layers.length]]));
    /** @type {PlaneDecoder | null} */
    this._planes = null;
    this._taken = 0;
  }

  /** Properties of the stream, null until they have come. */
  get header() {
    return this._reader.header;
  }

  /** Whether a checksum was wrong; the code ends before the chunk that it is of. */
  get damaged() {
    return this._reader.damaged;
  }

  /** Whether the whole stream has come and is sound. */
  get complete() {
    return this._reader.complete;
  }

  /**
   * Takes the next bytes. `advance` decodes them.
   *
   * @param {Uint8Array} data
   * @throws {SaeError} This is no stream of the model.
   */
  feed(data) {
    this._reader.feed(data);
    const { header } = this;
    if (header === null) return;
    const { fingerprint } = this._codec.description;
    if (!fingerprint.startsWith(header.fingerprint)) {
      throw new SaeError(
        `The stream was made with weights ${header.fingerprint}, and those of this page are ` +
          `${fingerprint.slice(0, 8)}; write the page again.`,
      );
    }
  }

  /** Number of rows and columns of the latent. */
  get _size() {
    const { width, height } = /** @type {import("./container.js").Header} */ (this.header);
    return [Math.ceil(height / STRIDE), Math.ceil(width / STRIDE)];
  }

  /**
   * The code in a prefix of the stream, as far as it has come and is sound.
   *
   * @param {number} bytes length of the prefix.
   */
  _code(bytes) {
    const header = /** @type {import("./container.js").Header} */ (this.header);
    return this._reader.code.subarray(0, codeBytes(header, bytes));
  }

  /**
   * Decodes a part of what a prefix of the stream determines.
   *
   * @param {number} [bytes] length of the prefix.
   * @returns {boolean} Whether there is more.
   */
  advance(bytes = Number.MAX_SAFE_INTEGER) {
    if (this.header === null) return false;
    const code = this._code(bytes);
    if (this._planes === null || this._reader.code.length < this._taken) {
      // What was decoded of a damaged chunk is dropped.
      const { context, tables } = this._codec;
      this._planes = new PlaneDecoder(context, tables, this._size[0], this._size[1]);
      this._taken = 0;
    }
    // Where decoding went on from a longer prefix, it may not have passed the end of this one.
    if (code.length < this._taken && this._planes.passed(code.length)) return false;
    this._taken = Math.max(this._taken, code.length);
    return this._planes.step(this._reader.code.subarray(0, this._taken));
  }

  /**
   * Returns the latent that a prefix of the stream gives; null before the header.
   *
   * @param {number} [bytes] length of the prefix.
   */
  decoded(bytes = Number.MAX_SAFE_INTEGER) {
    if (this.header === null) return null;
    while (this.advance(bytes));
    return /** @type {PlaneDecoder} */ (this._planes).decoded(this._code(bytes));
  }

  /**
   * Returns the image that a prefix of the stream gives, RGBA; null before the header.
   *
   * @param {number} [bytes] length of the prefix.
   * @param {boolean} [draft] whether a coarse but quick transform is taken.
   */
  async image(bytes = Number.MAX_SAFE_INTEGER, draft = false) {
    const decoded = this.decoded(bytes);
    if (decoded === null || this.header === null) return null;
    const { width, height } = this.header;
    const [rows, columns] = this._size;
    const { synthesis } = this._codec;
    const pixels = await synthesis.image(decoded, rows, columns, width, height, draft);
    return { width, height, pixels, level: decoded.level };
  }
}
