// The page of administrators on a real class: the wall, many desktops at once, people, invitations, what happened. Figures of the host
// and alerts are answered here, so that they are the same each time.

import assert from "node:assert/strict";
import { test } from "node:test";
import { request } from "playwright-core";
import { browse, call, inspect, Server, until } from "./server.mjs";

const LONG = "a-student-with-the-longest-name-.";

const server = Server.ofFile("stop_vms_on_exit = true");

/** Somebody with an account, as a program. */
async function person(login) {
  const api = await request.newContext({ baseURL: server.url, ignoreHTTPSErrors: true });
  const { token } = await (await api.post("/auth/signup", { data: { email: `${login}@example.org`, login, password: "correct horse" } })).json();
  await api.dispose();
  return request.newContext({ baseURL: server.url, ignoreHTTPSErrors: true, extraHTTPHeaders: { Authorization: `Bearer ${token}` } });
}

const history = (count, step, cpu) => {
  const at = Array.from({ length: count }, (_, i) => 1_795_000_000 + i * step);
  const wave = (high) => at.map((_, i) => (i === 5 ? null : Math.round(high * (1 + Math.sin(i / 9)) * 50) / 100));
  return { step_s: step, at, cpu_percent: wave(cpu), memory_percent: wave(60), disk_percent: wave(40), load: wave(6), rx_bps: wave(9e6), tx_bps: wave(4e8), vms: wave(40) };
};
const NOW = {
  at: "2026-11-23T10:11:03Z", cpu_percent: 42.4, load: [1.25, 0.9, 0.4], memory: { total_mb: 65536, available_mb: 20000, percent: 69.5 }, swap: { total_mb: 8192, free_mb: 4096, percent: 50 }, pressure: { cpu: 1.5, memory: 0, io: null },
  volumes: [{ path: "/var/lib/vmshare", total_gb: 900, free_gb: 412.3, percent: 54.1, inodes_percent: 62, measured: true }, { path: "/srv", total_gb: 0, free_gb: 0, percent: 0, inodes_percent: 0, measured: false }], network: { rx_bps: 1.5e6, tx_bps: 2.5e8 }, vms: 2,
};
const ALERTS = [
  { id: 3, rule: "vm_memory", subject: "c9a2f1c9a2f1", state: "ended", value: 97, threshold: 90, text: "", since: "2026-11-23T07:11:03Z", ended: "2026-11-23T07:31:03Z" },
  { id: 2, rule: "disk", subject: "/var/lib/vmshare", state: "firing", value: 93.2, threshold: 85, text: "is 93 % full: remove images or VMs", since: "2026-11-23T10:11:03Z", ended: null },
  { id: 1, rule: "cpu", subject: "host", state: "ended", value: 97, threshold: 90, text: "CPU at 97 % <script>alert(1)</script>", since: "2026-11-23T08:11:03Z", ended: "2026-11-23T08:31:03Z" },
];

/** Answers what the host would measure. */
async function measured(page) {
  const json = (body) => ({ status: 200, contentType: "application/json", body: JSON.stringify(body) });
  await page.route("**/admin/host?*", (route) => {
    const day = route.request().url().includes("day");
    const because = day ? "a trial guest ran under KVM" : "/dev/kvm may not be opened: add the user the server runs as to the group kvm (usermod -aG kvm USER)";
    route.fulfill(json({ accel: day ? "kvm" : "tcg", accel_because: because, now: NOW, history: day ? history(288, 300, 60) : history(720, 5, 80) }));
  });
  await page.route("**/admin/load", (route) => {
    const vmids = server.sql("select vmid from vms where state = 'running'").split("\n").filter(Boolean);
    route.fulfill(json({ vms: vmids.map((vmid) => ({ vmid, user: "", cpu_percent: 12.3, rss_mb: 210, threads: 9, read_bps: 0, write_bps: 0 })), storage: [{ user: "alice", gb: 12.34 }] }));
  });
  await page.route("**/admin/alerts?*", (route) => route.fulfill(json({ alerts: ALERTS, next: null })));
}

/** Signs in as the administrator, and opens the page. */
async function enter(page, section = "") {
  await server.warden();
  await page.goto(server.url);
  assert.equal((await call(page, "POST", "/auth/login", { email: "warden", password: "correct horse" })).status, 200);
  await page.goto(`${server.url}/admin/${section}`);
  await page.locator("#sections").waitFor();
}

