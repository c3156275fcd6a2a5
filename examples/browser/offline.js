// A service worker: the page works without a network once it is loaded. The build names the files and their version.

const FILES = __FILES__;
const CACHE = "denoise " + __VERSION__;

self.addEventListener("install", (event) => {
  self.skipWaiting();
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES)));
});

self.addEventListener("activate", (event) => {
  const isOld = (name) => name.startsWith("denoise ") && name !== CACHE;
  const clean = async () => Promise.all((await caches.keys()).filter(isOld).map((name) => caches.delete(name)));
  event.waitUntil(clean().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  const answer = async () => (await (await caches.open(CACHE)).match(event.request)) ?? fetch(event.request);
  event.respondWith(answer());
});
