// A slow network (about 3G: 400 kbit/s, 300 ms to and fro) in real Chromium: pages paint before the API answers, nothing jumps while they load,
// and a desktop works.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browse, call, keysOf, Server, signUp, startDesktop, state, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

const SLOW = { offline: false, latency: 300, downloadThroughput: 50_000, uploadThroughput: 50_000 };

/** From here on the page's network is slow, and what moved by itself on it is noted. */
async function slow(context, page) {
  const devtools = await context.newCDPSession(page);
  await devtools.send("Network.enable");
  await devtools.send("Network.setCacheDisabled", { cacheDisabled: true });
  await devtools.send("Network.emulateNetworkConditions", SLOW);
  await page.addInitScript(() => {
    window.jumps = [];
    const note = ({ value, hadRecentInput, sources }) =>
      hadRecentInput || window.jumps.push({ value, what: sources.map(({ node }) => node?.id || node?.className || node?.nodeName) });
    new PerformanceObserver((list) => list.getEntries().forEach(note)).observe({ type: "layout-shift", buffered: true });
  });
}

/** Loads a page whose API calls are answered only after its first paint; gives what jumped until `ready`. */
async function load(page, address, ready) {
  let painted;
  const paint = new Promise((done) => (painted = done));
  const isApi = (url) => url.origin === server.url && !url.pathname.startsWith("/assets/") && !["/", "/novnc/", "/terminal/", "/admin/", "/docs"].includes(url.pathname);
  await page.route(isApi, async (route) => {
    await paint;
    await route.continue().catch(() => null);
  });
  await page.goto(server.url + address, { waitUntil: "commit" });
  await page.waitForFunction(() => performance.getEntriesByName("first-contentful-paint").length > 0);
  painted();
  await ready();
  // Two frames: what the last answer changed has been laid out.
  await page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
  await page.unroute(isApi);
  return page.evaluate(() => window.jumps);
}

test("on a slow network pages paint before the API answers and nothing jumps", async () => {
  const { context, page, close } = await browse();
  await slow(context, page);
  const jumps = {};
  jumps.out = await load(page, "/", () => page.locator('[data-auth="signup"]').first().waitFor());
  await page.locator("#start").waitFor({ state: "hidden" });
  await signUp(page, server.url, "hotel");
  server.promote("hotel", "admin");
  // A new session knows of it at once.
  await call(page, "POST", "/auth/login", { email: "hotel", password: "correct horse" });
  jumps.idle = await load(page, "/", () => page.locator("#start:enabled").waitFor());
  const vm = await startDesktop(page);
  jumps.running = await load(page, "/", () => page.locator("#vm-open").waitFor());
  await page.setViewportSize({ width: 360, height: 740 });
  jumps.phone = await load(page, "/", () => page.locator("#vm-open").waitFor());
  jumps.phoneDocs = await load(page, "/docs", () => page.locator("#groups h2").first().waitFor());
  await page.setViewportSize({ width: 1280, height: 800 });
  jumps.desktop = await load(page, `/novnc/?path=ws/${vm.http_port}`, () => state(page, "connected"));
  jumps.terminal = await load(page, `/terminal/?path=ws/${vm.http_port}/serial`, () => state(page, "connected"));
  jumps.docs = await load(page, "/docs", () => page.locator("#groups h2").first().waitFor());
  jumps.admin = await load(page, "/admin/", () => page.locator("#wall li").waitFor());
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  for (const [name, all] of Object.entries(jumps)) assert.deepEqual(all, [], `${name} jumps while it loads`);
  await close();
});

test("on a slow network a desktop is started, used and stopped, and says how slow it is", async () => {
  const { context, page, troubles, close } = await browse();
  await slow(context, page);
  await signUp(page, server.url, "patience");
  const vm = await startDesktop(page);
  const serial = await server.serial(vm.vmid);
  await page.keyboard.type("slow");
  await until("the guest has the keys", () => keysOf(serial).join() === "31,38,24,17");
  await page.mouse.move(640, 400);
  await page.mouse.move(640, 8);
  await page.locator("#view-open").click();
  const told = await until("how fast the server answers", async () => (await page.locator("#statistics").innerText()).match(/(\d+) ms/));
  assert.ok(Number(told[1]) >= SLOW.latency, `${told[1]} ms on a network of ${SLOW.latency} ms`);
  serial.close();
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await state(page, "ended");
  assert.deepEqual(troubles, []);
  await close();
});
