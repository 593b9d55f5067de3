// The tools of the desktop page on a real guest: every chord, other keyboards, a screenshot, restarts and refusals, and the words at the end.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { bars, browse, call, inspect, keysOf, output, powerCycle, Server, showBar, signUp, startDesktop, state, until } from "./server.mjs";

const server = Server.ofFile("", "stop_grace_seconds = 1");

test("chords and the keyboards of other countries are what the guest gets, and a black screen is explained", { timeout: 180_000 }, async () => {
  const { page, troubles, close } = await browse();
  await signUp(page, server.url, "chords");
  const vm = await startDesktop(page);
  const serial = await server.serial(vm.vmid);
  let had = 0;
  const keys = async (what, wanted) => {
    const seen = () => keysOf(serial).slice(had);
    await until(`${what}: the guest has ${wanted}, not ${seen()}`, () => seen().length >= wanted.length);
    assert.deepEqual(seen(), wanted, what);
    had += wanted.length;
  };
  await showBar(page);
  // Linux's numbers of the keys (input-event-codes.h).
  const chords = { Esc: [1], Tab: [15], Super: [125], "Alt-Tab": [56, 15], "Alt-F4": [56, 62], "Ctrl-Alt-F7": [29, 56, 65], F12: [88] };
  for (const [name, wanted] of Object.entries(chords)) {
    await showBar(page);
    await page.locator("#keys-open").click();
    await page.locator("#chords").getByRole("button", { name, exact: true }).click();
    await keys(name, wanted);
  }
  await showBar(page);
  await page.locator("#text-open").click();
  // Letters with an accent are two keys where the layout has the accent as a dead one.
  const layouts = {
    gb: ["@#", [42, 40, 43]],
    fr: ["aq&1êËû", [16, 30, 2, 42, 2, 26, 18, 42, 26, 42, 18, 26, 22]],
    es: ["ñ@áüÓ´", [39, 100, 3, 40, 30, 42, 40, 22, 40, 42, 24, 40, 57]],
    de: ["éà", [13, 18, 42, 13, 30]],
  };
  for (const [layout, [text, wanted]] of Object.entries(layouts)) {
    await page.locator("#layout").selectOption(layout);
    await page.locator("#outgoing").fill(text);
    assert.doesNotMatch(await page.locator("#text-note").innerText(), /does not have/, text);
    await page.locator("#type").click();
    await keys(layout, wanted);
  }

  // A guest whose screen is black for a while: nobody has to wonder whether the page is broken.
  serial.send("\nkillall fbdemo; printf '\\033[?25l' > /dev/tty1; cat /dev/zero > /dev/fb0\n");
  await page.locator("#blank", { hasText: "The guest's screen is black. It may be asleep" }).waitFor({ timeout: 60_000 });
  await page.screenshot({ path: path.join(output, "tools-blank.png") });
  // Who comes while it is black has seen nothing of it yet.
  await page.reload();
  await page.locator("#blank", { hasText: "Its screen is empty so far: the system is starting" }).waitFor({ timeout: 60_000 });
  serial.send("\nfbdemo > /dev/null &\n");
  await page.locator("#blank").waitFor({ state: "hidden" });
  serial.close();
  assert.deepEqual(troubles, []);
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await close();
});

