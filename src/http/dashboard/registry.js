// What is registered, as the stream tells it: a snapshot, and then a fold over changes.

/** Changes that the feed keeps. */
export const FEED_MAX = 2_000;
/** States of one instance that its history keeps, where it is one service's, and where it is everybody's. */
const EVENTS_MAX = 200;
const EVENTS_OF_ALL_MAX = 20;
/** Changes that are read of the log for histories. */
const LOG_MAX = 4_000;

export const keyOf = (of) => `${of.service}\u0000${of.host}\u0000${of.id}`;

/** One word for how an instance stands. */
export function stateOf(form) {
  if (form.draining) return "draining";
  if (form.held) return "held";
  return form.health === "passing" ? "live" : form.health;
}

/** Not in the answers, or about not to be. */
export const fails = (state) => state !== "live";

function record(form) {
  const places = [form.target ?? "", ...form.address];
  return {
    key: keyOf(form),
    /** Its place in the server's lists. */
    order: `${form.service}/${form.label}`,
    form,
    state: stateOf(form),
    /** When the lease ends, on the clock of this page. */
    ends: form.lease_left_ms === undefined ? undefined : performance.now() + form.lease_left_ms,
    tags: form.tags.map((tag) => tag.toLowerCase()),
    text: [form.service, form.id, form.host, form.protocol ?? "", ...places, ...form.tags].join("\n").toLowerCase(),
  };
}

export class Registry {
  constructor() {
    this.services = new Map();
    this.instances = new Map();
    this.feed = [];
    this.revision = 0;
    /** Grows with every change of what is shown. */
    this.version = 0;
    this.history = undefined;
    this.guarded = new Set();
  }

  told(name, value) {
    if (name === "snapshot") this.snapshot(value);
    else this.change(value);
    this.version += 1;
  }

  /** A stream begins: half of a snapshot that another one brought is worth nothing. */
  begin() {
    this.coming = undefined;
  }

  snapshot(page) {
    if (!this.coming) this.coming = [];
    this.coming.push(...page.instances);
    if (page.next !== undefined) return;
    const all = this.coming;
    this.coming = undefined;
    this.revision = page.revision;
    this.services = new Map();
    this.instances = new Map();
    all.forEach((form) => this.set(record(form)));
    this.renewed?.();
  }

  change(change) {
    this.revision = Math.max(this.revision, change.revision);
    this.feed.push(change);
    if (this.feed.length > 2 * FEED_MAX) this.feed.splice(0, this.feed.length - FEED_MAX);
    if (change.service === undefined) return;
    if (change.id === undefined) {
      // A guard that begins or ends says nothing of who it holds.
      if (change.reason !== "configured") this.guardMoved?.(change.service);
      return;
    }
    const key = keyOf(change);
    if (change.instance) {
      this.set(record(change.instance));
      if (this.guarded.has(change.service)) this.guardMoved?.(change.service);
    } else {
      this.unset(key, change.service);
    }
    if (this.history?.is(change.service)) this.history.add(change);
  }

  service(name) {
    let service = this.services.get(name);
    if (!service) {
      service = { name, lower: name.toLowerCase(), instances: new Map(), live: 0 };
      this.services.set(name, service);
    }
    return service;
  }

  set(item) {
    const service = this.service(item.form.service);
    const before = service.instances.get(item.key);
    service.live += inAnswers(item) - inAnswers(before);
    service.instances.set(item.key, item);
    this.instances.set(item.key, item);
  }

  /** What is gone leaves; its service stays, empty, until the server has forgotten the last of it. */
  unset(key, name) {
    const service = this.services.get(name);
    if (!service) return;
    const before = service.instances.get(key);
    service.live -= inAnswers(before);
    service.instances.delete(key);
    this.instances.delete(key);
    if (!before && service.instances.size === 0) this.services.delete(name);
  }

