// The real thing for a browser: the server's binary with its own PostgreSQL, QEMU and self-signed certificate in a temporary folder, and
// Debian's Chromium. What is started here is ended here.

import assert from "node:assert/strict";
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import fs from "node:fs";
import { createRequire } from "node:module";
import path from "node:path";
import { after, before } from "node:test";
import tls from "node:tls";
import { fileURLToPath } from "node:url";
import { chromium, request } from "playwright-core";

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "../..");
const binary = process.env.VMSHARE_TEST_BIN ?? path.join(root, "target/release/vmshare");
/** The image of the demo. */
export const image = process.env.VMSHARE_TEST_ISO ?? path.join(root, "target/test-images/tiny.iso");
/** Where screenshots are kept. */
export const output = path.join(root, "tests/output");
fs.mkdirSync(output, { recursive: true });

// The server refuses names of its own that are no settings; what else is set is the machine's.
const environment = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("VMSHARE_")));

/** Calls `look` until it gives something, or says after `seconds` what it saw last. */
export async function until(what, look, seconds = 60) {
  const end = Date.now() + seconds * 1000;
  let seen;
  while (Date.now() < end) {
    seen = await look();
    if (seen) return seen;
    await new Promise((done) => setTimeout(done, 50));
  }
  throw new Error(`waited ${seconds} s until ${what}; saw ${JSON.stringify(seen)}`);
}

// How to end the browsers that are open. One that is forgotten would keep the test's process alive for ever.
const open = new Set();

/** The folder a process stands in, as QEMUs do in theirs; "" for one that is gone. */
function standsIn(pid) {
  try {
    return fs.readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return "";
  }
}

export class Server {
  constructor(settings = "", limits = "", profile = "", video = "std") {
    this.folder = fs.mkdtempSync("/tmp/vmsw");
    fs.chmodSync(this.folder, 0o711);
    this.base = path.join(this.folder, "b");
    Object.assign(this, { settings, limits, profile, video });
    this.port = 0;
  }

  static async start(...how) {
    const server = new Server(...how);
    await server.run();
    return server;
  }

  /** The server of a test file: runs before its tests and is ended after them, when it must end well and leave nothing. */
  static ofFile(...how) {
    const server = new Server(...how);
    before(() => server.run());
    after(async () => {
      // A test that failed half-way may have left the server down and its machines up.
      if (!server.runs) await server.run();
      const { code, left } = await server.close();
      assert.equal(code, 0, server.log);
      assert.deepEqual(left, [], "run folders are left");
    });
    return server;
  }

  async run() {
    const config = path.join(this.folder, "vmshare.toml");
    fs.writeFileSync(
      config,
      `host = "127.0.0.1"\nport = ${this.port}\nvm_base_dir = "${this.base}"\n${this.settings}
[alerts]\npause_launches = false\n[limits]\nport_cooldown_seconds = 0\n${this.limits}
[profiles.custom]\ntitle = "Tiny demo"\n${/^base_image/.test(this.profile) ? "" : `base_image = "${image}"\n`}video = "${this.video}"\ndefault_memory_mb = 128\ndefault_cpus = 1\n${this.profile}\n`,
    );
    this.log = "";
    this.process = spawn(binary, ["serve", "--config", config], { env: environment, stdio: ["ignore", "inherit", "pipe"] });
    this.process.stderr.setEncoding("utf8");
    this.process.stderr.on("data", (text) => (this.log += text));
    const ended = once(this.process, "exit");
    this.exit = ended.then(([code, signal]) => code ?? signal);
    const address = await until(`the server listens\n${this.log}`, () => this.log.match(/listening on https:\/\/127\.0\.0\.1:(\d+)/));
    this.port = Number(address[1]);
    this.url = `https://127.0.0.1:${this.port}`;
    await until("the server is ready", () => /database ready/.test(this.log) && /accelerator/.test(this.log) && this.log);
  }

  /** Runs one statement in the server's own database. */
  sql(statement) {
    const where = ["-h", path.join(this.base, "postgres/run"), "-U", "vmshare", "-d", "vmshare"];
    return execFileSync("psql", [...where, "-XAtq", "-v", "ON_ERROR_STOP=1", "-c", statement], { encoding: "utf8" }).trim();
  }

  /** Whether the process runs. */
  get runs() {
    return this.process.exitCode === null && this.process.signalCode === null;
  }

