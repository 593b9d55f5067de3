// The start page when an answer is missing for a moment, what it remembers and lists, and uploads over a lost network and a restart.

import assert from "node:assert/strict";
import fs from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { browse, call, image, inspect, machines, output, Server, signUp, signUpHere, startDesktop, until } from "./server.mjs";

const MORE = `max_memory_mb = 512\nmax_cpus = 2\n[profiles.second]\ntitle = "The second"\nbase_image = "${image}"\nvideo = "std"\ndefault_memory_mb = 128\ndefault_cpus = 1\nmax_memory_mb = 512\nmax_cpus = 2\n`;
const server = Server.ofFile("stop_vms_on_exit = true", "upload_quota_mb = 4096", MORE);

const away = (route) => route.fulfill({ status: 503, contentType: "application/problem+json", body: JSON.stringify({ detail: "The database is away." }) });
const focused = (page) => page.evaluate(() => document.activeElement?.id);
const text = (page, selector) => page.locator(selector).innerText();

test("a start page that cannot ask what there is waits and tries again", async () => {
  const { page, close } = await browse({ reducedMotion: "reduce" });
  await signUp(page, server.url, "waiter");
  for (const list of ["profiles", "isos", "disks"]) {
    await page.route(`**/${list}`, away);
    await page.reload();
    await until("the page says that it tries again", async () => /The database is away\. Trying again/.test(await text(page, "#banner")));
    assert.ok(await page.getByText("Looking for your desktop…").isVisible(), list);
    assert.ok(!(await page.locator("#launcher").isVisible()), list);
    await page.unrouteAll();
    await page.locator("#start:enabled").waitFor();
    await page.locator("#banner").waitFor({ state: "hidden" });
  }
  assert.match(await text(page, "#disk-quota"), /^0 of your \d+ GB are taken\.$/);
  await close();
});

