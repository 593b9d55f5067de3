// The clipboard of a real guest that has an agent, both ways, before and after a snapshot.

import assert from "node:assert/strict";
import { test } from "node:test";
import { browse, call, Server, showBar, signUp, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

test("what is copied in the browser is in the guest, and the other way round, also after a snapshot", async () => {
  const { page, troubles, close } = await browse();
  await signUp(page, server.url, "copyist");
  await page.evaluate(() => fetch("/run-iso", { method: "POST", body: JSON.stringify({ data_disk_gb: 1 }) }));
  await page.locator("#vm-open").click();
  await page.waitForFunction(() => document.documentElement.dataset.state === "connected");
  const [vm] = (await call(page, "GET", "/vms")).body.vms;
  const serial = await server.serial(vm.vmid);
  await until("the guest is up", () => /tiny: up/.test(serial.text));
  await showBar(page);
  await page.locator("#text-open").click();
  // The guest's agent may still be on its way: QEMU tells the page of the guest's clipboard only once it is there.
  const bothWays = async (mark) => {
    await until(`the guest has what was copied here ${mark}`, async () => {
      await page.locator("#outgoing").fill(`to the guest ${mark} ñ`);
      await page.locator("#paste").click();
      return serial.text.includes(`agent clipboard: to the guest ${mark} ñ`);
    });
    await until(`the page has what was copied there ${mark}`, async () => {
      serial.send(`printf 'to the page ${mark}' > /tmp/copy\n`);
      return (await page.locator("#incoming").inputValue()) === `to the page ${mark}`;
    });
  };
  await bothWays("1");
  const taken = await call(page, "POST", `/vms/${vm.vmid}/snapshots`, { name: "one" });
  assert.equal(taken.status, 201, JSON.stringify(taken));
  await bothWays("2");
  const back = await call(page, "POST", `/vms/${vm.vmid}/snapshots/one/restore`);
  assert.equal(back.status, 200, JSON.stringify(back));
  await bothWays("3");
  serial.close();
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  assert.deepEqual(troubles, []);
  await close();
});
