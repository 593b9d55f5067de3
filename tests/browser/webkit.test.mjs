// The main job in WebKit, Safari's engine, as Debian has it: sign up, start, see, type, click, terminal, upload, restart of the server, stop. Its
// driver speaks W3C WebDriver and needs a display of its own.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { after, before, test } from "node:test";
import { axe, bars, call, cut, image, keysOf, machines, output, Server, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = false");
// Without a graphics card.
const env = { ...process.env, WEBKIT_DISABLE_DMABUF_RENDERER: "1" };
const ELEMENT = "element-6066-11e4-a52e-4f735466cecf";
let driver;
let session;

/** One command of WebDriver's, and its value. */
async function ask(method, command, body) {
  const limit = { signal: AbortSignal.timeout(60_000) };
  const answer = await fetch(`${driver.url}${session ?? ""}${command}`, { method, body: body && JSON.stringify(body), ...limit }).catch((error) => {
    throw new Error(`${method} ${command}: ${error.message}`);
  });
  const { value } = await answer.json();
  if (value?.error) throw new Error(`${method} ${command}: ${value.error}: ${value.message}`);
  return value;
}

before(async () => {
  const port = await new Promise((done) => {
    const free = net.createServer().listen(0, "127.0.0.1", () => {
      const { port } = free.address();
      free.close(() => done(port));
    });
  });
  const child = spawn("xvfb-run", ["--auto-servernum", "--server-args=-screen 0 1400x1000x24", "WebKitWebDriver", `--port=${port}`], { env, detached: true, stdio: "ignore" });
  driver = { child, url: `http://127.0.0.1:${port}` };
  await until("the driver is ready", () => ask("GET", "/status").then((status) => status.ready, () => false));
  const { sessionId } = await ask("POST", "/session", { capabilities: { alwaysMatch: { acceptInsecureCerts: true } } });
  session = `/session/${sessionId}`;
});
after(async () => {
  await ask("DELETE", "").catch(() => null);
  // It, its display and the browser.
  process.kill(-driver.child.pid);
});

/** What the helpers of other browsers need of a page. */
const page = {
  goto: (url) => ask("POST", "/url", { url }),
  async evaluate(what, argument) {
    // A text is a program that is run for what it does.
    const value = typeof what === "string" ? `void (${what})` : `(${what})(given)`;
    const script = `const [given, done] = arguments; (async () => ${value})().then((value) => done({ value }), (error) => done({ error: String(error) }));`;
    const { value: given, error } = await ask("POST", "/execute/async", { script, args: [argument ?? null] });
    if (error) throw new Error(error);
    return given;
  },
};

const find = async (selector) => (await ask("POST", "/element", { using: "css selector", value: selector }))[ELEMENT];
const isShown = (selector) => page.evaluate((selector) => document.querySelector(selector)?.checkVisibility({ visibilityProperty: true }) ?? false, selector);
const see = (selector) => until(`${selector} is there`, () => isShown(selector));
const text = (selector) => page.evaluate((selector) => document.querySelector(selector)?.innerText ?? "", selector);
const at = (wanted) => until(`the page is ${wanted}`, () => page.evaluate((wanted) => document.documentElement.dataset.state === wanted, wanted).catch(() => false), 90);

/** The driver clicks where a thing is, and refuses while it moves or lies below another. */
async function press(selector) {
  await see(selector);
  const element = await find(selector);
  await until(`${selector} can be clicked`, () => ask("POST", `/element/${element}/click`, {}).then(() => true, (error) => !/not interactable|intercepted/.test(error) && assert.fail(error)));
}

async function fill(selector, words) {
  await see(selector);
  await ask("POST", `/element/${await find(selector)}/value`, { text: words });
}

/** Types on the keyboard, wherever the focus is. */
const type = (words) =>
  ask("POST", "/actions", {
    actions: [{ type: "key", id: "keyboard", actions: [...words].flatMap((value) => [{ type: "keyDown", value }, { type: "pause", duration: 40 }, { type: "keyUp", value }]) }],
  });

/** Moves the mouse to places of the window, and clicks at the last if it is to. */
const point = (places, click = false) =>
  ask("POST", "/actions", {
    actions: [
      {
        type: "pointer",
        id: "mouse",
        parameters: { pointerType: "mouse" },
        actions: [
          ...places.map(([x, y]) => ({ type: "pointerMove", duration: 60, x, y })),
          ...(click ? [{ type: "pointerDown", button: 0 }, { type: "pause", duration: 100 }, { type: "pointerUp", button: 0 }] : []),
        ],
      },
    ],
  });

/** What is seen. The browser waits for the next frame it draws, which may never come where nothing moves: it is made to draw one. */
async function shoot() {
  let done = false;
  const shot = ask("GET", "/screenshot").finally(() => (done = true));
  const move = () => page.evaluate(() => (document.documentElement.style.outline = document.documentElement.style.outline ? "" : "1px solid transparent"));
  await until("there is a picture", async () => done || (await move(), false));
  return Buffer.from(await shot, "base64");
}

/** Looks at the page as it is now, in both themes. */
async function inspect(name) {
  for (const theme of ["light", "dark"]) {
    await page.evaluate((theme) => (document.documentElement.dataset.theme = theme), theme);
    await until("nothing moves", () => page.evaluate(() => document.getAnimations().every((one) => one.playState !== "running" || one.effect.getTiming().iterations === Infinity)));
    fs.writeFileSync(path.join(output, `webkit-${name}-${theme}.png`), await shoot());
    assert.deepEqual([...(await cut(page)), ...(await axe(page))], [], `${name}, ${theme}`);
  }
  await page.evaluate(() => (document.documentElement.dataset.theme = "light"));
}

async function signUp(name) {
  await page.goto(server.url);
  await press('[data-auth="signup"]');
  await fill("#signup-email", `${name}@example.org`);
  await fill("#signup-password", "correct horse");
  await press("#form-signup button");
  await see("#start");
}

test("WebKit: from signing up to a machine that is used, waited for and stopped, and an image that is uploaded", async () => {
  await page.goto(server.url);
  await see('[data-auth="signup"]');
  await inspect("out");
  await signUp("webby");
  await inspect("home");

  await press("#start");
  await at("connected");
  const [vm] = await machines(page);
  const serial = await server.serial(vm.vmid);
  await bars(page);
  await until("the guest has the keys", async () => {
    await type("web");
    return keysOf(serial).join().includes("17,18,48");
  });
  const box = await page.evaluate(() => document.querySelector("#screen canvas").getBoundingClientRect().toJSON());
  const place = [Math.round(box.x + box.width * 0.7), Math.round(box.y + box.height * 0.6)];
  await point([[place[0] - 40, place[1] - 40], place], true);
  await until("the guest has the button", () => /fbdemo button 0 1 at \d+ \d+/.test(serial.text));
  await until("the note of an empty screen goes", async () => !(await isShown("#blank")));
  await inspect("desktop");

  // The server goes, and comes again.
  await server.end();
  await until("the page sees that it is gone", () => page.evaluate(() => document.documentElement.dataset.state !== "connected"));
  await server.run();
  await at("connected");
  await bars(page);
  serial.close();

  await page.goto(`${server.url}/terminal/?path=ws/${vm.http_port}/serial`);
  await at("connected");
  const told = (words) => until(`the terminal shows ${words}`, async () => words.test((await text(".xterm-rows")).replaceAll("\u00a0", " ")));
  await told(/tiny: up/);
  const ENTER = "\uE007";
  await type(`${ENTER}echo hello $((40 + 2))${ENTER}`);
  await told(/hello 42/);
  await inspect("terminal");

  await page.goto(server.url);
  await press("#vm-stop");
  await press('#stop button[value="stop"]');
  await see("#start");
  await until("the page says why it ended", async () => /You stopped it/.test(await text("#ended")));

  await ask("POST", `/element/${await find("#image-file")}/value`, { text: image });
  const size = fs.statSync(image).size;
  await until("the image is there", async () => (await call(page, "GET", "/isos")).body.isos.some((iso) => iso.size === size && !iso.shared));
  await until("and so it says", async () => /is there/.test(await text("#image-done")));
  await page.goto(`${server.url}/docs`);
  await see("main h2");
  await inspect("docs");
});
