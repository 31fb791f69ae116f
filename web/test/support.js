import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join, resolve } from "node:path";
import { fileURLToPath } from "node:url";

import { startBackend } from "../src/backend.js";
import { Codec } from "../src/decoder.js";
import { Model } from "../src/model.js";

const here = dirname(fileURLToPath(import.meta.url));
const root = resolve(here, "../..");

/**
 * Returns the folder of vectors. SAE_VECTORS names one that is written already; else Python
 * (SAE_PYTHON) writes one, with SAE_CHECKPOINTS and SAE_IMAGE also of a trained model.
 */
function vectorFolder() {
  if (process.env.SAE_VECTORS) return process.env.SAE_VECTORS;
  const python = process.env.SAE_PYTHON ?? join(root, ".venv/bin/python");
  if (!existsSync(python)) throw new Error(`There is no ${python}; name one in SAE_PYTHON.`);
  const folder = mkdtempSync(join(tmpdir(), "sae-vectors-"));
  const real = process.env.SAE_CHECKPOINTS
    ? ["--checkpoints", process.env.SAE_CHECKPOINTS, "--image", process.env.SAE_IMAGE ?? ""]
    : [];
  execFileSync(python, [join(here, "vectors.py"), folder, ...real], { cwd: root });
  process.env.SAE_VECTORS = folder;
  return folder;
}

export const vectors = vectorFolder();

/** @param {string} name */
export function bytes(name) {
  return new Uint8Array(readFileSync(join(vectors, name)));
}

/** @param {string} name */
export function json(name) {
  return JSON.parse(readFileSync(join(vectors, name), "utf8"));
}

/** @param {string} name */
export function model(name) {
  return new Model(json(`${name}/model.json`), bytes(`${name}/weights.bin`).buffer);
}

/** @param {string} name */
export async function codec(name) {
  await startBackend(join(here, "../node_modules/@tensorflow/tfjs-backend-wasm/dist/"));
  return new Codec(model(name));
}