const focused = (page) => page.evaluate(() => document.activeElement?.id || document.activeElement?.value || document.activeElement?.tagName);

test("an administrator sees the whole class, and restarts and stops many desktops at once", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await page.goto(`${server.url}/admin/`);
  await until("a stranger is told to log in", async () => /Log in/.test(await page.locator("#banner").innerText()));
  await measured(page);
  await enter(page);
  await until("an empty class says what to do", async () => /When somebody in the class starts one/.test(await page.locator("#wall-none").innerText()));
  await inspect(page, "admin-empty", seen);

  const [long, bob] = [await person(LONG.slice(0, 31)), await person("bob")];
  const started = await Promise.all([long, bob].map((one) => one.post("/run-iso")));
  for (const answer of started) assert.equal(answer.status(), 200);
  await until("both are on the wall without a reload", async () => (await page.locator("#wall li").count()) === 2);
  const bar = (image) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: 320, height: 240 });
    const context = canvas.getContext("2d");
    if (image.naturalWidth) context.drawImage(image, 0, 0);
    return String(context.getImageData(47, 78, 1, 1).data.slice(0, 3));
  };
  await until("each tile shows its guest's colour bars", async () => (await page.locator("#wall img").evaluateAll((images, bar) => images.map(new Function(`return ${bar}`)()).join(" "), String(bar))) === "255,255,0 255,255,0");
  await until("the load is told", async () => /CPU\s12\s%, 210\sMB\sused/.test(await page.locator("#wall").innerText()));
  await inspect(page, "admin-class", seen);
  // The number of desktops is read out when it changes, and not each time it is looked at.
  let looks = 0;
  page.on("request", (request) => (looks += request.url().includes("/vms?all=1")));
  await page.evaluate(() => {
    window.said = 0;
    new MutationObserver(() => (window.said += 1)).observe(document.querySelector("#wall-count"), { childList: true, characterData: true, subtree: true });
  });
  await until("the list is looked at again", () => looks >= 3);
  assert.equal(await page.evaluate(() => window.said), 0, "the same number is said again");
  const link = await page.locator("#wall li", { hasText: "bob" }).locator("a.look").getAttribute("href");
  assert.match(link, /^\/novnc\/\?path=ws\/\d+&vmid=[0-9a-f]{12}&view=1$/);

  // By keyboard: all of them, restart, after one question that names what is lost.
  await page.locator("#wall-all").focus();
  await page.keyboard.press("Enter");
  assert.equal(await page.locator("#wall-count").innerText(), "2 desktops, 2 selected");
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  assert.match(await page.locator("#sure").innerText(), /Restart 2 desktops\?[^]*a-student[^]*bob: Open programs end, and what is not saved on a disk is lost/);
  assert.equal(await focused(page), "no", "the harmless answer has the focus");
  await inspect(page, "admin-sure", seen);
  await page.keyboard.press("Tab");
  await page.keyboard.press("Enter");
  await until("both were restarted", async () => (await page.locator("#wall-done").innerText()) === "2 desktops restarted.");
  assert.equal(server.sql("select count(*) from vm_events where kind = 'restart'"), "2");

  // One of them, found by a search; what is not shown is not selected.
  await page.locator("#wall-search").fill("bob");
  await until("one is left", async () => (await page.locator("#wall li:visible").count()) === 1);
  await page.locator("#wall-all").click();
  await page.locator("#wall-stop").click();
  assert.match(await page.locator("#sure").innerText(), /Stop 1 desktop\?[^]*It keeps nothing/);
  await page.locator("#sure-yes").click();
  await until("it is stopped", async () => (await page.locator("#wall-done").innerText()) === "1 desktop stopped.");
  await until("nothing found is told", async () => /Try fewer/.test(await page.locator("#wall-none").innerText()));
  await page.locator("#wall-search").fill("");
  await until("the other one runs on", async () => /a-student/.test(await page.locator("#wall li:visible").innerText()));
  assert.equal(server.sql("select count(*) from vms where state = 'running'"), "1");
  assert.equal(server.sql("select exit from vms where state = 'stopped'"), "stopped by an administrator");
  const [vm] = (await (await long.get("/vms")).json()).vms;
  await long.post(`/vms/${vm.vmid}/stop`, { data: { force: true } });
  await until("its tile goes", async () => (await page.locator("#wall li").count()) === 0);
  assert.deepEqual(seen, []);
  // The browser itself tells of a picture that was asked for when its desktop had just ended.
  assert.deepEqual(troubles.filter((line) => !/status of 409/.test(line)), []);
  await close();
});

