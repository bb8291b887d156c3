// Elements made without parsing text as markup, changed in place so that the focus stays, and numbers for people.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; `on…` attributes are listeners, nothing is left out that is `false`, `null` or absent. */
export function h(tag, attributes, ...children) {
  const element = tag === "svg" || tag === "polyline" ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === false || value === null || value === undefined) continue;
    if (name.startsWith("on")) {
      element[name] = value;
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  for (const child of children.flat(9)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return element;
}

/** Makes the children of `place` what `children` are, and keeps those elements that are alike. */
export function fill(place, ...children) {
  const wanted = h("div", null, ...children);
  follow(place, wanted);
}

const LISTENERS = ["onclick", "oninput", "onsubmit", "onchange"];

function follow(old, wanted) {
  const before = [...old.childNodes];
  const after = [...wanted.childNodes];
  after.forEach((node, index) => {
    const known = before[index];
    if (known === undefined) {
      old.append(node);
    } else if (known.nodeType !== node.nodeType || known.nodeName !== node.nodeName || known.dataset?.key !== node.dataset?.key) {
      known.replaceWith(node);
    } else if (node.nodeType === Node.TEXT_NODE) {
      if (known.data !== node.data) known.data = node.data;
    } else {
      // What somebody writes in is theirs.
      if (known.dataset.kept !== undefined) return;
      for (const { name } of [...known.attributes]) if (!node.hasAttribute(name) && name !== "open") known.removeAttribute(name);
      for (const { name, value } of node.attributes) if (known.getAttribute(name) !== value) known.setAttribute(name, value);
      for (const name of LISTENERS) known[name] = node[name];
      follow(known, node);
    }
  });
  before.slice(after.length).forEach((node) => node.remove());
}

/** A table with a caption; columns are names, or names of numbers with `#` before them. The first cell of a row is its head. */
export function table(caption, columns, rows, empty) {
  const isNumber = columns.map((name) => name.startsWith("#"));
  const cell = (value, index) => h(index === 0 ? "th" : "td", { scope: index === 0 ? "row" : null, class: isNumber[index] ? "n" : null }, value);
  const none = h("tr", null, h("td", { colspan: columns.length, class: "faint" }, empty ?? "none"));
  const head = columns.map((name, index) => h("th", { scope: "col", class: isNumber[index] ? "n" : null }, name.replace("#", "")));
  return h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption },
    h("table", null, h("caption", null, caption), h("thead", null, h("tr", null, head)),
      h("tbody", null, rows.length === 0 ? none : rows.map((row) => h("tr", null, row.map(cell))))));
}

export function number(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const digits = Math.abs(value) < 10 && !Number.isInteger(value) ? 2 : 0;
  return value.toLocaleString("en", { maximumFractionDigits: digits });
}

export function bytes(value) {
  if (!value) return "0 B";
  const power = Math.min(4, Math.floor(Math.log(value) / Math.log(1024)));
  return `${number(value / 1024 ** power)} ${["B", "KiB", "MiB", "GiB", "TiB"][power]}`;
}

export function ms(value) {
  if (value === null || value === undefined) return "–";
  return value >= 1000 ? `${number(value / 1000)} s` : `${number(value)} ms`;
}

export function percent(share) {
  return share === null || share === undefined || Number.isNaN(share) ? "–" : `${number(share * 100)} %`;
}

export function when(text) {
  const time = new Date(text);
  if (Number.isNaN(time.getTime())) return text ?? "–";
  return h("time", { datetime: text }, time.toLocaleString());
}

/** A word whose colour says no more than the word does. */
export function word(text, kind) {
  return h("span", { class: kind }, text);
}

/** The last values as a line; what it shows is told in words as well. */
export function line(values, label) {
  const most = Math.max(...values, 1e-9);
  const points = values.map((value, index) => `${(index * 100) / Math.max(values.length - 1, 1)},${19 - (value / most) * 18}`).join(" ");
  return h("svg", { class: "line", viewBox: "0 0 100 20", preserveAspectRatio: "none", role: "img", "aria-label": label },
    values.length > 1 ? h("polyline", { points }) : null);
}
