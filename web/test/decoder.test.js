import assert from "node:assert/strict";
import { test } from "node:test";

import { ProgressiveDecoder } from "../src/decoder.js";
import { SaeError } from "../src/errors.js";
import { bytes, codec, json } from "./support.js";

/**
 * Returns the values of a latent with zeros for the channels that the plane does not have.
 *
 * @param {Float32Array} values
 * @param {number} depth
 * @param {number} wide
 */
function widened(values, depth, wide) {
  const found = new Float32Array((values.length / depth) * wide);
  for (let k = 0; k < values.length / depth; k++) {
    found.set(values.subarray(k * depth, (k + 1) * depth), k * wide);
  }
  return found;
}

/**
 * @param {Float32Array} found
 * @param {Float32Array} expected
 */
function assertClose(found, expected) {
  assert.equal(found.length, expected.length);
  for (let k = 0; k < found.length; k++) {
    // Products of float32 numbers may be rounded once more or less.
    const bound = 1e-6 * Math.max(1, Math.abs(expected[k]));
    if (!(Math.abs(found[k] - expected[k]) <= bound)) assert.equal(found[k], expected[k]);
  }
}

for (const { name, depth, size, streams } of json("vectors.json")) {
  for (const stream of streams) {
    const data = bytes(`${stream.name}.sae`);
    const [height, width] = size.map((side) => Math.ceil(side / 16));
    const latents = new Float32Array(bytes(`${stream.name}.f32`).buffer);
    const count = height * width * depth;

    /**
     * @param {any} found
     * @param {any} cut
     * @param {number} index of the cut among those with a header.
     */
    const assertLatent = (found, cut, index) => {
      assertClose(new Float32Array([found.level]), new Float32Array([cut.level]));
      [found.yHat, found.expected].forEach((values, k) => {
        const start = (2 * index + k) * count;
        assertClose(widened(values, found.depth, depth), latents.subarray(start, start + count));
      });
    };

    test(`${stream.name}: latents and images of prefixes that grow`, async () => {
      const decoder = new ProgressiveDecoder(await codec(name));
      let before = 0;
      let index = 0;
      for (const cut of stream.cuts) {
        decoder.feed(data.subarray(before, cut.bytes));
        before = cut.bytes;
        assert.equal(decoder.damaged, cut.damaged);
        assert.equal(decoder.complete, cut.complete);
        assert.equal(decoder.header !== null, "level" in cut);
        if (!decoder.header) continue;
        assertLatent(decoder.decoded(), cut, index++);
        if (!cut.image) continue;
        const image = await decoder.image();
        const expected = bytes(cut.image);
        let largest = 0;
        expected.forEach((value, k) => {
          const at = 4 * Math.floor(k / 3) + (k % 3);
          largest = Math.max(largest, Math.abs(value - (image?.pixels[at] ?? NaN)));
        });
        assert.ok(largest <= 1, `pixels differ by ${largest}`);
      }
    });

    test(`${stream.name}: latents of prefixes of a whole stream, in any order`, async () => {
      if (stream.name.endsWith("damaged")) return;
      const decoder = new ProgressiveDecoder(await codec(name));
      decoder.feed(data);
      // Prefixes are also asked for before the whole is decoded.
      decoder.advance();
      const cuts = stream.cuts.filter((cut) => "level" in cut);
      cuts.forEach((_, k) => {
        const index = (7 * k) % cuts.length;
        assertLatent(decoder.decoded(cuts[index].bytes), cuts[index], index);
      });
    });
  }
}

test("a stream of other weights is refused", async () => {
  const decoder = new ProgressiveDecoder(await codec("small"));
  decoder._codec.description = { ...decoder._codec.description, fingerprint: "0".repeat(64) };
  assert.throws(() => decoder.feed(bytes("small-sound.sae")), SaeError);
});
