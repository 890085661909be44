// The services, and the instances of one or of all.

import { Rows, badge, clock, facts, h, hint, put, share, span, table } from "./elements.js";
import { History, fails, strip } from "./registry.js";
import { ask, read } from "./server.js";

const SPANS = { "10 min": 600_000, "1 h": 3_600_000, "24 h": 86_400_000 };
/** How long figures of availability are shown before they are asked for again, and how many times as long as they took to
 * make: they are made from the log, which may be long. */
const FIGURES_MS = 30_000;
const FIGURES_TIMES = 20;
/** Leases that are asked for at once: more rows than are seen, for a filter may leave out some between them. */
const LEASES_MAX = 200;

/** Words of the strips, in the order in which a title tells them. */
const STATES = ["live", "warning", "critical", "maintenance", "draining", "held", "gone", "unknown"];

export class Services {
  constructor(page) {
    this.page = page;
    this.span = "1 h";
    this.chosen = undefined;
    /** Live time over registered time of each service, as text. */
    this.ratios = new Map();
    this.list = new Rows({
      label: "Services",
      key: (service) => service.name,
      choose: (service) => {
        page.go("services", service.name);
        this.instances.element.focus();
      },
      empty: "No service fits.",
      columns: [
        { title: "Service", class: "name", cell: (cell, service) => put(cell, service.name) },
        { title: "Live", class: "count", cell: liveCell },
        { title: "24 h", class: "rate", cell: (cell, service) => put(cell, this.ratios.get(service.name) ?? "") },
        { title: "Asked/s", class: "rate", cell: (cell, service) => put(cell, this.page.rate(service.name)) },
      ],
    });
    this.instances = new Rows({
      label: "Instances",
      key: (item) => item.key,
      choose: (item) => page.go("services", this.chosen ?? "*", item.form.service, item.form.host, item.form.id),
      empty: "No instance fits.",
      columns: [
        { title: "State", class: "state", cell: stateCell },
        { title: "Service", class: "service", cell: (cell, item) => put(cell, item.form.service) },
        { title: "Id", class: "name", cell: (cell, item) => put(cell, item.form.id) },
        { title: "Host", class: "host", cell: (cell, item) => put(cell, item.form.host) },
        { title: "Address", class: "address", cell: (cell, item) => put(cell, place(item.form)) },
        { title: "Tags", class: "tags", cell: tagsCell },
        { title: "Lease left", class: "lease", cell: leaseCell },
        { title: "History", class: "history", cell: (cell, item) => this.stripCell(cell, item) },
      ],
    });
    this.title = h("h2");
    this.figures = h("div", { class: "figures" });
    this.spans = Object.keys(SPANS).map((name) =>
      h("button", { type: "button", "aria-pressed": "false", onclick: () => this.setSpan(name) }, name),
    );
    this.legend = h("p", { class: "legend" }, "History of the last ", this.spans, STATES.map((state) => h("span", {}, h("i", { class: state }), state)));
    this.detail = h("aside", { "aria-label": "Instance", hidden: true });
    this.element = h(
      "section",
      { class: "split" },
      h("div", { class: "left" }, this.list.element),
      h("div", { class: "right" }, h("div", { class: "bar" }, this.title, this.figures), this.instances.element, this.legend),
      this.detail,
    );
    this.setSpan(this.span);
  }

  /** `#/services`, `#/services/web`, `#/services/web/web/rack1/web-1`; `*` is every service. */
  async show([name, service, host, id]) {
    const chosen = name === "*" ? undefined : name;
    if (chosen !== this.chosen || !this.shown) {
      this.chosen = chosen;
      this.shown = true;
      this.instances.at = -1;
      this.instances.element.scrollTop = 0;
      this.figures.replaceChildren();
      this.openHistory();
      this.askFigures(chosen);
    }
    this.opened = id === undefined ? undefined : `${service}\u0000${host}\u0000${id}`;
    this.element.classList.toggle("one", chosen !== undefined);
    this.update();
    this.list.mark(chosen);
    if (this.opened) this.instances.mark(this.opened);
    await this.showDetail(true);
  }