test("the last choice is remembered; snapshots, past sessions and the focus are kept", { timeout: 180_000 }, async () => {
  const { context, page, close } = await browse({ reducedMotion: "reduce" });
  await context.grantPermissions(["clipboard-read", "clipboard-write"]);
  const seen = [];
  await signUp(page, server.url, "chooser");
  await page.locator('[name="profile"][value="second"]').check();
  await page.locator("#advanced summary").click();
  await page.locator("#memory").fill("256");
  await page.locator("#cpus").fill("2");
  await page.locator("#disk").selectOption("scratch");
  await page.locator("#disk-gb").fill("1");
  const vm = await startDesktop(page);
  assert.deepEqual([vm.profile, vm.memory_mb, vm.cpus], ["second", 256, 2]);
  await page.goto(server.url);
  await page.locator("#vm-open").waitFor();

  const uptime = await text(page, "#vm-uptime");
  assert.match(uptime, /^(\d+ min )?\d+ s$/);
  await until("the uptime goes on", async () => (await text(page, "#vm-uptime")) !== uptime);

  // An id is copied by a click; a time says the exact one on hover.
  await page.getByRole("button", { name: `Copy the id ${vm.vmid}` }).click();
  await until("the id is copied", async () => (await page.evaluate(() => navigator.clipboard.readText())) === vm.vmid);
  assert.match(await page.locator("#vm-facts dd").first().getAttribute("title"), /^Since .*\d\d:\d\d/);
  // News of the machine takes neither the focus nor that it was copied away.
  await page.evaluate(() => {
    window.news = 0;
    new MutationObserver(() => (window.news += 1)).observe(document.querySelector("#vm-keeps"), { childList: true });
  });
  await page.getByRole("button", { name: `Copy the id ${vm.vmid}` }).click();
  await page.evaluate(() => (window.copy = document.activeElement));
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/keep`)).status, 200);
  await until("the page has heard of it", () => page.evaluate(() => window.news > 0));
  assert.ok(await page.evaluate(() => window.copy === document.activeElement && window.copy.matches("#vm-facts button")), "the focus is lost");

  // Snapshots: what is refused keeps its name, a list that cannot be had says so, and one from elsewhere comes by itself.
  await page.locator("#snapshots summary").click();
  await page.route("**/snapshots", (route) => (route.request().method() === "POST" ? away(route) : route.continue()));
  await page.locator("#snapshot-name").fill("clean");
  await page.locator("#snapshot-take").click();
  await until("the refusal is told", async () => /database is away/.test(await text(page, "#snapshot-error")));
  assert.equal(await page.locator("#snapshot-name").inputValue(), "clean");
  assert.equal(await focused(page), "snapshot-take");
  await page.unrouteAll();
  // On a phone, and with a name as long as one may be.
  const longest = `elsewhere${"x".repeat(55)}`;
  await page.setViewportSize({ width: 360, height: 740 });
  // How far it is is shown; that it begins and ends is all that is read out.
  await page.evaluate(() => {
    window.told = { "snapshot-job": [], "snapshot-said": [] };
    window.wide = 0;
    const note = (id, all) => {
      all.push(document.getElementById(id).textContent);
      window.wide = Math.max(window.wide, document.documentElement.scrollWidth - document.documentElement.clientWidth);
    };
    for (const [id, all] of Object.entries(window.told)) new MutationObserver(() => note(id, all)).observe(document.getElementById(id), { childList: true });
  });
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/snapshots`, { name: longest })).status, 201);
  await page.locator("#snapshot-list").getByText("elsewhere").waitFor();
  const told = await page.evaluate(() => window.told);
  assert.match(told["snapshot-job"][0], /^Taking elsewherex{55}: \d+ %$/);
  assert.deepEqual([told["snapshot-job"].at(-1), told["snapshot-said"]], ["", [`Taking ${longest}…`, `Taking ${longest} has ended.`]]);
  assert.equal(await page.evaluate(() => window.wide), 0, "the page is wider than the phone");
  await page.setViewportSize({ width: 1280, height: 800 });
  assert.equal(await page.locator("#snapshot-job").getAttribute("role"), null);
  assert.match(await text(page, "#snapshot-list li"), /^elsewherex{55}\s+just now, with its memory, \d+ (KB|MB|GB)\s+Go back\s+Remove$/);
  assert.match(await page.locator("#snapshot-list time").getAttribute("title"), /\d\d:\d\d/);
  assert.equal(await focused(page), "snapshot-take", "the focus is lost while a snapshot is taken");
  await page.route("**/snapshots", away);
  await page.reload();
  await page.locator("#snapshots summary").click();
  await until("that it cannot be listed is told", async () => /cannot be listed\. The database is away/.test(await text(page, "#snapshot-error")));
  await page.unrouteAll();
  await page.locator("#snapshot-list").getByText("elsewhere").waitFor();
  assert.equal(await text(page, "#snapshot-error"), "");

  // A restart by keyboard leaves the focus where it was.
  await page.locator("#vm-restart").focus();
  await page.keyboard.press("Enter");
  await page.locator('#restart button[value="reset"]').focus();
  await page.keyboard.press("Enter");
  await until("it is restarted", () => server.sql(`select count(*) from vm_events where vmid = '${vm.vmid}' and kind = 'restart'`) === "1");
  assert.equal(await focused(page), "vm-restart");
  await page.locator("#vm-stop").click();
  await page.locator('#stop button[value="stop"]').click();
  await page.locator("#start").waitFor();

  // More past sessions than one page has, and a failure in the middle.
  server.sql(`insert into vms select (jsonb_populate_record(v, jsonb_build_object('vmid', substr(md5(n::text), 1, 12), 'created_at', now() - n * interval '1 hour'))).* from vms v, generate_series(1, 21) n where vmid = '${vm.vmid}'`);
  await page.reload();
  const past = page.locator("#history-list li");
  await until("the newest are listed", async () => (await past.count()) === 10);
  assert.deepEqual(await page.locator("#advanced input, #advanced select, [name=profile]:checked").evaluateAll((fields) => fields.filter((one) => ["memory", "cpus", "disk", "disk-gb", ""].includes(one.id)).map((one) => one.value)), ["second", "scratch", "1", "256", "2"]);
  const times = await past.locator("time").evaluateAll((all) => all.map((one) => [one.textContent, one.title]));
  assert.ok(times.every(([words, title]) => /ago|just now/.test(words) && /\d\d:\d\d/.test(title)), JSON.stringify(times));
  await page.route("**/vms?*", away);
  await page.locator("#history-more").click();
  await until("the failure is told", async () => /database is away/.test(await text(page, "#history-error")));
  await inspect(page, "home-history", seen);
  await page.unrouteAll();
  await page.getByRole("button", { name: "Try again" }).click();
  await until("more are listed", async () => (await past.count()) === 20);
  await page.getByRole("button", { name: "Show more" }).click();
  await until("all are listed", async () => (await past.count()) === 22);
  assert.ok(!(await page.locator("#history-more").isVisible()));
  assert.equal(await focused(page), "past");
  assert.deepEqual(seen, []);
  await close();
});

test("a start that is answered after a log-out takes nobody to a desktop", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "hasty");
  let held;
  await page.route("**/run-iso", (route) => void (held = route));
  await page.locator("#start:enabled").click();
  await until("the start is asked for", () => held);
  await page.locator("#log-out").click();
  await page.locator('[data-auth="signup"]').first().waitFor();
  assert.equal(await page.evaluate(() => sessionStorage.getItem("vmshare.opening")), null);
  await signUpHere(page, "patient");
  await page.locator("#start:enabled").waitFor();
  const vm = { vmid: "c9a2f1c9a2f1", state: "running", profile: "custom", http_port: 6111, memory_mb: 128, cpus: 1, persistence: "ephemeral" };
  await held.fulfill({ json: { vm, redirect: `/novnc/?path=ws/6111&vmid=${vm.vmid}` } });
  // An answer that comes after that one.
  await page.evaluate(() => fetch("/version").then((answer) => answer.text()));
  assert.equal(page.url(), `${server.url}/`);
  assert.deepEqual([await page.locator("#vm-open").isVisible(), await page.locator("#start").isVisible()], [false, true]);
  await close();
});

