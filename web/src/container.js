/**
 * The .sae container of progressive families, version 4: a header and one code, cut anywhere.
 *
 * Header and code form a sequence of data bytes. A CRC-32 of all data bytes so far stands after
 * every 2,044 of them, and after the last. Any prefix of a stream that includes the header is a
 * stream.
 */

import { SaeError } from "./errors.js";

const MAGIC = [0x53, 0x41, 0x45];
const VERSION = 4;
const CHUNK = 2048;
const CHECKSUM = 4;
const DATA = CHUNK - CHECKSUM;
const FINGERPRINT = 4;
// Magic, version, code of the family, fingerprint of the model; sizes follow.
const START = MAGIC.length + 2 + FINGERPRINT;
const LARGEST_NUMBER = 2 ** 32;
// A browser holds the latent of a larger image with difficulty.
const MAX_PIXELS = 2 ** 24;

const CRC32 = Uint32Array.from({ length: 256 }, (_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

/**
 * Returns the CRC-32 of data that goes on after data of a given CRC-32.
 *
 * @param {Uint8Array} data
 * @param {number} before
 */
export function crc32(data, before = 0) {
  let crc = ~before;
  for (const byte of data) crc = CRC32[(crc ^ byte) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/**
 * Returns the CRC-CCITT of data, as it stands after a header.
 *
 * @param {Uint8Array} data
 */
export function crc16(data) {
  let crc = 0;
  for (const byte of data) {
    crc ^= byte << 8;
    for (let bit = 0; bit < 8; bit++) crc = (crc << 1) ^ (crc & 0x8000 ? 0x1021 : 0);
    crc &= 0xffff;
  }
  return crc;
}

/**
 * The properties of a stream.
 *
 * @typedef {object} Header
 * @property {number} code code of the family.
 * @property {string} fingerprint first 4 bytes of the SHA-256 of the model, in hexadecimal digits.
 * @property {number} width in pixels.
 * @property {number} height in pixels.
 * @property {number[]} ends number of bytes of the code up to the end of each named layer.
 * @property {number} bytes length of the header.
 */

/**
 * Returns the length of the code.
 *
 * @param {Header} header
 */
export function codeLength({ ends }) {
  return ends[ends.length - 1];
}

/**
 * Returns the length of the shortest prefix of a stream with so much of the code.
 *
 * @param {Header} header
 * @param {number} codeBytes
 */
export function streamBytes(header, codeBytes) {
  const data = header.bytes + codeBytes;
  const whole = codeBytes === codeLength(header);
  return data + CHECKSUM * (whole ? Math.ceil(data / DATA) : Math.floor((data - 1) / DATA));
}

/**
 * Returns how much of the code a prefix of a stream has.
 *
 * @param {Header} header
 * @param {number} bytes length of the prefix.
 */
export function codeBytes(header, bytes) {
  const data = Math.floor(bytes / CHUNK) * DATA + Math.min(bytes % CHUNK, DATA);
  return Math.min(Math.max(0, data - header.bytes), codeLength(header));
}

/** Bytes that may be appended to. */
class Bytes {
  constructor() {
    this._buffer = new Uint8Array(4096);
    this.length = 0;
  }

  /** @param {Uint8Array} data */
  append(data) {
    if (this.length + data.length > this._buffer.length) {
      const grown = new Uint8Array(2 * (this.length + data.length));
      grown.set(this.view());
      this._buffer = grown;
    }
    this._buffer.set(data, this.length);
    this.length += data.length;
  }

  view(start = 0, stop = this.length) {
    return this._buffer.subarray(start, Math.min(stop, this.length));
  }

  /** @param {number} length */
  cut(length) {
    this.length = length;
  }
}

/** Reads a stream as its bytes come. */
export class Reader {
  /** @param {Record<number, number>} layers number of named layers of each family, by its code. */
  constructor(layers) {
    /** @type {Header | null} Properties of the stream, null until they have come. */
    this.header = null;
    /** Whether a checksum was wrong; all that follows is ignored. */
    this.damaged = false;
    this._layers = layers;
    this._start = new Bytes();
    // Code so far. Its last bytes, in a chunk that is not complete, are not verified.
    this._code = new Bytes();
    this._data = 0;
    this._chunk = new Bytes();
    this._verified = 0;
    this._checksum = 0;
  }

  /** The code so far. Bytes are removed where their chunk turns out to be damaged. */
  get code() {
    return this._code.view();
  }

  /** Whether the whole code has come and is verified. */
  get complete() {
    return this.header !== null && !this.damaged && this._verified === this._total();
  }

  /**
   * Takes the next bytes of the stream.
   *
   * @param {Uint8Array} data
   * @throws {SaeError} This is no stream of a progressive family, or its header is damaged.
   */
  feed(data) {
    if (this.header === null) {
      this._start.append(data);
      this._readHeader(this._start.view());
      if (this.header === null) return;
      data = this._start.view();
    }
    let position = 0;
    while (position < data.length && !this.damaged && this._verified < this._total()) {
      const size = Math.min(DATA, this._total() - this._verified);
      const stop = position + size + CHECKSUM - this._chunk.length;
      this._take(data.subarray(position, stop), size);
      position = stop;
    }
  }

  /** Number of bytes of header and code. */
  _total() {
    return this.header === null ? 0 : this.header.bytes + codeLength(this.header);
  }

  /**
   * Takes bytes of one chunk.
   *
   * @param {Uint8Array} data
   * @param {number} size number of bytes of the chunk before its checksum.
   */
  _take(data, size) {
    this._chunk.append(data);
    const headerBytes = /** @type {Header} */ (this.header).bytes;
    const known = Math.min(this._chunk.length, size);
    const first = Math.max(0, headerBytes - this._verified);
    const taken = Math.max(0, this._verified - headerBytes);
    this._code.cut(taken);
    this._code.append(this._chunk.view(first, known));
    if (this._chunk.length < size + CHECKSUM) return;
    const [a, b, c, d] = this._chunk.view(size);
    const checksum = (a | (b << 8) | (c << 16) | (d << 24)) >>> 0;
    this._checksum = crc32(this._chunk.view(0, size), this._checksum);
    this.damaged = this._checksum !== checksum;
    if (this.damaged) this._code.cut(taken);
    else this._verified += size;
    this._chunk.cut(0);
  }

  /** @param {Uint8Array} data */
  _readHeader(data) {
    if (MAGIC.some((byte, k) => k < data.length && data[k] !== byte)) {
      throw new SaeError("This is not an .sae stream; make one with `python -m sae compress`.");
    }
    if (data.length > 3 && data[3] !== VERSION) {
      throw new SaeError(
        `This .sae stream is of version ${data[3]}, and this page reads version ${VERSION}.`,
      );
    }
    if (data.length < START) return;
    const count = this._layers[data[4]];
    if (count === undefined) {
      throw new SaeError(`There is no progressive family of code ${data[4]}.`);
    }
    const numbers = [];
    let position = START;
    while (numbers.length < 2 + count) {
      const number = readVarint(data, position);
      if (number === null) return;
      numbers.push(number.value);
      position = number.stop;
    }
    if (data.length < position + 2) return;
    if (crc16(data.subarray(0, position)) !== (data[position] | (data[position + 1] << 8))) {
      throw new SaeError("The header is damaged: its checksum does not match.");
    }
    const [width, height, ...steps] = numbers;
    if (width * height === 0) {
      throw new SaeError(`The header is damaged: no image has ${width} x ${height} pixels.`);
    }
    if (width * height > MAX_PIXELS) {
      throw new SaeError(
        `The image has ${width} x ${height} pixels, more than the ${MAX_PIXELS} that this page ` +
          "decodes; use `python -m sae decompress`.",
      );
    }
    let end = 0;
    this.header = {
      code: data[4],
      fingerprint: [...data.subarray(5, START)].map((b) => b.toString(16).padStart(2, "0")).join(""),
      width,
      height,
      ends: steps.map((step) => (end += step)),
      bytes: position + 2,
    };
  }
}

/**
 * Returns a number of seven bits a byte, lowest first, and where it stops; null if it is cut.
 *
 * @param {Uint8Array} data
 * @param {number} position
 */
function readVarint(data, position) {
  let value = 0;
  for (let factor = 1; factor < 2 ** 35; factor *= 128) {
    if (position === data.length) return null;
    const byte = data[position++];
    value += (byte & 127) * factor;
    if (byte < 128) {
      if (value >= LARGEST_NUMBER) break;
      return { value, stop: position };
    }
  }
  throw new SaeError("The header is damaged: it has a number of more than 32 bits.");
}
