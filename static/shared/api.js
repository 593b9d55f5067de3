// The one way the pages speak to the server: JSON in, JSON out, same origin, the cookie says who.
//
// Every failure becomes a Problem with a sentence a person can act on, whether the server said it
// (RFC 9457 problem+json) or could not be reached. A 401 anywhere but in a log-in means the
// session is over; the page is told once, here.

/** What went wrong: `status` (0 when the server was not reached), `code`, `field`, and `message`. */
export class Problem extends Error {
  constructor(status, { detail, code, field } = {}) {
    super(detail || `The server answered ${status} and did not say why. Try again in a moment.`);
    this.status = status;
    this.code = code ?? "";
    this.field = field ?? "";
  }
}

const UNREACHABLE = "The server cannot be reached. Check your connection, then try again.";

let signedOut = () => {};
let skew = 0;

/** Sets what to do when the server no longer knows us. */
export function onSignedOut(act) {
  signedOut = act;
}

/** Somebody else than `call` was told that the server no longer knows us. */
export function refused() {
  signedOut();
}

/** The server's time in milliseconds, so that an uptime is right where this computer's clock is not. */
export function serverNow() {
  return Date.now() + skew;
}

function noteClock(date) {
  const told = Date.parse(date ?? "");
  // The header has whole seconds: a smaller difference is no news.
  if (Number.isFinite(told)) skew = Math.abs(told - Date.now()) > 2000 ? told - Date.now() : 0;
}

/** Calls the API; resolves to the answer's JSON (null for 204) or throws a Problem. `more` are header fields. */
export async function call(method, path, body, more = {}) {
  const headers = { Accept: "application/json", ...more };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body), cache: "no-store" });
  } catch {
    throw new Problem(0, { detail: UNREACHABLE, code: "unreachable" });
  }
  noteClock(answer.headers.get("Date"));
  if (answer.status === 204) return null;
  const json = await answer.json().catch(() => undefined);
  // Cut off in the middle, as by a page that is left.
  if (answer.ok && json === undefined) throw new Problem(0, { detail: UNREACHABLE, code: "unreachable" });
  if (answer.ok) return json;
  const problem = new Problem(answer.status, json ?? {});
  if (answer.status === 401 && problem.code !== "bad_credentials") signedOut(problem);
  throw problem;
}
