// Weights files: from the browser's cache if they are there, otherwise from the server and into the cache.

import { get } from "./export.js";

const CACHE = "llama3-onnx-weights";

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(0)} MB`;

/**
 * Return { externalData, storage }: the weights files for onnxruntime-web, and a line on where they are kept.
 * Call `onProgress(loaded, total)` as bytes arrive. Files are kept under their checksums: two names of the same bytes
 * are downloaded once, and other versions of a file are removed.
 */
export async function loadWeights(folder, files, onProgress) {
  const total = files.reduce((sum, { size }) => sum + size, 0);
  let loaded = 0;
  const count = (bytes) => onProgress((loaded += bytes), total);
  const store = await Store.open(folder, total);
  const externalData = [];
  for (const { name, size, sha256 } of files) {
    let data = await store.read(sha256, size, count);
    if (!data) {
      const url = `${folder}/onnx/${name}`;
      data = await readAll(await get(url), size, count);
      if (data.filled !== size) {
        throw new Error(`${url}: has ${data.filled} bytes instead of ${size}; export the model again`);
      }
      if (!(await matches(data.bytes, sha256))) {
        throw new Error(`${url}: does not have the checksum in llama3.json; export the model again`);
      }
      await store.write(sha256, data.bytes);
    }
    externalData.push({ path: name, data: data.bytes });
  }
  await store.removeOthers(files.map(({ sha256 }) => sha256));
  return { externalData, storage: store.line };
}

/** The part of the browser's cache that one export has. If it fails, the model runs from memory. */
class Store {
  static async open(folder, total) {
    const store = new Store();
    Object.assign(store, { folder, total, cache: null });
    try {
      store.cache = await caches.open(CACHE);
      store.line = `The weights are stored in this browser (${megabytes(total)}): the next visit does not download them.`;
    } catch {
      store.line = "The weights are not stored: browsers store files only for https and localhost.";
    }
    return store;
  }

  key(sha256) {
    return `${this.folder}/${sha256}`;
  }

  /** Return a file as `readAll` does, or undefined if the cache does not have all of it. */
  async read(sha256, size, count) {
    let counted = 0;
    const onBytes = (bytes) => {
      counted += bytes;
      count(bytes);
    };
    try {
      const response = await this.cache?.match(this.key(sha256));
      const data = response && (await readAll(response, size, onBytes));
      if (data?.filled === size) return data;
    } catch {
      // The browser cannot read it any more: download it again.
    }
    if (counted) count(-counted);
    return undefined;
  }

  async write(sha256, bytes) {
    try {
      await this.cache?.put(this.key(sha256), new Response(bytes));
    } catch (error) {
      await this.removeOthers([]);
      this.cache = null;
      const { usage, quota } = await navigator.storage.estimate();
      this.line =
        `The weights are not stored, so the next visit downloads them again: they need ${megabytes(this.total)}, and ` +
        `the browser has ${megabytes(quota - usage)} left for this site (${error.name}).`;
    }
  }

  /** Remove the export's files except those with these checksums. */
  async removeOthers(sha256s) {
    const kept = new Set(sha256s.map((sha256) => this.key(sha256)));
    for (const { url } of (await this.cache?.keys()) ?? []) {
      if (url.startsWith(`${this.folder}/`) && !kept.has(url)) await this.cache.delete(url);
    }
  }
}

/** Return whether `bytes` have a checksum, or true where nothing can be stored: browsers then compute none either. */
async function matches(bytes, sha256) {
  if (!globalThis.crypto?.subtle) return true;
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("") === sha256;
}

/** Return { bytes, filled }, copied into place as they arrive, so memory never has them all twice. */
async function readAll(response, size, onBytes) {
  const bytes = new Uint8Array(size);
  let filled = 0;
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) return { bytes, filled };
    if (filled + value.length <= size) bytes.set(value, filled);
    filled += value.length;
    onBytes(value.length);
  }
}
