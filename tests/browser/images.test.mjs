// A gigabyte from real Chromium, by form and by tus: the old version's known trouble was that uploads failed there. And refusals that come early,
// while the browser sends: its page must get the answer, not a network error.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { createRequire } from "node:module";
import { before, test } from "node:test";
import { axe, browse, machines, output, Server, signUp, until } from "./server.mjs";

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
  for (const [file, words] of [[small, /at least 10 MB/], [noise, /not a CD image/], [path.join(server.folder, "vmshare.toml"), /Choose an \.iso file/]]) {
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
  await page.getByText("Lose what came after?").click();
  await until("it went back", () => server.sql("select count(*) from audit where action = 'restore snapshot'") === "1");
  await page.getByRole("button", { name: "Remove clean" }).click();
  await page.getByText("Remove for good?").click();
  await page.locator("#snapshot-list li").waitFor({ state: "detached" });
  await page.locator("#vm-stop").click();
  await page.locator('#stop button[value="stop"]').click();
  await until("it has stopped", async () => (await machines(page)).every((one) => one.state === "stopped"));
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
