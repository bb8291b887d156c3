// One function for each view: from what is known to elements.

import { bytes, h, line, ms, number, percent, table, when, word } from "./dom.js";

const share = (part, whole) => (whole > 0 ? part / whole : null);

/** The samples of a family of figures that a machine told: [labels, value] each. */
const samples = (member, family) => member.figures?.[family] ?? [];
const total = (member, family) => samples(member, family).reduce((sum, [, value]) => sum + value, 0);

const state = (member) =>
  !member.up ? word("down", "bad") : member.state === "Leader" ? word("leader", "good") : word(member.votes ? "follower" : "follows", "");

/** Everything of a kind, machine by machine: status of objects comes as NAMESPACE/NAME/MACHINE. */
export function objectsOf(known, kind) {
  return Object.entries(known.status ?? {})
    .map(([key, { spec, status }]) => ({ key, name: spec?.name ?? key.split("/")[1], machine: key.split("/").at(-1), spec, status }))
    .filter(({ spec }) => kind.includes(spec?.kind));
}

function tiles(...pairs) {
  return h("dl", { class: "tiles" }, pairs.map(([name, value]) => h("div", null, h("dt", null, name), h("dd", null, value))));
}

export function machines(known) {
  const { members, version, leader, level } = known.overview;
  const edges = members.filter((member) => member.edge);
  const current = edges.filter((member) => member.serves?.version === version);
  const rows = members.map((member) => [
    member.name,
    state(member),
    member.edge ? (member.serves ? number(member.serves.version) : word("unknown", "warn")) : word("no edge", "faint"),
    member.serves?.withheld ? word(member.serves.withheld, "bad") : member.serves?.failed ? word(`${member.serves.failed} objects not as they should be`, "bad") : word("none", "good"),
    number(known.rate(`machine ${member.name}`, total(member, "weir_worker_requests_total"))),
    number(total(member, "weir_worker_connections")),
    percent(share(total(member, "weir_worker_busy_ratio"), samples(member, "weir_worker_busy_ratio").length)),
    bytes(total(member, "process_resident_memory_bytes")),
    member.version,
    when(member.startedAt),
  ]);
  const failures = members.flatMap((member) =>
    Object.entries(member.serves?.failures ?? {}).map(([object, reason]) => [object, member.name, reason]));
  const limits = members.flatMap((member) => samples(member, "weir_limit_hits_total").map(([labels, value]) => [labels.limit, member.name, number(value)]));
  return [
    h("h1", null, "Machines"),
    tiles(
      ["Machines up", `${members.filter((member) => member.up).length} of ${members.length}`],
      ["Leader", leader ?? word("nobody", "bad")],
      ["Configuration", `version ${number(version)}`],
      ["Edges that serve it", `${current.length} of ${edges.length}`],
      ["Requests a second", number(known.rate("all", members.reduce((sum, member) => sum + total(member, "weir_worker_requests_total"), 0)))],
      ["Feature level", number(level)],
    ),
    table("Machines and what their edges serve",
      ["Machine", "State", "#Serves version", "Trouble", "#Requests/s", "#Connections", "#Busy", "#Memory", "Program", "Started"], rows),
    failures.length > 0 && table("Objects that are not served as they should be", ["Object", "Machine", "Why"], failures),
    table("Bounds that were reached", ["Bound", "Machine", "#Times"], limits.sort((a, b) => String(a[0]).localeCompare(String(b[0]))), "none was reached"),
  ];
}

