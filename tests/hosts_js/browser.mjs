// Chromium that reaches this machine and nothing else, so that no page fetches or reports anything.

import { chromium } from "playwright-core";

/** Calls `use` with a fresh page and closes the browser after it. */
export async function withPage(executablePath, viewport, use) {
  const args = ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"];
  const browser = await chromium.launch({ executablePath, args });
  try {
    const page = await browser.newPage({ viewport });
    page.setDefaultTimeout(240_000);
    await use(page);
  } finally {
    await browser.close();
  }
}
