// The terminal page on a real guest's serial console: typing, scrollback, two at once, restarts, the end; in both themes and on a phone.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { browse, call, inspect, machines, output, powerCycle, Server, signUp, startDesktop, state, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

/** What the terminal shows, all of it that is in the window. */
const shown = (page) => page.locator(".xterm-rows").innerText();
const told = (page, words) => until(`the terminal shows ${words}`, async () => words.test((await shown(page)).replaceAll("\u00a0", " ")));

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
  // It fits the window, whatever size that has: what is left over is less than a cell, and xterm.js' own scroll bar.
  const SCROLL_BAR = 14;
  const fits = () =>
    page.evaluate((bar) => {
      const [place, screen, cell] = ["#terminal", ".xterm-screen", ".xterm-char-measure-element"].map((one) => document.querySelector(one));
      const [across, down] = [place.clientWidth - screen.clientWidth, place.clientHeight - screen.clientHeight];
      const [wide, high] = [cell.offsetWidth / 32, screen.clientHeight / document.querySelectorAll(".xterm-rows > div").length];
      return across >= 0 && across <= bar + wide && down >= 0 && down <= high;
    }, SCROLL_BAR);
  const columns = async () => {
    const text = async () => (await shown(page)).replaceAll("\u00a0", " ");
    const sizes = (text) => [...text.matchAll(/stty size\s+\d+ (\d+)\b/g)].map((match) => Number(match[1]));
    const had = sizes(await text()).length;
    await page.locator("#size").click();
    await page.keyboard.type("stty size");
    await page.keyboard.press("Enter");
    return until("the shell tells its size", async () => /#\s*$/.test(await text()) && sizes(await text())[had]);
  };
  await until("the terminal fills the window", fits);
  const before = await columns();
  await page.setViewportSize({ width: 900, height: 600 });
  await until("the terminal fills a smaller window", async () => (await fits()) && (await page.locator(".xterm-screen").evaluate((screen) => screen.clientWidth < 900)));
  const after = await columns();
  assert.ok(Math.abs(before / after - 1280 / 900) < 0.05, `${before} columns in 1280 pixels, ${after} in 900`);
  await page.setViewportSize({ width: 1280, height: 800 });
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

  // A refusal stays until it is read, whatever the guest writes meanwhile.
  const refusal = { status: 502, contentType: "application/problem+json", body: JSON.stringify({ detail: "QEMU does not restart the VM. Stop it, then start it." }) };
  await page.route("**/restart", (route) => route.fulfill(refusal), { times: 1 });
  await page.locator("#restart-open").click();
  await page.locator('#restart button[value="reset"]').click();
  await page.locator("#trouble", { hasText: "QEMU does not restart the VM" }).waitFor();
  await page.keyboard.type("echo flows $((6 * 7))");
  await page.keyboard.press("Enter");
  await told(page, /flows 42/);
  await inspect(page, "terminal-trouble", seen);
  assert.ok(await page.locator("#trouble").isVisible(), "it is gone by itself");
  await page.locator("#trouble-close").click();
  assert.ok(!(await page.locator("#trouble").isVisible()));

  await page.locator("#restart-open").click();
  await inspect(page, "terminal-restart", seen);
  await powerCycle(page, async () => (serial.text.match(/tiny: up/g)?.length ?? 0) >= 1 && (await machines(page))[0].pid !== vm.pid);
  await until("the page shows the new boot behind the old", async () => ((await shown(page)).match(/tiny:.up/g)?.length ?? 0) >= 1 && /hello|tiny/.test(await shown(page)));
  serial.close();

  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await state(page, "ended");
  await until("the page says that it stopped", async () => /has stopped/.test(await page.locator("#veil").innerText()));
  await inspect(page, "terminal-ended", seen);
  await page.goto(`${server.url}/terminal/?path=ws/1`);
  await until("an address that is no terminal's is told", async () => /not complete/.test(await page.locator("#veil").innerText()));
  assert.deepEqual(seen, []);
  // The browser itself tells of the refusal.
  assert.deepEqual(troubles.filter((line) => !/status of 502/.test(line)), []);
  await close();
});

test("copy and paste, the way out by keyboard, and a reconnect after the server was away", async () => {
  const { context, page, close } = await browse({ reducedMotion: "reduce" });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  await signUp(page, server.url, "copier");
  const vm = await startDesktop(page);
  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial&vmid=${vm.vmid}`);
  await page.locator("#way", { hasText: "Ctrl+Alt+Shift" }).waitFor();
  await page.screenshot({ path: path.join(output, "terminal-way.png") });
  await told(page, /tiny: up/);
  await page.keyboard.press("Enter");
  await told(page, /# /);
  await page.evaluate(() => navigator.clipboard.writeText(""));
  await page.locator("#paste").click();
  await until("an empty clipboard is told", async () => /no text in your clipboard/.test(await page.locator("#note").innerText()));
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
  assert.equal(await page.evaluate(() => localStorage.getItem("vmshare.way")), "5", "who found the way out is told of it again");

  const sockets = [];
  page.on("websocket", (socket) => sockets.push(socket.url()));
  server.settings = "stop_vms_on_exit = false";
  server.process.kill("SIGKILL");
  await server.exit;
  await state(page, "disconnected");
  await page.screenshot({ path: path.join(output, "terminal-lost.png") });
  await page.locator(".xterm-helper-textarea").focus();
  await page.keyboard.type("nobody");
  assert.ok(!(await page.locator("#note").isVisible()), await page.locator("#note").innerText());
  assert.match(await page.locator("#veil").innerText(), /what is typed now is lost/);
  // Nobody has to wait for the countdown.
  await until("the next try is a while away", async () => /in [5-9] s/.test(await page.locator("#veil-text").innerText()));
  const before = sockets.length;
  await page.locator("#retry").click();
  await until("it is tried at once", () => sockets.length > before, 3);
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

test("a phone has the keys its keyboard lacks, and Ctrl is held for one of them", async () => {
  const { page, troubles, close } = await browse({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true });
  await signUp(page, server.url, "thumbs");
  const vm = await startDesktop(page);
  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial&vmid=${vm.vmid}`);
  await told(page, /tiny: up/);
  await page.locator(".xterm").tap();
  await page.keyboard.press("Enter");
  await told(page, /# /);
  // While a program runs, the line shows what is typed: not what the shell makes of it.
  await page.keyboard.type("echo go$((1 + 1)); cat");
  await page.keyboard.press("Enter");
  await told(page, /go2/);
  for (const key of ["Escape", "Left", "Up", "Down", "Right"]) await page.getByRole("button", { name: key, exact: true }).tap();
  await told(page, /\^\[\^\[\[D\^\[\[A\^\[\[B\^\[\[C/);
  const control = page.getByRole("button", { name: "Control, for the next key" });
  await control.tap();
  assert.equal(await control.getAttribute("aria-pressed"), "true");
  await page.screenshot({ path: path.join(output, "terminal-phone-keys.png") });
  await page.keyboard.type("c");
  await told(page, /\^C/);
  assert.equal(await control.getAttribute("aria-pressed"), "false");
  await page.keyboard.type("echo free$((1 + 1))c");
  await page.keyboard.press("Enter");
  await told(page, /free2c/);
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await state(page, "ended");
  assert.deepEqual(troubles, []);
  await close();
});
