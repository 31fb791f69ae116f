import assert from "node:assert/strict";
import { test } from "node:test";

import { decodeDetermined, INITIAL } from "../src/range_decoder.js";
import { json } from "./support.js";

const cases = json("codes.json").map((found) => ({
  ...found,
  low: Uint32Array.from(found.low),
  high: Uint32Array.from(found.high),
  code: Uint8Array.from(found.code),
}));

test("a prefix determines the symbols that it determines in Python", () => {
  for (const { low, high, symbols, code, known } of cases) {
    for (let size = 0; size <= code.length; size++) {
      const found = new Uint8Array(low.length);
      const { count } = decodeDetermined(code.subarray(0, size), INITIAL, low, high, low.length, found);
      assert.equal(count, known[size]);
      assert.deepEqual([...found.subarray(0, count)], symbols.slice(0, count));
    }
  }
});

test("decoding goes on from any state, with more bytes", () => {
  for (const { low, high, symbols, code } of cases) {
    let state = INITIAL;
    let start = 0;
    for (let size = 0; size <= code.length; size += 3) {
      const length = size + 3 > code.length ? code.length : size;
      const found = new Uint8Array(low.length - start);
      const rest = [low.subarray(start), high.subarray(start)];
      const after = decodeDetermined(code.subarray(0, length), state, rest[0], rest[1], found.length, found);
      const expected = symbols.slice(start, start + after.count);
      assert.deepEqual([...found.subarray(0, after.count)], expected);
      state = after.state;
      start += after.count;
    }
    assert.equal(start, low.length);
  }
});
