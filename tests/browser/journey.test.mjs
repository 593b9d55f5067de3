// The main job in a real browser: sign up, click once, see the machine, use it, stop it.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { bars, browse, call, keysOf, machines, output, pixel, Server, showBar, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

const shot = (page, name) => page.screenshot({ path: path.join(output, `${name}.png`) });

test("a new user signs up, starts, and sees the guest's picture react to keys and mouse", async () => {
  const { page, troubles, close } = await browse();
  await page.goto(server.url);
  await shot(page, "journey-1-signed-out");
  await signUp(page, server.url, "alice");
  await until("nothing of the quota is used yet", async () => /^0 MB of your/.test(await page.locator("#image-quota").innerText()));
  await shot(page, "journey-2-signed-in");
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\/\?path=ws/);
  await page.waitForFunction(() => document.documentElement.dataset.state === "connected");
  const { body } = await call(page, "GET", "/vms");
  const [vm] = body.vms;
  assert.equal(vm.state, "running");
  const serial = await server.serial(vm.vmid);
  await bars(page);
  await shot(page, "journey-3-desktop");

  const field = () =>
    page.evaluate(() => {
      const canvas = document.querySelector("#screen canvas");
      const { data } = canvas.getContext("2d").getImageData(60, 300, canvas.width - 120, 60);
      let dark = 0;
      for (let i = 0; i < data.length; i += 4) dark += data[i] < 60;
      return dark;
    });
  assert.equal(await field(), 0, "nothing is typed yet");
  await page.keyboard.type("hello vm", { delay: 60 });
  // h e l l o space v m, as evdev numbers them.
  const codes = [35, 18, 38, 38, 24, 57, 47, 50];
  await until("the guest has the keys", () => keysOf(serial).length >= codes.length && keysOf(serial));
  assert.deepEqual(keysOf(serial), codes);
  await until("the guest has drawn them", async () => (await field()) > 500);

  const canvas = page.locator("#screen canvas");
  const box = await canvas.boundingBox();
  const size = await canvas.evaluate((c) => [c.width, c.height]);
  const [x, y] = [box.x + box.width * 0.7, box.y + box.height * 0.6];
  await page.mouse.move(x - 40, y - 40);
  await page.mouse.move(x, y);
  await page.mouse.down();
  const press = await until("the guest has the button", () => serial.text.match(/fbdemo button 0 1 at (\d+) (\d+)/));
  await until("the guest's pointer is red while the button is down", async () => {
    const [r, g] = await pixel(page, Number(press[1]) + 2, Number(press[2]) + 10);
    return r > 200 && g < 100;
  });
  await shot(page, "journey-4-typed-and-clicked");
  await page.mouse.up();
  await until("the guest has the release", () => /fbdemo button 0 0 at/.test(serial.text));
  assert.ok(Math.abs(Number(press[1]) - size[0] * 0.7) <= 8, `x ${press[1]} of ${size[0]}`);
  assert.ok(Math.abs(Number(press[2]) - size[1] * 0.6) <= 8, `y ${press[2]} of ${size[1]}`);
  serial.close();

  await page.goto(server.url);
  await page.locator("#vm-open").waitFor();
  await shot(page, "journey-5-running");
  await page.locator("#vm-stop").click();
  await shot(page, "journey-6-asks-once");
  await page.locator('#stop button[value="stop"]').click();
  await page.locator("#start").waitFor();
  await until("the page says why it ended", async () => /You stopped it/.test(await page.locator("#ended").innerText()));
  await until("past sessions list it", async () => (await page.locator("#history-list li").count()) === 1);
  await shot(page, "journey-7-stopped");
  const stopped = (await call(page, "GET", `/vms/${vm.vmid}`)).body;
  assert.deepEqual([stopped.state, stopped.exit], ["stopped", "stopped by user"]);
  assert.deepEqual(troubles, []);
  await close();
});