  openHistory() {
    const history = new History(this.chosen);
    this.page.registry.history = history;
    return this.page.attempt(async () => {
      await history.load(ask, Date.now() - SPANS["24 h"]);
      this.instances.draw();
      this.showDetail(false);
    });
  }

  async askFigures(name) {
    const began = performance.now();
    this.figuresAfter = Infinity;
    try {
      const [figures, settings] = await Promise.all([ask("availability", { service: name }), name ? ask("settings", { service: name }) : {}]);
      if (this.chosen === name) this.showFigures(figures, settings);
    } catch (error) {
      this.figures.replaceChildren(h("span", { class: "dim" }, error.message));
    }
    const now = performance.now();
    this.figuresAfter = now + Math.max(FIGURES_MS, FIGURES_TIMES * (now - began));
  }

  showFigures(figures, settings) {
    const service = this.chosen === undefined ? undefined : figures.of_services[0];
    for (const { service: name, spans } of figures.of_services) this.ratios.set(name, share(spans.find((span) => span.span === "24h")?.ratio));
    const known = [
      ["available", share(figures.ratio)],
      ["query", this.chosen === undefined && figures.query_time ? `${figures.query_time.mean_us.toFixed(1)} µs` : undefined],
      ...(service?.spans ?? []).map((span) => [`live ${span.span}`, share(span.ratio) + (span.since ? "*" : "")]),
      ["probe", figures.probe_time ? span(figures.probe_time.mean_us / 1000) : undefined],
      ["TTL", settings.ttl === undefined ? undefined : `${settings.ttl} s`],
      ["balance", settings.balance],
      ["at most", settings.max_answers],
      ["guard", settings.guard],
      ["failover", settings.failover?.join(", ")],
    ];
    this.figures.replaceChildren(facts(known));
    hint(this.figures, (service?.spans ?? []).some((span) => span.since) ? "* the log does not reach back over the whole span" : "");
  }

  setSpan(name) {
    this.span = name;
    this.spans.forEach((button) => button.setAttribute("aria-pressed", String(button.textContent === name)));
    this.instances.draw();
  }

  /** Takes what the registry has now, through the filters. */
  update() {
    const { registry, filter } = this.page;
    const services = [...registry.services.values()].filter((service) => filter.service(service));
    services.sort((a, b) => (a.name < b.name ? -1 : 1));
    this.list.set(services);
    if (this.list.at < 0 && this.chosen !== undefined) this.list.mark(this.chosen);
    const of = this.chosen === undefined ? registry.instances : (registry.services.get(this.chosen)?.instances ?? new Map());
    // Who chose a service by its name sees all of it, whatever else the word fits.
    const items = [...of.values()].filter((item) => filter.instance(item, this.chosen));
    items.sort((a, b) => (a.order < b.order ? -1 : 1));
    this.instances.set(items);
    if (this.instances.at < 0 && this.opened) this.instances.mark(this.opened);
    const live = items.filter((item) => item.form.live || item.form.held).length;
    put(this.title, `${this.chosen ?? "All services"}: ${live} of ${items.length} live`);
    this.showDetail(false);
  }

  /** What moves by itself: leases, histories. */
  tick() {
    if (performance.now() > this.figuresAfter) this.askFigures(this.chosen);
    this.instances.draw();
    this.list.draw();
  }

  /** Heartbeats are no changes, and nobody is told of them: the leases that are seen are asked for. */
  async askLeases() {
    const seen = this.instances.seen();
    const first = seen.find((item) => item.ends !== undefined);
    if (!first) return;
    const before = this.instances.items[this.instances.items.indexOf(first) - 1];
    const form = { most: LEASES_MAX };
    if (this.chosen !== undefined) form.service = this.chosen;
    if (before) form.after = before.order;
    this.page.registry.relist((await ask("list", form)).instances);
    this.instances.draw();
  }

  stripCell(cell, item) {
    const to = Date.now();
    const parts = strip(item, this.page.registry.history, to - SPANS[this.span], to);
    paint(cell, parts, to - SPANS[this.span], to);
  }

