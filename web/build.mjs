/** Writes the page to sae/reporting/web, from where Python copies it. */

import { copyFileSync, mkdirSync, readdirSync, rmSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const target = join(here, "../sae/reporting/web");
rmSync(target, { recursive: true, force: true });
mkdirSync(target, { recursive: true });
const shared = { bundle: true, minify: true, target: "es2022", legalComments: "eof", logLevel: "warning" };
// Browsers run no modules of a page opened from a file, which would then stay empty.
const entryPoints = ["page.js", "worker.js"].map((name) => join(here, "src", name));
await build({ ...shared, entryPoints, outdir: target, format: "iife" });
for (const name of ["index.html", "page.css"]) copyFileSync(join(here, "src", name), join(target, name));
const library = join(here, "node_modules/@tensorflow/tfjs-backend-wasm/dist");
for (const name of ["tfjs-backend-wasm.wasm", "tfjs-backend-wasm-simd.wasm"]) {
  copyFileSync(join(library, name), join(target, name));
}
for (const name of readdirSync(target)) {
  console.log(`${String(Math.ceil(statSync(join(target, name)).size / 1024)).padStart(5)} KiB  ${name}`);
}
