// A gigabyte from real Chromium, by form and by tus: the old version's known trouble was that uploads failed there. And refusals that come early,
// while the browser sends: its page must get the answer, not a network error.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { before, test } from "node:test";
import { axe, browse, inspect, machines, output, Server, signUp, until } from "./server.mjs";

const SIZE = 1 << 30;
const iso = process.env.VMSHARE_TEST_ISO ?? "target/test-images/tiny.iso";
const tus = createRequire(import.meta.url).resolve("tus-js-client").replace(/tus-js-client\/.*/, "tus-js-client/dist/tus.min.js");

const server = Server.ofFile("", "upload_quota_mb = 4096");
let big;
before(() => {
  // What an image has at its beginning, and a gigabyte of nothing behind it, which takes no room until it is sent.
  big = path.join(server.folder, "big.iso");
  const head = Buffer.alloc(64 * 1024);
  const file = fs.openSync(iso, "r");
  fs.readSync(file, head, 0, head.length, 0);
  fs.closeSync(file);
  fs.writeFileSync(big, head);
  fs.truncateSync(big, SIZE);
});

/** A signed-in page with the big file chosen in an input, as a person does. */
async function chosen(name) {
  const { page, close } = await browse();
  await signUp(page, server.url, name);
  await page.evaluate(() => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", id: "test-file" });
    document.body.append(input);
  });
  await page.locator("#test-file").setInputFiles(big);
  return { page, close };
}

const isos = (page) => page.evaluate(async () => (await (await fetch("/isos")).json()).isos);

const form = (page) =>
  page.evaluate(async () => {
    const body = new FormData();
    body.append("file", document.querySelector("#test-file").files[0]);
    body.append("name", "by-form.iso");
    const answer = await fetch("/upload", { method: "POST", body });
    return { status: answer.status, json: await answer.json() };
  });

test("a gigabyte by form arrives whole", { timeout: 120_000 }, async () => {
  const { page, close } = await chosen("former");
  const answer = await form(page);
  assert.equal(answer.status, 201, JSON.stringify(answer));
  assert.deepEqual([answer.json.iso.name, answer.json.iso.size], ["by-form.iso", SIZE]);
  const listed = await isos(page);
  assert.ok(listed.some((image) => image.name === "by-form.iso" && image.size === SIZE && image.sha256 === answer.json.iso.sha256), JSON.stringify(listed));
  await close();
});

test("a gigabyte by tus goes on after a reload where it stopped", { timeout: 120_000 }, async () => {
  const { page, close } = await chosen("resumer");
  const begin = async (stopAt) => {
    await page.route("**/tus-client.js", (route) => route.fulfill({ path: tus, contentType: "text/javascript" }));
    await page.addScriptTag({ url: "/tus-client.js" });
    // While requests are looked at, Chromium would hand over their bodies too.
    await page.unrouteAll();
    return page.evaluate(
      async (stopAt) => {
        const file = document.querySelector("#test-file").files[0];
        const metadata = { filename: "by-tus.iso", format: "iso" };
        let resumedAt = 0;
        const upload = new tus.Upload(file, { endpoint: "/uploads/", metadata, retryDelays: [0, 500, 1000] });
        const [before] = await upload.findPreviousUploads();
        if (before) upload.resumeFromPreviousUpload(before);
        return new Promise((done, failed) => {
          upload.options.onError = (error) => failed(new Error(`${error}`));
          upload.options.onSuccess = () => done({ resumedAt });
          upload.options.onBeforeRequest = (request) => {
            if (request.getMethod() === "PATCH") resumedAt = Number(request.getHeader("Upload-Offset"));
          };
          upload.options.onProgress = (sent) => {
            if (stopAt && sent > stopAt) upload.abort().then(() => done({ stopped: sent }));
          };
          upload.start();
        });
      },
      stopAt,
    );
  };
  const first = await begin(SIZE / 4);
  assert.ok(first.stopped > SIZE / 4, JSON.stringify(first));
  await page.reload();
  await page.evaluate(() => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", id: "test-file" });
    document.body.append(input);
  });
  await page.locator("#test-file").setInputFiles(big);
  const second = await begin(0);
  assert.ok(second.resumedAt > 0, `it began anew: ${JSON.stringify(second)}`);
  const listed = await isos(page);
  assert.ok(listed.some((image) => image.name === "by-tus.iso" && image.size === SIZE && image.sha256), JSON.stringify(listed));
  await close();
});

