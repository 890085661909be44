// Elements, texts and long lists. Nothing here makes markup of a text: whatever a text holds, it stays a text.

export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

/** Sets a text, where it is another one: a browser lays out again whatever was touched. */
export function put(element, text) {
  text = String(text);
  if (element.textContent !== text) element.textContent = text;
}

export function hint(element, text) {
  if (element.title !== text) element.title = text;
}

/** `1.4 s`, `12 s`, `3 min`, `2 h`, `4 d` of milliseconds. */
export function span(ms) {
  if (ms < 0) ms = 0;
  if (ms < 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  if (ms < 7_200_000) return `${Math.round(ms / 60_000)} min`;
  if (ms < 172_800_000) return `${Math.round(ms / 3_600_000)} h`;
  return `${Math.round(ms / 86_400_000)} d`;
}

const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const DAY = new Intl.DateTimeFormat(undefined, { month: "short", day: "numeric" });

/** A time of the server's, in the reader's zone; with the day where it is not today's. */
export function clock(text) {
  const at = new Date(text);
  if (Number.isNaN(at.getTime())) return text;
  const day = new Date().toDateString() === at.toDateString() ? "" : `${DAY.format(at)} `;
  return day + CLOCK.format(at);
}

export function number(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(0) : value.toFixed(1);
}

export function share(ratio) {
  if (ratio === undefined || ratio === null) return "–";
  return ratio === 1 ? "100%" : `${(Math.floor(ratio * 10_000) / 100).toFixed(2)}%`;
}

/** What a state is called, and the class that colours it. The word is always there too. */
export function badge(state) {
  return h("span", { class: `badge ${state}` }, state);
}

/** Height of a row in pixels; the same number stands in style.css. */
const ROW = 32;
/** Rows that are kept ready above and below what is seen. */
const MARGIN = 6;

let grids = 0;

/**
 * A list of any length of which only what is seen has elements.
 *
 * `columns`: `{ title, cell }`, of which `cell(element, item)` fills one cell and touches only what changed.
 * `choose(item)` is told of a click or Enter; `key(item)` names an item.
 */
export class Rows {
  constructor({ label, columns, key, choose, empty }) {
    Object.assign(this, { columns, key, choose });
    this.items = [];
    this.pool = [];
    this.at = -1;
    this.id = `grid${++grids}`;
    const head = columns.map((column) => h("span", { role: "columnheader", class: column.class }, column.title));
    this.body = h("div", { role: "rowgroup", class: "body" });
    this.empty = h("p", { class: "note" }, empty ?? "Nothing here.");
    this.element = h(
      "div",
      { role: "grid", tabindex: 0, class: "rows", "aria-label": label, "aria-rowcount": 1, onscroll: () => this.soon() },
      h("div", { role: "rowgroup", class: "head" }, h("div", { role: "row", "aria-rowindex": 1 }, head)),
      this.body,
    );
    this.body.addEventListener("click", (event) => {
      const row = event.target.closest("[role=row]");
      if (!row || event.target.closest("a, button")) return;
      this.select(Number(row.dataset.at));
      this.open();
    });
    this.element.addEventListener("keydown", (event) => this.typed(event));
    this.observer = new ResizeObserver(() => this.soon());
    this.observer.observe(this.element);
  }

  /** Takes a new list; what was selected stays so where it is still there. */
  set(items) {
    const selected = this.items[this.at];
    this.items = items;
    if (selected) {
      const key = this.key(selected);
      this.at = items.findIndex((item) => this.key(item) === key);
    }
    this.element.setAttribute("aria-rowcount", items.length + 1);
    this.draw();
  }

  /** The items on the screen. */
  seen() {
    const first = Math.floor(this.element.scrollTop / ROW);
    return this.items.slice(first, first + Math.ceil(this.element.clientHeight / ROW));
  }

  /** Selects an item by its key without opening it. */
  mark(key) {
    this.at = this.items.findIndex((item) => this.key(item) === key);
    this.draw();
  }

  soon() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      this.draw();
    });
  }

  draw() {
    const height = `${this.items.length * ROW}px`;
    if (this.body.style.height !== height) this.body.style.height = height;
    if (this.items.length === 0) this.element.append(this.empty);
    else this.empty.remove();
    const seen = Math.ceil(this.element.clientHeight / ROW);
    const first = Math.max(0, Math.floor(this.element.scrollTop / ROW) - MARGIN);
    const last = Math.min(this.items.length, first + seen + 2 * MARGIN);
    while (this.pool.length < last - first) this.pool.push(this.row());
    const used = new Set();
    for (let at = first; at < last; at += 1) {
      // A row keeps its element while it is seen, so that scrolling moves few of them.
      const slot = at % this.pool.length;
      used.add(slot);
      this.fill(this.pool[slot], at);
    }
    this.pool.forEach((row, slot) => {
      if (!used.has(slot) && row.isConnected) row.remove();
    });
    const active = this.at >= first && this.at < last ? `${this.id}-${this.at % this.pool.length}` : "";
    if (active) this.element.setAttribute("aria-activedescendant", active);
    else this.element.removeAttribute("aria-activedescendant");
  }

  row() {
    const cells = this.columns.map((column) => h("span", { role: "gridcell", class: column.class }));
    return h("div", { role: "row", id: `${this.id}-${this.pool.length}` }, cells);
  }

  fill(row, at) {
    const item = this.items[at];
    if (row.dataset.at !== String(at)) {
      row.dataset.at = at;
      row.setAttribute("aria-rowindex", at + 2);
      row.style.transform = `translateY(${at * ROW}px)`;
    }
    const selected = String(at === this.at);
    if (row.getAttribute("aria-selected") !== selected) row.setAttribute("aria-selected", selected);
    this.columns.forEach((column, number) => column.cell(row.children[number], item));
    if (!row.isConnected) this.body.append(row);
  }

  typed(event) {
    const page = Math.max(1, Math.floor(this.element.clientHeight / ROW) - 2);
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (event.key in steps) this.move(steps[event.key]);
    else if (event.key === "Enter") this.open();
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  move(step) {
    if (this.items.length === 0) return;
    const at = this.at < 0 && step > 0 && step !== Infinity ? step - 1 : this.at + step;
    this.select(Math.min(Math.max(at, 0), this.items.length - 1));
  }

  select(at) {
    this.at = at;
    const [top, height] = [at * ROW, this.element.clientHeight - ROW];
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + ROW > this.element.scrollTop + height) this.element.scrollTop = top + ROW - height;
    this.draw();
  }

  open() {
    const item = this.items[this.at];
    if (item !== undefined) this.choose?.(item);
  }
}

/** A plain table of what is short. */
export function table(label, titles, rows) {
  return h(
    "table",
    { "aria-label": label },
    h("thead", {}, h("tr", {}, titles.map((title) => h("th", { scope: "col" }, title)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell) => h("td", {}, cell ?? ""))))),
  );
}

/** Pairs of a word and what it is. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== undefined && value !== null && value !== "");
  return h("dl", {}, shown.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
}
