// A desktop that nobody uses, one whose time is up, one that stands still: told on every page about it, with the button that helps.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bars, browse, call, inspect, machines, Server, showBar, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true", "limit_warning_seconds = 40", "idle_minutes = 1\nmax_minutes = 90");

const warned = (page, words) => until(`the page warns ${words}`, async () => words.test(await page.locator("#warning").innerText().catch(() => "")), 90);

test("a desktop whose time is up soon says so with the time left, and the warning can be closed", async (t) => {
  const short = await Server.start("stop_vms_on_exit = true", "limit_warning_seconds = 290", "max_minutes = 5");
  t.after(() => short.runs && short.close());
  const { context, page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await signUp(page, short.url, "hurried");
  const vm = await startDesktop(page);
  const home = await context.newPage();
  await home.goto(short.url);
  await home.locator("#vm-open").waitFor();
  await until("the time left is told", async () => /Time left\s+(\d min )?\d+ s/i.test(await home.locator("#vm-facts").innerText()));
  await warned(home, /time is up in (\d min )?\d+ s and cannot be extended[\s\S]*Close/);
  await inspect(home, "home-time-limit", seen);
  await home.locator("#warning-act").focus();
  await home.keyboard.press("Enter");
  await home.locator("#warning").waitFor({ state: "hidden" });
  assert.equal(await home.evaluate(() => document.activeElement.id), "vm-open", "the focus is lost with the button");
  // Who came by a link is warned too, and can do nothing about it.
  const { body } = await call(page, "POST", `/vms/${vm.vmid}/shares`, {});
  const guest = await context.newPage();
  await guest.goto(`${short.url}${body.share.url}`);
  await warned(guest, /This desktop's time is nearly up\. It stops in (\d min )?\d+ s\.\s+Close$/);
  await guest.locator("#warning-act").click();
  await guest.locator("#warning").waitFor({ state: "hidden" });
  await guest.close();
  await page.bringToFront();
  await warned(page, /cannot be extended[\s\S]*Close/);
  await page.locator("#warning-act").click();
  await page.locator("#warning").waitFor({ state: "hidden" });
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles, []);
  await close();
  const { code } = await short.close();
  assert.equal(code, 0, short.log);
});

test("a desktop nobody uses is warned of, kept by a click, and a crash is told", async () => {
  const { context, page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await signUp(page, server.url, "idler");
  const vm = await startDesktop(page);
  await bars(page);
  const home = await context.newPage();
  await home.goto(server.url);
  await home.locator("#vm-open").waitFor();
  // The limit that comes later is told too.
  const facts = await home.locator("#vm-facts").innerText();
  assert.match(facts, /Stops after\s+1 min without input/i);
  assert.match(facts, /Time left\s+1 h (29|30) min/i);
  assert.match(await home.locator("#vm-facts div", { has: home.locator("#vm-left") }).locator("dd").getAttribute("title"), /^Until .*\d\d:\d\d/);
  await warned(home, /stops in \d+ s[\s\S]*Keep it running/);
  // A click that does not help is told, to who hears the page too, and the time goes on.
  const away = "The database does not answer right now. Try again in a moment.";
  await home.route("**/keep", (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ detail: away }) }), { times: 1 });
  await home.locator("#warning-act").click();
  await until("why it did not help is read out", async () => (await home.locator("#warning-said").textContent()) === away);
  const shown = await home.locator("#warning-text").innerText();
  assert.match(shown, /^The database does not answer[^]* It stops in \d+ s\.$/);
  await until("the time goes on", async () => (await home.locator("#warning-text").innerText()) !== shown);
  await inspect(home, "home-warning", seen);
  await page.bringToFront();
  await warned(page, /Nobody has used your desktop[\s\S]*Keep it running/);
  await showBar(page);
  await inspect(page, "desktop-warning", seen);
  await page.locator("#warning-act").click();
  await page.locator("#warning").waitFor({ state: "hidden" });
  assert.ok((await call(page, "GET", `/vms/${vm.vmid}`)).body.idle_s < 10);
  await until("the other page knows", async () => !(await home.locator("#warning").isVisible()));

  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial&vmid=${vm.vmid}`);
  await page.waitForFunction(() => document.documentElement.dataset.state === "connected");
  // What is typed before that is not typed into the guest.
  await until("the terminal shows what was", async () => /tiny:.up/.test(await page.locator(".xterm-rows").innerText()));
  await page.keyboard.press("Enter");
  await page.keyboard.type("echo c > /proc/sysrq-trigger");
  await page.keyboard.press("Enter");
  await warned(page, /has crashed\. Restart it/);
  await inspect(page, "terminal-crashed", seen);
  await page.locator("#warning-act").click();
  await page.locator("#warning").waitFor({ state: "hidden" });
  await page.goto(server.url);
  await until("the home page says so too", async () => /Standing still/i.test(await page.locator("#vm-state").innerText()));
  await inspect(page, "home-crashed", seen);
  await page.locator("#vm-restart").click();
  await page.locator("#restart").waitFor();
  await inspect(page, "home-restart", seen);
  await page.locator('#restart button[value="reset"]').click();
  await until("it runs again", async () => /Running/.test(await page.locator("#vm-state").innerText()));
  assert.equal((await machines(page))[0].pid, vm.pid);
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles.filter((line) => !/status of 503/.test(line)), []);
  await close();
});