  /** Takes over what a list says of some instances: who is held is told by no change of their own. */
  relist(forms) {
    forms.forEach((form) => {
      const known = this.instances.get(keyOf(form));
      if (known && known.form.revision <= form.revision) this.set(record(form));
    });
    this.version += 1;
  }
}

const inAnswers = (item) => (item && (item.form.live || item.form.held) ? 1 : 0);

/** How the instances of one service, or of all, stood: from the log, and from what is told since. */
export class History {
  constructor(service) {
    this.service = service;
    this.most = service === undefined ? EVENTS_OF_ALL_MAX : EVENTS_MAX;
    this.events = new Map();
    /** From when on the log was read, in milliseconds; what is before is not known. */
    this.from = Date.now();
  }

  is(service) {
    return this.service === undefined || this.service === service;
  }

  /** Reads the log backwards until `since`; `ask` asks for a page of it. */
  async load(ask, since) {
    const read = [];
    let before;
    do {
      const page = await ask("log", { service: this.service, before });
      read.push(...page.changes);
      before = page.next;
      const oldest = page.changes.at(-1);
      this.from = oldest ? Date.parse(oldest.at) : this.from;
      if (before === undefined) this.from = 0;
    } while (before !== undefined && read.length < LOG_MAX && this.from > since);
    const live = this.events;
    this.events = new Map();
    read.reverse().forEach((change) => this.add(change));
    live.forEach((events) => events.forEach((event) => this.put(event)));
  }

  add(change) {
    if (change.id === undefined) return;
    const at = Date.parse(change.at);
    this.put({
      key: keyOf(change),
      at,
      revision: change.revision,
      state: change.instance ? stateOf(change.instance) : "gone",
      reason: change.reason,
      born: change.instance?.registered === change.at,
      why: why(change),
    });
  }

  put(event) {
    const events = this.events.get(event.key) ?? [];
    if (events.some((known) => known.revision === event.revision)) return;
    events.push(event);
    if (events.length > this.most) {
      events.shift();
      events.cut = true;
    }
    this.events.set(event.key, events);
  }
}

/**
 * How an instance stood between two times: `{ from, to, state }` without gaps, where `unknown` is before what the log
 * has and `gone` is not registered.
 */
export function strip(item, history, from, to) {
  const known = history?.is(item.form.service) ? history : undefined;
  const events = known?.events.get(item.key) ?? [];
  const parts = [];
  const add = (start, end, state) => {
    const [a, b] = [Math.max(start, from), Math.min(end, to)];
    if (b <= a) return;
    const last = parts.at(-1);
    if (last?.state === state) last.to = b;
    else parts.push({ from: a, to: b, state });
  };
  const [first] = events;
  if (!first) {
    // No change is known: as it is, it has been since it became so, and as long as the log can tell.
    const start = Math.min(Date.parse(item.form.since), known?.from ?? Infinity);
    add(-Infinity, start, "unknown");
    add(start, to, item.state);
    return parts;
  }
  // Before the first change that is known: nothing, where it came with that; else nobody told.
  add(-Infinity, first.at, !events.cut && first.born ? "gone" : "unknown");
  events.forEach((event, at) => add(event.at, events[at + 1]?.at ?? to, event.state));
  return parts;
}

/** Why a change came about, in words: its reason, and what the checks that are not passing say. */
export function why(change) {
  const checks = change.instance?.checks ?? change.checks ?? [];
  const bad = checks.filter((check) => check.status !== "passing");
  const words = bad.map((check) => `${check.id} ${check.status}${check.output ? `: ${check.output}` : ""}`);
  if (change.instance?.draining) words.unshift("draining");
  if (change.settings) {
    const set = Object.entries(change.settings).map(([name, value]) => `${name} ${value}`);
    words.push(set.join(", ") || "as configured");
  }
  if (change.token) words.push(`token ${change.token}`);
  if (change.records) words.push(`${change.records.owner} ${change.records.rtype} ${change.records.data.join(", ")}`);
  return words.join("; ");
}