test("a refusal reaches the page while the browser still sends", { timeout: 120_000 }, async () => {
  const small = await Server.start("", "upload_quota_mb = 64");
  const { page, close } = await browse();
  await signUp(page, small.url, "refused");
  await page.evaluate(() => {
    const input = document.createElement("input");
    Object.assign(input, { type: "file", id: "test-file" });
    document.body.append(input);
  });
  await page.locator("#test-file").setInputFiles(big);
  const answer = await form(page);
  assert.deepEqual([answer.status, answer.json.code], [413, "quota_exceeded"]);
  assert.match(answer.json.detail, /quota has 64 MB left/);
  await close();
  const { code } = await small.close();
  assert.equal(code, 0, small.log);
});

test("the panel refuses at once, uploads, and the desktop starts from it", { timeout: 120_000 }, async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  await signUp(page, server.url, "bringer");
  await page.locator("#image-none").waitFor({ state: "hidden" });
  const asked = [];
  page.on("request", (request) => request.url().includes("/uploads/") && asked.push(request.method()));
  const small = path.join(server.folder, "small.iso");
  fs.writeFileSync(small, "too small");
  const noise = path.join(server.folder, "noise.iso");
  fs.writeFileSync(noise, Buffer.alloc(11_000_000, 7));
  const whole = fs.readFileSync(iso);
  const cut = path.join(server.folder, "cut.iso");
  fs.writeFileSync(cut, whole.subarray(0, 11_000_000));
  const data = path.join(server.folder, "data.iso");
  fs.writeFileSync(data, Buffer.from(whole.toString("latin1").replace("EL TORITO", "NO TORITO"), "latin1"));
  const odd = path.join(server.folder, "odd.img");
  fs.writeFileSync(odd, Buffer.alloc(11_000_001));
  for (const [file, words] of [[small, /at least 10 MB/], [noise, /not a CD image/], [cut, /is cut off: 10 MB of/], [data, /cannot start from this CD/], [odd, /multiple of 512/], [path.join(server.folder, "vmshare.toml"), /Choose an \.iso file/]]) {
    await page.locator("#image-file").setInputFiles(file);
    await until(`the page says ${words}`, async () => words.test(await page.locator("#image-error").innerText()));
  }
  assert.deepEqual(asked, [], "a refused file was sent");
  await page.locator("#image-file").setInputFiles({ name: "my tiny.iso", mimeType: "application/octet-stream", buffer: fs.readFileSync(iso) });
  await until("the image is there", async () => /is there/.test(await page.locator("#image-done").innerText()));
  await page.locator("#image-list").getByText("my-tiny.iso").waitFor();
  await page.locator("#advanced summary").click();
  await page.locator("#image").selectOption("my-tiny.iso");
  await page.locator("#disk").selectOption("new");
  await page.locator("#disk-name").fill("class");
  await page.locator("#disk-gb").fill("1");
  for (const [name, size] of [["wide", { width: 1280, height: 1000 }], ["phone", { width: 360, height: 740 }]]) {
    await page.setViewportSize(size);
    for (const colorScheme of ["light", "dark"]) {
      await page.emulateMedia({ colorScheme, reducedMotion: "reduce" });
      await page.screenshot({ path: path.join(output, `images-${name}-${colorScheme}.png`), fullPage: true });
      assert.deepEqual(await axe(page), [], `${name} ${colorScheme}`);
      const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
      assert.equal(wide, 0, `${name}: ${wide} px too wide`);
    }
  }
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\//);
  const [vm] = await machines(page);
  assert.deepEqual([vm.iso, vm.disk, vm.persistence], ["my-tiny.iso", "class", "persistent"]);
  assert.deepEqual(troubles, []);
  await page.goto(server.url);
  await page.locator("#snapshots summary").click();
  await page.locator("#snapshot-name").fill("clean");
  await page.locator("#snapshot-take").click();
  await page.locator("#snapshot-list").getByText("clean").waitFor({ timeout: 60_000 });
  await page.screenshot({ path: path.join(output, "images-snapshots.png"), fullPage: true });
  assert.deepEqual(await axe(page), [], "snapshots");
  await page.getByRole("button", { name: "Go back to clean" }).click();
  assert.match(await page.locator("#sure").innerText(), /Go back to clean\?[^]*Everything that was done since then is lost/);
  await page.locator("#sure-yes").click();
  await until("it went back", () => server.sql("select count(*) from audit where action = 'restore snapshot'") === "1");
  await page.getByRole("button", { name: "Remove clean" }).click();
  await page.locator("#sure-yes").click();
  await page.locator("#snapshot-list li").waitFor({ state: "detached" });
  await page.getByText("None yet. Give the first one a name").waitFor();
  assert.ok(await page.getByRole("button", { name: "Remove the disk class" }).isDisabled(), "a disk in use can be removed");
  await page.locator("#vm-stop").click();
  await page.locator('#stop button[value="stop"]').click();
  await until("it has stopped", async () => (await machines(page)).every((one) => one.state === "stopped"));

  // Another time the choice is what it was, and the new disk is one of those there are.
  await page.reload();
  await page.locator("#start").waitFor();
  assert.deepEqual(await page.locator("#image, #disk").evaluateAll((fields) => fields.map((field) => field.value)), ["my-tiny.iso", "kept:class"]);
  assert.match(await page.locator("#launch-facts").innerText(), /Its disk is kept/);
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\//);
  const [again] = await machines(page);
  assert.deepEqual([again.iso, again.disk, again.state], ["my-tiny.iso", "class", "running"]);
  await page.goto(server.url);
  await page.locator("#vm-stop").click();
  await page.locator('#stop button[value="stop"]').click();
  await page.locator("#start").waitFor();

  // What is removed is named, once.
  await until("the disk is free", async () => !(await page.getByRole("button", { name: "Remove the disk class" }).isDisabled()));
  await page.getByRole("button", { name: "Remove the disk class" }).click();
  assert.match(await page.locator("#sure").innerText(), /Remove the disk class\?[^]*Every file and every program you installed on it is gone/);
  await page.locator("#sure-yes").click();
  await page.getByText("None yet. Choose “A new disk that stays…”").waitFor();
  await page.getByRole("button", { name: "Remove my-tiny.iso" }).click();
  await page.locator("#sure-yes").click();
  await until("the image is gone", async () => !/my-tiny/.test(await page.locator("#image-list").innerText()));
  assert.equal(await page.locator("#disk").inputValue(), "", "the disk that is gone is not chosen");
  await close();
});

