// The terminal page on a real guest's serial console: typing, scrollback, two at once, restarts, the end; in both themes and on a phone.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { browse, call, inspect, machines, output, Server, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

/** What the terminal shows, all of it that is in the window. */
const shown = (page) => page.locator(".xterm-rows").innerText();
const told = (page, words) => until(`the terminal shows ${words}`, async () => words.test((await shown(page)).replaceAll("\u00a0", " ")));
const state = (page, wanted) => page.waitForFunction((wanted) => document.documentElement.dataset.state === wanted, wanted);

test("what is typed is answered, a reload shows it again, and a restart is followed", async () => {
  const { context, page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await signUp(page, server.url, "typist");
  const vm = await startDesktop(page);
  await page.goto(server.url);
  await page.locator("#vm-terminal").click();
  await page.waitForURL(/\/terminal\/\?path=ws\/\d+\/serial/);
  await state(page, "connected");
  await told(page, /tiny: up/);
  await page.keyboard.press("Enter");
  await page.keyboard.type("echo hello $((40 + 2))");
  await page.keyboard.press("Enter");
  await told(page, /hello 42/);
  await page.keyboard.type("printf '\\033[31mred\\033[0m \\033[38;2;10;120;200mtrue\\033[0m \\033[7mturned\\033[0m\\n'");
  await page.keyboard.press("Enter");
  await told(page, /red true turned/);
  await page.locator("#size").click();
  const columns = await page.evaluate(() => Math.round(document.querySelector(".xterm-screen").clientWidth / (document.querySelector(".xterm-char-measure-element").offsetWidth / 32)));
  await page.keyboard.type("stty size");
  await page.keyboard.press("Enter");
  await told(page, new RegExp(`\\n\\d+ ${columns}\\b`));
  await inspect(page, "terminal", seen);

  await page.reload();
  await state(page, "connected");
  await told(page, /hello 42/);
  // The shell asks where the cursor is at each prompt; what was kept must not be answered again.
  await page.keyboard.type("echo clean");
  await page.keyboard.press("Enter");
  await told(page, /# echo clean\s+clean/);
  const serial = await server.serial(vm.vmid);
  await until("what was kept is there", () => /echo clean/.test(serial.text));
  assert.doesNotMatch(serial.text, /;\d+R/, "an answer of the terminal was typed into the guest");

  const other = await context.newPage();
  await other.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial`);
  await told(other, /hello 42/);
  await other.locator(".xterm-helper-textarea").focus();
  await other.keyboard.type("echo from the other");
  await other.keyboard.press("Enter");
  await told(page, /from the other\s+from the other/);
  await other.close();
  await page.bringToFront();

  await page.locator("#restart-open").click();
  await inspect(page, "terminal-restart", seen);
  await page.locator('#restart button[value="power-cycle"]').click();
  await until("it boots again", async () => (serial.text.match(/tiny: up/g)?.length ?? 0) >= 1 && (await machines(page))[0].pid !== vm.pid);
  await state(page, "connected");
  await until("the page shows the new boot behind the old", async () => ((await shown(page)).match(/tiny:.up/g)?.length ?? 0) >= 1 && /hello|tiny/.test(await shown(page)));
  serial.close();

  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await state(page, "ended");
  await until("the page says that it stopped", async () => /has stopped/.test(await page.locator("#veil").innerText()));
  await inspect(page, "terminal-ended", seen);
  await page.goto(`${server.url}/terminal/?path=ws/1`);
  await until("an address that is no terminal's is told", async () => /not complete/.test(await page.locator("#veil").innerText()));
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles, []);
  await close();
});

test("copy and paste, the way out by keyboard, and a reconnect after the server was away", async () => {
  const { context, page, close } = await browse({ reducedMotion: "reduce" });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await signUp(page, server.url, "copier");
  const vm = await startDesktop(page);
  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial&vmid=${vm.vmid}`);
  await told(page, /tiny: up/);
  await page.keyboard.press("Enter");
  await told(page, /# /);
  await page.evaluate(() => navigator.clipboard.writeText("echo pasted$((6 * 7))"));
  await page.locator("#paste").click();
  await told(page, /# echo pasted/);
  await page.keyboard.press("Enter");
  await told(page, /pasted42/);
  const row = page.locator(".xterm-rows > div", { hasText: /^pasted42/ });
  const box = await row.boundingBox();
  await page.mouse.dblclick(box.x + 20, box.y + box.height / 2);
  await page.keyboard.press("Control+Shift+C");
  await until("the selection is copied", async () => (await page.evaluate(() => navigator.clipboard.readText())) === "pasted42");
  await page.locator(".xterm-helper-textarea").focus();
  for (const key of ["Control", "Alt", "Shift"]) await page.keyboard.down(key);
  for (const key of ["Shift", "Alt", "Control"]) await page.keyboard.up(key);
  await until("the tool bar has the focus", async () => (await page.evaluate(() => document.activeElement.id)) === "home");

  server.settings = "stop_vms_on_exit = false";
  server.process.kill("SIGKILL");
  await server.exit;
  await state(page, "disconnected");
  await page.screenshot({ path: path.join(output, "terminal-lost.png") });
  server.settings = "stop_vms_on_exit = true";
  await server.run();
  await state(page, "connected");
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.press("Enter");
  await page.keyboard.type("echo back $((1 + 1))");
  await page.keyboard.press("Enter");
  await told(page, /back 2/);
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await state(page, "ended");
  await close();
});