export function vips(known) {
  const { vips: all } = known.overview;
  const rows = all.flatMap((vip) => vip.machines.map((machine) => [
    vip.name,
    vip.addresses.join(", "),
    machine.name,
    machine.state === "draining" ? word("draining", "warn") : machine.state === "active" ? word("active", "good") : word(machine.state, "bad"),
    number(machine.weight),
    number(machine.slots),
    h("meter", { min: 0, max: 1, value: machine.share, "aria-label": `share of ${machine.name} in ${vip.name}` }, percent(machine.share)),
    percent(machine.share),
    number(known.rate(`vip ${vip.name} ${machine.name}`, known.steered(vip.name, machine.name))),
  ]));
  const drains = all.filter((vip) => vip.generationsKept > 1 || vip.machines.some((machine) => machine.state === "draining"));
  return [
    h("h1", null, "Virtual IPs"),
    table("Slots of each virtual IP, by machine",
      ["Virtual IP", "Addresses", "Machine", "State", "#Weight", "#Slots", "Share", "#Of all", "#Packets/s"], rows, "there is no VirtualIP"),
    table("Drains under way", ["Virtual IP", "#Generation in force", "#Earlier ones still kept", "Draining"],
      drains.map((vip) => [vip.name, number(vip.generation), number(vip.generationsKept - 1),
        vip.machines.filter((machine) => machine.state === "draining").map((machine) => machine.name).join(", ") || "nobody"]), "none"),
  ];
}

const QUANTILES = ["p50", "p95", "p99", "p999"];

const quantiles = (stat) => QUANTILES.map((name) => ms(stat?.[name]));

export function servers(known) {
  const all = objectsOf(known, ["HTTPServer", "GRPCServer", "TCPProxy", "UDPProxy"]);
  const rows = all.map(({ key, name, machine, spec, status }) => {
    const rate = known.rate(`server ${key}`, status.count ?? status.connections_total);
    return [
      name, spec.kind, machine,
      status.state === "running" || status.health === "" ? word(status.state ?? "running", "good") : word(status.error ?? status.health ?? status.state, "bad"),
      number(rate),
      line(known.history(`server ${key}`), `requests a second of ${name} on ${machine}, lately up to ${number(Math.max(0, ...known.history(`server ${key}`)))}`),
      percent(share(status.m1Err, status.m1) ?? 0),
      ...quantiles(status),
      number(status.connections),
    ];
  });
  const codes = all.flatMap(({ name, machine, status }) =>
    Object.entries(status.codes ?? {}).map(([code, count]) => [`${name} on ${machine}`, code, number(count)]));
  const top = all.flatMap(({ name, machine, status }) =>
    (status.topN ?? []).slice(0, 10).map((path) => [`${name} on ${machine}`, path.path, number(path.count), percent(share(path.m1Err, path.m1) ?? 0), ms(path.p50), ms(path.p99)]));
  return [
    h("h1", null, "Servers"),
    table("Servers, by machine", ["Server", "Kind", "Machine", "State", "#Requests/s", "Lately", "#Errors", ...QUANTILES.map((q) => `#${q}`), "#Connections"], rows, "there is no server"),
    table("Paths asked most", ["Server", "Path", "#Requests", "#Errors", "#p50", "#p99"], top),
    table("Answers of the last seconds, by status", ["Server", "Status", "#Answers"], codes),
  ];
}

/** Pools of a filter's status: those are its parts that have figures. */
function poolsOf(status) {
  const found = [];
  for (const [filter, shown] of Object.entries(status?.filters ?? {})) {
    for (const [part, value] of Object.entries(shown ?? {})) {
      const pools = Array.isArray(value) ? value.map((pool, index) => [`${part} ${index}`, pool]) : [[part, value]];
      for (const [name, pool] of pools) if (pool?.stat) found.push({ filter, name, pool });
    }
  }
  return found;
}