test("an image of one's own is replaced only after a question, which an upload that goes on does not ask again", { timeout: 120_000 }, async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "replacer");
  await page.locator("#images").waitFor();
  const sent = [];
  page.on("request", (request) => request.url().includes("/uploads/") && sent.push([request.method(), Number(request.headers()["upload-offset"] ?? 0)]));
  const bring = (name, buffer) => page.locator("#image-file").setInputFiles({ name, mimeType: "application/octet-stream", buffer });
  const hashes = async () => (await isos(page)).filter((image) => !image.shared && image.name === "a-b.iso").map((image) => image.sha256);
  const first = fs.readFileSync(iso);
  const second = Buffer.from(first);
  second[second.length - 1] ^= 1;
  await bring("a b.iso", first);
  await until("the image is there", async () => /is there/.test(await page.locator("#image-done").innerText()));
  const [before] = await hashes();

  // Another name on the disk, and the same one here.
  sent.length = 0;
  await bring("a-b.iso", second);
  await page.locator("#sure").waitFor();
  assert.match(await page.locator("#sure").innerText(), /Replace a-b\.iso\?[^]*Once the new one is whole, the \d+ MB that came on .*\d\d:\d\d.* are gone for good/);
  assert.deepEqual(await axe(page), []);
  await page.locator('#sure [value="no"]').click();
  await page.locator("#sure").waitFor({ state: "hidden" });
  // What would come after a yes has been asked for by then.
  await page.evaluate(() => fetch("/version"));
  assert.deepEqual([sent, await hashes(), await page.locator("#upload").isVisible()], [[], [before], false], "it begins without a yes");
  await bring("a-b.iso", second);
  await page.locator("#sure-yes").click();
  await until("the new one is in its place", async () => {
    const now = await hashes();
    return now.length === 1 && now[0] !== before;
  });

  // Once confirmed is enough, also after a reload.
  const large = path.join(server.folder, "a-b.iso");
  fs.linkSync(big, large);
  await page.locator("#image-file").setInputFiles(large);
  await page.locator("#sure-yes").click();
  await until("some of it is sent", () => page.evaluate(() => document.querySelector("#upload-bar").value > 0.01));
  await page.locator("#upload-pause").click();
  await page.getByText("Paused.").waitFor();
  await page.reload();
  await page.locator("#images").waitFor();
  sent.length = 0;
  await page.locator("#image-file").setInputFiles(large);
  await until("it goes on without a question", () => sent.some(([method, offset]) => method === "PATCH" && offset > 0));
  await page.locator("#upload-cancel").click();
  await page.locator("#sure-yes").click();
  await page.locator("#upload").waitFor({ state: "hidden" });
  await close();
});