test("people, invitations and what happened are found and changed", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  await measured(page);
  const alice = await person("alice");
  await enter(page, "#users");
  await page.locator("#users-search").fill("alice");
  const row = page.locator("#users-list li");
  await until("one is found", async () => (await row.count()) === 1 && /alice@example.org/.test(await row.innerText()));
  await row.getByLabel("Role of alice").selectOption("teacher");
  assert.match(await page.locator("#sure").innerText(), /Make alice teacher\?/);
  await page.locator("#sure-yes").click();
  await until("she is a teacher", () => server.sql("select role from users where login = 'alice'") === "teacher");
  await row.getByLabel("Quota of alice").fill("25");
  await page.keyboard.press("Tab");
  await until("the quota is hers", () => server.sql("select quota_gb from users where login = 'alice'") === "25");
  await until("what she keeps is told", async () => /12\.3 GB stored/.test(await row.innerText()));
  await row.getByRole("button", { name: "New password" }).click();
  await page.locator("#sure-yes").click();
  await page.locator("#secret").waitFor();
  await inspect(page, "admin-secret", seen);
  const password = await page.locator("#secret-text").inputValue();
  await page.keyboard.press("Escape");
  assert.equal((await alice.get("/auth/me")).status(), 401, "she is signed out");
  assert.equal((await alice.post("/auth/login", { data: { email: "alice", password } })).status(), 200);
  await row.getByRole("button", { name: "Disable" }).click();
  assert.match(await page.locator("#sure-loss").innerText(), /cannot sign in until enabled again/);
  await page.locator("#sure-yes").click();
  await until("her row says so", async () => /Disabled/.test(await row.innerText()));
  assert.equal((await alice.post("/auth/login", { data: { email: "alice", password } })).status(), 401);
  await page.locator("#users-search").fill("");
  await until("all are there", async () => (await row.count()) >= 2);
  assert.ok(await page.getByLabel("Role of warden").isDisabled(), "nobody takes his own rights away");
  await inspect(page, "admin-users", seen);

  // The sections go by arrow keys.
  await page.locator("#tab-users").focus();
  await page.keyboard.press("ArrowRight");
  assert.equal(await focused(page), "tab-invites");
  await until("an empty list says what to do", async () => /Make one above/.test(await page.locator("#invites-none").innerText()));
  await page.locator("#invite-note").fill(`<script>alert(1)</script> ${"Class".repeat(14)}`);
  // Pressed twice while the network is slow.
  let [posts, release] = [0];
  const held = new Promise((done) => (release = done));
  await page.route("**/admin/invites", async (route) => {
    posts += 1;
    await held;
    await route.continue();
  });
  await page.keyboard.press("Enter");
  await page.keyboard.press("Enter");
  release();
  await page.locator("#secret").waitFor();
  assert.deepEqual([posts, server.sql("select count(*) from invites")], [1, "1"], "the link of another invitation is lost");
  assert.match(await page.locator("#secret-text").inputValue(), /^https:\/\/127\.0\.0\.1:\d+\/#invite=[\w-]{12}$/);
  await page.keyboard.press("Escape");
  await until("it is listed", async () => /<script>[^]*30 of 30 left, as user, made by warden/.test(await page.locator("#invites-list").innerText()));
  await inspect(page, "admin-invites", seen);
  await page.locator("#invites-filter").fill("tuesday");
  await until("nothing found is told", async () => /No invitation has these words/.test(await page.locator("#invites-not").innerText()));
  assert.equal(await page.locator("#invites-list li:visible").count(), 0);
  await page.locator("#invites-filter").fill("class warden");
  await until("it is found", async () => (await page.locator("#invites-list li:visible").count()) === 1);
  assert.ok(!(await page.locator("#invites-not").isVisible()));
  await page.locator("#invites-list button").click();
  assert.match(await page.locator("#sure-loss").innerText(), /30 places are lost/);
  await page.locator("#sure-yes").click();
  await until("it is gone", async () => (await page.locator("#invites-list li").count()) === 0);

  await page.locator("#tab-connections").click();
  await until("nobody looked yet", async () => /Nobody has opened a desktop yet/.test(await page.locator("#connections-none").innerText()));
  server.sql("insert into connection_events (vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason) select 'c9a2f1c9a2f1', null, 'disconnect', 'vnc', '192.0.2.7', 1048576, 1, 'connection lost' from generate_series(1, 60)");
  await page.locator("#tab-users").click();
  await page.locator("#tab-connections").click();
  await until("the newest are listed", async () => (await page.locator("#connections-list li").count()) === 50);
  await page.locator("#connections-more").click();
  await until("the rest follows", async () => (await page.locator("#connections-list li").count()) === 60);
  assert.ok(await page.locator("#connections-more").isHidden());
  // What comes meanwhile is shown at a second click, and by itself where only the newest are listed.
  const left = (vmid) => server.sql(`insert into connection_events (vmid, user_id, kind, console, ip, bytes_to_browser, bytes_to_vm, reason) values ('${vmid}', null, 'disconnect', 'vnc', '192.0.2.8', 1, 1, '')`);
  const newest = async () => page.locator("#connections-list li").first().innerText();
  left("aaaaaaaaaaa1");
  await page.locator("#tab-connections").click();
  await until("a second click asks again", async () => /aaaaaaaaaaa1/.test(await newest()));
  left("aaaaaaaaaaa2");
  await until("the list goes on by itself", async () => /aaaaaaaaaaa2/.test(await newest()));
  const asks = (address) => page.waitForRequest((request) => request.url().includes(address) && new URL(request.url()).searchParams.get("q") === "192.0.2.8");
  const asked = asks("/connections?");
  await page.locator("#connections-search").fill("192.0.2.8");
  await asked;
  await inspect(page, "admin-connections", seen);

  await page.locator("#tab-alerts").click();
  await until("alerts are listed", async () => (await page.locator("#alerts-list li").count()) === 3);
  await page.locator("#alerts-list").getByRole("button", { name: "Copy the id c9a2f1c9a2f1" }).waitFor();
  assert.equal(await page.locator("#tab-alerts").textContent(), "Alerts (1)");
  await inspect(page, "admin-alerts", seen);
  const searched = asks("/admin/alerts?");
  await page.locator("#alerts-search").fill("192.0.2.8");
  await searched;
  await page.locator("#tab-audit").click();
  await page.locator("#audit-search").fill("reset password");
  await until("the trail is searched", async () => /^warden reset password alice from 127/.test(await page.locator("#audit-list").innerText()));
  await page.locator("#audit-search").fill("alice");
  await until("all about her", async () => (await page.locator("#audit-list li").count()) >= 4);
  await inspect(page, "admin-audit", seen);
  const vmid = server.sql("select target from audit where target ~ '^[0-9a-f]{12}$' limit 1");
  await page.locator("#audit-search").fill(vmid);
  await page.getByRole("button", { name: `Copy the id ${vmid}` }).first().waitFor();
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles, []);

  // A session that ends in the middle of work.
  await page.context().clearCookies();
  await page.locator("#tab-users").click();
  await until("that it has ended is told", async () => /Your session has ended\. Log in on the home page/.test(await page.locator("#banner").innerText()));
  assert.ok(!(await page.locator("#sections").isVisible()));
  await close();
});

