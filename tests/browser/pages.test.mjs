// Every page in every state, in both themes, on a wide screen and on a phone: axe finds nothing, nothing overflows, the console is
// silent (a breach of the Content-Security-Policy is an error there), and a keyboard is enough.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bars, browse, call, inspect, keysOf, machines, Server, showBar, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

test("the home page is accessible, fits and is silent in all its states", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await page.goto(server.url);
  await until("the server's name is shown", async () => /\d/.test(await page.locator("#version").innerText()));
  await inspect(page, "out", seen);
  await page.locator('[data-auth="login"]').click();
  await inspect(page, "log-in", seen);
  await page.locator("#tab-signup").click();
  await page.locator("#signup-email").fill("nobody");
  await page.keyboard.press("Enter");
  await inspect(page, "sign-up-error", seen);
  await page.keyboard.press("Escape");
  await signUp(page, server.url, "looker");
  await inspect(page, "idle", seen);
  await page.locator("#advanced summary").click();
  await inspect(page, "advanced", seen);
  await page.locator("#account-open").click();
  await inspect(page, "account", seen);
  await page.keyboard.press("Escape");

  // The start is held in the browser, so that the page stays in this state while it is looked at.
  let release;
  const held = new Promise((done) => (release = done));
  await page.route("**/run-iso", async (route) => (await held, route.continue()));
  await page.locator("#start").click();
  await page.locator("#starting-title").waitFor();
  await inspect(page, "starting", seen);
  release();
  await page.waitForURL(/\/novnc\//);
  await page.clock.install();
  await page.goto(server.url);
  await page.locator("#vm-open").waitFor();
  // What the machine shows: a place of fixed shape from the start, then the guest's colour bars.
  const shape = () => page.locator("#vm-look").evaluate((link) => `${link.clientWidth}x${link.clientHeight}`);
  const before = await shape();
  const colour = () =>
    page.locator("#vm-picture").evaluate((image) => {
      const canvas = Object.assign(document.createElement("canvas"), { width: image.naturalWidth, height: image.naturalHeight });
      const context = canvas.getContext("2d");
      if (image.naturalWidth) context.drawImage(image, 0, 0);
      return image.naturalWidth ? `${image.naturalWidth} ${[...context.getImageData(47, 78, 1, 1).data.slice(0, 3)]}` : "none";
    });
  await until("the thumbnail shows the second bar", async () => (await colour()) === "320 255,255,0");
  assert.equal(await shape(), before, "nothing jumps");
  assert.match(await page.locator("#vm-look").getAttribute("href"), /^\/novnc\/\?path=ws\//);
  await inspect(page, "running", seen);
  // Nobody looks at a page behind others: nothing is asked for.
  let asked = 0;
  page.on("request", (request) => (asked += request.url().includes("/screen.png")));
  await page.evaluate(() => {
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => window.behind ?? "visible" });
    window.behind = "hidden";
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("a look that was under way has ended", async () => (await page.evaluate(() => fetch("/version").then((answer) => answer.ok))));
  asked = 0;
  await page.clock.runFor(30_000);
  assert.equal(asked, 0, "looks while the page is hidden");
  await page.evaluate(() => {
    delete window.behind;
    document.dispatchEvent(new Event("visibilitychange"));
  });
  await until("the page looks again", () => asked > 0);
  await page.locator("#vm-stop").click();
  await inspect(page, "stop", seen);
  await page.keyboard.press("Escape");
  const [vm] = await machines(page);
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await page.locator("#history-list li").waitFor();
  await inspect(page, "ended", seen);
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles, []);
  await close();
});

test("the desktop page is accessible, fits and is silent in all its states", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await signUp(page, server.url, "viewer");
  const vm = await startDesktop(page);
  await inspect(page, "desktop", seen);
  await showBar(page);
  await page.locator("#keys-open").click();
  await inspect(page, "desktop-keys", seen);
  await page.locator("#view-open").click();
  await inspect(page, "desktop-view", seen);
  await page.locator("#text-open").click();
  await inspect(page, "desktop-text", seen);
  await page.keyboard.press("Escape");
  await showBar(page);
  await page.locator("#stop-open").click();
  await page.locator("#stop").waitFor();
  await inspect(page, "desktop-stop", seen);
  await page.keyboard.press("Escape");
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await page.waitForFunction(() => document.documentElement.dataset.state === "ended");
  await inspect(page, "desktop-ended", seen);
  await page.goto(`${server.url}/novnc/`);
  await until("an address without a machine is told", async () => /not complete/.test(await page.locator("#veil").innerText()));
  await inspect(page, "desktop-address", seen);
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles, []);
  await close();
});

