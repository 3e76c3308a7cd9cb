// Keeps the page and the small files of the model, for visits without a network. With one, it asks the server whether a
// file has changed since, so a visit downloads only what is new. The weights are kept by weights.js.

const CACHE = "llama3-onnx-page";
const PAGE = ["./", "style.css", "page.js", "device.js", "export.js"]; // what loads before this worker is there

self.addEventListener("install", (event) => event.waitUntil(install()));
self.addEventListener("activate", (event) => event.waitUntil(self.clients.claim()));
self.addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const mine = method === "GET" && url.startsWith(self.registration.scope) && !/\.onnx_data(_\d+)?$/.test(url);
  if (mine) event.respondWith(upToDate(url));
});

async function install() {
  const cache = await caches.open(CACHE);
  await cache.addAll(PAGE);
  await self.skipWaiting();
}

/** Return the server's file, or ours if it is the same or the server cannot be reached. */
async function upToDate(url) {
  const cache = await caches.open(CACHE).catch(() => undefined);
  const kept = await cache?.match(url);
  if (kept) {
    const now = await fetch(url, { method: "HEAD", cache: "no-store" }).catch(() => kept);
    if (now === kept || (now.ok && version(now) && version(now) === version(kept))) return kept;
  }
  const response = await fetch(url, { cache: "no-store" });
  if (response.ok) await cache?.put(url, response.clone()).catch(() => {}); // no room: not kept
  return response;
}

/** Return what distinguishes the versions of a file, or undefined if the server does not say. */
function version({ headers }) {
  const [tag, time, length] = ["ETag", "Last-Modified", "Content-Length"].map((name) => headers.get(name));
  return tag || time ? [tag, time, length].join() : undefined;
}
