/**
 * A code to a latent, plane by plane; any prefix of the code is a coarser latent.
 *
 * All planes are one code. The elements of a part of plane 0, and the trits of a plane above it, come
 * in the order of the expected fall of the squared error per bit. The decoder keeps what it has
 * decoded as runs of symbols, so that the latent at any shorter prefix is found without decoding
 * the whole again.
 */

import { FirstPlane, MEANS, SCALES } from "./integer_context.js";
import { covers, decodeDetermined, INITIAL, passes } from "./range_decoder.js";

const RATIO = 3;
const LARGEST_DISTANCE = 64;
const EXPECTED_UNIT = 2 ** -14;
// So many symbols are decoded at once; between blocks the state of the range decoder is kept.
const BLOCK = 4096;

/**
 * The tables that the model file stores; sae/model/plane_tables.py describes them.
 *
 * @typedef {object} Tables
 * @property {Uint16Array} digit_low
 * @property {Uint16Array} digit_high
 * @property {Uint16Array} digit_entropy
 * @property {Int16Array} digit_expected
 * @property {Int16Array} digit_rest
 * @property {Uint8Array} digit_order
 * @property {Uint16Array} first_entropy
 * @property {Uint8Array} second_order
 * @property {Uint16Array} value_low
 * @property {Uint16Array} value_high
 * @property {Uint16Array} value_stop
 * @property {Uint8Array} value_order
 * @property {number} distances number of distances in value_stop.
 * @property {Float64Array} value_excess expectation of what is left of a distance, indexed like
 *   value_stop.
 */

/**
 * @param {import("./model.js").Model} model
 * @returns {Tables}
 */
export function tablesOf(model) {
  /** @type {any} */
  const found = { distances: model.array("tables/value_stop").shape[2] };
  for (const name of model.names) {
    if (name.startsWith("tables/")) found[name.slice(7)] = model.array(name).values;
  }
  found.value_excess = excessOf(found.value_stop, found.distances);
  return found;
}

/**
 * @param {Uint16Array} stop
 * @param {number} distances
 */
function excessOf(stop, distances) {
  const excess = new Float64Array(stop.length);
  for (let k = stop.length - 1; k >= 0; k--) {
    const going = 1 - stop[k] / 65536;
    // The last probability holds for all larger distances.
    const last = (k + 1) % distances === 0;
    excess[k] = last ? Math.min(going / (1 - going), LARGEST_DISTANCE) : going * (1 + excess[k + 1]);
  }
  return excess;
}

/**
 * A partly decoded latent, in steps of plane 0.
 *
 * @typedef {object} Decoded
 * @property {number} depth number of channels; those above it are zero.
 * @property {Float32Array} yHat centers of the intervals, means where nothing has come,
 *   [height, width, depth].
 * @property {Float32Array} expected how far the mean of an element in its interval lies from the
 *   center.
 * @property {number} level plane up to which the latent is decoded, fractional above plane 0.
 */

/**
 * Symbols that are decoded one after the other with probabilities that are all given before.
 *
 * @typedef {object} Run
 * @property {number} length number of symbols.
 * @property {(start: number, stop: number, low: Uint32Array, high: Uint32Array) => void} fill
 *   gives the cumulative probabilities of some of them.
 * @property {Integers | Digits} owner part or plane that they are of.
 * @property {number} round number of the run in its part.
 * @property {Uint8Array} symbols those that are decoded.
 * @property {number} count
 * @property {{ start: number, state: import("./range_decoder.js").State }[]} marks states of the
 *   range decoder before some of the symbols.
 */

/** Decodes a latent as the bytes of its code come. */
export class PlaneDecoder {
  /**
   * @param {import("./integer_context.js").IntegerContext} context
   * @param {Tables} tables
   * @param {number} height of the latent.
   * @param {number} width
   */
  constructor(context, tables, height, width) {
    this._context = context;
    this._tables = tables;
    this._height = height;
    this._width = width;
    /** @type {Run[]} */
    this._runs = [];
    /** @type {Integers[]} */
    this._parts = [];
    /** Integers of the complete planes, lowest first. @type {Int16Array[]} */
    this.planes = [];
    /** Walks through plane 0 at the first part of each slice. @type {FirstPlane[]} */
    this._walks = [];
    this._state = INITIAL;
    this._low = new Uint32Array(BLOCK);
    this._high = new Uint32Array(BLOCK);
    this._procedure = this._code();
    this._next();
  }

  /** Whether all planes are decoded. */
  complete = false;

  /**
   * Whether all that a prefix of the code determines is decoded.
   *
   * @param {number} length
   */
  passed(length) {
    return this.complete || passes(this._state, length);
  }

