// Numbers and states as people say them. Pure: values in, words out.

/** `2048` MB → `2 GB`, `1536` → `1.5 GB`, `512` → `512 MB` (binary, as QEMU counts). */
export function megabytes(mb) {
  if (!Number.isFinite(mb)) return "";
  return mb < 1024 ? `${mb} MB` : `${Number((mb / 1024).toFixed(mb % 1024 ? 1 : 0))} GB`;
}

/** A file's size from its bytes. */
export function bytes(n) {
  if (!Number.isFinite(n)) return "";
  return n > 0 && n < 1048576 ? `${Math.max(1, Math.round(n / 1024))} KB` : megabytes(Math.round(n / 1048576));
}

/** A span in milliseconds with its two largest units: `42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`. */
export function span(ms) {
  const s = Math.max(0, Math.floor(ms / 1000));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

/** How long ago, roughly, in the reader's language settings' numbers but plain English words. */
export function ago(ms) {
  const units = [["minute", 60000], ["hour", 3600000], ["day", 86400000]];
  if (ms < 60000) return "just now";
  const [unit, size] = units.findLast(([, length]) => ms >= length);
  return new Intl.RelativeTimeFormat("en", { numeric: "auto" }).format(-Math.floor(ms / size), unit);
}

/** The exact time, for a tool tip. */
export function exactly(date) {
  return new Date(date).toLocaleString(undefined, { dateStyle: "medium", timeStyle: "medium" });
}

/** The last part of an image's path or name. */
export function imageName(iso) {
  const name = typeof iso === "object" ? iso?.name : iso;
  return (name ?? "").split("/").pop();
}

const ENDINGS = {
  "guest shutdown": "It was shut down from inside.",
  "stopped by user": "You stopped it.",
  "stopped by an administrator": "An administrator stopped it.",
  idle: "It was stopped because nobody used it for a while.",
  "time limit": "It was stopped because its time was up.",
  "host restarted": "The host was restarted.",
  "server stopped": "The server was stopped.",
  "the server ended while it started": "The server was restarted while it started. Start it again.",
  "its qemu ended while the server was away": "It ended while the server was away. Start it again.",
  "qemu took more memory than a VM may": "It took more memory than a desktop may. Start it again; if that happens often, tell whoever runs this server.",
};

/** Why a machine ended, as a sentence; `mine` when it is told to its owner. What is not known is told as the server tells it. */
export function ending(vm, mine = true) {
  if (!mine && vm?.exit === "stopped by user") return "Its owner stopped it.";
  if (vm?.exit && ENDINGS[vm.exit]) return ENDINGS[vm.exit];
  if (vm?.state === "failed") return `Its machine broke down${vm.exit ? ` (${vm.exit})` : ""}. Start it again; if that happens often, tell whoever runs this server.`;
  return vm?.exit ? `It ended: ${vm.exit}` : "It has stopped.";
}

/**
 * That a machine ends soon: what is read out once, what is shown with the time `left` in milliseconds,
 * and what helps; `mine` when it is told to its owner: nobody else can keep it.
 */
export function warningOf(vm, left, mine = true) {
  const time = span(Math.max(0, left));
  if (!mine) {
    const why = vm.expires_because === "idle" ? "Nobody has used this desktop for a while." : "This desktop's time is nearly up.";
    return { said: `${why} It stops soon.`, text: `${why} It stops in ${time}.` };
  }
  return vm.expires_because === "idle"
    ? { said: "Nobody has used your desktop for a while. It stops soon.", text: `Nobody has used your desktop for a while. It stops in ${time}.`, act: "keep" }
    : { said: "Your desktop's time is nearly up and cannot be extended. Save your work elsewhere.", text: `Your desktop's time is up in ${time} and cannot be extended. Save your work elsewhere.` };
}

const PAUSES = {
  "disk full": ["Your desktop stands still: the server's disk is full. Tell whoever runs this server, then resume it.", "resume"],
  "disk error": ["Your desktop stands still: its disk cannot be read or written. Tell whoever runs this server.", "resume"],
  "guest panic": ["The system in your desktop has crashed. Restart it."],
  paused: ["Your desktop is paused.", "resume"],
};

/** Why a machine stands still and what helps, or null when it does not. */
export function standingStill(vm) {
  if (!vm?.paused || vm.state !== "running") return null;
  const [said, act] = PAUSES[vm.paused] ?? [`Your desktop stands still: ${vm.paused}.`, "resume"];
  return { said, text: said, act };
}

const round = (seconds) => span(seconds * 1000).replace(/ 0 (s|min|h)$/, "");

/** A limit as people say it: `30 min without input`. */
export function idleLimit(seconds) {
  return Number.isFinite(seconds) ? `${round(seconds)} without input` : "";
}

/** When a desktop of this profile stops by itself, or nothing. */
export function limits(profile) {
  const all = [idleLimit(profile.idle_limit_s), Number.isFinite(profile.time_limit_s) && `${round(profile.time_limit_s)} in all`].filter(Boolean);
  return all.length ? `It stops after ${all.join(", and after ")}.` : "";
}

/** What stopping takes away. */
export function loss(vm) {
  return vm?.persistence === "persistent"
    ? "Open programs are closed and what is not saved in them is lost. Files on its disk stay."
    : "This desktop keeps nothing: every file, every program you installed and all that is open in it will be gone for good.";
}

/** What a restart takes away; the start of a sentence about more than one machine too. */
export const RESTART_LOSS = "Open programs end, and what is not saved on a disk is lost: in a system that runs from its image without a disk, that is everything.";

/** What of it is kept, in one line. */
export function keeps(persistence) {
  return persistence === "persistent" ? "Its disk is kept: files are there again next time." : "Nothing is kept once it stops: save your work elsewhere first.";
}

/** "lee is watching", or nothing. */
export function watching(names = []) {
  if (names.length === 0) return "";
  return names.length === 1 ? `${names[0]} is watching` : `${names.slice(0, -1).join(", ")} and ${names.at(-1)} are watching`;
}
