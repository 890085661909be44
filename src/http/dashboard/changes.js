// The feed of changes: who, when and why.

import { Rows, badge, clock, h, hint, put } from "./elements.js";
import { stateOf, why } from "./registry.js";
import { ask } from "./server.js";

/** Changes of the past that are read at once. */
const PAGE = 500;

export class Changes {
  constructor(page) {
    this.page = page;
    /** What the log had, newest first, and where it goes on. */
    this.past = [];
    this.rows = new Rows({
      label: "Changes",
      key: (change) => change.key,
      choose: (change) => change.id !== undefined && page.go("services", change.service, change.service, change.host, change.id),
      empty: "Nothing has changed yet, or no change fits.",
      columns: [
        { title: "When", class: "when", cell: (cell, change) => put(cell, clock(change.at)) },
        { title: "What", class: "what", cell: (cell, change) => put(cell, change.reason) },
        { title: "Service", class: "service", cell: (cell, change) => put(cell, change.service ?? "") },
        { title: "Id", class: "name", cell: (cell, change) => put(cell, change.id ?? "") },
        { title: "Host", class: "host", cell: (cell, change) => put(cell, change.host) },
        { title: "State", class: "state", cell: stateCell },
        { title: "Who", class: "who", cell: (cell, change) => put(cell, change.author) },
        { title: "Why", class: "why", cell: whyCell },
      ],
    });
    this.older = h("button", { type: "button", onclick: () => this.page.attempt(() => this.load()) }, "Older");
    this.hold = h("input", { type: "checkbox", onchange: () => this.update() });
    this.title = h("h2", {}, "Changes");
    this.element = h(
      "section",
      { class: "single" },
      h("div", { class: "bar" }, this.title, h("label", {}, this.hold, " hold still"), this.older),
      this.rows.element,
    );
  }

  async show() {
    if (this.past.length === 0) await this.page.attempt(() => this.load());
    this.update();
  }

  async load() {
    const form = { most: PAGE };
    if (this.next !== undefined) form.before = this.next;
    const page = await ask("log", form);
    this.past.push(...page.changes);
    this.next = page.next;
    this.older.hidden = page.next === undefined;
    this.update();
  }

  update() {
    if (this.hold.checked) return;
    const { registry, filter } = this.page;
    const seen = new Set();
    const all = [];
    const add = (change) => {
      // A change of a host is told once for each of its instances.
      change.key ??= `${change.revision} ${change.service ?? ""} ${change.host} ${change.id ?? ""}`;
      if (seen.has(change.key) || !filter.change(change)) return;
      seen.add(change.key);
      all.push(change);
    };
    for (let at = registry.feed.length - 1; at >= 0; at -= 1) add(registry.feed[at]);
    this.past.forEach(add);
    this.rows.set(all);
  }

  tick() {}

  focus() {
    this.rows.element.focus();
  }

  active() {
    return this.rows;
  }

  back() {
    return false;
  }
}

function stateCell(cell, change) {
  const state = change.id === undefined ? "" : change.instance ? stateOf(change.instance) : "gone";
  if (cell.dataset.state === state) return;
  cell.dataset.state = state;
  cell.replaceChildren(...(state ? [badge(state)] : []));
}

function whyCell(cell, change) {
  change.why ??= why(change);
  put(cell, change.why);
  hint(cell, change.why);
}
