// Use docs/apps/web in a real browser and print a report as JSON: drive_page.mjs CHROMIUM URL OPTIONS
//
// OPTIONS is JSON: { profile: folder, before: code to run in the page first, quota: bytes, prompt, count, mode,
// stop: whether to stop a second text, refused: a prompt that is an error, chats: how many, screenshot: path }

import { ARGUMENTS, chromium } from "./browser.mjs";

const [executablePath, url, options] = process.argv.slice(2);
const { profile, before, quota, prompt, count, mode, stop, refused, chats, screenshot } = JSON.parse(options);

const viewport = { width: 900, height: 760 };
const context = await chromium.launchPersistentContext(profile, { executablePath, args: ARGUMENTS, viewport });
try {
  const page = context.pages()[0] ?? (await context.newPage());
  page.setDefaultTimeout(240_000);
  console.log(JSON.stringify(await use(page)));
} finally {
  await context.close();
}

async function use(page) {
  const errors = [];
  page.on("console", (message) => message.type() === "error" && errors.push(message.text()));
  page.on("pageerror", (error) => errors.push(error.message));
  // Record every value of the progress bar.
  await page.addInitScript(() =>
    document.addEventListener("DOMContentLoaded", () => {
      const bar = document.getElementById("progress");
      window.progress = [];
      new MutationObserver(() => window.progress.push(bar.value / bar.max)).observe(bar, { attributes: true });
    }),
  );
  if (before) await page.addInitScript(before);
  if (quota) {
    const client = await page.context().newCDPSession(page);
    await client.send("Storage.overrideQuotaForOrigin", { origin: new URL(url).origin, quotaSize: quota });
  }

  await page.goto(url);
  const text = (id) => page.locator(`#${id}`).textContent();
  const generate = page.locator("#generate");
  const finished = page.locator("#generate:enabled");
  await finished.or(page.locator("#error:not(:empty)")).waitFor();
  const report = { errors, error: await text("error"), device: await text("device"), storage: await text("storage") };
  report.progress = await page.evaluate(() => window.progress);
  report.kept = await page.evaluate(kept);
  if (report.error || !prompt) return report;

  report.mode = await page.inputValue("#mode");
  if (mode) await page.selectOption("#mode", mode);
  await page.fill("#prompt", prompt);
  await page.fill("#count", String(count));
  // Record every text that the page shows while it writes.
  await page.locator("#turns").evaluate((turns) => {
    window.shown = [];
    const record = () => window.shown.push(turns.lastElementChild?.lastChild?.textContent ?? "");
    new MutationObserver(record).observe(turns, { childList: true, subtree: true });
  });
  const written = page.locator("#speed", { hasText: "tokens/s" });
  await generate.click();
  await written.waitFor();
  await finished.waitFor();
  report.error = await text("error");
  report.shown = await page.evaluate(() => window.shown);
  report.speed = await text("speed");
  report.turns = await page.locator("#turns li").allTextContents();
  if (screenshot) await page.screenshot({ path: screenshot });

  if (stop) {
    await page.fill("#prompt", prompt);
    await page.fill("#count", "1000");
    await generate.click();
    await written.waitFor();
    await page.click("#stop");
    await finished.waitFor();
    report.stopped = (await page.locator("#turns li").allTextContents()).at(-1);
  }

  if (refused) {
    await page.fill("#prompt", refused);
    await generate.click();
    await page.locator("#error:not(:empty)").waitFor();
    await finished.waitFor();
    report.refused = await text("error");
  }

  report.buffers = [];
  for (let i = 0; i < (chats ?? 0); i++) {
    await page.click("#clear");
    await page.fill("#prompt", prompt);
    await page.fill("#count", i % 2 ? "1000" : String(count));
    await generate.click();
    await written.waitFor();
    if (i % 2) await page.click("#stop");
    await finished.waitFor();
    report.buffers.push(await page.evaluate(buffers));
  }
  return report;
}

/** Return the names of the files in the page's caches, by cache. */
async function kept() {
  const found = {};
  for (const name of await caches.keys()) {
    const requests = await (await caches.open(name)).keys();
    found[name] = requests.map((request) => new URL(request.url).pathname);
  }
  return found;
}

/** Return { count, bytes } of the GPU buffers that the page's worker has, which count_buffers.js knows. */
function buffers() {
  return new Promise((resolve) => {
    const channel = new BroadcastChannel("gpu buffers");
    channel.onmessage = ({ data }) => {
      if (data === "count") return;
      channel.close();
      resolve(data);
    };
    channel.postMessage("count");
  });
}
