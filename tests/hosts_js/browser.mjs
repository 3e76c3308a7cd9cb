// Chromium that reaches only this machine, so no page can fetch or report anything.

import { chromium } from "playwright-core";

/** Call `use` with a new page, then close the browser. */
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