test("a reload during a start joins it: one machine, and it runs", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "reloader");
  const asked = page.waitForRequest("**/run-iso");
  await page.locator("#start").click({ noWaitAfter: true });
  await asked;
  await page.reload();
  // Joined, the page goes on to the desktop; had it been quicker than the reload, the machine is simply there.
  await until("the desktop is there", async () => /\/novnc\//.test(page.url()) || (await page.locator("#vm-open").isVisible().catch(() => false)));
  const vms = await until("the machine runs", async () => {
    const vms = await machines(page).catch(() => []);
    return vms[0]?.state === "running" && vms;
  });
  assert.equal(vms.length, 1, JSON.stringify(vms));
  await call(page, "POST", `/vms/${vms[0].vmid}/stop`, { force: true });
  await close();
});

test("typed text, key chords, clipboard panel, scaling and full screen work on a real guest", async () => {
  const { page, close } = await browse();
  const sent = [];
  page.on("websocket", (socket) => socket.on("framesent", ({ payload }) => typeof payload === "string" || sent.push(payload)));
  await signUp(page, server.url, "typist");
  const vm = await startDesktop(page);
  const serial = await server.serial(vm.vmid);
  await showBar(page);
  await page.locator("#text-open").click();
  await page.locator("#outgoing").fill("Hello, World!");
  await page.locator("#type").click();
  // Shift+h e l l o , space Shift+w o r l d Shift+1
  const wanted = [42, 35, 18, 38, 38, 24, 51, 57, 42, 17, 24, 19, 38, 32, 42, 2];
  await until(`the guest has ${wanted}`, () => keysOf(serial).length >= wanted.length && keysOf(serial));
  assert.deepEqual(keysOf(serial), wanted);
  // The same on a German keyboard: z and y change places, @ needs AltGr, ^ is a dead key.
  await page.locator("#layout").selectOption("de");
  await page.locator("#outgoing").fill("zY@ß^");
  await page.locator("#type").click();
  wanted.push(21, 42, 44, 100, 16, 12, 41, 57);
  await until(`the guest has ${wanted}`, () => keysOf(serial).length >= wanted.length && keysOf(serial));
  assert.deepEqual(keysOf(serial), wanted);
  await page.locator("#outgoing").fill("ł");
  assert.match(await page.locator("#text-note").innerText(), /this keyboard does not have/);
  await page.locator("#layout").selectOption("us");
  await page.locator("#paste").click();
  await shot(page, "tools-1-text");
  assert.match(await page.locator("#text-note").innerText(), /Sent to its clipboard/);
  const scale = () => page.locator("#screen canvas").evaluate((canvas) => canvas.getBoundingClientRect().width / canvas.width);
  assert.notEqual(await scale(), 1, "the window is larger than the guest's screen");
  await showBar(page);
  await page.locator("#view-open").click();
  await until("the connection is told in numbers", async () => /\d ms[^]*bit\/s[^]*1024 × 768/.test(await page.locator("#statistics").innerText()));
  await page.getByLabel("Actual size").check();
  await until("one guest pixel is one pixel", async () => (await scale()) === 1);
  // SetEncodings has a quality only where one is asked for; SetDesktopSize asks the guest to follow the window.
  const qualities = () => sent.filter((bytes) => bytes[0] === 2).map((bytes) => Array.from({ length: bytes.readUInt16BE(2) }, (_, i) => bytes.readInt32BE(4 + i * 4)).filter((one) => one >= -32 && one <= -23).join());
  assert.deepEqual(qualities(), [""], "at first every pixel is as it is");
  await page.locator("#quality").selectOption("low");
  await until("the lower quality is asked for", () => qualities().at(-1) === "-31");
  await page.locator("#quality").selectOption("best");
  await until("and given up again", () => qualities().at(-1) === "");
  assert.equal(sent.filter((bytes) => bytes[0] === 251).length, 0);
  await page.getByLabel("Follow the window").check();
  await until("the guest is asked to follow", () => sent.some((bytes) => bytes[0] === 251 && bytes.readUInt16BE(2) === 1280));
  await until("what it does not follow is fitted", async () => (await scale()) !== 1);
  await shot(page, "tools-1-view");
  assert.equal(await page.evaluate(() => document.documentElement.dataset.state), "connected");
  await page.locator("#full").click();
  await page.waitForFunction(() => document.fullscreenElement);
  await showBar(page);
  await page.locator("#keys-open").click();
  await shot(page, "tools-2-keys");
  await page.locator("#chords button", { hasText: "Ctrl-Alt-Del" }).click();
  await until("the guest has Ctrl, Alt and Del", () => keysOf(serial).slice(wanted.length).join(" ") === "29 56 111");
  await until("Ctrl-Alt-Del restarts the guest", () => /tiny: up/.test(serial.text.slice(serial.text.lastIndexOf("key 111"))), 60);
  serial.close();
  await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true });
  await page.waitForFunction(() => document.documentElement.dataset.state === "ended");
  await until("the page says that it stopped", async () => /stopped/i.test(await page.locator("#veil").innerText()));
  await shot(page, "tools-3-ended");
  await close();
});

