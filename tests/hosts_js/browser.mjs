// Chromium that reaches only this machine, so no page can fetch or report anything. WebGPU is SwiftShader's: software.

import { chromium } from "playwright-core";

export { chromium };

export const ARGUMENTS = [
  "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
  "--no-sandbox",
  "--enable-unsafe-webgpu",
  "--use-webgpu-adapter=swiftshader",
  "--enable-features=Vulkan",
];

/** Call `use` with a browser, then close it. */
export async function withBrowser(executablePath, use) {
  const browser = await chromium.launch({ executablePath, args: ARGUMENTS });
  try {
    await use(browser);
  } finally {
    await browser.close();
  }
}

/** Call `use` with a new page, then close the browser. */
export async function withPage(executablePath, viewport, use) {
  await withBrowser(executablePath, async (browser) => {
    const page = await browser.newPage({ viewport });
    page.setDefaultTimeout(240_000);
    await use(page);
  });
}
