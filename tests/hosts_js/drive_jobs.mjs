// Call functions of tests/hosts_js/pages in Chromium: drive_jobs.mjs CHROMIUM URL < JOBS
//
// JOBS is a JSON array of [function, argument]; each has its own page. Print a JSON array of { value, log } or
// { error, log }, where log has the lines of the console.

import { readFileSync } from "node:fs";
import { withBrowser } from "./browser.mjs";

const [executablePath, url] = process.argv.slice(2);
const reports = [];
await withBrowser(executablePath, async (browser) => {
  for (const job of JSON.parse(readFileSync(0, "utf8"))) {
    const page = await browser.newPage();
    const report = { log: [] };
    page.on("console", (message) => report.log.push(message.text()));
    try {
      await page.goto(url);
      await page.waitForFunction(() => window.ready);
      report.value = await page.evaluate(([name, argument]) => window[name](argument), job);
    } catch (error) {
      report.error = error.message;
    }
    await page.close();
    reports.push(report);
  }
});
console.log(JSON.stringify(reports));