test("who logs out is not told that their session ended, whatever comes first", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "leaver");
  // The stream of events says it before the answer to the log-out does.
  await page.route("**/auth/logout", async (route) => {
    const answer = await route.fetch();
    await page.locator('[data-auth="login"]').first().waitFor();
    await route.fulfill({ response: answer });
  });
  const answered = page.waitForResponse("**/auth/logout");
  await page.locator("#log-out").click();
  await answered;
  assert.ok(await page.locator("#auth").isHidden(), "the log-in dialog opened by itself");
  assert.ok(await page.locator("#banner").isHidden(), await page.locator("#banner").innerText());
  for (const list of ["#images", "#history"]) assert.ok(await page.locator(list).evaluate((section) => section.hidden), `${list} waits for the next one`);
  await page.locator('[data-auth="login"]').first().click();
  await page.locator("#login-email").waitFor();
  await close();
});

test("errors of the forms stand beside their fields", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "taken");
  await page.locator("#log-out").click();
  await page.locator('[data-auth="signup"]').first().click();
  await page.locator("#signup-email").fill("taken@example.org");
  await page.locator("#signup-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await until("the taken address is told", async () => /already/.test(await page.locator("#signup-email-error").innerText()));
  await page.locator("#signup-password").fill("short");
  await page.keyboard.press("Enter");
  await until("the weak password is told", async () => /8/.test(await page.locator("#signup-password-error").innerText()));
  await page.locator("#tab-login").click();
  await page.locator("#login-email").fill("taken@example.org");
  await page.locator("#login-password").fill("wrong password");
  await page.keyboard.press("Enter");
  const told = await until("the wrong password is told", async () => {
    const texts = await page.locator("#form-login .error").allInnerTexts();
    return texts.find((text) => text.trim());
  });
  assert.match(told, /not right|wrong/i);
  await shot(page, "form-errors");

  // The password is changed by who knows it, and opens the account from then on.
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#start").waitFor();
  await page.locator("#account-open").click();
  const change = async (current, next) => {
    await page.locator("#password-current").fill(current);
    await page.locator("#password-new").fill(next);
    await page.keyboard.press("Enter");
  };
  await change("wrong horse", "battery staple");
  await until("the wrong password is told", async () => (await page.locator("#password-current-error").innerText()) !== "");
  await change("correct horse", "short");
  await until("the weak one is told", async () => /8/.test(await page.locator("#password-new-error").innerText()));
  await change("correct horse", "battery staple");
  await page.locator("#password-done").waitFor();
  assert.equal(await page.locator("#password-new").inputValue(), "");
  await page.keyboard.press("Escape");
  const status = (password) => call(page, "POST", "/auth/login", { email: "taken", password }).then((answer) => answer.status);
  assert.deepEqual([await status("correct horse"), await status("battery staple")], [401, 200]);
  await close();
});

test("nothing but what the pages need is in them: the policy is kept", () => {
  const pages = ["home.html", "desktop.html", "terminal.html", "404.html"].map((name) => fs.readFileSync(`static/${name}`, "utf8"));
  for (const page of pages) {
    assert.doesNotMatch(page, /<script(?![^>]*\bsrc=)[^>]*>|\son\w+=|\sstyle=/, "inline script, handler or style");
  }
});