test("whoever logs in next at a computer sees nothing of what was told or typed before", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "leaver");
  assert.equal((await call(page, "POST", "/disks", { name: "work", size_gb: 1 })).status, 201);
  await page.reload();
  await page.locator("#images").waitFor();
  await page.locator("#image-file").setInputFiles({ name: "mine.iso", mimeType: "application/octet-stream", buffer: fs.readFileSync(image) });
  await until("the image is there", async () => /mine\.iso is there/.test(await text(page, "#image-done")));
  await page.locator("#image-file").setInputFiles({ name: "mine.txt", mimeType: "text/plain", buffer: Buffer.from("x") });
  await until("a refusal is told", async () => /Choose an \.iso/.test(await text(page, "#image-error")));
  await page.route("**/disks/work", away);
  await page.getByRole("button", { name: "Remove the disk work" }).click();
  await page.locator("#sure-yes").click();
  await until("another one too", async () => /database is away/.test(await text(page, "#disk-error")));
  await page.unrouteAll();
  await page.locator("#account-open").click();
  await page.locator("#password-current").fill("correct horse");
  await page.locator("#password-new").fill("a new horse");
  await page.keyboard.press("Escape");
  await page.locator("#log-out").click();
  await page.locator('[data-auth="signup"]').first().waitFor();
  const left = () =>
    page.evaluate(() => [
      ...["image-done", "image-error", "disk-error", "history-list"].map((id) => document.getElementById(id).textContent),
      ...["password-current", "password-new"].map((id) => document.getElementById(id).value),
    ]);
  assert.deepEqual(await left(), ["", "", "", "", "", ""]);
  await signUpHere(page, "follower");
  await page.locator("#images").waitFor();
  assert.deepEqual(await left(), ["", "", "", "", "", ""]);
  await close();
});

test("an upload goes on by itself when the network or the server is back", { timeout: 180_000 }, async () => {
  const { context, page, close } = await browse();
  // What tus-js-client waits between its tries is made short, so that it gives up while the server is away.
  await page.addInitScript(() => {
    const wait = window.setTimeout;
    window.setTimeout = (act, ms, ...more) => wait(act, [1000, 3000, 5000, 10000, 20000, 30000].includes(ms) ? 50 : ms, ...more);
  });
  const big = path.join(server.folder, "big.iso");
  const head = Buffer.alloc(64 * 1024);
  const file = fs.openSync(image, "r");
  fs.readSync(file, head, 0, head.length, 0);
  fs.closeSync(file);
  fs.writeFileSync(big, head);
  fs.truncateSync(big, 1 << 30);
  await signUp(page, server.url, "mover");
  await page.locator("#images").waitFor();
  const network = await context.newCDPSession(page);
  const conditions = (offline, uploadThroughput) => network.send("Network.emulateNetworkConditions", { offline, latency: 0, downloadThroughput: -1, uploadThroughput });
  await conditions(false, 10e6);
  const offsets = [];
  page.on("request", (request) => request.method() === "PATCH" && offsets.push(Number(request.headers()["upload-offset"])));
  const sent = () => page.evaluate(() => document.querySelector("#upload-bar").value);
  await page.locator("#image-file").setInputFiles(big);
  await until("some of it is sent", async () => (await sent()) > 0.02);
  // Chromium lets a request that is under way go on when it is told to be offline.
  await page.locator("#upload-pause").click();
  await page.getByText("Paused.").waitFor();
  await conditions(true, 10e6);
  await page.locator("#upload-pause").click();
  await until("it waits", async () => /Waiting for the server/.test(await text(page, "#upload-words")));
  await page.screenshot({ path: path.join(output, "home-upload-waits.png"), fullPage: true });
  let before = offsets.length;
  await conditions(false, 10e6);
  await until("it goes on when the network is back", () => offsets.length > before && offsets.at(-1) > 0);
  const half = await sent();
  await until("more is sent", async () => (await sent()) > half && (await text(page, "#image-error")) === "");

  server.process.kill("SIGKILL");
  await server.exit;
  await until("it waits for the server", async () => /Waiting for the server/.test(await text(page, "#upload-words")));
  before = offsets.length;
  await server.run();
  await until("it goes on when the server is back", () => offsets.length > before && offsets.at(-1) > 0);
  await conditions(false, -1);
  await until("the image is there", async () => /is there/.test(await text(page, "#image-done")), 90);
  await close();
});

test("a file that is dropped beside its place does not take the page away, and of several none is taken", async () => {
  const { page, close } = await browse();
  await signUp(page, server.url, "dropper");
  await page.locator("#images").waitFor();
  const passed = await page.evaluate(() => {
    const transfer = new DataTransfer();
    for (const name of ["one.iso", "two.iso"]) transfer.items.add(new File(["x"], name));
    const event = (kind) => new DragEvent(kind, { dataTransfer: transfer, bubbles: true, cancelable: true });
    const beside = ["dragover", "drop"].map((kind) => document.querySelector("#start").dispatchEvent(event(kind)));
    document.querySelector("#image-choose").dispatchEvent(event("drop"));
    return beside;
  });
  assert.deepEqual(passed, [false, false], "the browser opens what is dropped");
  assert.match(await text(page, "#image-error"), /One file at a time/);
  assert.deepEqual(await machines(page), []);
  await close();
});