  focus() {
    (this.chosen ? this.instances : this.list).element.focus();
  }

  /** The list that the keys move in. */
  active() {
    return document.activeElement === this.list.element || (!this.chosen && document.activeElement !== this.instances.element)
      ? this.list
      : this.instances;
  }

  back() {
    if (this.opened) this.page.go("services", this.chosen ?? "*");
    else if (this.chosen) this.page.go("services");
    else return false;
    this.focus();
    return true;
  }

  async showDetail(anew) {
    this.detail.hidden = !this.opened;
    if (!this.opened) return;
    const { registry } = this.page;
    const item = registry.instances.get(this.opened);
    const events = registry.history?.events.get(this.opened) ?? [];
    const mark = `${this.opened} ${item?.form.revision} ${item?.state} ${events.length} ${registry.history?.from}`;
    if (!anew && this.mark === mark) return;
    this.mark = mark;
    if (anew) this.may = undefined;
    this.draw(item, events);
    if (!item || this.may) return;
    await this.page.attempt(async () => {
      this.may = await read(`/v1/access?service=${encodeURIComponent(item.form.service)}`);
      this.mark = undefined;
      this.showDetail(false);
    });
  }

  draw(item, events) {
    const close = h("button", { type: "button", class: "close", "aria-label": "Close", onclick: () => this.back() }, "×");
    const [service, host, id] = (this.opened ?? "").split("\u0000");
    const past = h("div", { class: "past" }, h("h3", {}, "What happened"), happened(events));
    const head = [close, h("h2", {}, `${id ?? ""}`), h("p", { class: "dim" }, `${service} on ${host}`)];
    if (!item) {
      this.detail.replaceChildren(...head, h("p", { class: "note" }, "It is not registered now."), past);
      return;
    }
    const form = item.form;
    const ports = form.ports.map((port) => `${port.name ? `${port.name} ` : ""}${port.port}/${port.transport}`).join(", ");
    const meta = Object.entries(form.meta).map(([name, value]) => `${name}=${value}`).join(", ");
    const checks = form.checks.map((check) => [
      badge(check.status === "passing" ? "live" : check.status),
      check.id,
      span(Date.now() - Date.parse(check.since)),
      check.output,
    ]);
    this.detail.replaceChildren(
      ...head,
      h("p", {}, badge(item.state), ` since ${clock(form.since)}`),
      facts([
        ["address", form.target ?? form.address.join(", ")],
        ["ports", ports],
        ["protocol", form.protocol],
        ["tags", form.tags.join(", ")],
        ["weight", `${form.weight}, priority ${form.priority}`],
        ["lease", form.lease],
        ["registered", clock(form.registered)],
        ["from file", form.source],
        ["metadata", meta],
        ["own name", `${form.label}.${form.service}`],
      ]),
      h("p", {}, h("a", { href: `#/ask/${encodeURIComponent(form.service)}` }, "Why is it, or is it not, in DNS?")),
      ...this.actions(form),
      h("h3", {}, "Checks"),
      checks.length ? table("Checks", ["State", "Check", "For", "Says"], checks) : h("p", { class: "dim" }, "None."),
      past,
    );
  }

  /** What whoever looks may do to it; the server has the last word. */
  actions(form) {
    const may = this.may?.may ?? [];
    const of = { service: form.service, id: form.id, host: form.host };
    const action = (name, question, run, danger) =>
      h("button", { type: "button", class: danger ? "danger" : undefined, onclick: () => this.confirm(name, question, run) }, name);
    const buttons = [];
    if (may.includes("deregister") && !form.draining) {
      buttons.push(action("Drain", "It leaves the answers and stays registered until it is registered again.", () => ask("drain", of)));
    }
    if (may.includes("report")) {
      const kept = form.checks.filter((check) => check.status === "maintenance");
      if (kept.length === 0) {
        const report = { ...of, check: "maintenance", status: "maintenance", output: "set on the dashboard" };
        buttons.push(action("Maintenance", "It leaves the answers until maintenance ends.", () => ask("report", report)));
      } else {
        const end = () => Promise.all(kept.map((check) => ask("report", { ...of, check: check.id, status: "passing", output: "" })));
        buttons.push(action("End maintenance", "Its other checks decide again.", end));
      }
    }
    if (may.includes("deregister")) {
      buttons.push(action("Deregister", "It is taken out of the registry.", () => ask("deregister", of), true));
    }
    if (buttons.length === 0) return this.may ? [h("p", { class: "dim" }, `${this.may.identity} may only read this.`)] : [];
    return [h("p", { class: "actions" }, buttons)];
  }

