import assert from "node:assert/strict";
import { test } from "node:test";

import { codeBytes, crc16, crc32, Reader, streamBytes } from "../src/container.js";
import { SaeError } from "../src/errors.js";
import { bytes, json } from "./support.js";

const LAYERS = { 5: 5 };
const digits = new TextEncoder().encode("123456789");

test("checksums are those of their definitions", () => {
  assert.equal(crc32(digits), 0xcbf43926);
  assert.equal(crc32(digits.subarray(4), crc32(digits.subarray(0, 4))), 0xcbf43926);
  assert.equal(crc16(digits), 0x31c3);
});

test("a stream is read the same however its bytes come", () => {
  const data = bytes("small-sound.sae");
  const whole = new Reader(LAYERS);
  whole.feed(data);
  assert.ok(whole.complete && !whole.damaged);
  for (const size of [1, 7, 2048, 5000]) {
    const reader = new Reader(LAYERS);
    for (let k = 0; k < data.length; k += size) {
      reader.feed(data.subarray(k, k + size));
      if (!reader.header) continue;
      const length = codeBytes(reader.header, Math.min(k + size, data.length));
      assert.deepEqual(reader.code, whole.code.subarray(0, length));
    }
    assert.ok(reader.complete);
  }
});

test("named layers end at the bytes that Python gives", () => {
  for (const { name, ends } of json("vectors.json")) {
    const reader = new Reader(LAYERS);
    reader.feed(bytes(`${name}-sound.sae`));
    const header = reader.header;
    assert.ok(header);
    assert.deepEqual(header.ends.map((end) => streamBytes(header, end)), ends);
    for (const end of header.ends) {
      const size = streamBytes(header, end);
      assert.equal(codeBytes(header, size), end);
      assert.ok(codeBytes(header, size - 1) < end || end === header.ends.at(-1));
    }
  }
});

test("a damaged chunk ends the code before it", () => {
  const data = bytes("small-sound.sae").slice();
  data[3000] ^= 1;
  const reader = new Reader(LAYERS);
  reader.feed(data.subarray(0, 4000));
  assert.ok(!reader.damaged && reader.code.length > 3000);
  reader.feed(data.subarray(4000));
  assert.ok(reader.damaged && !reader.complete);
  assert.equal(reader.code.length, 2044 - (reader.header?.bytes ?? 0));
});

test("what is no stream is refused with a sentence", () => {
  const data = bytes("small-sound.sae");
  const refused = (change, message) => {
    const changed = data.slice();
    change(changed);
    assert.throws(
      () => new Reader(LAYERS).feed(changed),
      (error) => error instanceof SaeError && message.test(error.message),
    );
  };
  refused((d) => (d[0] = 0x50), /not an \.sae stream/);
  refused((d) => (d[3] = 3), /version 3/);
  refused((d) => (d[4] = 99), /family of code 99/);
  refused((d) => (d[9] ^= 1), /checksum does not match/);
  refused((d) => d.fill(255, 9, 20), /more than 32 bits/);
});
