/** PSNR over bytes, on the axis of the slider under it. */

// The middle of the slider's knob stays so many pixels from the ends.
export const INSET = 9;
const SVG = "http://www.w3.org/2000/svg";

/**
 * @param {SVGElement} svg
 * @param {number} total bytes at the right end.
 * @param {number} bytes position of the slider.
 * @param {{ color: string, points: [number, number][] }[]} curves
 * @param {{ color: string, point: [number, number] }[]} dots images on the screen.
 * @param {number[]} layers ends of named layers.
 */
export function drawPlot(svg, total, bytes, curves, dots, layers) {
  const { width, height } = svg.getBoundingClientRect();
  if (!width || !height) return;
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const values = curves.flatMap(({ points }) => points.map(([, value]) => value));
  const low = Math.floor((Math.min(...values) - 0.5) / 5) * 5;
  const high = Math.ceil((Math.max(...values) + 0.5) / 5) * 5;
  const x = (/** @type {number} */ b) => INSET + (b / total) * (width - 2 * INSET);
  const y = (/** @type {number} */ v) => 4 + ((high - v) / (high - low)) * (height - 8);
  const ends = curves.map(({ points }) => points[points.length - 1][1]);
  const parts = [];
  const labels = [];
  const space = height / ((high - low) / 5) < 16 ? 10 : 5;
  for (let value = low; value <= high; value += space) {
    parts.push(node("line", { class: "grid", x1: INSET, x2: width - INSET, y1: y(value), y2: y(value) }));
    // Labels stand where no curve ends.
    if (value > low && value < high && ends.every((end) => Math.abs(end - value) > space / 2)) {
      const label = node("text", { x: width - INSET - 10, y: y(value) - 3, "text-anchor": "end" });
      label.textContent = `${value} dB`;
      labels.push(label);
    }
  }
  for (const layer of layers) {
    parts.push(node("line", { class: "layer", x1: x(layer), x2: x(layer), y1: 0, y2: height }));
  }
  parts.push(node("line", { class: "now", x1: x(bytes), x2: x(bytes), y1: 0, y2: height }));
  for (const { color, points } of curves) {
    const list = points.map(([b, v]) => `${x(b).toFixed(1)},${y(v).toFixed(1)}`).join(" ");
    parts.push(node("polyline", { points: list, style: `stroke: var(${color})` }));
  }
  for (const { color, point } of dots) {
    const place = { cx: x(point[0]), cy: y(Math.max(low, Math.min(high, point[1]))), r: 4.5 };
    parts.push(node("circle", { ...place, style: `fill: var(${color})` }));
  }
  svg.replaceChildren(...parts, ...labels);
}

/**
 * @param {string} name
 * @param {Record<string, string | number>} attributes
 */
function node(name, attributes) {
  const found = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) found.setAttribute(key, String(value));
  return found;
}