  /** Ends the process and gives its exit code. */
  async end() {
    this.process.kill("SIGTERM");
    return this.exit;
  }

  /** Ends everything, the browsers of failed tests too, and says what is left over. */
  async close() {
    for (const end of [...open]) await end();
    const code = await this.end();
    const alive = fs.readdirSync("/proc").filter((pid) => /^\d+$/.test(pid) && standsIn(pid).startsWith(`${this.base}/`));
    for (const pid of alive) process.kill(Number(pid), "SIGKILL");
    assert.deepEqual(alive, [], "machines live on that nobody would find again");
    const left = fs.existsSync(path.join(this.base, "runs")) ? fs.readdirSync(path.join(this.base, "runs")) : [];
    fs.rmSync(this.folder, { recursive: true, force: true });
    return { code, left };
  }

  /** A token of somebody whose password is that of all accounts here. A context of its own: a cookie would have to come from a page. */
  async enter(login, way = "/auth/login") {
    const api = await request.newContext({ baseURL: this.url, ignoreHTTPSErrors: true });
    const answer = await (await api.post(way, { data: { email: login, password: "correct horse" } })).json();
    await api.dispose();
    return answer.token;
  }

  /** Gives somebody a role, as the operator does. */
  promote(login, role) {
    execFileSync(binary, ["user", "promote", login, role, "--config", path.join(this.folder, "vmshare.toml")], { env: environment, stdio: "ignore" });
  }

  /** An administrator's token. */
  async warden() {
    if (!this.token) {
      await this.enter("warden@example.org", "/auth/signup");
      this.promote("warden", "admin");
      this.token = await this.enter("warden");
    }
    return this.token;
  }

