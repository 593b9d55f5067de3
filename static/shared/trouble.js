// Why something did not work, until it is closed. The pages of a machine have its markup: #trouble, -text, -close.
import { $ } from "./dom.js";

/** Says why; "" takes that away. */
export function trouble(text) {
  $("trouble").hidden = !text;
  $("trouble-text").textContent = text;
}

/** Wires the bar. `done()` is called when it was closed, to give the focus back. */
export function setUpTrouble(done) {
  $("trouble-close").addEventListener("click", () => {
    trouble("");
    done();
  });
}
