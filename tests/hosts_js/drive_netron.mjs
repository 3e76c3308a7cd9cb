// Look at a graph in Netron and print a report as JSON: drive_netron.mjs CHROMIUM URL NODE INPUT SCREENSHOT

import { withPage } from "./browser.mjs";

const [executablePath, url, nodeName, input, screenshot] = process.argv.slice(2);

await withPage(executablePath, { width: 1400, height: 900 }, async (page) => {
  // Netron removes eval, which the driver needs to read the page.
  await page.addInitScript(() => {
    const { eval: original } = window;
    Object.defineProperty(window, "eval", { get: () => original, set: () => {} });
  });
  await page.goto(url);
  await page.getByRole("button", { name: "Accept" }).click();
  await page.locator("body.default").waitFor();
  const report = { nodes: await page.locator("g.node").allTextContents() };

  const sidebar = page.locator("#sidebar");
  await page.locator("g.node", { hasText: nodeName }).locator(".node-item").first().click();
  await sidebar.getByText("NODE PROPERTIES").waitFor();
  const item = sidebar.locator(".sidebar-item", { hasText: input });
  await item.locator(".sidebar-item-value-expander").click();
  report.weight = await item.innerText();
  await page.waitForTimeout(500); // the sidebar slides in
  await page.screenshot({ path: screenshot });

  await item.locator(".sidebar-item-value-button-tool").click();
  await sidebar.getByText("TENSOR PROPERTIES").waitFor();
  report.tensor = await sidebar.innerText();
  console.log(JSON.stringify(report));
});
