// A phone: the bar, the on-screen keyboard and fingers, on a real guest, which tells of every key and click.

import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { browse, call, keysOf, output, Server, signUp, startDesktop, until } from "./server.mjs";

const server = Server.ofFile("stop_vms_on_exit = true");

test("on a phone one types with its keyboard, composes words, deletes, and taps", async () => {
  const { context, page, troubles, close } = await browse({ viewport: { width: 360, height: 740 }, hasTouch: true, isMobile: true, deviceScaleFactor: 2 });
  await signUp(page, server.url, "thumbs");
  const vm = await startDesktop(page);
  const serial = await server.serial(vm.vmid);
  const devtools = await context.newCDPSession(page);
  await page.locator("#handle").tap();
  await page.locator("#touch-open").tap();
  await page.locator('#touch-open[aria-pressed="true"]').waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.id), "touch-keys");
  await page.screenshot({ path: path.join(output, "touch-keyboard.png") });
  const beyond = await page.locator("#bar .tool:visible").evaluateAll((tools) => tools.filter((tool) => tool.getBoundingClientRect().left < 0 || tool.getBoundingClientRect().right > innerWidth).map((tool) => tool.id));
  assert.deepEqual(beyond, [], "tools beyond the edge of the phone");

  const wanted = [];
  const has = async (what, ...codes) => {
    wanted.push(...codes);
    await until(`the guest has ${what}`, () => keysOf(serial).length >= wanted.length);
    assert.deepEqual(keysOf(serial), wanted, what);
  };
  // What most keyboards of phones do: no keys, only text.
  await devtools.send("Input.insertText", { text: "hi" });
  await has("h i", 35, 23);
  // A word that grows and changes while it is composed: w, wo, then "we" (o taken back), then it is put down.
  for (const text of ["w", "wo", "we"]) await devtools.send("Input.imeSetComposition", { text, selectionStart: text.length, selectionEnd: text.length });
  await devtools.send("Input.insertText", { text: "we" });
  await has("w o Backspace e", 17, 24, 14, 18);
  await page.keyboard.press("Backspace");
  await has("Backspace", 14);
  await page.keyboard.press("Enter");
  await has("Enter", 28);
  await page.locator("#touch-open").tap();
  await page.locator('#touch-open[aria-pressed="false"]').waitFor();

  const box = await page.locator("#screen canvas").boundingBox();
  await page.touchscreen.tap(box.x + box.width / 2, box.y + box.height / 2);
  await until("the guest has the tap", () => /fbdemo button 0 1 at 5\d\d 3\d\d/.test(serial.text));
  serial.close();
  assert.equal((await call(page, "POST", `/vms/${vm.vmid}/stop`, { force: true })).status, 200);
  assert.deepEqual(troubles, []);
  await close();
});
