// A desktop shared by a link: made in the dialog, opened by somebody without an account, revoked.

import assert from "node:assert/strict";
import { test } from "node:test";
import { bars, browse, call, inspect, keysOf, machines, Server, showBar, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

test("a link shows the desktop to somebody without an account, lets nothing through, and ends when it is revoked", async () => {
  const owner = await browse({ reducedMotion: "reduce" });
  const guest = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await signUp(owner.page, server.url, "sharer");
  const vm = await startDesktop(owner.page);
  const serial = await server.serial(vm.vmid);
  await owner.page.goto(server.url);
  await owner.page.locator("#vm-share").click();
  await owner.page.locator("#share-make").click();
  const link = await until("the link is shown", () => owner.page.locator("#share-link").inputValue());
  assert.match(link, /\/novnc\/\?path=ws\/\d+&view=1#share=[\w-]{43}$/);
  await owner.page.locator('#share input[value="yes"]').check();
  await owner.page.locator("#share-make").click();
  await until("both links are listed", async () => (await owner.page.locator("#share-list li").count()) === 2);
  const control = await owner.page.locator("#share-link").inputValue();
  assert.doesNotMatch(control, /view=1/);
  await inspect(owner.page, "share", seen);

  await guest.page.goto(link);
  await bars(guest.page);
  await guest.page.keyboard.type("no");
  await showBar(guest.page);
  assert.ok(await guest.page.locator("#view-only").isVisible());
  for (const tool of ["#stop-open", "#restart-open", "#keys-open", "#text-open"]) assert.ok(!(await guest.page.locator(tool).isVisible()), tool);
  await inspect(guest.page, "share-guest", seen);
  await showBar(guest.page);
  await guest.page.locator("#terminal-open").click();
  await until("the terminal shows what was", async () => /tiny:.up/.test(await guest.page.locator(".xterm-rows").innerText()));
  assert.ok(await guest.page.locator("#view-only").isVisible());
  await guest.page.goBack();
  await bars(guest.page);

  const driver = await guest.context.newPage();
  await driver.goto(control);
  await bars(driver);
  await driver.keyboard.type("k");
  await until("the guest has the driver's key", () => keysOf(serial).length);
  assert.deepEqual(keysOf(serial), [37], "and none of who only looks");

  await owner.page.locator("#share-list button").first().click();
  assert.match(await owner.page.locator("#sure").innerText(), /Revoke this link\?[^]*what is open with it closes/);
  await owner.page.locator("#sure-yes").click();
  await guest.page.waitForFunction(() => document.documentElement.dataset.state === "ended");
  assert.match(await guest.page.locator("#veil").innerText(), /This link has ended/);
  await inspect(guest.page, "share-ended", seen);
  await guest.page.reload();
  await until("a link that has ended says so at once", async () => /This link has ended/.test(await guest.page.locator("#veil").innerText()));
  assert.equal(await driver.evaluate(() => document.documentElement.dataset.state), "connected", "the other link works on");
  await until("one link is left", async () => (await owner.page.locator("#share-list li").count()) === 1);
  await call(owner.page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await driver.waitForFunction(() => document.documentElement.dataset.state === "ended");
  assert.match(await driver.locator("#veil").innerText(), /This desktop has stopped/);
  serial.close();
  assert.doesNotMatch(server.log, /share=/, "a token is in the log");
  assert.deepEqual(seen, []);
  assert.deepEqual(owner.troubles, []);
  await Promise.all([owner.close(), guest.close()]);
});

test("a student sees that a teacher watches, gives him control, takes it back and closes his screen", async () => {
  const student = await browse({ reducedMotion: "reduce" });
  const teacher = await browse({ reducedMotion: "reduce" });
  const seen = [];
  // As long as a login name may be, and with no place to break.
  const name = "msleewhoteachesalltheclassesofus";
  await teacher.page.goto(server.url);
  assert.equal((await call(teacher.page, "POST", "/auth/signup", { email: "mslee@example.org", login: name, password: "correct horse" })).status, 201);
  server.promote(name, "teacher");
  await signUp(student.page, server.url, "pupil");
  const vm = await startDesktop(student.page);
  const serial = await server.serial(vm.vmid);
  // The role is seen by a session that begins now.
  await teacher.context.clearCookies();
  await teacher.page.goto(server.url);
  await call(teacher.page, "POST", "/auth/login", { email: name, password: "correct horse" });
  await teacher.page.goto(`${server.url}/novnc/?path=ws/${vm.http_port}&view=1`);
  await bars(teacher.page);
  await showBar(teacher.page);
  assert.ok(await teacher.page.locator("#view-only").isVisible());
  assert.ok(!(await teacher.page.locator("#text-open").isVisible()));
  await until("the student is told on the desktop", async () => (await student.page.locator("#watched").innerText()) === `${name} is watching`);
  await inspect(student.page, "watched", seen);
  await student.page.goto(server.url);
  await until("and on the start page", async () => (await student.page.locator("#watched").innerText()) === `${name} is watching`);
  await inspect(student.page, "home-watched", seen);
  await student.page.locator("#vm-share").click();
  await until("who looks is listed", async () => (await student.page.locator("#viewer-list li").count()) === 1);
  assert.match(await student.page.locator("#viewer-list").innerText(), new RegExp(`Teacher ${name} looks, for \\d+ s`));
  await inspect(student.page, "viewers", seen);

  await teacher.page.keyboard.press("b");
  await student.page.locator("#viewer-list button").first().click();
  await until("the teacher's page says that he has control", async () => !(await teacher.page.locator("#view-only").isVisible()));
  await showBar(teacher.page);
  assert.ok(await teacher.page.locator("#text-open").isVisible());
  assert.match(await teacher.page.locator("#terminal-open").getAttribute("href"), /view=1/, "there too he looks at somebody else's");
  await teacher.page.locator("#screen canvas").click();
  await teacher.page.keyboard.press("k");
  await until("the guest has his key", () => keysOf(serial).includes(37));
  assert.ok(!keysOf(serial).includes(48), "and none of before");
  await until("the list says so", async () => /has control/.test(await student.page.locator("#viewer-list").innerText()));
  await student.page.locator("#viewer-list button").first().click();
  await until("it is taken back", async () => {
    // It goes away by itself.
    await showBar(teacher.page);
    return teacher.page.locator("#view-only").isVisible();
  });
  await student.page.locator("#viewer-list button").nth(1).click();
  assert.match(await student.page.locator("#sure").innerText(), new RegExp(`Close the screen of Teacher ${name}\\?`));
  await student.page.locator("#sure-yes").click();
  await teacher.page.waitForFunction(() => document.documentElement.dataset.state === "ended");
  await until("nobody is listed", async () => !(await student.page.locator("#viewer-some").isVisible()));
  await until("and the badge is gone", async () => !(await student.page.locator("#watched").isVisible()));

  // An administrator takes control himself; once it was taken from him, only when he asks for it again.
  server.promote(name, "admin");
  await teacher.context.clearCookies();
  await teacher.page.goto(server.url);
  await call(teacher.page, "POST", "/auth/login", { email: name, password: "correct horse" });
  await teacher.page.goto(`${server.url}/novnc/?path=ws/${vm.http_port}&control=1`);
  const take = student.page.getByRole("button", { name: `Take control from Administrator ${name}` });
  await take.click();
  await until("he asks no more", () => new URL(teacher.page.url()).searchParams.get("view") === "1");
  await teacher.page.reload();
  await teacher.page.waitForFunction(() => document.documentElement.dataset.state === "connected");
  await until("he is listed again", async () => /Administrator \w+ looks/.test(await student.page.locator("#viewer-list").innerText()));
  assert.ok(!(await take.isVisible()));
  await call(student.page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  serial.close();
  assert.deepEqual(seen, []);
  assert.deepEqual([...student.troubles, ...teacher.troubles], []);
  await Promise.all([student.close(), teacher.close()]);
});

test("of two who came by one link one is given control alone, and both know who they are", async () => {
  const owner = await browse({ reducedMotion: "reduce" });
  const [one, other] = [await browse({ reducedMotion: "reduce" }), await browse({ reducedMotion: "reduce" })];
  const seen = [];
  await signUp(owner.page, server.url, "host");
  const vm = await startDesktop(owner.page);
  const serial = await server.serial(vm.vmid);
  const { body } = await call(owner.page, "POST", `/vms/${vm.vmid}/shares`, {});
  const { share } = body;
  const names = [];
  for (const { page } of [one, other]) {
    await page.goto(`${server.url}${share.url}`);
    await bars(page);
    names.push(await until("the guest knows who he is", () => page.locator("#guest").textContent()));
  }
  assert.notEqual(names[0], names[1]);
  await inspect(other.page, "guest", seen);
  // The terminal is the same browser's.
  const terminal = await one.context.newPage();
  await terminal.goto(`${server.url}${share.url.replace("/novnc/", "/terminal/").replace(/path=ws\/\d+/, "$&/serial")}`);
  await until("and so it is called", async () => (await terminal.locator("#guest").innerText()) === names[0]);
  await terminal.close();

  await owner.page.goto(server.url);
  await owner.page.locator("#vm-share").click();
  await until("both are listed", async () => (await owner.page.locator("#viewer-list li").count()) === 2);
  await inspect(owner.page, "guests", seen);
  for (const { page } of [one, other]) await showBar(page);
  await owner.page.getByRole("button", { name: `Give control to ${names[1]}` }).click();
  await until("his button keeps the focus", async () => (await owner.page.evaluate(() => document.activeElement.ariaLabel)) === `Take control from ${names[1]}`);
  await until("his page says that he has control", async () => (await other.page.locator("#guest").isVisible()) && !(await other.page.locator("#view-only").isVisible()));
  await showBar(one.page);
  assert.ok(await one.page.locator("#view-only").isVisible(), "and the other one's that he only looks");
  await one.page.keyboard.press("b");
  await other.page.locator("#screen canvas").click();
  await other.page.keyboard.press("k");
  await until("the system in the machine has his key", () => keysOf(serial).includes(37));
  assert.ok(!keysOf(serial).includes(48), "and none of who only looks");
  await call(owner.page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  serial.close();
  assert.deepEqual(seen, []);
  assert.deepEqual(owner.troubles, []);
  await Promise.all([owner, one, other].map((browser) => browser.close()));
});

test("control is given to who is named, not to who had that number on another desktop or under another server", async () => {
  const { page, close } = await browse({ reducedMotion: "reduce" });
  for (const name of ["mrsfox", "mrhen"]) {
    await server.enter(`${name}@example.org`, "/auth/signup");
    server.promote(name, "teacher");
  }
  await signUp(page, server.url, "renamed");
  const start = async () => (await call(page, "POST", "/run-iso", {})).body.vm;
  const listed = (name) => until(`${name} is listed`, async () => (await page.locator("#viewer-list").textContent()).startsWith(`Teacher ${name} looks`));
  const controls = async (vm) => (await call(page, "GET", `/connections/${vm.vmid}`)).body.who.filter((who) => who.control).map((who) => who.name);
  const first = await start();
  await page.getByRole("button", { name: `Copy the id ${first.vmid}` }).waitFor();
  const before = await server.serial(first.vmid, "mrsfox");
  await page.locator("#vm-share").click();
  await listed("mrsfox");
  await page.keyboard.press("Escape");
  before.close();
  await call(page, "POST", `/vms/${first.vmid}/stop`, { force: true });

  const vm = await start();
  await page.getByRole("button", { name: `Copy the id ${vm.vmid}` }).waitFor();
  await server.serial(vm.vmid, "mrhen");
  await page.locator("#vm-share").click();
  await listed("mrhen");

  // The page is behind others while the server is another one, where somebody else comes first.
  const behind = (is) =>
    page.evaluate((is) => {
      Object.defineProperty(document, "visibilityState", { configurable: true, get: () => (is ? "hidden" : "visible") });
      document.dispatchEvent(new Event("visibilitychange"));
    }, is);
  await behind(true);
  server.process.kill("SIGKILL");
  await server.exit;
  await server.run();
  await until("the machine is taken back", async () => (await machines(page))[0].idle_s !== null);
  const after = await server.serial(vm.vmid, "mrsfox");
  await page.getByRole("button", { name: "Give control to Teacher mrhen" }).click();
  await listed("mrsfox");
  assert.deepEqual(await controls(vm), []);
  await page.getByRole("button", { name: "Give control to Teacher mrsfox" }).click();
  await until("she has control", async () => (await controls(vm)).join() === "mrsfox");
  after.close();
  await behind(false);
  await until("that nobody looks any more comes by itself", async () => !(await page.locator("#viewer-some").isVisible()));
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await close();
});