  /** What a VM's serial console has said and says, through the server and as its owner or as who else may look: QEMU takes one client, and that is the server. */
  async serial(vmid, login = this.sql(`select login from users u join vms v on v.user_id = u.id where vmid = '${vmid}'`)) {
    const token = await this.enter(login);
    const port = this.sql(`select http_port from vms where vmid = '${vmid}'`);
    const socket = tls.connect({ host: "127.0.0.1", port: this.port, rejectUnauthorized: false });
    await once(socket, "secureConnect");
    const headers = { host: `127.0.0.1:${this.port}`, authorization: `Bearer ${token}`, upgrade: "websocket", connection: "Upgrade", "sec-websocket-version": "13", "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA==" };
    const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}`);
    socket.write([`GET /ws/${port}/serial HTTP/1.1`, ...lines, "", ""].join("\r\n"));
    const send = (text) => {
      // Masked with zeros: a client must mask, a test need not hide.
      const bytes = Buffer.from(text);
      assert.ok(bytes.length < 126, "longer frames have a longer head");
      socket.write(Buffer.concat([Buffer.from([0x82, 0x80 | bytes.length, 0, 0, 0, 0]), bytes]));
    };
    const console = { text: "", send, close: () => socket.destroy() };
    let bytes = Buffer.alloc(0);
    let answered = false;
    socket.on("error", () => null);
    socket.on("data", (more) => {
      bytes = Buffer.concat([bytes, more]);
      if (!answered) {
        const end = bytes.indexOf("\r\n\r\n");
        if (end < 0) return;
        answered = /^HTTP\/1\.1 101/.test(bytes.toString("latin1", 0, end)) || assert.fail(bytes.toString());
        bytes = bytes.subarray(end + 4);
      }
      // A server's frames have no mask: two bytes, a longer length where those say so, the payload.
      for (;;) {
        if (bytes.length < 2) return;
        const short = bytes[1];
        const head = { 126: 4, 127: 10 }[short] ?? 2;
        if (bytes.length < head) return;
        const length = head === 2 ? short : head === 4 ? bytes.readUInt16BE(2) : Number(bytes.readBigUInt64BE(2));
        if (bytes.length < head + length) return;
        if (bytes[0] === 0x82) console.text += bytes.toString("utf8", head, head + length);
        bytes = bytes.subarray(head + length);
      }
    });
    await until("the serial console is open", () => answered);
    return console;
  }
}

const FLAGS = [
  "--no-sandbox",
  "--disable-gpu",
  "--disable-quic",
  "--no-first-run",
  "--disable-background-networking",
  "--disable-component-update",
  "--disable-sync",
];

/** A browser with a new profile; every console error and page error is kept in `troubles`. */
export async function browse(options = {}) {
  const folder = fs.mkdtempSync("/tmp/vmsp");
  const context = await chromium.launchPersistentContext(folder, {
    executablePath: "/usr/bin/chromium",
    headless: true,
    ignoreHTTPSErrors: true,
    viewport: { width: 1280, height: 800 },
    args: FLAGS,
    ...options,
  });
  context.setDefaultTimeout(30_000);
  const troubles = [];
  const watch = (page) => {
    page.on("pageerror", (error) => troubles.push(`page error: ${error.message}`));
    page.on("console", (message) => message.type() === "error" && troubles.push(`console: ${message.text()}`));
  };
  context.pages().forEach(watch);
  context.on("page", watch);
  const page = context.pages()[0] ?? (await context.newPage());
  const close = async () => {
    open.delete(close);
    await context.close();
    fs.rmSync(folder, { recursive: true, force: true });
  };
  open.add(close);
  return { context, page, troubles, close };
}

/** Signs up through the dialog. */
export async function signUp(page, url, name) {
  await page.goto(url);
  await signUpHere(page, name);
}

/** The same on a page that is open, as whoever comes next at a computer does. */
export async function signUpHere(page, name) {
  await page.locator('[data-auth="signup"]').click();
  await page.locator("#signup-email").fill(`${name}@example.org`);
  await page.locator("#signup-password").fill("correct horse");
  await page.locator("#form-signup button").click();
  await page.locator("#start").waitFor();
}

/** Calls the API as the page's user. */
export const call = (page, method, address, body) =>
  page.evaluate(
    async ([method, address, body]) => {
      const answer = await fetch(address, { method, body: body && JSON.stringify(body) });
      return { status: answer.status, body: await answer.json().catch(() => null) };
    },
    [method, address, body],
  );

/** A program with the page's user's token and no browser: an API context. */
export async function program(page) {
  const cookie = (await page.context().cookies()).find(({ name }) => name.endsWith("vmshare_session"));
  const extraHTTPHeaders = { Authorization: `Bearer ${cookie.value}` };
  return request.newContext({ baseURL: new URL(page.url()).origin, ignoreHTTPSErrors: true, extraHTTPHeaders });
}

/** The caller's machines, newest first. */
export const machines = async (page) => (await call(page, "GET", "/vms")).body.vms;

/** Clicks the one button and waits until the guest's screen is shown; gives the machine. */
export async function startDesktop(page) {
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\/\?path=ws/, { timeout: 90_000, waitUntil: "commit" });
  await bars(page);
  return (await machines(page)).find((vm) => vm.state === "running");
}

/** Brings the tool bar and keeps it, as somebody with a mouse does. */
export async function showBar(page) {
  const { width, height } = page.viewportSize();
  await page.mouse.move(width / 2, height / 2);
  await page.mouse.move(width / 2, 8);
  await page.locator('#bar[data-away="false"]').waitFor();
}

/** Waits until the page of a screen or a terminal is in a state. */
export const state = (page, wanted) => page.waitForFunction((wanted) => document.documentElement.dataset.state === wanted, wanted);

/** Switches the machine off and on in the dialog that is open: the page says so, and never that a connection is lost. It is back when `isBack` says so. */
export async function powerCycle(page, isBack) {
  await page.evaluate(() => {
    window.titles = [];
    new MutationObserver(() => window.titles.push(document.querySelector("#veil-title").textContent, document.querySelector("#words").textContent)).observe(document.documentElement, { attributeFilter: ["data-state"] });
  });
  // Held until it was seen: a fast machine is soon back.
  let go;
  const seenDoing = new Promise((done) => (go = done));
  await page.route("**/restart", (route) => seenDoing.then(() => route.continue()), { times: 1 });
  await page.locator('#restart button[value="power-cycle"]').click();
  await page.locator("#doing", { hasText: "Switching it off and on…" }).waitFor();
  go();
  await until("it is another QEMU, and up", isBack);
  await state(page, "connected");
  const titles = await page.evaluate(() => window.titles);
  assert.ok(titles.includes("Switching it off and on…") && !titles.includes("Connection lost"), titles.join(", "));
  await page.locator("#doing").waitFor({ state: "hidden" });
}

/** The numbers of the keys the guest has seen. */
export const keysOf = (serial) => [...serial.text.matchAll(/fbdemo key (\d+)/g)].map((match) => Number(match[1]));

const AXE = fs.readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");

/** What axe finds wrong on the page as it is now, one line each. */
export async function axe(page) {
  await page.evaluate(`window.axe ?? (() => { ${AXE} })()`);
  const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
  return violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.target.join(" ")).join(", ")}`);
}