  /**
   * Decodes what a prefix of the code determines, at most one run of symbols.
   *
   * @param {Uint8Array} code a prefix that is not shorter than before.
   * @returns {boolean} Whether more may be decoded of the same prefix.
   */
  step(code) {
    if (this.complete) return false;
    const run = /** @type {Run} */ (this._runs.at(-1));
    while (run.count < run.length) {
      if (run.marks.at(-1)?.start !== run.count) {
        run.marks.push({ start: run.count, state: this._state });
      }
      const stop = Math.min(run.length, run.count + BLOCK);
      const symbols = run.symbols.subarray(run.count, stop);
      const found = this._decoded(code, this._state, run, run.count, stop, symbols);
      run.count += found.count;
      this._state = found.state;
      if (run.count < stop) return false;
    }
    this._next();
    return true;
  }

  /**
   * Returns what a prefix of the code gives.
   *
   * @param {Uint8Array} code a prefix that has been decoded.
   * @returns {Decoded}
   */
  decoded(code) {
    const { index, count } = this._cut(code);
    const { owner, round, symbols } = this._runs[index];
    if (owner instanceof Digits) return owner.decoded(round, symbols, count);
    return this._firstPlane(owner, round, symbols, count);
  }

  /** Goes on to the next run of symbols. */
  _next() {
    const { value, done } = this._procedure.next();
    if (done) this.complete = true;
    else this._runs.push(value);
  }

  /**
   * Yields the runs of symbols in the order of coding, each when those before it are decoded.
   *
   * @returns {Generator<Run, void, void>}
   */
  *_code() {
    const depths = this._context.depths;
    const walk = new FirstPlane(this._context, this._height, this._width);
    let first = -1;
    while (!walk.complete) {
      if (walk.part.first !== first) this._walks.push(walk.fork());
      first = walk.part.first;
      const part = new Integers(this._tables, walk.parameters(), this._parts.length, this._walks.length - 1);
      this._parts.push(part);
      yield* part.code();
      walk.advance(part.values());
    }
    this.planes.push(walk.plane);
    for (let plane = 1; plane < depths.length; plane++) {
      const parameters = this._context.ofPlane(this.planes, this._height, this._width);
      const below = widened(this.planes[plane - 1], depths[plane - 1], depths[plane]);
      const digits = new Digits(this._tables, parameters, below, plane, depths[plane]);
      yield* digits.code();
      this.planes.push(digits.integers());
    }
  }

  /**
   * Decodes symbols of a run that a prefix of the code determines.
   *
   * @param {Uint8Array} code
   * @param {import("./range_decoder.js").State} state
   * @param {Run} run
   * @param {number} start
   * @param {number} stop
   * @param {Uint8Array} symbols receives them.
   */
  _decoded(code, state, run, start, stop, symbols) {
    run.fill(start, stop, this._low, this._high);
    return decodeDetermined(code, state, this._low, this._high, stop - start, symbols);
  }

  /**
   * Returns the run in which a prefix of the code ends, and the number of its symbols before that.
   *
   * @param {Uint8Array} code
   */
  _cut(code) {
    let index = 0;
    let mark = this._runs[0].marks[0];
    search: for (let k = this._runs.length - 1; k >= 0; k--) {
      for (let m = this._runs[k].marks.length - 1; m >= 0; m--) {
        if (covers(this._runs[k].marks[m].state, code.length)) {
          index = k;
          mark = this._runs[k].marks[m];
          break search;
        }
      }
    }
    let { start: count, state } = mark ?? { start: 0, state: INITIAL };
    const scratch = new Uint8Array(BLOCK);
    for (; index < this._runs.length; index++, count = 0) {
      const run = this._runs[index];
      while (count < run.count) {
        const stop = Math.min(run.count, count + BLOCK);
        const found = this._decoded(code, state, run, count, stop, scratch);
        count += found.count;
        state = found.state;
        if (count < stop) return { index, count };
      }
      if (count < run.length) return { index, count };
    }
    return { index: this._runs.length - 1, count: /** @type {Run} */ (this._runs.at(-1)).length };
  }