  async confirm(name, question, run) {
    const [, , id] = this.opened.split("\u0000");
    if (await this.page.confirm(`${name} ${id}?`, question, name)) await this.page.attempt(run);
  }
}

function happened(events) {
  if (events.length === 0) return h("p", { class: "dim" }, "The log has nothing of it.");
  const rows = [...events].reverse().slice(0, 50).map((event) => [clock(new Date(event.at)), event.reason, h("span", {}, badge(event.state), event.why ? ` ${event.why}` : "")]);
  return table("History", ["When", "What", "Then"], rows);
}

function place(form) {
  const host = form.target ?? form.address[0] ?? "";
  const more = form.address.length > 1 ? ` +${form.address.length - 1}` : "";
  const text = host.includes(":") ? `[${host}]` : host;
  return `${text}${form.port === undefined ? "" : `:${form.port}`}${more}`;
}

function liveCell(cell, service) {
  const all = service.instances.size;
  put(cell, `${service.live} / ${all}`);
  const state = all === service.live && all > 0 ? "full" : service.live === 0 ? "none" : "part";
  if (cell.dataset.state !== state) cell.dataset.state = state;
}

function stateCell(cell, item) {
  const inner = cell.firstElementChild ?? cell.appendChild(h("span"));
  put(inner, item.state);
  if (inner.className !== `badge ${item.state}`) inner.className = `badge ${item.state}`;
}

function tagsCell(cell, item) {
  put(cell, item.form.tags.join(" "));
  hint(cell, item.form.tags.join(", "));
}

function leaseCell(cell, item) {
  const text = cell.firstElementChild ?? cell.appendChild(h("span"));
  const bar = cell.children[1] ?? cell.appendChild(h("i"));
  if (item.ends === undefined) {
    put(text, item.form.lease === "none" ? "no lease" : item.form.lease);
    bar.style.width = "0";
    return;
  }
  const whole = lengthOf(item.form.lease);
  const left = item.ends - performance.now();
  put(text, left > 0 ? span(left) : "due");
  bar.style.width = `${Math.max(0, Math.min(100, (100 * left) / whole)).toFixed(0)}%`;
}

const UNITS = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };

function lengthOf(lease) {
  const parts = [...lease.matchAll(/(\d+)(ms|s|m|h|d)/g)];
  return parts.reduce((sum, [, count, unit]) => sum + count * UNITS[unit], 0) || 1;
}

/** Draws a strip as the background of a cell, and says it in its title. */
function paint(cell, parts, from, to) {
  const at = (time) => `${((100 * (time - from)) / (to - from)).toFixed(2)}%`;
  const stops = parts.map((part) => `var(--strip-${part.state}) ${at(part.from)} ${at(part.to)}`);
  const inner = cell.firstElementChild ?? cell.appendChild(h("i", { role: "img" }));
  const image = `linear-gradient(to right, ${stops.join(", ")})`;
  if (inner.dataset.image !== image) {
    inner.dataset.image = image;
    inner.style.backgroundImage = image;
    const sums = STATES.map((state) => [state, parts.filter((part) => part.state === state).reduce((sum, part) => sum + part.to - part.from, 0)]);
    const words = sums.filter(([, sum]) => sum > 0).map(([state, sum]) => `${state} ${span(sum)}`).join(", ");
    inner.setAttribute("aria-label", words);
    hint(cell, words);
  }
}
