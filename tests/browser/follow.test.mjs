// A guest that can, changes its own screen with the browser's window.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { browse, call, machines, output, pixel, Server, showBar, signUp, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true", "", "", "virtio");

test("a guest whose screen is off is explained, and one follows the window's size, and again when that changes", async () => {
  const { page, troubles, close } = await browse();
  await signUp(page, server.url, "follower");
  await page.locator("#start").click();
  await page.waitForURL(/\/novnc\/\?path=ws/);
  await page.waitForFunction(() => document.documentElement.dataset.state === "connected");
  const [vm] = await machines(page);
  const serial = await server.serial(vm.vmid);
  await until("the guest is up", () => /tiny: up/.test(serial.text));
  // It switches its screen off: QEMU writes so, and the page what that means.
  serial.send("\necho 4 > /sys/class/graphics/fb0/blank\n");
  await page.locator("#blank", { hasText: "The guest's screen is switched off: the system is starting, or changes its screen" }).waitFor({ timeout: 60_000 });
  await page.screenshot({ path: path.join(output, "follow-off.png") });
  serial.send("\necho 0 > /sys/class/graphics/fb0/blank; follow &\n");
  await until("the guest paints its screen", () => /follow \d+x\d+/.test(serial.text));
  await showBar(page);
  await page.locator("#view-open").click();
  await page.getByLabel("Follow the window").check();
  const size = () => page.locator("#screen canvas").evaluate((canvas) => [canvas.width, canvas.height].join("x"));
  for (const [width, height] of [[1280, 800], [1000, 700], [360, 740]]) {
    await page.setViewportSize({ width, height });
    await until(`the guest's screen is ${width}x${height}`, async () => (await size()) === `${width}x${height}` && serial.text.includes(`follow ${width}x${height}`));
    const corners = [[2, 2], [width - 3, 2], [2, height - 3], [width - 3, height - 3]];
    await until("all of it is painted", async () => {
      const seen = [];
      for (const [x, y] of corners) seen.push(String(await pixel(page, x, y)));
      return seen.join(" ") === "255,0,0 0,255,0 255,0,255 0,255,255";
    });
    await page.screenshot({ path: path.join(output, `follow-${width}.png`) });
  }
  serial.close();
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  assert.deepEqual(troubles, []);
  await close();
});
