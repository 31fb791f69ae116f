/** One image on the screen with its caption. */

/** Format of numbers. */
export const number = new Intl.NumberFormat("en");

/**
 * Returns the PSNR in dB of an image, over its three colors.
 *
 * @param {Uint8ClampedArray} original RGBA.
 * @param {Uint8ClampedArray} pixels RGBA.
 */
export function psnr(original, pixels) {
  let sum = 0;
  for (let k = 0; k < original.length; k += 4) {
    const red = original[k] - pixels[k];
    const green = original[k + 1] - pixels[k + 1];
    const blue = original[k + 2] - pixels[k + 2];
    sum += red * red + green * green + blue * blue;
  }
  return 10 * Math.log10((255 * 255 * 0.75 * original.length) / sum);
}

/**
 * Returns the pixels of an image file.
 *
 * @param {string} url
 * @returns {Promise<ImageData>}
 */
export function imageOf(url) {
  return new Promise((resolve, reject) => {
    const image = new Image();
    image.onload = () => {
      const canvas = document.createElement("canvas");
      canvas.width = image.naturalWidth;
      canvas.height = image.naturalHeight;
      const context = /** @type {CanvasRenderingContext2D} */ (
        canvas.getContext("2d", { willReadFrequently: true })
      );
      context.drawImage(image, 0, 0);
      resolve(context.getImageData(0, 0, canvas.width, canvas.height));
    };
    image.onerror = () => reject(new Error(`${url} is no image`));
    image.src = url;
  });
}

export class Panel {
  /**
   * @param {HTMLElement} parent
   * @param {string} name
   * @param {string} color variable of the style sheet.
   * @param {string} note
   * @param {{ width: number, height: number }} size
   */
  constructor(parent, name, color, note, { width, height }) {
    this.color = color;
    /** Bytes and PSNR of the image on the screen. @type {[number, number] | null} */
    this.point = null;
    /** @type {ImageData | null} */
    this.original = null;
    this._pixels = width * height;
    this._name = name;
    const figure = document.createElement("figure");
    figure.style.setProperty("--color", `var(${color})`);
    this._picture = document.createElement("div");
    this._picture.className = "picture";
    this._canvas = document.createElement("canvas");
    this._canvas.width = width;
    this._canvas.height = height;
    this._canvas.setAttribute("role", "img");
    this._canvas.setAttribute("aria-label", `${name}: nothing has arrived`);
    this._canvas.dataset.codec = name;
    this._empty = document.createElement("div");
    this._empty.className = "empty";
    this._over = document.createElement("canvas");
    this._over.width = width;
    this._over.height = height;
    this._over.hidden = true;
    this._over.setAttribute("role", "img");
    this._over.setAttribute("aria-label", "Original");
    this._picture.append(this._canvas, this._empty, this._over);
    const caption = document.createElement("figcaption");
    const title = document.createElement("b");
    title.textContent = name;
    this._figures = document.createElement("span");
    const small = document.createElement("small");
    small.textContent = note;
    caption.append(title, this._figures, small);
    figure.append(this._picture, caption);
    parent.append(figure);
  }

  /**
   * Shows a finished image until there is a decoded one.
   *
   * @param {string} url
   */
  preview(url) {
    const image = document.createElement("img");
    image.src = url;
    image.alt = `${this._name}, decoded when the page was written`;
    this._preview = image;
    this._figures.textContent = "decoded when the page was written";
    this._picture.insertBefore(image, this._over);
  }

  /** @param {{ width: number, height: number, pixels: Uint8ClampedArray<ArrayBuffer> }} image */
  show({ width, height, pixels }) {
    this._preview?.remove();
    this._empty.hidden = true;
    this._canvas.getContext("2d")?.putImageData(new ImageData(pixels, width, height), 0, 0);
  }

  /**
   * Shows that there is no image.
   *
   * @param {string} text
   */
  blank(text) {
    this._canvas.getContext("2d")?.clearRect(0, 0, this._canvas.width, this._canvas.height);
    this._empty.hidden = false;
    this._empty.textContent = text;
    this._figures.textContent = "";
    this.point = null;
  }

  /**
   * @param {number} bytes
   * @param {number | null} decibels
   * @param {string} [more]
   */
  caption(bytes, decibels, more = "") {
    const parts = [`${number.format(bytes)} bytes`, `${((8 * bytes) / this._pixels).toFixed(3)} bpp`];
    if (decibels !== null) parts.push(`${decibels.toFixed(2)} dB`);
    this._figures.textContent = parts.join(" · ") + more;
    this._canvas.setAttribute("aria-label", `${this._name}: ${parts.join(", ")}`);
    this._canvas.dataset.bytes = String(bytes);
    this._canvas.dataset.draft = String(more !== "");
    this.point = decibels === null || !Number.isFinite(decibels) ? null : [bytes, decibels];
  }

  /** @param {boolean} on */
  showOriginal(on) {
    if (on && this.original) this._over.getContext("2d")?.putImageData(this.original, 0, 0);
    this._over.hidden = !on || !this.original;
  }
}