test("an upload in the panel is paused, and goes on after a reload", { timeout: 120_000 }, async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "pauser");
  await page.locator("#images").waitFor();
  await page.locator("#image-file").setInputFiles(big);
  await until("some of it is sent", () => page.evaluate(() => document.querySelector("#upload-bar").value > 0.05));
  await page.locator("#upload-pause").click();
  await page.getByText("Paused.").waitFor();
  await page.screenshot({ path: path.join(output, "images-paused.png"), fullPage: true });
  await page.reload();
  await page.locator("#images").waitFor();
  const offsets = [];
  page.on("request", (request) => request.method() === "PATCH" && offsets.push(Number(request.headers()["upload-offset"])));
  await page.locator("#image-file").setInputFiles(big);
  await until("the image is there", async () => /is there/.test(await page.locator("#image-done").innerText()), 90);
  assert.ok(offsets.length > 0 && offsets[0] > 0, `it began anew: ${offsets}`);
  await close();
});

test("an upload waits for who is signed out in the middle of it, and is thrown away only after a question", { timeout: 120_000 }, async () => {
  const { page, context, close } = await browse();
  await signUp(page, server.url, "expirer");
  await page.locator("#images").waitFor();
  // Slow enough for the session to end in the middle of it.
  const network = await context.newCDPSession(page);
  const slow = (bytes) => network.send("Network.emulateNetworkConditions", { offline: false, latency: 0, downloadThroughput: -1, uploadThroughput: bytes });
  await slow(20e6);
  await page.locator("#image-file").setInputFiles(big);
  await until("speed and time left are told", async () => /^\d+ MB of 1 GB, \d+ (KB|MB)\/s, (\d+ min )?\d+ s left$/.test(await page.locator("#upload-words").innerText()));
  const sent = () => Math.max(0, ...fs.readdirSync(path.join(server.base, "users"), { recursive: true }).filter((file) => /^[^/]+\/uploads\/[^/]+$/.test(file)).map((file) => fs.statSync(path.join(server.base, "users", file)).size));
  await until("some of it is there", () => page.evaluate(() => document.querySelector("#upload-bar").value > 0.05));
  await context.clearCookies();
  await page.locator("#upload-pause").click();
  await page.locator("#upload-pause").click();
  await page.getByText("Your session has ended. Log in again to go on.").first().waitFor();
  await page.locator("#login-email").fill("expirer");
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await until("it waits", async () => (await page.locator("#upload-words").innerText()) === "Paused. Log in again, then resume it.");
  const had = sent();
  const offsets = [];
  page.on("request", (request) => request.method() === "PATCH" && offsets.push(Number(request.headers()["upload-offset"])));
  await page.locator("#upload-pause").click();
  await until("it goes on", () => offsets.length > 0);
  assert.ok(had > 0 && offsets[0] >= had, `it began anew: ${offsets}, ${had} bytes were there`);

  // After a reload nobody has to remember what was on its way.
  await page.locator("#upload-pause").click();
  await page.getByText("Paused. You may close this page").waitFor();
  await page.reload();
  await until("what was not finished is told", async () => /^big\.iso: \d+ MB of 1 GB have come\. Choose the same file/.test(await page.locator("#upload-unfinished").innerText()));
  await page.locator("#image-file").setInputFiles(big);
  await page.locator("#upload-cancel").click();
  assert.match(await page.locator("#sure").innerText(), /Throw this upload away\?[^]*What has come of big\.iso is gone/);
  await page.keyboard.press("Escape");
  assert.ok(await page.locator("#upload").isVisible());
  await page.locator("#upload-cancel").click();
  await page.locator("#sure-yes").click();
  await until("nothing of it is left", () => server.sql("select count(*) from uploads where state <> 'done'") === "0");
  assert.ok(!(await page.locator("#upload").isVisible()));

  // Nobody who logs in next finds what somebody else was at; not even an administrator, who might throw it away.
  await server.enter("next@example.org", "/auth/signup");
  server.promote("next", "admin");
  await page.locator("#image-file").setInputFiles(big);
  await until("some of it is there", () => page.evaluate(() => document.querySelector("#upload-bar").value > 0.01));
  await page.locator("#log-out").click();
  // A page that is loaded before the answer may still find the session, and then hear that it ended.
  await page.locator('[data-auth="login"]').waitFor();
  await page.goto(server.url);
  await page.locator('[data-auth="login"]').click();
  await page.locator("#login-email").fill("next");
  await page.locator("#login-password").fill("correct horse");
  await page.keyboard.press("Enter");
  await page.locator("#images").waitFor();
  assert.ok(!(await page.locator("#upload").isVisible()));
  assert.equal(await page.locator("#upload-unfinished").innerText(), "");
  await close();
});

