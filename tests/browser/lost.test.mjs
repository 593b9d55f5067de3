// What ends or breaks under an open page: the server, the machine, the session. The page says so in words and goes on by itself where it can.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { bars, browse, call, image, keysOf, machines, output, program, Server, showBar, signUp, startDesktop, state, until } from "./server.mjs";

const LIVE_ON = "stop_vms_on_exit = false";
const END_ALL = "stop_vms_on_exit = true";

const server = Server.ofFile(END_ALL);

const shot = (page, name) => page.screenshot({ path: path.join(output, `${name}.png`) });

/** Waits for the words over the screen. */
const told = (page, words) =>
  until(`the page says ${words}`, async () => {
    const text = await page.locator("#veil").innerText();
    return words.test(text) && text;
  });

/** Ends the server without a word, and starts another one in its place after `meanwhile`. */
async function crash(meanwhile = () => null) {
  server.process.kill("SIGKILL");
  await server.exit;
  await meanwhile();
  await server.run();
}

/** From the next page on, the streams of events of this browser are counted. */
const countStreams = (context) =>
  context.addInitScript(() => {
    const all = [];
    window.EventSource = class extends EventSource {
      constructor(...how) {
        super(...how);
        all.push(this);
      }
    };
    window.streams = () => all.filter((one) => one.readyState !== EventSource.CLOSED).length;
  });

/** Puts the page behind others, or in front again. */
const behind = (page, is) =>
  page.evaluate((is) => {
    Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (is ? "hidden" : "visible") });
    document.dispatchEvent(new Event("visibilitychange"));
  }, is);

const streams = (page) => page.evaluate(() => window.streams());

test("a stop from elsewhere is told on the desktop page with its reason", async () => {
  const { page, troubles, close } = await browse();
  await signUp(page, server.url, "elsewhere");
  const vm = await startDesktop(page);
  const api = await program(page);
  const answer = await api.post(`/vms/${vm.vmid}/stop`, { data: { force: true } });
  assert.equal(answer.status(), 200, await answer.text());
  await api.dispose();
  await state(page, "ended");
  const text = await told(page, /Your desktop has stopped/);
  assert.match(text, /You stopped it\./);
  assert.equal(await page.evaluate(() => document.activeElement.id), "veil-home");
  await shot(page, "lost-1-stopped-elsewhere");
  await page.keyboard.press("Enter");
  await page.locator("#start").waitFor();
  assert.deepEqual(troubles, []);
  await close();
});