test("the host's graphs are loaded when they are looked at, and a server that measures nothing says so", async () => {
  const { page, troubles, close } = await browse({ reducedMotion: "reduce" });
  const seen = [];
  const loaded = [];
  page.on("request", (request) => loaded.push(new URL(request.url()).pathname));
  await measured(page);
  await enter(page);
  await until("the wall is there", async () => /When somebody/.test(await page.locator("#wall-none").innerText()));
  const graphs = () => loaded.filter((path) => /graphs|uplot/.test(path)).length;
  assert.equal(graphs(), 0, loaded.join(" "));
  await page.locator("#tab-class").focus();
  await page.keyboard.press("ArrowRight");
  await until("four graphs are drawn", async () => (await page.locator("#graphs canvas").count()) === 4);
  assert.equal(graphs(), 2, loaded.join(" "));
  const told = page.locator('#graphs [role="img"]').first();
  assert.match(await told.getAttribute("aria-label"), /^CPU, memory and disk: CPU \d+ %, highest 80 %; Memory/);
  assert.match(await page.locator("#host-now").innerText(), /42 %, load 1\.3 0\.9 0\.4[^]*70 % of 64 GB[^]*50 % of 8 GB[^]*412 GB free, 62 % of its files[^]*does not answer[^]*CPU 2 %, memory 0 %[^]*1\.5 Mbit\/s in, 250 Mbit\/s out/);
  assert.match(await page.locator("#host-accel").innerText(), /^Guests run emulated \(TCG\): \/dev\/kvm may not be opened[^]*no security boundary\. Let only people you trust run images/);
  const inked = () => page.locator("#graphs canvas").first().evaluate((canvas) => canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value > 0));
  await until("something is drawn", inked);
  await inspect(page, "admin-host", seen);
  await page.getByLabel("Last day").check();
  await until("the day is drawn", async () => /^CPU, memory and disk: CPU \d+ %, highest 60 %;/.test(await told.getAttribute("aria-label")));
  assert.ok(await page.locator("#host-accel").isHidden(), "guests under KVM are warned of");
  // Without measurements.
  await page.route("**/admin/host?*", (route) => route.fulfill({ status: 404, contentType: "application/problem+json", body: "{}" }));
  await page.route("**/admin/alerts?*", (route) => route.fulfill({ status: 404, contentType: "application/problem+json", body: "{}" }));
  await page.goto(`${server.url}/admin/#alerts`);
  await page.reload();
  await until("no alerts are told calmly", async () => /does not watch its host/.test(await page.locator("#alerts-none").innerText()));
  await page.locator("#tab-host").click();
  await until("no figures are told calmly", async () => /does not measure/.test(await page.locator("#host-none").innerText()));
  assert.deepEqual(seen, []);
  assert.deepEqual(troubles.filter((line) => !/status of 404/.test(line)), []);

  // What this host itself does, as the server measures it.
  await page.unrouteAll({ behavior: "ignoreErrors" });
  server.sql("insert into alerts (rule, subject, value, threshold, text, since) values ('disk', '/x', 90, 85, 'is full', now())");
  await page.goto(`${server.url}/admin/#host`);
  // What the graphs need may fail to come once.
  await page.route("**/uplot*", (route) => route.abort(), { times: 1 });
  await page.reload();
  await until("that it did not come is told", async () => /could not be loaded/.test(await page.locator("#host-none").innerText()));
  await until("the real host is drawn", async () => (await page.locator("#graphs canvas").count()) === 4 && /\d+ %, load \d/.test(await page.locator("#host-now").innerText()));

  await until("the alert is counted", async () => /\(\d+\)/.test(await page.locator("#alerts-now").textContent()));

  // Who is no administrator is told, and finds no link here.
  await page.context().clearCookies();
  await page.goto(server.url);
  assert.equal((await call(page, "POST", "/auth/signup", { email: "pupil@example.org", password: "correct horse" })).status, 201);
  await page.goto(`${server.url}/admin/`);
  await until("he is told", async () => /for administrators and teachers/.test(await page.locator("#banner").innerText()));
  await page.goto(server.url);
  await page.locator("#start").waitFor();
  assert.ok(await page.locator("#admin-open").isHidden());
  // A teacher sees the class and changes nothing.
  server.sql("update users set role = 'teacher' where login = 'pupil'");
  await call(page, "POST", "/auth/login", { email: "pupil", password: "correct horse" });
  await page.goto(`${server.url}/admin/#users`);
  await page.locator("#wall-search").waitFor();
  assert.deepEqual(await page.locator('[role="tab"]:visible').allInnerTexts(), ["Class"]);
  assert.ok(await page.locator("#wall-acts").isHidden());
  await page.goto(server.url);
  await page.locator("#admin-open", { hasText: "Class" }).waitFor();
  server.sql("update users set role = 'admin' where login = 'pupil'");
  await call(page, "POST", "/auth/login", { email: "pupil", password: "correct horse" });
  await page.reload();
  await page.locator("#admin-open").click();
  await page.locator("#tab-audit").waitFor();
  await close();
});
