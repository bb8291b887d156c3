// What is asked when, and which view is shown.

import { ask, login } from "./api.js";
import { config } from "./config.js";
import { fill, h } from "./dom.js";
import { events, machines, pipelines, sale, servers, vips } from "./views.js";

/** Each view with what it asks for beside the overview. */
const VIEWS = {
  machines: { title: "Machines", draw: machines, asks: [] },
  vips: { title: "Virtual IPs", draw: vips, asks: [] },
  servers: { title: "Servers", draw: servers, asks: ["status"] },
  pipelines: { title: "Pipelines", draw: pipelines, asks: ["status"] },
  sale: { title: "Flash sale", draw: sale, asks: [] },
  events: { title: "Events", draw: events, asks: ["requests", "changes", "lines"] },
  config: { title: "Configuration", draw: config, asks: ["objects", "changes"] },
};

const EVERY_MS = 2_000;
const AT_MOST_MS = 30_000;
/** Points of a line. */
const KEPT = 60;

const at = (id) => document.getElementById(id);

/** Counters as they were, rates made of them, and the last rates. */
const counters = new Map();

const known = {
  overview: null,
  /** Each second, since the last time; nothing the first time, or after a restart. */
  rate(key, value) {
    if (value === null || value === undefined) return null;
    const before = counters.get(key);
    if (before?.at === known.asked) return before.rate;
    const rate = before && value >= before.value && known.asked > before.at ? ((value - before.value) * 1000) / (known.asked - before.at) : null;
    const lately = before?.lately ?? [];
    if (rate !== null) lately.push(rate);
    counters.set(key, { value, at: known.asked, rate, lately: lately.slice(-KEPT) });
    return rate;
  },
  history: (key) => counters.get(key)?.lately ?? [],
  steered: (vip, machine) => known.overview.members
    .flatMap((member) => member.figures?.weir_steered_total ?? [])
    .filter(([labels]) => labels.vip === vip && labels.machine === machine)
    .reduce((sum, [, value]) => sum + value, 0),
  draw,
  refresh: () => look(),
};

const current = () => VIEWS[location.hash.slice(2)] ? location.hash.slice(2) : "machines";

function draw() {
  const view = VIEWS[current()];
  if (!known.overview || !view.asks.every((name) => name in known)) return;
  at("waiting")?.remove();
  fill(at("content"), view.draw(known));
  at("content").setAttribute("aria-busy", "false");
  at("cluster").textContent = known.overview.clusterName;
  document.title = `${view.title} · Weir`;
}

function navigation() {
  const name = current();
  fill(at("views"), Object.entries(VIEWS).map(([key, { title }]) =>
    h("li", null, h("a", { href: `#/${key}`, "aria-current": key === name ? "page" : null }, title))));
}

function who() {
  at("who").textContent = !known.me ? "" : login.authorization ? `${known.me.kind} ${known.me.name}${known.me.mayWrite ? "" : " (may read)"}` : "read only";
  at("login").textContent = login.authorization ? "Log out" : "Log in";
}

const QUESTIONS = {
  status: "/status/objects",
  requests: "/requests?limit=50",
  changes: "/history",
  lines: "/logs?tail=100",
  objects: "/objects",
};

/** Asks for what the view shows. What one machine does not tell is said, and the rest is shown. */
async function look() {
  const view = VIEWS[current()];
  const warnings = [];
  const overview = await ask("/overview");
  warnings.push(...overview.warnings);
  const asked = performance.now();
  // Documents change with the configuration alone.
  const names = view.asks.filter((name) => !["objects", "changes"].includes(name) || known[`${name}At`] !== overview.version || !(name in known));
  const answers = await Promise.all(names.map(async (name) => {
    try {
      return [name, await ask(QUESTIONS[name], { text: name === "lines" })];
    } catch (error) {
      // A secondary has no history, and not everybody may see everything.
      if (error.status === 0 || error.status === 401) throw error;
      return [name, { value: null, warnings: name === "changes" ? [] : [`${QUESTIONS[name]}: ${error.message}`], trouble: error.message }];
    }
  }));
  known.me ??= (await ask("/whoami")).value;
  Object.assign(known, { overview: overview.value, asked });
  for (const [name, answer] of answers) {
    known[name] = name === "requests" ? answer.value?.requests : answer.value;
    known[`${name}At`] = overview.version;
    if (name === "changes") known.changesTrouble = answer.trouble;
    warnings.push(...answer.warnings);
  }
  return warnings;
}

let failures = 0;
let timer = null;
let last = null;
let turn = 0;

async function go() {
  clearTimeout(timer);
  const mine = ++turn;
  try {
    const warnings = await look();
    if (mine !== turn) return;
    failures = 0;
    last = new Date();
    trouble(warnings.join("\n"));
    say("Live");
    who();
    draw();
  } catch (error) {
    if (mine !== turn) return;
    failures += 1;
    if (error.status === 401) {
      trouble(`The API asks for a login. ${error.message}`);
      say("Not logged in");
      known.me = null;
      at("waiting")?.remove();
      who();
    } else {
      const since = last ? ` What is shown is from ${last.toLocaleTimeString()}.` : "";
      trouble(`The admin API does not answer: ${error.message}.${since} It is asked again.`);
      say("Not live");
    }
  }
  const wait = Math.min(EVERY_MS * 2 ** Math.min(failures, 4), AT_MOST_MS);
  if (!document.hidden) timer = setTimeout(go, wait);
}

/** Said to people who listen only when it is another thing than before. */
function say(text) {
  if (at("state").textContent !== text) at("state").textContent = text;
}

function trouble(text) {
  at("trouble").hidden = text === "";
  if (at("trouble").textContent !== text) at("trouble").textContent = text;
}

addEventListener("hashchange", () => {
  navigation();
  at("content").setAttribute("aria-busy", "true");
  draw();
  at("content").focus();
  scrollTo(0, 0);
  go();
});
document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : go()));

at("login").addEventListener("click", () => {
  if (login.authorization) {
    login.forget();
    known.me = null;
    who();
    go();
    return;
  }
  at("login-trouble").textContent = "";
  at("login-secret").value = "";
  at("login-dialog").showModal();
});
at("login-cancel").addEventListener("click", () => at("login-dialog").close());
at("login-dialog").querySelector("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  login.set(at("login-user").value.trim(), at("login-secret").value);
  try {
    known.me = (await ask("/whoami")).value;
    at("login-dialog").close();
    go();
  } catch (error) {
    login.forget();
    at("login-trouble").textContent = error.message;
  }
  who();
});

navigation();
go();