test("a log-out in another tab takes the open desktop away and says why", async () => {
  const { context, page, troubles, close } = await browse();
  await countStreams(context);
  await signUp(page, server.url, "leaver");
  const vm = await startDesktop(page);
  await until("the desktop page hears news", async () => (await streams(page)) === 1);
  const other = await context.newPage();
  await other.goto(server.url);
  await other.locator("#vm-open").waitFor();
  const third = await context.newPage();
  await third.goto(server.url);
  await third.locator("#vm-open").waitFor();
  await other.locator("#log-out").click();
  await other.locator('[data-auth="signup"]').first().waitFor();
  await state(page, "ended");
  await told(page, /You are no longer allowed here/);
  assert.equal(await streams(page), 0, "a page that is over goes on asking for news");
  await shot(page, "lost-2-logged-out");
  await third.locator('[data-auth="login"]').first().waitFor();
  await until("the third tab says that the session is over", async () => /session has ended/.test(await third.locator("#auth-message").innerText()));
  await shot(third, "lost-3-logged-out-home");
  // The machine itself goes on: it is found again after a log-in.
  await third.locator("#login-email").fill("leaver@example.org");
  await third.locator("#login-password").fill("correct horse");
  await third.keyboard.press("Enter");
  await third.locator("#vm-open").waitFor();
  assert.equal((await call(third, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  assert.deepEqual(troubles, []);
  await close();
});

test("a session that ended in the middle of work shows the log-in with its reason, and work goes on after it", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "expired");
  const id = server.sql("select id from users where login = 'expired'");
  assert.match(id, /^[0-9a-f]{12}$/);
  server.sql(`delete from sessions where user_id = '${id}'`);
  // The server may believe the session for a moment longer; the first request it refuses ends the page's stream of events too.
  await until("the server no longer knows the session", async () => (await call(page, "GET", "/auth/me")).status === 401);
  await until("the dialog says why", async () => /session has ended/.test(await page.locator("#auth-message").innerText()));
  assert.equal(await page.evaluate(() => document.documentElement.dataset.session), "out");
  await shot(page, "lost-4-expired");
  await page.locator("#login-email").fill("expired@example.org");
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#start").waitFor();
  await until("the focus goes on at the greeting", () => page.evaluate(() => document.activeElement.id === "greeting"));

  // The same under an open desktop and an open terminal: no work goes on unseen.
  const vm = await startDesktop(page);
  const terminal = await page.context().newPage();
  await terminal.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial&vmid=${vm.vmid}`);
  await state(terminal, "connected");
  server.sql(`delete from sessions where user_id = '${id}'`);
  await until("the server no longer knows the session", async () => (await call(page, "GET", "/auth/me")).status === 401);
  for (const one of [page, terminal]) {
    await one.bringToFront();
    await state(one, "ended");
    assert.match(await told(one, /Log in on the start page|Log in again/), /no longer allowed|not logged in/);
  }
  await shot(terminal, "lost-4-expired-terminal");
  await terminal.close();
  await page.locator("#veil-home").click();
  await until("the start page asks for a log-in by itself", async () => /session has ended/.test(await page.locator("#auth-message").innerText()));
  await page.locator("#login-email").fill("expired@example.org");
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#vm-open").waitFor();

  // Several requests are refused, one of them late: the upload that was on its way waits all the same, and the reason stays.
  const held = [];
  await page.route("**/screen.png*", (route) => void held.push(route));
  await page.route("**/uploads/", () => null);
  await page.locator("#image-file").setInputFiles({ name: "mine.iso", mimeType: "application/octet-stream", buffer: fs.readFileSync(image) });
  await page.locator("#upload").waitFor();
  await until("a picture is asked for", () => held.length > 0);
  await page.context().clearCookies();
  // The page looks again how the machine is.
  await page.evaluate(() => document.dispatchEvent(new Event("visibilitychange")));
  await until("the dialog says why", async () => /session has ended/.test(await page.locator("#auth-message").innerText()));
  for (const route of held) await route.fulfill({ status: 401, contentType: "application/problem+json", body: '{"code":"session_ended"}' });
  await page.evaluate(() => fetch("/version").then((answer) => answer.text()));
  assert.match(await page.locator("#banner").textContent(), /session has ended/);
  assert.equal(await page.locator("#upload-words").textContent(), "Paused. Log in again, then resume it.");
  await page.unrouteAll();
  await page.locator("#login-email").fill("expired@example.org");
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#vm-open").waitFor();
  assert.ok(await page.locator("#upload").isVisible(), "it can be gone on with");
  await page.locator("#upload-cancel").click();
  await page.locator("#sure-yes").click();
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await page.locator("#start").waitFor();

  // Where the stream has not told it yet, the refused click does.
  await page.route("**/run-iso", (route) => route.fulfill({ status: 401, contentType: "application/problem+json", body: '{"code":"session_ended"}' }));
  await page.locator("#start").click();
  await until("the dialog says why again", async () => /session has ended/.test(await page.locator("#auth-message").innerText()));
  await close();
});

test("a server that restarts under an open desktop is told, keeps the last frame, and is joined again", async () => {
  await server.end();
  server.settings = LIVE_ON;
  await server.run();
  const { context, page, close } = await browse();
  const faults = [];
  context.on("weberror", (error) => faults.push(error.error().message));
  await signUp(page, server.url, "survivor");
  const vm = await startDesktop(page);
  const home = await context.newPage();
  await home.goto(server.url);
  await home.locator("#vm-open").waitFor();

  assert.equal(await server.end(), 0, server.log);
  await state(page, "disconnected");
  await told(page, /Connection lost[\s\S]*goes on without you/);
  const frozen = page.locator("#frozen");
  assert.ok(await frozen.isVisible(), "the last frame is shown");
  assert.ok(Number(await frozen.evaluate((canvas) => getComputedStyle(canvas).opacity)) < 1, "the last frame is dimmed");
  const green = await frozen.evaluate((canvas) => [...canvas.getContext("2d").getImageData(270, 250, 1, 1).data.slice(0, 3)]);
  assert.deepEqual(green, [0, 255, 0], "the last frame is the guest's");
  await shot(page, "lost-5-server-away");
  // Nobody has to wait for the countdown.
  const sockets = [];
  page.on("websocket", (socket) => sockets.push(socket.url()));
  await until("the next try is a while away", async () => /in [5-9] s/.test(await page.locator("#veil-text").innerText()));
  const before = sockets.length;
  await page.locator("#retry").click();
  await until("it is tried at once", () => sockets.length > before, 3);
  await until("the home page says so too", async () => /Connection lost/.test(await home.locator("#banner").innerText()));
  await shot(home, "lost-6-server-away-home");

  server.settings = END_ALL;
  await server.run();
  await state(page, "connected");
  await bars(page);
  assert.ok(!(await frozen.isVisible()), "the last frame gives way");
  await home.locator("#banner").waitFor({ state: "hidden" });
  const [now] = await machines(home);
  assert.deepEqual([now.vmid, now.state], [vm.vmid, "running"], "the session is valid and the machine is the same");
  const serial = await server.serial(vm.vmid);
  await page.bringToFront();
  await page.keyboard.type("on");
  await until("the guest hears the keyboard again", () => keysOf(serial).length >= 2);
  assert.deepEqual(keysOf(serial), [24, 49]);
  serial.close();
  assert.equal((await call(home, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  await state(page, "ended");
  assert.deepEqual(faults, []);
  await close();
});

test("two users side by side have a machine each, and neither is led into the other's", async () => {
  const [one, two] = [await browse(), await browse()];
  await signUp(one.page, server.url, "left");
  await signUp(two.page, server.url, "right");
  const [left, right] = await Promise.all([startDesktop(one.page), startDesktop(two.page)]);
  assert.notEqual(left.vmid, right.vmid);
  assert.notEqual(left.http_port, right.http_port);
  const [heardLeft, heardRight] = [await server.serial(left.vmid), await server.serial(right.vmid)];
  await one.page.keyboard.type("a");
  await two.page.keyboard.type("b");
  await until("both guests heard their own key", () => keysOf(heardLeft).length && keysOf(heardRight).length);
  assert.deepEqual([keysOf(heardLeft), keysOf(heardRight)], [[30], [48]]);
  heardLeft.close();
  heardRight.close();

  await two.page.goto(`${server.url}/novnc/?path=ws/${left.http_port}`);
  await state(two.page, "ended");
  await told(two.page, /There is no desktop here/);
  await shot(two.page, "lost-7-not-yours");
  assert.deepEqual((await machines(two.page)).map((vm) => vm.vmid), [right.vmid], "only their own is listed");
  assert.equal((await call(two.page, "POST", `/vms/${left.vmid}/stop`, { force: true })).status, 404);
  await call(one.page, "POST", `/vms/${left.vmid}/stop`, { force: true });
  await call(two.page, "POST", `/vms/${right.vmid}/stop`, { force: true });
  assert.deepEqual(one.troubles, []);
  await Promise.all([one.close(), two.close()]);
});

test("a machine that died with its server is told of on every open page without a reload", async () => {
  const { context, page, close } = await browse();
  await signUp(page, server.url, "unlucky");
  const vm = await startDesktop(page);
  const home = await context.newPage();
  await home.goto(server.url);
  await home.locator("#vm-open").waitFor();
  await crash(() => {
    process.kill(vm.pid, "SIGKILL");
  });
  await until("the start page tells how it ended", async () => /Your last desktop is gone\. It ended while the server was away/.test(await home.locator("#ended").innerText()));
  assert.ok(await home.locator("#start").isVisible());
  await page.bringToFront();
  await state(page, "ended");
  await told(page, /It ended while the server was away/);
  await close();
});

test("who looks at a desktop over a restart of the server looks on, and has no control he is not given again", async () => {
  server.settings = LIVE_ON;
  await crash();
  const [student, teacher, guest, admin] = [await browse(), await browse(), await browse(), await browse()];
  await Promise.all([teacher, guest].map(({ context }) => countStreams(context)));
  await signUp(teacher.page, server.url, "msfox");
  server.promote("msfox", "teacher");
  await signUp(student.page, server.url, "cub");
  const vm = await startDesktop(student.page);
  await student.page.goto(server.url);
  await student.page.locator("#vm-open").waitFor();
  await call(teacher.page, "POST", "/auth/login", { email: "msfox", password: "correct horse" });
  await teacher.page.goto(`${server.url}/novnc/?path=ws/${vm.http_port}&vmid=${vm.vmid}&view=1`);
  const { share } = (await call(student.page, "POST", `/vms/${vm.vmid}/shares`, { control: false, minutes: 60 })).body;
  await guest.page.goto(new URL(share.url, server.url).href);
  await Promise.all([bars(teacher.page), bars(guest.page)]);
  await server.warden();
  await admin.page.goto(server.url);
  await call(admin.page, "POST", "/auth/login", { email: "warden", password: "correct horse" });
  await admin.page.goto(`${server.url}/admin/`);
  await admin.page.locator("#wall li").waitFor();
  const viewers = async () => (await call(student.page, "GET", `/connections/${vm.vmid}`)).body.who;
  const { id } = (await viewers()).find((one) => one.kind === "teacher");
  await call(student.page, "POST", `/vms/${vm.vmid}/viewers/${id}`, { control: true });
  await until("the teacher has control", async () => !(await teacher.page.locator("#view-only").isVisible()));

  // A page behind others keeps no stream, and has one again in front.
  await behind(teacher.page, true);
  assert.equal(await streams(teacher.page), 0);
  await behind(teacher.page, false);
  assert.equal(await streams(teacher.page), 1);

  // The server is away for so long that it answers a few times that it is not ready.
  await teacher.page.route("**/ws/*/events*", (route) => route.fulfill({ status: 503, body: "" }));
  await crash(() => Promise.all([teacher, guest].map(({ page }) => state(page, "disconnected"))));
  server.settings = END_ALL;
  await Promise.all([teacher, guest].map(({ page }) => state(page, "connected")));
  await teacher.page.unrouteAll();
  await Promise.all([bars(teacher.page), bars(guest.page)]);
  await showBar(teacher.page);
  await until("the teacher only looks", () => teacher.page.locator("#view-only").isVisible());
  const again = (await viewers()).find((one) => one.kind === "teacher");
  assert.equal(again.control, false);
  await call(student.page, "POST", `/vms/${vm.vmid}/viewers/${again.id}`, { control: true });
  await until("he has it when it is given again", async () => !(await teacher.page.locator("#view-only").isVisible()));
  assert.equal(await streams(guest.page), 1);
  await until("the administrator's page goes on", async () => (await admin.page.locator("#wall-error").innerText()) === "" && (await admin.page.locator("#wall li").count()) === 1);
  await call(student.page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await Promise.all([teacher, guest].map(({ page }) => state(page, "ended")));
  assert.deepEqual([await streams(teacher.page), await streams(guest.page)], [0, 0]);
  await until("its tile goes", async () => (await admin.page.locator("#wall li").count()) === 0);
  await Promise.all([student, teacher, guest, admin].map((one) => one.close()));
});