  /**
   * Returns plane 0 with the means of what has not come.
   *
   * @param {Integers} part the part in which the prefix ends.
   * @param {number} round
   * @param {Uint8Array} symbols of the run in which it ends.
   * @param {number} count
   * @returns {Decoded}
   */
  _firstPlane(part, round, symbols, count) {
    const depth = this._context.depths[0];
    const walk = this._walks[part.slice].fork();
    const yHat = new Float32Array(walk.plane);
    for (let number = this._firstOf(part.slice); !walk.complete; number++) {
      /** @type {Float32Array} */
      let known;
      if (number < part.number) known = new Float32Array(this._parts[number].values());
      else if (number === part.number) known = part.known(round, symbols, count);
      else known = new Integers(this._tables, walk.parameters(), number, 0).known(0, symbols, 0);
      walk.each((inPlane, inPart) => (yHat[inPlane] = known[inPart]));
      walk.advance(known.map(roundedHalfEven));
    }
    return { depth, yHat, expected: new Float32Array(yHat.length), level: 0 };
  }

  /** @param {number} slice */
  _firstOf(slice) {
    return this._parts.findIndex((part) => part.slice === slice);
  }
}

/** The integers of a part of plane 0. */
class Integers {
  /**
   * @param {Tables} tables
   * @param {import("./integer_context.js").Parameters} parameters
   * @param {number} number of the part.
   * @param {number} slice number of the slice that it is of.
   */
  constructor(tables, parameters, number, slice) {
    const { means, scales } = parameters;
    this._tables = tables;
    this._means = means;
    this.number = number;
    this.slice = slice;
    // The shift divides by MEANS, and rounds down.
    this._origin = means.map((mean) => (mean + MEANS / 2) >> 3);
    this._index = new Uint16Array(means.length);
    for (let k = 0; k < means.length; k++) {
      const fraction = means[k] - MEANS * this._origin[k] + MEANS / 2;
      this._index[k] = fraction * SCALES + scales[k];
    }
    const coded = Uint32Array.from(this._index.keys()).filter((k) => this._coded(k));
    const gains = Uint8Array.from(coded, (k) => tables.value_order[this._index[k]]);
    this._order = ordered(gains).map((k) => coded[k]);
    this._distance = new Int8Array(means.length);
  }

  /**
   * Whether an element is coded; if not, it is the rounded mean.
   *
   * @param {number} element
   */
  _coded(element) {
    return this._tables.value_low[this._index[element]] > 0;
  }

  /** @returns {Generator<Run, void, void>} */
  *code() {
    const { value_low, value_high, value_stop, distances } = this._tables;
    const order = this._order;
    const index = this._index;
    const distance = this._distance;
    const sides = run(this, 0, order.length, (start, stop, low, high) => {
      for (let k = start; k < stop; k++) {
        low[k - start] = value_low[index[order[k]]];
        high[k - start] = value_high[index[order[k]]];
      }
    });
    yield sides;
    let going = order.filter((_, k) => sides.symbols[k] !== 1);
    order.forEach((element, k) => (distance[element] = sides.symbols[k] - 1));
    const half = value_stop.length / 2 / distances;
    for (let reached = 1; reached < LARGEST_DISTANCE && going.length; reached++) {
      const elements = going;
      const column = Math.min(reached, distances) - 1;
      const more = run(this, reached, elements.length, (start, stop, low, high) => {
        for (let k = start; k < stop; k++) {
          const element = elements[k];
          const row = index[element] + (distance[element] > 0 ? half : 0);
          low[k - start] = value_stop[row * distances + column];
          high[k - start] = 1 << 16;
        }
      });
      yield more;
      going = elements.filter((_, k) => more.symbols[k] > 0);
      going.forEach((element) => (distance[element] += Math.sign(distance[element])));
    }
  }

  /** Returns the integers when all are decoded. */
  values() {
    return this._origin.map((origin, k) => origin + this._distance[k]);
  }

  /**
   * Returns what was known within a run: integers, and expectations of the other elements.
   *
   * @param {number} round number of the run.
   * @param {Uint8Array} symbols
   * @param {number} count number of symbols of the run that had come.
   */
  known(round, symbols, count) {
    const found = new Float32Array(this._means.length);
    const place = (/** @type {number} */ element, /** @type {number} */ distance, going = true) => {
      const excess = going ? Math.sign(distance) * this._excess(element, distance) : 0;
      found[element] = this._origin[element] + distance + excess;
    };
    if (round === 0) {
      for (let k = 0; k < found.length; k++) {
        found[k] = this._coded(k) ? this._means[k] / MEANS : this._origin[k];
      }
      for (let k = 0; k < count; k++) place(this._order[k], symbols[k] - 1, symbols[k] !== 1);
      return found;
    }
    for (let k = 0; k < found.length; k++) found[k] = this._origin[k] + this._distance[k];
    // Each run after the sides lengthens the distances of those that reached it by one, or not.
    const elements = this._order.filter((element) => Math.abs(this._distance[element]) >= round);
    elements.forEach((element, k) => {
      const reached = round + (k < count ? symbols[k] : 0);
      place(element, Math.sign(this._distance[element]) * reached, k >= count || symbols[k] > 0);
    });
    return found;
  }

