/**
 * The range decoder of trits, symbols with three values, and what a prefix of a code determines.
 *
 * A code is a number whose digits are its bytes, in an interval of a lower bound and a width of 64
 * bits. Numbers of 64 bits are two numbers of 32: products of a width with a probability are made of
 * parts that a double holds exactly.
 */

const WORD = 4;
const STATE = 8;
const TWO32 = 2 ** 32;
const FREE = 2 ** 24 - 3;

/**
 * The interval after some symbols. It depends on these alone, not on bytes that follow.
 *
 * @typedef {object} State
 * @property {number} words number of words before the first that later symbols can change.
 * @property {number} lowerHigh upper half of the lower bound.
 * @property {number} lowerLow lower half of the lower bound.
 * @property {number} widthHigh upper half of the width.
 * @property {number} widthLow lower half of the width.
 */

/** @type {State} */
export const INITIAL = {
  words: 0,
  lowerHigh: 0,
  lowerLow: 0,
  widthHigh: TWO32 - 1,
  widthLow: TWO32 - 1,
};

/**
 * Whether so many bytes have all that the symbols before a state were decoded from.
 *
 * @param {State} state
 * @param {number} length
 */
export function covers(state, length) {
  return WORD * state.words + STATE <= length;
}

/**
 * Whether so many bytes do not determine more symbols than those before a state.
 *
 * @param {State} state
 * @param {number} length
 */
export function passes(state, length) {
  return WORD * state.words >= length;
}

/** Decodes the symbols of one continuation of a code. */
class Cursor {
  /**
   * @param {Uint8Array} data the code so far.
   * @param {number} padding value of the bytes that follow.
   * @param {State} state
   */
  constructor(data, padding, state) {
    this._data = data;
    this._padding = padding;
    this._words = state.words;
    this._widthHigh = state.widthHigh;
    this._widthLow = state.widthLow;
    // How far the code lies above the lower bound.
    this._low = this._word(state.words + 1) - state.lowerLow;
    this._high = this._word(state.words) - state.lowerHigh - (this._low < 0 ? 1 : 0);
    if (this._low < 0) this._low += TWO32;
    if (this._high < 0) this._high += TWO32;
  }

  /** @param {number} index */
  _word(index) {
    const data = this._data;
    const start = WORD * index;
    if (start + WORD <= data.length) {
      return (
        ((data[start] << 24) | (data[start + 1] << 16) | (data[start + 2] << 8) | data[start + 3]) >>>
        0
      );
    }
    let word = 0;
    for (let k = start; k < start + WORD; k++) {
      word = word * 256 + (k < data.length ? data[k] : this._padding);
    }
    return word;
  }

  /** @returns {State} */
  state() {
    let lowerLow = this._word(this._words + 1) - this._low;
    let lowerHigh = this._word(this._words) - this._high - (lowerLow < 0 ? 1 : 0);
    if (lowerLow < 0) lowerLow += TWO32;
    if (lowerHigh < 0) lowerHigh += TWO32;
    return {
      words: this._words,
      lowerHigh,
      lowerLow,
      widthHigh: this._widthHigh,
      widthLow: this._widthLow,
    };
  }

  /** Whether all bytes have come on which the next symbol depends. */
  get covered() {
    return WORD * this._words + STATE <= this._data.length;
  }

  /**
   * Decodes symbols, and returns their number. There are fewer than requested if the code is none
   * that an encoder writes, or where the bytes so far end if `covered` is set.
   *
   * @param {Uint16Array | Uint32Array} low cumulative probabilities, in units of 2^-16.
   * @param {Uint16Array | Uint32Array} high
   * @param {number} start index of the first symbol.
   * @param {number} stop
   * @param {Uint8Array} symbols receives them, from index 0.
   * @param {boolean} covered whether symbols end where they depend on bytes that have not come.
   */
  decode(low, high, start, stop, symbols, covered) {
    let dh = this._high;
    let dl = this._low;
    let wh = this._widthHigh;
    let wl = this._widthLow;
    let k = start;
    if (covered && !this.covered) return 0;
    for (; k < stop; k++) {
      // The width is of 2^24 units; halves of a unit have 20 bits.
      const unit = wh * 256 + Math.floor(wl / 16777216);
      const uh = Math.floor(unit / 1048576);
      const ul = unit - uh * 1048576;
      let symbol = 0;
      let fromHigh = 0;
      let fromLow = 0;
      let bound = Math.floor((low[k] * FREE) / 65536) + 1;
      let upper = uh * bound;
      let top = Math.floor(upper / 4096);
      let rest = (upper - top * 4096) * 1048576 + ul * bound;
      let carry = Math.floor(rest / TWO32);
      let toHigh = top + carry;
      let toLow = rest - carry * TWO32;
      if (dh > toHigh || (dh === toHigh && dl >= toLow)) {
        symbol = 1;
        fromHigh = toHigh;
        fromLow = toLow;
        bound = Math.floor((high[k] * FREE) / 65536) + 2;
        upper = uh * bound;
        top = Math.floor(upper / 4096);
        rest = (upper - top * 4096) * 1048576 + ul * bound;
        carry = Math.floor(rest / TWO32);
        toHigh = top + carry;
        toLow = rest - carry * TWO32;
        if (dh > toHigh || (dh === toHigh && dl >= toLow)) {
          symbol = 2;
          fromHigh = toHigh;
          fromLow = toLow;
          toHigh = Math.floor(unit / 256);
          toLow = (unit - toHigh * 256) * 16777216;
          if (dh > toHigh || (dh === toHigh && dl >= toLow)) break;
        }
      }
      symbols[k - start] = symbol;
      dl -= fromLow;
      dh -= fromHigh;
      if (dl < 0) {
        dl += TWO32;
        dh--;
      }
      wl = toLow - fromLow;
      wh = toHigh - fromHigh;
      if (wl < 0) {
        wl += TWO32;
        wh--;
      }
      if (wh === 0) {
        wh = wl;
        wl = 0;
        dh = dl;
        this._words++;
        dl = this._word(this._words + 1);
        if (covered && !this.covered) {
          k++;
          break;
        }
      }
    }
    this._high = dh;
    this._low = dl;
    this._widthHigh = wh;
    this._widthLow = wl;
    return k - start;
  }
}

/**
 * Decodes the symbols that a prefix of a code determines, and returns their number.
 *
 * All continuations of the prefix lie between that of zeros and that of ones; a symbol in which
 * these agree is determined.
 *
 * @param {Uint8Array} code the prefix.
 * @param {State} state interval before the first symbol.
 * @param {Uint16Array | Uint32Array} low cumulative probabilities, in units of 2^-16.
 * @param {Uint16Array | Uint32Array} high
 * @param {number} count
 * @param {Uint8Array} symbols receives them.
 * @returns {{ count: number, state: State }} The number of symbols, and the interval after them.
 */
export function decodeDetermined(code, state, low, high, count, symbols) {
  const least = new Cursor(code, 0, state);
  let known = least.decode(low, high, 0, count, symbols, true);
  let after = least.state();
  if (known === count) return { count, state: after };
  const greatest = new Cursor(code, 255, after);
  const other = new Uint8Array(1);
  const one = new Uint8Array(1);
  while (known < count) {
    const found = least.decode(low, high, known, known + 1, one, false);
    if (!found || !greatest.decode(low, high, known, known + 1, other, false)) break;
    if (one[0] !== other[0]) break;
    symbols[known++] = one[0];
    after = least.state();
  }
  return { count: known, state: after };
}
