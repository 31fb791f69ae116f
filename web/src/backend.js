/** The library of tensors, on WebAssembly. */

import * as tf from "@tensorflow/tfjs-core";
import { setWasmPaths } from "@tensorflow/tfjs-backend-wasm";

/**
 * Makes the library ready.
 *
 * @param {string} folder URL or path of the library's binaries, with a slash at the end.
 */
export async function startBackend(folder) {
  // Threads would require headers that a plain file server does not send.
  tf.env().set("WASM_HAS_MULTITHREAD_SUPPORT", false);
  setWasmPaths(folder);
  await tf.setBackend("wasm");
  await tf.ready();
}