export function pipelines(known) {
  const all = objectsOf(known, ["Pipeline"]);
  const rows = [];
  const health = [];
  for (const { key, name, machine, status } of all) {
    const pools = poolsOf(status);
    if (pools.length === 0) rows.push([name, machine, "–", word("no pool", "faint"), "–", "", "–", ...QUANTILES.map(() => "–")]);
    for (const { filter, name: pool, pool: { stat, servers: checked } } of pools) {
      const id = `pool ${key} ${filter} ${pool}`;
      const rate = known.rate(id, stat.count);
      rows.push([name, machine, `${filter} ${pool}`, number(stat.count), number(rate),
        line(known.history(id), `requests a second of ${name} ${filter} ${pool} on ${machine}`), percent(share(stat.m1Err, stat.m1) ?? 0), ...quantiles(stat)]);
      for (const server of checked ?? []) {
        health.push([server.url, `${name} ${filter} ${pool}`, machine, server.ejected ? word("left out", "bad") : server.healthy ? word("well", "good") : word("not well", "bad")]);
      }
    }
  }
  return [
    h("h1", null, "Pipelines and pools"),
    table("Pipelines with their pools, by machine", ["Pipeline", "Machine", "Pool", "#Requests", "#Requests/s", "Lately", "#Errors", ...QUANTILES.map((q) => `#${q}`)], rows, "there is no pipeline"),
    table("Servers whose health is checked", ["Server", "Pool", "Machine", "Health"], health),
  ];
}

export function sale(known) {
  const rooms = new Map();
  for (const member of known.overview.members) {
    for (const family of Object.keys(member.figures ?? {}).filter((name) => name.startsWith("weir_room") || name.startsWith("weir_lottery"))) {
      for (const [labels, value] of samples(member, family)) {
        const name = `${labels.filter} of ${labels.pipeline}`;
        const room = rooms.get(name) ?? {};
        const figure = [family.replace(/^weir_(room_)?/, ""), ...Object.entries(labels).filter(([key]) => !["pipeline", "filter", "sale"].includes(key)).map(([, text]) => text)].join(" ");
        (room[figure] ??= []).push([member.name, value]);
        rooms.set(name, room);
      }
    }
  }
  // Of the ledger every machine tells the same, of its own users each its own.
  const ofAll = (pairs, figure) => (/^(given|waiting|active|over|rate)/.test(figure) ? Math.max(...pairs.map(([, value]) => value)) : pairs.reduce((sum, [, value]) => sum + value, 0));
  const tables = [...rooms].map(([name, room]) =>
    table(`Room ${name}`, ["Figure", "#In all", "#Each second"],
      Object.entries(room).map(([figure, pairs]) => {
        const value = ofAll(pairs, figure);
        return [figure, number(value), figure.includes("total") ? number(known.rate(`room ${name} ${figure}`, value)) : ""];
      })));
  return [
    h("h1", null, "Flash sale"),
    tables.length > 0 ? tables : h("p", null, "No pipeline has a WaitingRoom or a Lottery."),
  ];
}

export function events(known) {
  const { requests, changes, lines } = known;
  const failed = (requests ?? []).slice(0, 50).map((request) => [
    h("code", null, request.id), when(request.time), request.machine, word(String(request.status), request.status >= 500 ? "bad" : ""),
    `${request.method} ${request.host}${request.target}`, ms(request.durationMs), `${request.endedBy}: ${request.end}`,
  ]);
  const changed = (changes ?? []).slice(0, 30).map((change) => [
    number(change.version), when(change.time), change.by ?? "–",
    (change.objects ?? []).slice(0, 5).map((object) => `${object.change} ${object.kind} ${object.name}`).join(", ") + (change.objects?.length > 5 ? ` and ${change.objects.length - 5} more` : ""),
  ]);
  return [
    h("h1", null, "Events"),
    table("Requests that failed, were refused or slow, latest first; weirctl explain-request ID tells all of one", ["Id", "When", "Machine", "Status", "Request", "#Took", "Ended by"], failed),
    table("Changes of the configuration, latest first", ["Version", "When", "By", "What"], changed, "none is remembered here"),
    h("h2", { id: "log-title" }, "Log of this machine"),
    h("pre", { tabindex: "0", role: "region", "aria-labelledby": "log-title" }, lines ?? ""),
  ];
}
