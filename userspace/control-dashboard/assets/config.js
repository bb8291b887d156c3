// Documents, what they were before, and changes of them.

import { ask, login } from "./api.js";
import { h, number, table, when, word } from "./dom.js";

/** What is open: a document, whether it is being edited, and what came of that. */
const open = { name: null, text: "", etag: null, editing: false, said: "", trouble: "", find: "" };

const mayWrite = (known) => Boolean(login.authorization && known.me?.mayWrite);

function yes(title, text) {
  const dialog = document.getElementById("ask-dialog");
  document.getElementById("ask-title").textContent = title;
  document.getElementById("ask-text").textContent = text;
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

async function show(name, known) {
  Object.assign(open, { name, editing: false, said: "", trouble: "", text: "", etag: null });
  try {
    const answer = await ask(`/objects/${encodeURIComponent(name)}`, { text: true });
    if (open.name === name) Object.assign(open, { text: answer.value, etag: answer.etag });
  } catch (error) {
    open.trouble = error.message;
  }
  known.draw();
  document.getElementById("document-title")?.focus();
}

async function attempt(known, work, said) {
  Object.assign(open, { said: "", trouble: "" });
  try {
    open.said = (await work()) ?? said;
  } catch (error) {
    open.trouble = error.status === 412 ? `somebody has changed it meanwhile: open it again. ${error.message}` : error.message;
  }
  known.draw();
}

const written = () => document.getElementById("document-text").value;

function check(known) {
  return attempt(known, async () => {
    const { warnings } = await ask("/objects-check", { method: "POST", body: written(), headers: { "Content-Type": "application/yaml" } });
    return warnings.length > 0 ? `it would be accepted, with warnings: ${warnings.join("; ")}` : "it would be accepted";
  });
}

function save(known) {
  return attempt(known, async () => {
    const headers = { "Content-Type": "application/yaml", ...(open.etag ? { "If-Match": open.etag } : {}) };
    const { version, warnings } = await ask(`/objects/${encodeURIComponent(open.name)}`, { method: "PUT", body: written(), headers });
    const again = await ask(`/objects/${encodeURIComponent(open.name)}`, { text: true });
    Object.assign(open, { text: again.value, etag: again.etag, editing: false });
    await known.refresh();
    return `saved as version ${version}${warnings.length > 0 ? `, with warnings: ${warnings.join("; ")}` : ""}`;
  });
}

async function rollBack(known, version) {
  if (!(await yes("Roll back", `Every object becomes what it was at version ${version}. Go on?`))) return;
  await attempt(known, async () => {
    const answer = await ask(`/rollback?version=${version}`, { method: "POST" });
    await known.refresh();
    return `rolled back to version ${version}; it is version ${answer.version} now`;
  });
}

function documentOf(known) {
  if (open.name === null) return h("p", { class: "faint" }, "Choose an object to see its document.");
  const buttons = !mayWrite(known)
    ? h("p", { class: "faint" }, login.authorization ? "This login may read." : "To change it, log in with what may write.")
    : open.editing
      ? h("p", { class: "buttons" },
          h("button", { type: "button", onclick: () => check(known) }, "Check"), " ",
          h("button", { type: "button", onclick: () => save(known) }, "Save"), " ",
          h("button", { type: "button", onclick: () => { open.editing = false; known.draw(); } }, "Leave it as it is"))
      : h("p", { class: "buttons" }, h("button", { type: "button", onclick: () => { Object.assign(open, { editing: true, said: "", trouble: "" }); known.draw(); document.getElementById("document-text").focus(); } }, "Edit"));
  const text = open.editing
    ? h("textarea", { id: "document-text", "data-kept": open.name, "data-key": `edit ${open.name}`, "aria-labelledby": "document-title", spellcheck: "false" }, open.text)
    : h("pre", { tabindex: "0", role: "region", "aria-labelledby": "document-title", "data-key": `show ${open.name}` }, open.text);
  return [
    h("h2", { id: "document-title", tabindex: "-1" }, open.name),
    buttons,
    text,
    h("p", { role: "status" }, open.said),
    h("p", { role: "alert", class: "bad" }, open.trouble),
  ];
}

export function config(known) {
  const objects = Object.values(known.objects ?? {});
  const found = objects.filter((object) => `${object.kind} ${object.name}`.toLowerCase().includes(open.find));
  const rows = found.slice(0, 200).map((object) => [
    h("button", { type: "button", "aria-current": object.name === open.name ? "true" : null, onclick: () => show(object.name, known) }, object.name),
    object.kind,
  ]);
  const current = known.overview.version;
  const changes = (known.changes ?? []).slice(0, 100).map((change) => [
    number(change.version), when(change.time), change.by ?? "–",
    (change.objects ?? []).slice(0, 5).map((object) => `${object.change} ${object.kind} ${object.name}`).join(", ") + (change.objects?.length > 5 ? ` and ${change.objects.length - 5} more` : ""),
    change.version === current ? word("in force", "good")
      : mayWrite(known) ? h("button", { type: "button", onclick: () => rollBack(known, change.version) }, `Roll back to ${change.version}`) : "",
  ]);
  const search = (event) => { open.find = event.target.value.trim().toLowerCase(); known.draw(); };
  return [
    h("h1", null, "Configuration"),
    h("div", { class: "columns" },
      h("section", { "aria-label": "Objects" },
        h("p", null, h("label", { for: "find" }, "Find by kind or name"), h("input", { id: "find", class: "find", "data-kept": "find", type: "search", oninput: search })),
        table(`Objects (${found.length > rows.length ? `the first ${rows.length} of ${number(found.length)}` : found.length})`, ["Name", "Kind"], rows)),
      h("section", { "aria-label": "Document" }, documentOf(known))),
    table("History, latest first", ["Version", "When", "By", "What", "Now"], changes, known.changesTrouble ?? "none is remembered"),
  ];
}

