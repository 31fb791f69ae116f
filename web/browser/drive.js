/**
 * Drives a page by clicks and keys, and saves what is on the screen.
 *
 *     node drive.js URL FOLDER DAMAGED
 *
 * URL is of an index of two streams, DAMAGED a stream whose checksum is wrong. FOLDER receives
 * seen.json and pixels of the canvas.
 */

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";

import chromium from "@sparticuz/chromium";
import puppeteer from "puppeteer-core";

const [url, folder, damaged] = process.argv.slice(2);
const own = process.env.SAE_CHROMIUM;
const browser = await puppeteer.launch({
  executablePath: own ?? (await chromium.executablePath()),
  args: own ? ["--no-sandbox"] : [...chromium.args, "--no-sandbox"],
  headless: "shell",
});
const seen = { images: [], failures: [] };
const page = await browser.newPage();
page.setDefaultTimeout(60000);
page.on("pageerror", (error) => seen.failures.push(String(error)));
page.on("console", (message) => message.type() === "error" && seen.failures.push(message.text()));
page.on("request", (request) => {
  const inside = request.url().startsWith(url) || /^(data|blob):/.test(request.url());
  if (!inside) seen.failures.push(`The page fetched ${request.url()}`);
});

/** Waits for the image of the slider's bytes, and saves it. */
async function save(name, title = "first") {
  // The page follows a link a little after the click.
  const ready = (wanted) => {
    const canvas = /** @type {any} */ (document.querySelector("canvas[data-codec=SAE]"));
    const bytes = document.querySelector("#slider").value;
    if (document.querySelector("h1").textContent !== wanted) return false;
    return canvas?.dataset.bytes === bytes && canvas.dataset.draft === "false";
  };
  await page.waitForFunction(ready, {}, title);
  const found = await page.evaluate(() => {
    const canvas = /** @type {any} */ (document.querySelector("canvas[data-codec=SAE]"));
    const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
    let text = "";
    for (const value of data) text += String.fromCharCode(value);
    return {
      bytes: Number(canvas.dataset.bytes),
      label: canvas.getAttribute("aria-label"),
      title: document.querySelector("h1")?.textContent,
      rgba: btoa(text),
    };
  });
  const { rgba, ...described } = found;
  writeFileSync(join(folder, `${name}.rgba`), Buffer.from(rgba, "base64"));
  seen.images.push({ name, ...described });
  return found.bytes;
}

await page.setViewport({ width: 1280, height: 800 });
await page.goto(url);
await page.waitForSelector("#index li a");
assert.equal((await page.$$("#index li a")).length, 2);
await page.click("#index li:first-child a");
await page.waitForFunction(() => document.querySelectorAll("#marks button").length > 0);
const total = await save("complete");

await page.click("#marks button:nth-child(1)");
const base = await save("base");
assert.ok(base < total);
await page.click("#marks button:nth-child(3)");
await save("el2");

await page.focus("#slider");
await page.keyboard.down("Shift");
await page.keyboard.press("ArrowLeft");
await page.keyboard.up("Shift");
await save("el2-less-one");
for (let k = 0; k < 9; k++) await page.keyboard.press("ArrowLeft");
await save("left");

const plot = await (await page.$("#plot")).boundingBox();
await page.mouse.click(plot.x + 0.08 * plot.width, plot.y + plot.height / 2);
await save("plot");

await page.focus("#slider");
await page.keyboard.press("Home");
await page.select("#speed", "16");
await page.click("#play");
assert.equal(await page.$eval("#play", (button) => button.textContent), "Pause");
await page.waitForFunction(() => Number(document.querySelector("#slider").value) > 0);
await page.click("#play");
await page.select("#speed", "1000");
await page.click("#play");
await page.waitForFunction(() => document.querySelector("#play").textContent === "Play");
assert.equal(await save("played"), total);

await page.click("#original");
assert.equal(await page.$eval("#original", (button) => button.ariaPressed), "true");
await page.click("#original");

await page.setViewport({ width: 360, height: 740 });
const wide = await page.evaluate(() => document.documentElement.scrollWidth);
assert.ok(wide <= 360, `the page is ${wide} pixels wide on a phone`);

await page.click("#back a");
await page.waitForSelector("#index li:nth-child(2) a", { visible: true });
await page.click("#index li:nth-child(2) a");
await save("second", "second");

const input = await page.$("#file");
await input.uploadFile(damaged);
await page.waitForFunction(() => !document.querySelector("#error").hidden);
seen.error = await page.$eval("#error", (paragraph) => paragraph.textContent);
await save("damaged", "broken.sae");
await input.uploadFile(process.argv[1]);
await page.waitForFunction(() => document.querySelector("#error").textContent.includes("not an .sae"));

writeFileSync(join(folder, "seen.json"), JSON.stringify(seen));
await browser.close();
