// Use docs/apps/web in a real browser and print a report as JSON: drive_page.mjs CHROMIUM URL PROMPT COUNT SCREENSHOT

import { withPage } from "./browser.mjs";

const [executablePath, url, prompt, count, screenshot] = process.argv.slice(2);

await withPage(executablePath, { width: 900, height: 640 }, async (page) => {
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

  await page.goto(url);
  const generate = page.locator("#generate");
  const finished = page.locator("#generate:enabled");
  await finished.or(page.locator("#error:not(:empty)")).waitFor();
  const report = { errors, error: await page.locator("#error").textContent() };
  report.progress = await page.evaluate(() => window.progress);
  if (report.error) {
    console.log(JSON.stringify(report));
    return;
  }
  report.isolated = await page.evaluate(() => crossOriginIsolated);

  await page.fill("#prompt", prompt);
  await page.fill("#count", count);
  // Record every text that the page shows while it writes.
  await page.locator("#text").evaluate((text) => {
    window.shown = [];
    new MutationObserver(() => window.shown.push(text.textContent)).observe(text, { childList: true });
  });
  const written = page.locator("#speed", { hasText: "tokens/s" });
  await generate.click();
  await written.waitFor();
  await finished.waitFor();
  report.shown = await page.evaluate(() => window.shown);
  report.speed = await page.locator("#speed").textContent();
  report.output = await page.locator("#output").textContent();
  await page.screenshot({ path: screenshot });

  await page.fill("#count", "1000");
  await generate.click();
  await written.waitFor();
  await page.click("#stop");
  await finished.waitFor();
  report.stopped = await page.locator("#output").textContent();
  console.log(JSON.stringify(report));
});