  /**
   * Returns the expectation of what is left of a distance.
   *
   * @param {number} element
   * @param {number} distance with its sign.
   */
  _excess(element, distance) {
    const { value_excess, distances } = this._tables;
    const half = value_excess.length / 2 / distances;
    const row = this._index[element] + (distance > 0 ? half : 0);
    return value_excess[row * distances + Math.min(Math.abs(distance), distances) - 1];
  }
}

// States of a digit that is not decoded, and of one that is not the outward digit; others are values.
const UNKNOWN = 2;
const HALF = 3;

/**
 * The digits of a plane above 0, which count outward from the mean.
 *
 * Their trits are steps: the only or first ones of the digits that are coded, then the second ones of
 * those that have them. A digit that is not coded is 0.
 */
class Digits {
  /**
   * @param {Tables} tables
   * @param {import("./integer_context.js").Parameters} parameters
   * @param {Int16Array} below integers of the plane below.
   * @param {number} plane
   * @param {number} depth number of channels.
   */
  constructor(tables, parameters, below, plane, depth) {
    this._tables = tables;
    this._below = below;
    this._plane = plane;
    this._depth = depth;
    const size = below.length;
    const largest = tables.digit_low.length / SCALES - 1;
    this._index = new Uint16Array(size);
    this._sign = new Int8Array(size);
    this._total = 0;
    let seconds = 0;
    /** Number of digits that are coded. */
    this._coded = 0;
    for (let k = 0; k < size; k++) {
      const offset = MEANS * RATIO * below[k] - parameters.means[k];
      this._sign[k] = offset < 0 ? -1 : 1;
      const entry = Math.min(Math.abs(offset), largest) * SCALES + parameters.scales[k];
      this._index[k] = entry;
      if (tables.digit_low[entry] === 0) continue;
      this._coded++;
      this._total += tables.digit_entropy[entry];
      if (tables.second_order[entry] > 0) seconds++;
    }
    const gains = new Uint8Array(this._coded + seconds);
    /** Elements of the steps. */
    this._elements = new Uint32Array(gains.length);
    let best = 0;
    let first = 0;
    let second = this._coded;
    for (let k = 0; k < size; k++) {
      const entry = this._index[k];
      if (tables.digit_low[entry] === 0) continue;
      this._elements[first] = k;
      gains[first++] = tables.digit_order[entry];
      if (tables.second_order[entry] === 0) continue;
      this._elements[second] = k;
      gains[second++] = tables.second_order[entry];
      best = Math.max(best, tables.second_order[entry]);
    }
    this._order = ordered(gains);
    /** Number of steps before the first second trit; all that have a second one are among them. */
    this._firsts = 0;
    for (let k = 0; k < this._coded; k++) if (gains[k] >= best) this._firsts++;
    /** Places in the order of the steps of each run. @type {Uint32Array[]} */
    this._places = [];
    /** @type {Run[]} */
    this._runs = [];
  }

  /** @returns {Generator<Run, void, void>} */
  *code() {
    yield this._run(Uint32Array.from({ length: this._firsts }, (_, k) => k));
    const states = this._states(1, new Uint8Array(0), 0);
    const rest = Uint32Array.from({ length: this._order.length - this._firsts }, (_, k) => this._firsts + k);
    const places = rest.filter((place) => states[this._element(place)] >= UNKNOWN);
    if (places.length) yield this._run(places);
  }

  /** @param {Uint32Array} places */
  _run(places) {
    const { digit_low, digit_high, second_order } = this._tables;
    const found = run(this, this._runs.length, places.length, (start, stop, low, high) => {
      for (let k = start; k < stop; k++) {
        const entry = this._index[this._element(places[k])];
        const second = this._order[places[k]] >= this._coded;
        const halved = second_order[entry] > 0;
        low[k - start] = second
          ? Math.floor((digit_low[entry] * 65536) / digit_high[entry])
          : (halved ? digit_high : digit_low)[entry];
        high[k - start] = halved ? 1 << 16 : digit_high[entry];
      }
    });
    this._places.push(places);
    this._runs.push(found);
    return found;
  }

  /**
   * Returns the element of a step.
   *
   * @param {number} place of the step in the order.
   */
  _element(place) {
    return this._elements[this._order[place]];
  }