/** The colour of the guest's picture at a place, as [r, g, b]. */
export const pixel = (page, x, y) =>
  page.evaluate(
    ([x, y]) => {
      const canvas = document.querySelector("#screen canvas");
      return canvas ? [...canvas.getContext("2d").getImageData(x, y, 1, 1).data.slice(0, 3)] : null;
    },
    [x, y],
  );

/** Waits until the demo's colour bars are on the canvas. */
export const bars = (page) =>
  until(
    "the guest's colour bars are shown",
    async () => {
      const seen = [];
      for (let i = 0; i < 8; i++) seen.push(String(await pixel(page, 90 + i * 60, 250)));
      const wanted = ["255,255,255", "255,255,0", "0,255,255", "0,255,0", "255,0,255", "255,0,0", "0,0,255", "0,0,0"];
      return seen.join(" ") === wanted.join(" ");
    },
    90,
  );

const WIDE = { width: 1280, height: 800 };
const PHONE = { width: 360, height: 740 };

/**
 * What people would see cut off: boxes beyond the window's edges, and what is wider than a box that hides the rest without a sign. A page that does
 * not scroll (desktop, terminal) has edges above and below too. What guests and graphs draw is theirs.
 */
export const cut = (page) =>
  page.evaluate(() => {
    const fixed = document.documentElement.classList.contains("stage");
    const scrolls = (style) => /auto|scroll/.test(`${style.overflowX} ${style.overflowY}`);
    const inScroller = (one) => one && one !== document.body && (scrolls(getComputedStyle(one)) || inScroller(one.parentElement));
    const faults = [];
    for (const one of document.querySelectorAll("body *")) {
      if (one.closest(".sr-only, #screen, #terminal, #graphs, svg *") || !one.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
      const box = one.getBoundingClientRect();
      // One pixel is for who hears the page.
      if (box.width <= 1 || box.height <= 1) continue;
      const name = one.id ? `#${one.id}` : `${one.tagName.toLowerCase()}.${one.getAttribute("class") ?? ""} "${one.textContent.trim().slice(0, 20)}"`;
      const leaves = box.left < -1 || box.right > innerWidth + 1 || (fixed && (box.top < -1 || box.bottom > innerHeight + 1));
      if (leaves && !inScroller(one.parentElement)) faults.push(`${name} leaves the window: ${[box.left, box.top, box.right, box.bottom].map(Math.round)}`);
      const style = getComputedStyle(one);
      // Three dots come in a block whose text does not wrap, and not in a flex box.
      const signs = style.textOverflow === "ellipsis" && style.whiteSpace === "nowrap" && /^(block|inline-block|list-item|table-cell|flow-root)$/.test(style.display);
      const hides = /hidden|clip/.test(style.overflowX) && !signs && !["INPUT", "TEXTAREA", "SELECT"].includes(one.tagName);
      if (hides && one.scrollWidth > one.clientWidth + 1) faults.push(`${name} hides ${one.scrollWidth - one.clientWidth} px of what is in it`);
    }
    return faults;
  });

/** Looks at the page as it is now, four times: light and dark, wide and narrow. */
export async function inspect(page, name, seen) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
    for (const size of [WIDE, PHONE]) {
      await page.setViewportSize(size);
      await page.waitForFunction(([theme, width]) => document.documentElement.dataset.theme === theme && innerWidth === width, [colorScheme, size.width]);
      const where = `${name}-${colorScheme}-${size.width}`;
      await page.screenshot({ path: path.join(output, `page-${where}.png`) });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      if (wide > 0) seen.push(`${where}: ${wide} px too wide`);
      for (const line of await cut(page)) seen.push(`${where}: ${line}`);
      for (const line of await axe(page)) seen.push(`${where}: ${line}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light", reducedMotion: "reduce" });
  await page.setViewportSize(WIDE);
}
