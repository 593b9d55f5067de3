// The main job in Debian's Firefox, on a real guest: sign up, start, see, type, click, terminal, upload, stop; each page in both themes and on a
// phone. Playwright drives only a Firefox of its own, so this file speaks to Debian's by WebDriver BiDi, through Puppeteer.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import fs from "node:fs";
import path from "node:path";
import { after, before, test } from "node:test";
import puppeteer from "puppeteer-core";
import { axe, bars, call, image, keysOf, machines, output, pixel, Server, until } from "./server.mjs";

const program = execFileSync("sh", ["-c", "command -v firefox-esr || command -v firefox"], { encoding: "utf8" }).trim();

const server = Server.ofFile("stop_vms_on_exit = false");
let browser;
const troubles = [];
before(async () => {
  browser = await puppeteer.launch({ browser: "firefox", executablePath: program, headless: true, acceptInsecureCerts: true });
});
after(() => browser?.close());

const WIDE = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

/** A page with a profile's cookies of its own. */
async function browse() {
  const context = await browser.createBrowserContext();
  const page = await context.newPage();
  page.setDefaultTimeout(30_000);
  page.on("pageerror", (error) => troubles.push(`page error: ${error.message}`));
  page.on("console", (message) => message.type() === "error" && troubles.push(`console: ${message.text()}`));
  await page.setViewport(WIDE);
  return { page, close: () => context.close() };
}

const see = (page, selector) => page.waitForSelector(selector, { visible: true });
const press = async (page, selector) => (await see(page, selector)).click();
/** Waits until the page of a console is connected, or is not any more. Between two pages there is a document without an element. */
const connected = (page, is = true) => page.waitForFunction((is) => document.documentElement && (document.documentElement.dataset.state === "connected") === is, { timeout: 60_000 }, is);
const text = (page, selector) => page.$eval(selector, (element) => element.innerText);

/** Looks at the page as it is now, in both themes, wide and narrow. */
async function inspect(page, name) {
  const theme = (theme) => page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
  for (const [size, viewport] of Object.entries({ wide: WIDE, phone: PHONE })) {
    await page.setViewport(viewport);
    await page.waitForFunction((width) => innerWidth === width, {}, viewport.width);
    for (const colors of ["light", "dark"]) {
      await theme(colors);
      // Colours may fade over; axe judges those that stay.
      await page.waitForFunction(() => document.getAnimations().every((one) => one.playState !== "running" || one.effect.getTiming().iterations === Infinity));
      await page.screenshot({ path: path.join(output, `firefox-${name}-${colors}-${size}.png`) });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, `${name}, ${colors}, ${size}: ${wide} px too wide`);
      assert.deepEqual(await axe(page), [], `${name}, ${colors}, ${size}`);
    }
  }
  await theme("light");
  await page.setViewport(WIDE);
}

async function signUp(page, name) {
  await page.goto(server.url);
  await press(page, '[data-auth="signup"]');
  await (await see(page, "#signup-email")).type(`${name}@example.org`);
  await (await see(page, "#signup-password")).type("correct horse");
  await press(page, "#form-signup button");
  await see(page, "#start");
}

test("Firefox: from signing up to a machine that is used and stopped", async () => {
  const { page, close } = await browse();
  await page.goto(server.url);
  await see(page, '[data-auth="signup"]');
  await inspect(page, "out");
  await signUp(page, "fox");
  await inspect(page, "home");

  await press(page, "#start");
  await connected(page);
  const [vm] = await machines(page);
  const serial = await server.serial(vm.vmid);
  await bars(page);
  await page.keyboard.type("fox", { delay: 60 });
  await until("the guest has the keys", () => keysOf(serial).join() === "33,24,45");
  const box = await (await page.$("#screen canvas")).boundingBox();
  const [x, y] = [box.x + box.width * 0.7, box.y + box.height * 0.6];
  await page.mouse.move(x - 40, y - 40);
  await page.mouse.move(x, y);
  await page.mouse.down();
  const clicked = await until("the guest has the button", () => serial.text.match(/fbdemo button 0 1 at (\d+) (\d+)/));
  await page.mouse.up();
  await until("the guest's pointer is drawn", async () => (await pixel(page, Number(clicked[1]) + 2, Number(clicked[2]) + 10)) !== null);
  await page.mouse.move(640, 400);
  await page.mouse.move(640, 8);
  await see(page, '#bar[data-away="false"]');
  await press(page, "#view-open");
  await until("the connection is told in numbers", async () => /\d ms[^]*1024 × 768/.test(await text(page, "#statistics")));
  await inspect(page, "desktop");
  serial.close();

  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial`);
  await connected(page);
  const told = (words) => until(`the terminal shows ${words}`, async () => words.test((await text(page, ".xterm-rows")).replaceAll("\u00a0", " ")));
  await told(/tiny: up/);
  await page.keyboard.press("Enter");
  await page.keyboard.type("echo hello $((40 + 2))");
  await page.keyboard.press("Enter");
  await told(/hello 42/);
  await inspect(page, "terminal");

  await page.goto(server.url);
  await press(page, "#vm-stop");
  await press(page, '#stop button[value="stop"]');
  await see(page, "#start");
  await until("the page says why it ended", async () => /You stopped it/.test(await text(page, "#ended")));
  await page.goto(`${server.url}/docs`);
  await see(page, "main h2");
  await inspect(page, "docs");
  assert.deepEqual(troubles.splice(0), []);
  await close();
});

test("Firefox: an image is uploaded, and a server that restarts under an open desktop is waited for", async () => {
  const { page, close } = await browse();
  await signUp(page, "vixen");
  const file = await page.$("#image-file");
  await file.uploadFile(image);
  const size = fs.statSync(image).size;
  await until("the image is there", async () => (await call(page, "GET", "/isos")).body.isos.some((iso) => iso.size === size && !iso.shared));
  await press(page, "#start");
  await connected(page);
  await bars(page);
  await server.end();
  await connected(page, false);
  await server.run();
  await connected(page);
  await bars(page);
  const [vm] = await machines(page);
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  await until("the page says that it stopped", async () => /stopped/i.test(await text(page, "#veil")));
  // What the browser says of a server that is away is its own affair.
  assert.deepEqual(troubles.splice(0).filter((line) => line.startsWith("page error")), []);
  await close();
});

test("Firefox: an administrator sees the class, the host and the people", async () => {
  const { page, close } = await browse();
  await signUp(page, "reynard");
  server.promote("reynard", "admin");
  await page.goto(server.url);
  // A new session knows of it at once.
  await press(page, "#log-out");
  await press(page, '[data-auth="login"]');
  await (await see(page, "#login-email")).type("reynard");
  await (await see(page, "#login-password")).type("correct horse");
  await press(page, "#form-login button");
  await see(page, "#start");
  await page.goto(`${server.url}/admin/`);
  await see(page, "main h1");
  await inspect(page, "admin");
  for (const tab of ["host", "users"]) {
    await page.goto(`${server.url}/admin/#${tab}`);
    await see(page, `#${tab}`);
    await inspect(page, `admin-${tab}`);
  }
  assert.deepEqual(troubles.splice(0), []);
  await close();
});