test("a screenshot is saved, a restart starts again, a refusal stays until it is read, and a stop says who stopped it", { timeout: 300_000 }, async () => {
  const { page, close } = await browse({ reducedMotion: "reduce", acceptDownloads: true });
  const seen = [];
  await signUp(page, server.url, "tools");
  const vm = await startDesktop(page);
  const serial = await server.serial(vm.vmid);
  await until("it is up", () => /tiny: up/.test(serial.text));

  await showBar(page);
  const [picture] = await Promise.all([page.waitForEvent("download"), page.locator("#shot").click()]);
  assert.match(picture.suggestedFilename(), /^desktop-[\dT-]+\.png$/);
  const png = fs.readFileSync(await picture.path());
  assert.deepEqual([png.toString("latin1", 1, 4), png.readUInt32BE(16), png.readUInt32BE(20)], ["PNG", 1024, 768]);

  // A bar that has gone comes only when it is asked for: a click goes to the guest, and nothing lies over it.
  await page.mouse.move(640, 500);
  await page.locator("#screen canvas").click({ position: { x: 300, y: 400 } });
  await page.locator('#bar[data-away="true"]').waitFor({ state: "attached" });
  await page.locator("#screen canvas").click({ position: { x: 300, y: 400 } });
  assert.equal(await page.locator("#bar").getAttribute("data-away"), "true", "the bar came after a click on the guest");

  await showBar(page);
  await page.locator("#restart-open").click();
  assert.match(await page.locator("#restart").innerText(), /in a system that runs from its image without a disk, that is everything/);
  await page.locator('#restart button[value="reset"]').click();
  await until("it boots again", () => serial.text.match(/tiny: up/g)?.length === 2);
  await bars(page);

  // A QEMU that hangs refuses; that is told until it is read.
  process.kill(vm.pid, "SIGSTOP");
  await showBar(page);
  await page.locator("#restart-open").click();
  await page.locator('#restart button[value="reset"]').click();
  // On a phone too there is something to see meanwhile, and nothing covers it.
  await page.setViewportSize({ width: 360, height: 740 });
  await page.locator("#doing", { hasText: "Restarting…" }).waitFor();
  await page.screenshot({ path: path.join(output, "tools-doing-phone.png") });
  await page.setViewportSize({ width: 1280, height: 800 });
  await until("why it did not work is told", async () => /QEMU does not restart the VM[^]*Stop it, then start it/.test(await page.locator("#trouble").innerText()));
  process.kill(vm.pid, "SIGCONT");
  await inspect(page, "trouble", seen);
  assert.ok(await page.locator("#trouble").isVisible(), "it is gone by itself");

  // A machine that stands still is told beside it, also while a panel is open, and neither covers the other.
  const still = `retry: 600000\nevent: vm\ndata: ${JSON.stringify({ ...vm, paused: "disk full" })}\n\n`;
  await page.route("**/events", (route) => route.fulfill({ contentType: "text/event-stream", body: still }));
  await page.evaluate(() => {
    for (const seen of ["hidden", "visible"]) {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => seen });
      document.dispatchEvent(new Event("visibilitychange"));
    }
  });
  await until("it is told", async () => /the server's disk is full[^]*Resume/.test(await page.locator("#warning").innerText()));
  for (const size of [{ width: 360, height: 740 }, { width: 1280, height: 800 }]) {
    await page.setViewportSize(size);
    await showBar(page);
    for (const tool of ["view", "text"]) {
      await page.locator(`#${tool}-open`).click();
      await page.screenshot({ path: path.join(output, `tools-stacked-${tool}-${size.width}.png`) });
      const covered = await page.evaluate((panel) => {
        const buttons = ["#warning-act", "#trouble-close", `#${panel} h2`].map((one) => document.querySelector(one));
        return buttons.filter((one) => {
          const box = one.getBoundingClientRect();
          return !one.contains(document.elementFromPoint(box.left + box.width / 2, box.top + box.height / 2));
        }).map((one) => one.outerHTML);
      }, tool);
      assert.deepEqual(covered, [], `${tool} ${size.width}`);
    }
    await page.keyboard.press("Escape");
  }
  await page.unroute("**/events");
  assert.ok(!(await page.locator("#doing").isVisible()));
  await page.locator("#trouble-close").click();
  assert.ok(!(await page.locator("#trouble").isVisible()));

  await showBar(page);
  await page.locator("#restart-open").click();
  await powerCycle(page, () => server.sql(`select pid <> ${vm.pid} from vms where vmid = '${vm.vmid}'`) === "t");
  await bars(page);
  await page.screenshot({ path: path.join(output, "tools-restarted.png") });

  // What would be lost is not known when the machine is not: the problem comes first, and nothing is asked.
  await page.route(/\/vms\b/, (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ detail: "The database is away. Try again in a moment." }) }));
  await showBar(page);
  await page.locator("#stop-open").click();
  await until("the problem is told", async () => /The database is away/.test(await page.locator("#trouble").innerText()));
  assert.ok(!(await page.locator("#stop").isVisible()));
  await page.unrouteAll();
  await page.locator("#trouble-close").click();

  let release;
  const held = new Promise((done) => (release = done));
  await page.route("**/stop", async (route) => (await held, route.continue()));
  await showBar(page);
  await page.locator("#stop-open").click();
  await page.locator('#stop button[value="stop"]').click();
  await page.locator("#doing", { hasText: "Shutting down…" }).waitFor();
  await page.screenshot({ path: path.join(output, "tools-stopping.png") });
  release();
  await state(page, "ended");
  assert.ok(!(await page.locator("#doing").isVisible()));
  assert.match(await page.locator("#veil").innerText(), /Your desktop has stopped[^]*You stopped it/);
  assert.deepEqual(seen, []);
  serial.close();
  await close();
});

test("who watched a desktop that stops is told who stopped it, and whoever typed into a lost connection how far it came", { timeout: 120_000 }, async () => {
  const [student, teacher] = [await browse(), await browse()];
  await signUp(teacher.page, server.url, "mrsky");
  server.promote("mrsky", "teacher");
  await signUp(student.page, server.url, "watched");
  const vm = await startDesktop(student.page);
  await teacher.context.clearCookies();
  await teacher.page.goto(server.url);
  await teacher.page.evaluate(() => fetch("/auth/login", { method: "POST", body: JSON.stringify({ email: "mrsky", password: "correct horse" }) }));
  await teacher.page.goto(`${server.url}/novnc/?path=ws/${vm.http_port}&vmid=${vm.vmid}&view=1`);
  await bars(teacher.page);
  await showBar(student.page);
  await student.page.locator("#text-open").click();
  await student.page.locator("#outgoing").fill("x".repeat(2000));
  await student.page.locator("#type").click();
  await until("some of it is typed", async () => /^Typed \d{2}/.test(await student.page.locator("#text-note").innerText()));
  await call(student.page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await Promise.all([student.page, teacher.page].map((page) => state(page, "ended")));
  await until("how far it came is told", async () => /^Typed \d+ of 2000\. The rest was not: the connection was lost\.$/.test(await student.page.locator("#text-note").textContent()));
  assert.match(await teacher.page.locator("#veil").innerText(), /This desktop has stopped[^]*Its owner stopped it/);
  await Promise.all([student.close(), teacher.close()]);
});