test("the page of the API shows and finds every call, is accessible and fits", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await page.goto(`${server.url}/docs`);
  const { paths } = (await call(page, "GET", "/openapi.json")).body;
  const all = Object.values(paths).flatMap((methods) => Object.keys(methods)).length;
  await until("every call is there", async () => (await page.locator("#groups details:visible").count()) === all);
  assert.equal(await page.locator("#found").innerText(), `${all} calls`);
  await inspect(page, "docs", seen);
  // By keyboard: to the search, from there to what it found, and open that.
  await page.locator("#search").focus();
  await page.keyboard.type("snapshot restore");
  await until("one call is left", async () => (await page.locator("#groups details:visible").count()) === 1);
  assert.equal(await page.locator("#found").innerText(), "1 call");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.locator("details[open]").getByText("snapshot_not_found").waitFor();
  assert.match(await page.locator("details[open] pre").first().innerText(), /^curl -X POST -H "Authorization: Bearer \$TOKEN" "\$VMSHARE\/vms\/c9a2f1c9a2f1\/snapshots/);
  await page.evaluate(() => document.querySelector("details[open]").scrollIntoView());
  await inspect(page, "docs-call", seen);
  await page.locator("#search").fill("no such thing at all");
  await until("nothing found is told", async () => /Try fewer/.test(await page.locator("#found").innerText()));
  // An address may name a call.
  await page.goto(`${server.url}/docs#post_run_iso`);
  await page.reload();
  await page.locator("#post_run_iso[open]").waitFor();
  for (const one of await page.locator("#groups details").all()) await one.evaluate((details) => (details.open = true));
  await inspect(page, "docs-open", seen);
  // The description cannot be had: the page says what to do.
  await page.route("**/openapi.json", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ detail: "Away." }) }));
  await page.reload();
  await until("the failure is told", async () => /Away/.test(await page.locator("#failed").innerText()));
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles.filter((line) => !/status of 503/.test(line)), []);
  await close();
});

test("the page for a wrong address is accessible and fits", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  const answer = await page.goto(`${server.url}/no/such/page`);
  assert.equal(answer.status(), 404);
  await inspect(page, "404", seen);
  assert.deepEqual(seen, []);
  // The browser itself tells of the 404.
  assert.deepEqual(troubles.filter((line) => !/status of 404/.test(line)), []);
  await close();
});

test("the theme that was chosen stays, and stays over the system's", async () => {
  const { page, close } = await browse();
  const theme = () => page.evaluate(() => document.documentElement.dataset.theme);
  await page.emulateMedia({ colorScheme: "light" });
  await page.goto(server.url);
  assert.equal(await theme(), "light");
  await page.locator("[data-theme-toggle]").click();
  assert.equal(await theme(), "dark");
  await page.reload();
  assert.equal(await theme(), "dark");
  await close();
});

test("a keyboard is enough to sign up, start, use and stop a desktop", async () => {
  const { page, troubles, close } = await browse();
  const focused = () => page.evaluate(() => document.activeElement?.id || document.activeElement?.dataset.auth || document.activeElement?.tagName);
  /** Tabs until `wanted` has the focus. */
  const tabTo = async (wanted) => {
    const passed = [];
    for (let steps = 0; steps < 25; steps++) {
      if ((await focused()) === wanted) return;
      await page.keyboard.press("Tab");
      passed.push(await focused());
    }
    assert.fail(`Tab does not reach ${wanted}: ${passed.join(" ")}`);
  };
  await page.goto(server.url);
  await until("the server's name is shown", async () => /\d/.test(await page.locator("#version").innerText()));
  await tabTo("signup");
  await page.keyboard.press("Enter");
  assert.equal(await focused(), "signup-email");
  await page.keyboard.press("Escape");
  assert.equal(await focused(), "signup", "the focus returns to where it was");
  await page.keyboard.press("Enter");
  await page.keyboard.press("Shift+Tab");
  assert.equal(await focused(), "tab-signup");
  await page.keyboard.press("ArrowLeft");
  assert.equal(await focused(), "tab-login");
  await page.keyboard.press("ArrowRight");
  await tabTo("signup-email");
  await page.keyboard.type("keys@example.org");
  await tabTo("signup-password");
  await page.keyboard.type("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#start").waitFor();
  await until("the focus goes on at the greeting", async () => (await focused()) === "greeting");
  await tabTo("start");
  await page.keyboard.press("Enter");
  await page.waitForURL(/\/novnc\//);
  await bars(page);
  const [vm] = await machines(page);
  const serial = await server.serial(vm.vmid);
  await page.keyboard.press("Tab");
  await until("the guest has the keys, Tab too, without a click", () => keysOf(serial).includes(15));
  // Pressed and released together: the way back from a guest that takes every key.
  for (const key of ["Control", "Alt", "Shift"]) await page.keyboard.down(key);
  for (const key of ["Shift", "Alt", "Control"]) await page.keyboard.up(key);
  await until("the tool bar has the focus", async () => (await focused()) === "home");
  assert.equal(await page.locator("#bar").getAttribute("data-away"), "false");
  serial.close();
  await page.keyboard.press("Enter");
  await page.locator("#vm-open").waitFor();
  await tabTo("vm-stop");
  await page.keyboard.press("Enter");
  assert.equal(await page.evaluate(() => document.activeElement.value), "keep", "the harmless answer has the focus");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await page.locator("#start").waitFor();
  await until("the page says why it ended", async () => /You stopped it/.test(await page.locator("#ended").innerText()));
  assert.notEqual(await focused(), "BODY", "the focus is not lost");
  assert.deepEqual(troubles, []);
  await close();
});
