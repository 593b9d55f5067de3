// A moment in the past: how long ago, as time goes on, and the exact time on hover.
import { serverNow } from "./api.js";
import { make } from "./dom.js";
import { ago, exactly } from "./words.js";

const AGES_MS = 30_000;

const since = (date) => ago(serverNow() - Date.parse(date));

/** The element for `date`. */
export function when(date, attributes = {}) {
  return make("time", { ...attributes, datetime: date, title: exactly(date), "data-ages": true }, since(date));
}

setInterval(() => {
  for (const time of document.querySelectorAll("time[data-ages]")) {
    const words = since(time.dateTime);
    if (time.textContent !== words) time.textContent = words;
  }
}, AGES_MS);