test("what was not finished is told before the lists show, keeps its room, and is thrown away after a question", { timeout: 120_000 }, async () => {
  const { page, close } = await browse({ reducedMotion: "reduce" });
  const name = `${"x".repeat(80)}.iso`;
  const long = path.join(server.folder, name);
  fs.linkSync(big, long);
  await signUp(page, server.url, "quitter");
  await page.locator("#images").waitFor();
  await page.locator("#image-file").setInputFiles(long);
  await until("some of it is sent", () => page.evaluate(() => document.querySelector("#upload-bar").value > 0.01));
  await page.locator("#upload-pause").click();
  await page.getByText("Paused.").waitFor();

  // The answer is held, and no time passes: what is below waits, and does not jump.
  await page.clock.install();
  await page.clock.pauseAt(Date.now() + 60_000);
  let held;
  await page.route("**/uploads/*", (route) => (route.request().method() === "HEAD" ? void (held = route) : route.continue()));
  const line = page.locator("#upload-unfinished li");
  await page.reload();
  await until("it is asked for", () => held);
  await page.locator("#start").waitFor();
  assert.ok(!(await page.locator("#images").isVisible()), "the lists are shown before it is known what stands above them");
  await held.continue();
  await page.locator("#images").waitFor();
  assert.match(await line.innerText(), /^x{80}\.iso: \d+ MB of 1 GB have come\. Choose the same file/);
  held = null;
  await page.reload();
  await until("it is asked for again", () => held);
  await page.locator("#start").waitFor();
  await page.clock.runFor(2000);
  await page.locator("#images").waitFor();
  assert.equal(await line.count(), 0);
  await held.continue();
  await line.waitFor();
  await page.unrouteAll();
  await page.clock.resume();

  // What is left is told as it is kept, and a file that does not fit is refused before it is sent.
  assert.match(await page.locator("#image-quota").innerText(), /^0 MB of your 4 GB are used, and 1 GB are kept for uploads that are not finished\.$/);
  const huge = path.join(server.folder, "huge.iso");
  fs.copyFileSync(iso, huge);
  fs.truncateSync(huge, 3.5 * SIZE);
  await page.locator("#image-file").setInputFiles(huge);
  await until("the page says what is left", async () => /has 3\.5 GB, and your quota has 3 GB left/.test(await page.locator("#image-error").innerText()));

  const seen = [];
  await inspect(page, "home-unfinished", seen);
  const keys = () => page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith("tus::")).length);
  const rows = () => Number(server.sql(`select count(*) from uploads where state = 'open' and metadata <> '' and name = '${name}'`));
  const away = page.getByRole("button", { name: `Throw away what has come of ${name}` });
  await away.click();
  assert.match(await page.locator("#sure").innerText(), /Throw this upload away\?[^]*What has come of x{80}\.iso is gone/);
  await page.keyboard.press("Escape");
  assert.deepEqual([await keys(), rows(), await line.count()], [1, 1, 1]);
  await away.click();
  await page.locator("#sure-yes").click();
  await line.waitFor({ state: "detached" });
  assert.deepEqual([await keys(), rows()], [0, 0]);
  await until("its room is free", async () => /^0 MB of your 4 GB are used\.$/.test(await page.locator("#image-quota").innerText()));
  assert.equal(await page.evaluate(() => document.activeElement.id), "images-title", "the focus is lost with the button");
  await page.locator("#image-file").setInputFiles({ name, mimeType: "application/octet-stream", buffer: fs.readFileSync(iso) });
  await until("the image is there", async () => /^x{80}\.iso is there/.test(await page.locator("#image-done").innerText()));
  await inspect(page, "home-long-name", seen);
  assert.deepEqual(seen, []);
  await close();
});

