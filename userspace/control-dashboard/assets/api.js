// Asking the admin API, with the login that this tab has been given.

const KEY = "weir-authorization";
const PATIENCE_MS = 10_000;

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const login = {
  get authorization() {
    return sessionStorage.getItem(KEY);
  },
  set(user, secret) {
    const utf8 = new TextEncoder().encode(`${user}:${secret}`);
    sessionStorage.setItem(KEY, user === "" ? `Bearer ${secret}` : `Basic ${btoa(String.fromCharCode(...utf8))}`);
  },
  forget() {
    sessionStorage.removeItem(KEY);
  },
};

/** Asks; gives the answer's body and what its head says. Anything but success is thrown as Refused, with the API's own words. */
export async function ask(path, { method = "GET", body, headers = {}, text = false } = {}) {
  const asked = { Accept: text ? "application/yaml" : "application/json", ...headers };
  if (login.authorization) asked.Authorization = login.authorization;
  let answer;
  try {
    answer = await fetch(`/apis/v2${path}`, {
      method,
      body,
      headers: asked,
      // The browser's own question for a password would come in between.
      credentials: "omit",
      cache: "no-store",
      signal: AbortSignal.timeout(PATIENCE_MS),
    });
  } catch (error) {
    throw new Refused(0, error.name === "TimeoutError" ? "no answer in 10 s" : "it cannot be reached");
  }
  const said = await answer.text();
  if (!answer.ok) {
    let message = said;
    try {
      message = JSON.parse(said).message ?? said;
    } catch {
      // It did not speak JSON; its own words will do.
    }
    throw new Refused(answer.status, message || `it answered ${answer.status}`);
  }
  return {
    value: text || said === "" ? said : JSON.parse(said),
    version: Number(answer.headers.get("x-config-version")),
    etag: answer.headers.get("etag"),
    warnings: (answer.headers.get("warning") ?? "").split(/,\s*(?=299 )/).filter(Boolean).map((text) => text.replace(/^299 weir "(.*)"$/, "$1")),
  };
}