  /**
   * Returns the expected bits of a step.
   *
   * @param {number} place of the step in the order.
   */
  _bits(place) {
    const { first_entropy, digit_entropy } = this._tables;
    const entry = this._index[this._element(place)];
    const first = first_entropy[entry];
    return this._order[place] < this._coded ? first : digit_entropy[entry] - first;
  }

  /**
   * Returns the states of all digits within a run.
   *
   * @param {number} round number of the run; those before it are decoded.
   * @param {Uint8Array} symbols of the run.
   * @param {number} count number of them that had come.
   */
  _states(round, symbols, count) {
    const states = new Int8Array(this._index.length);
    for (let k = 0; k < this._coded; k++) states[this._elements[k]] = UNKNOWN;
    for (let r = 0; r <= round && r < this._places.length; r++) {
      const places = this._places[r];
      const known = r < round ? this._runs[r].symbols : symbols;
      const length = r < round ? places.length : count;
      for (let k = 0; k < length; k++) {
        const element = this._element(places[k]);
        const halved = this._tables.second_order[this._index[element]] > 0;
        const first = halved && states[element] === UNKNOWN;
        states[element] = first ? (known[k] > 0 ? 1 : HALF) : known[k] - 1;
      }
    }
    return states;
  }

  /** Returns the integers of this plane when all are decoded. */
  integers() {
    const states = this._states(this._runs.length, new Uint8Array(0), 0);
    return this._below.map((q, k) => RATIO * q + states[k] * this._sign[k]);
  }

  /**
   * Returns what the first symbols of a run give of this plane.
   *
   * @param {number} round number of the run.
   * @param {Uint8Array} symbols
   * @param {number} count
   * @returns {Decoded}
   */
  decoded(round, symbols, count) {
    const { digit_expected, digit_rest, digit_low, digit_high } = this._tables;
    const step = Math.fround(RATIO ** -this._plane);
    const unit = Math.fround(EXPECTED_UNIT * step);
    const yHat = new Float32Array(this._below.length);
    const expected = new Float32Array(yHat.length);
    const states = this._states(round, symbols, count);
    let complete = true;
    for (let k = 0; k < expected.length; k++) {
      const entry = this._index[k];
      const state = states[k];
      let digit = state;
      let mean;
      if (state === UNKNOWN) {
        digit = 0;
        mean = digit_expected[entry];
      } else if (state === HALF) {
        digit = -0.5;
        mean = roundedHalfEven((0.5 - digit_low[entry] / digit_high[entry]) / EXPECTED_UNIT);
      } else {
        mean = digit_rest[RATIO * entry + state + 1];
      }
      complete = complete && state < UNKNOWN;
      yHat[k] = (RATIO * this._below[k] + digit * this._sign[k]) * step;
      expected[k] = mean * this._sign[k] * unit;
    }
    const level = this._plane - (complete ? 0 : 1 - this._reached(round, count) / Math.max(1, this._total));
    return { depth: this._depth, yHat, expected, level };
  }

  /**
   * Returns the plane's expected bits up to the last symbol that had come.
   *
   * @param {number} round
   * @param {number} count
   */
  _reached(round, count) {
    const last = count ? this._places[round][count - 1] : round ? this._firsts - 1 : -1;
    let bits = 0;
    for (let place = 0; place <= last; place++) bits += this._bits(place);
    return bits;
  }
}

/**
 * @param {Integers | Digits} owner
 * @param {number} round
 * @param {number} length
 * @param {Run["fill"]} fill
 * @returns {Run}
 */
function run(owner, round, length, fill) {
  return { owner, round, length, fill, symbols: new Uint8Array(length), count: 0, marks: [] };
}

/**
 * Returns the indices of elements, greatest gain first, ties in order.
 *
 * @param {Uint8Array} gains of the elements.
 */
function ordered(gains) {
  const starts = new Uint32Array(257);
  for (const gain of gains) starts[256 - gain]++;
  for (let k = 1; k < 257; k++) starts[k] += starts[k - 1];
  const order = new Uint32Array(gains.length);
  for (let k = 0; k < gains.length; k++) order[starts[255 - gains[k]]++] = k;
  return order;
}

/**
 * Returns values with zeros after their channels.
 *
 * @param {Int16Array} values
 * @param {number} depth
 * @param {number} wide number of channels with the zeros.
 */
function widened(values, depth, wide) {
  if (depth === wide) return values;
  const count = values.length / depth;
  const found = new Int16Array(count * wide);
  for (let k = 0; k < count; k++) {
    found.set(values.subarray(k * depth, (k + 1) * depth), k * wide);
  }
  return found;
}

/** @param {number} value */
function roundedHalfEven(value) {
  const below = Math.floor(value);
  const rest = value - below;
  if (rest !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}