test("who has no image of the profile's own starts one that was brought, also by drag and drop", { timeout: 120_000 }, async () => {
  const bare = await Server.start("stop_vms_on_exit = true", "", 'base_image = "{VM_BASE_DIR}/no.iso"');
  const { page, close } = await browse();
  await signUp(page, bare.url, "bringer");
  await until("the page says what to do first", async () => /upload one, or ask/.test(await page.locator("#launch-facts").innerText()));
  assert.ok(await page.locator("#start").isDisabled());
  await page.getByText("None yet. Bring the .iso file").waitFor();
  const dropped = await page.evaluateHandle((text) => {
    const transfer = new DataTransfer();
    transfer.items.add(new File([Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0))], "brought.iso"));
    return transfer;
  }, fs.readFileSync(iso).toString("base64"));
  await page.locator("#image-choose").dispatchEvent("drop", { dataTransfer: dropped });
  await until("the image is there", async () => /is there/.test(await page.locator("#image-done").innerText()));
  await until("it is what starts", async () => (await page.locator("#image").inputValue()) === "brought.iso" && !(await page.locator("#start").isDisabled()));
  await page.screenshot({ path: path.join(output, "images-brought.png"), fullPage: true });
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\//);
  assert.equal((await machines(page))[0].iso, "brought.iso");
  await close();
  const { code } = await bare.close();
  assert.equal(code, 0, bare.log);
});
