/** Other codecs' images of the same number of bytes. */

import { fetched } from "./model.js";
import { imageOf, number, psnr } from "./panel.js";

/** One progressive JPEG file, whose prefixes the browser decodes. */
export class Jpeg {
  /**
   * @param {{ file: string, bytes: number, curve: [number, number][] }} other
   * @param {import("./panel.js").Panel} panel
   */
  constructor(other, panel) {
    this.panel = panel;
    this.curve = other.curve;
    this._other = other;
    /** @type {Uint8Array | null} */
    this._data = null;
    this._busy = false;
    this._bytes = -1;
    /** @type {ImageData | null} */
    this._original = null;
    fetched(other.file)
      .then((response) => response.arrayBuffer())
      .then((data) => {
        this._data = new Uint8Array(data);
        this._draw();
      })
      .catch(() => panel.blank("The file cannot be fetched."));
  }

  /** @param {ImageData} original */
  setOriginal(original) {
    this._original = this.panel.original = original;
    this._draw();
  }

  /** @param {number} bytes */
  show(bytes) {
    this._bytes = Math.min(bytes, this._other.bytes);
    this._draw();
  }

  async _draw() {
    if (this._busy || !this._data || this._bytes < 0) return;
    this._busy = true;
    for (let bytes = -1; bytes !== this._bytes; ) {
      bytes = this._bytes;
      // A marker of the end makes browsers show what has come.
      const parts = [this._data.slice(0, bytes), new Uint8Array([0xff, 0xd9])];
      const url = URL.createObjectURL(new Blob(parts, { type: "image/jpeg" }));
      try {
        const image = await imageOf(url);
        const { width, height } = image;
        this.panel.show({ width, height, pixels: image.data });
        this.panel.caption(bytes, this._original && psnr(this._original.data, image.data));
      } catch {
        this.panel.blank("No image yet");
      }
      URL.revokeObjectURL(url);
    }
    this._busy = false;
  }
}

/** Images of a codec that browsers do not decode, one for each of some sizes. */
export class Pictures {
  /**
   * @param {{ files: { bytes: number, psnr: number, file: string }[] }} other
   * @param {import("./panel.js").Panel} panel
   */
  constructor(other, panel) {
    this.panel = panel;
    /** @type {[number, number][]} */
    this.curve = other.files.map((file) => [file.bytes, file.psnr]);
    this._files = other.files;
    this._shown = null;
    /** @type {any} */
    this._wanted = null;
  }

  /** @param {ImageData} original */
  setOriginal(original) {
    this.panel.original = original;
  }

  /** @param {number} bytes */
  async show(bytes) {
    const file = this._files.filter((one) => one.bytes <= bytes).at(-1) ?? null;
    this._wanted = file;
    if (file === null) {
      this._shown = null;
      this.panel.blank(`The smallest file has ${number.format(this._files[0].bytes)} bytes`);
      return;
    }
    if (this._shown === file) return;
    this._shown = file;
    try {
      const image = await imageOf(file.file);
      if (this._wanted !== file) return;
      this.panel.show({ width: image.width, height: image.height, pixels: image.data });
      this.panel.caption(file.bytes, file.psnr);
    } catch {
      this.panel.blank("The file cannot be fetched.");
    }
  }
}
