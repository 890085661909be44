// The page: what is asked how often, which view is shown, banners, keys, and who is looking.

import { Changes } from "./changes.js";
import { Cluster } from "./cluster.js";
import { h, hint, number, put, share, span } from "./elements.js";
import { Missing } from "./missing.js";
import { Questions } from "./questions.js";
import { Registry, fails, stateOf } from "./registry.js";
import { Refused, Watch, ask, read, token } from "./server.js";
import { Services } from "./services.js";

/** What changed is drawn so often at most, however much of it there is. */
const DRAW_MS = 200;
/** How often what moves by itself is drawn, and how often the server is asked how it is. */
const TICK_MS = 1_000;
const ASK_MS = 2_000;
/** How long a refusal stays on the page. */
const TOLD_MS = 8_000;
/** Services that a banner names. */
const NAMED_MAX = 5;

const KEYS = [
  ["/", "search"],
  ["j, k, arrows", "move in the list"],
  ["Enter", "open what is selected"],
  ["Escape", "close, back, or clear the search"],
  ["f", "only failing, or all"],
  ["1 to 5", "services, changes, missing names, ask, cluster"],
  ["t", "dark or light"],
  ["?", "this help"],
];

const element = (id) => document.getElementById(id);

/** What is looked for; an empty one lets everything through. */
class Filter {
  constructor() {
    Object.assign(this, { text: "", tag: "", failing: false });
  }

  instance(item, chosen) {
    if (this.failing && !fails(item.state)) return false;
    if (this.tag && !item.tags.includes(this.tag)) return false;
    return !this.text || (chosen !== undefined && chosen.includes(this.text)) || item.text.includes(this.text);
  }

  service(service) {
    if (!this.failing && !this.tag && (!this.text || service.lower.includes(this.text))) return true;
    for (const item of service.instances.values()) if (this.instance(item)) return true;
    return this.failing && !this.tag && service.instances.size === 0 && service.lower.includes(this.text);
  }

  change(change) {
    const form = change.instance;
    if (this.tag && !form?.tags.some((tag) => tag.toLowerCase() === this.tag)) return false;
    if (this.failing && form && !fails(stateOf(form))) return false;
    const words = [change.service, change.id, change.host, change.author, change.reason];
    return !this.text || words.some((word) => word?.toLowerCase().includes(this.text));
  }
}

class Page {
  constructor() {
    this.filter = new Filter();
    this.registry = new Registry();
    this.link = "connecting";
    this.told = [];
    this.views = {
      services: new Services(this),
      changes: new Changes(this),
      missing: new Missing(this),
      ask: new Questions(this),
      cluster: new Cluster(this),
    };
    this.registry.guardMoved = (service) => this.relist(service);
    this.registry.renewed = () => this.status?.guarded?.forEach((service) => this.relist(service));
    this.wire();
    this.route();
    this.watch = new Watch(
      (name, value) => {
        this.registry.told(name, value);
        this.soon();
      },
      () => this.registry.begin(),
      (state, error) => this.linked(state, error),
    );
    this.askServer();
    this.askWho();
    setInterval(() => this.tick(), TICK_MS);
  }

  wire() {
    const filter = () => {
      const text = (id) => element(id).value.trim().toLowerCase();
      Object.assign(this.filter, { text: text("search"), tag: text("tag"), failing: element("failing").checked });
      this.view.update();
    };
    for (const id of ["search", "tag", "failing"]) element(id).addEventListener("input", filter);
    this.refilter = filter;
    element("theme").addEventListener("click", () => this.turnTheme());
    element("keys").addEventListener("click", () => this.help());
    element("who").addEventListener("click", () => this.askToken());
    addEventListener("hashchange", () => this.route());
    addEventListener("keydown", (event) => this.typed(event));
  }

  // -- views --------------------------------------------------------------------------------------------------

  go(...parts) {
    const shown = parts.filter((part) => part !== undefined && part !== null);
    location.hash = `#/${shown.map(encodeURIComponent).join("/")}`;
  }

  route() {
    const [name, ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
    const chosen = Object.hasOwn(this.views, name) ? name : "services";
    const view = this.views[chosen];
    if (view !== this.view) {
      this.view = view;
      element("main").replaceChildren(view.element);
      for (const link of document.querySelectorAll("nav a")) {
        if (link.hash === `#/${chosen}`) link.setAttribute("aria-current", "page");
        else link.removeAttribute("aria-current");
      }
    }
    view.show(chosen === name ? rest : []);
  }

  /** Draws what changed, soon and not too often. */
  soon() {
    this.waiting ??= setTimeout(() => {
      this.waiting = undefined;
      this.view.update();
      this.showCensus();
    }, DRAW_MS);
  }

  tick() {
    this.view.tick();
    this.showBanners();
    if (!document.hidden && performance.now() - this.askedAt > ASK_MS) this.askServer();
  }

  // -- the server ---------------------------------------------------------------------------------------------

  async askServer() {
    this.askedAt = performance.now();
    try {
      [this.status, this.traffic] = await Promise.all([ask("status"), read("/v1/traffic")]);
      this.denied = undefined;
    } catch (error) {
      if (error instanceof Refused) this.denied = error.message;
      else this.status = undefined;
    }
    const [before, guarded] = [this.registry.guarded, new Set(this.status?.guarded ?? [])];
    this.registry.guarded = guarded;
    for (const service of before) if (!guarded.has(service)) this.relist(service);
    for (const service of guarded) if (!before.has(service)) this.relist(service);
    if (this.view === this.views.services) await this.view.askLeases().catch(() => {});
    this.showBanners();
    this.showCensus();
  }

  async askWho() {
    try {
      const access = await read("/v1/access");
      put(element("who"), access.identity.replace(" without a token", ""));
      hint(element("who"), `${access.identity}; click to show a token`);
    } catch (error) {
      put(element("who"), "token?");
      this.tell(error.message);
    }
  }

  /** Reads again who of a service is held. */
  relist(service) {
    this.relisting ??= new Set();
    if (this.relisting.has(service)) return;
    this.relisting.add(service);
    setTimeout(async () => {
      this.relisting.delete(service);
      await this.attempt(async () => {
        let after;
        do {
          const page = await ask("list", { service, ...(after === undefined ? {} : { after }) });
          this.registry.relist(page.instances);
          after = page.next;
        } while (after !== undefined);
        this.soon();
      });
    }, TICK_MS);
  }

  linked(state, error) {
    if (state === "lost" && this.link !== "lost") this.lostAt = new Date();
    this.link = state;
    this.denied = error instanceof Refused ? error.message : undefined;
    put(element("link"), state === "live" ? "live" : "not connected");
    element("link").className = state;
    this.showBanners();
  }

  /** Queries a second of a service, lately. */
  rate(service) {
    const rate = this.traffic?.services[service];
    return rate > 0 ? number(rate) : "";
  }

  // -- what is told -------------------------------------------------------------------------------------------

  showCensus() {
    const { services, instances } = this.registry;
    let [live, liveServices] = [0, 0];
    for (const service of services.values()) {
      live += service.live;
      liveServices += service.live > 0 ? 1 : 0;
    }
    const all = services.size + instances.size;
    const ratio = all === 0 ? 1 : (live + liveServices) / all;
    const count = (value) => value.toLocaleString("en");
    put(element("census"), `${count(live)} of ${count(instances.size)} live · ${share(ratio)}${this.traffic ? ` · ${number(this.traffic.rate)}/s` : ""}`);
    hint(element("census"), `${count(services.size)} services; ${share(ratio)} available: live instances and services with one, of all; queries a second`);
    document.title = live === instances.size ? "callsign" : `(${instances.size - live}) callsign`;
  }

  showBanners() {
    const status = this.status;
    const banners = [];
    if (this.denied) banners.push(["bad", `${this.denied}`]);
    else if (this.link === "lost") banners.push(["bad", `Not connected since ${this.lostAt.toLocaleTimeString()}: what is shown is of then.`]);
    const stale = status?.stale_s === undefined ? undefined : `Stale: etcd cannot be followed for ${span(status.stale_s * 1000)}`;
    if (status && !status.ready && !stale) banners.push(["bad", "The registry is not loaded yet: DNS answers SERVFAIL."]);
    if (status?.store_trouble) banners.push(["bad", `Read-only: the store takes no changes (${status.store_trouble}). Answers go on as they are.`]);
    if (stale && status.ready) banners.push(["warn", `${stale}; answers are those of before.`]);
    else if (stale) banners.push(["bad", `${stale}, longer than stale-for: DNS answers SERVFAIL.`]);
    const guarded = status?.guarded ?? [];
    if (guarded.length > 0) {
      const named = guarded.slice(0, NAMED_MAX).join(", ");
      const more = guarded.length > NAMED_MAX ? ` and ${guarded.length - NAMED_MAX} more` : "";
      banners.push(["warn", `Guard: too many instances went bad at once, and they are held in the answers of ${named}${more}.`]);
    }
    const now = performance.now();
    this.told = this.told.filter((told) => now - told.at < TOLD_MS);
    this.told.forEach((told) => banners.push(["bad", told.text]));
    const mark = JSON.stringify(banners);
    if (mark === this.banners) return;
    this.banners = mark;
    element("banners").replaceChildren(...banners.map(([kind, text]) => h("p", { class: kind }, text)));
  }

  tell(text) {
    this.told.push({ text, at: performance.now() });
    this.showBanners();
  }

  /** Does something that the server may refuse, and says so. */
  async attempt(run) {
    try {
      await run();
    } catch (error) {
      this.tell(error instanceof Refused ? error.message : "The server does not answer.");
    }
  }

  // -- dialogs ------------------------------------------------------------------------------------------------

  dialog(title, content, buttons) {
    return new Promise((resolve) => {
      let outcome;
      const dialog = h("dialog", { "aria-label": title, onclose: () => (dialog.remove(), resolve(outcome)) }, h("h2", {}, title), content);
      const row = buttons.map(([name, value]) =>
        h("button", { type: "button", onclick: () => ((outcome = value()), dialog.close()) }, name),
      );
      dialog.append(h("p", { class: "actions" }, row));
      document.body.append(dialog);
      dialog.showModal();
    });
  }

  confirm(title, text, name) {
    return this.dialog(title, h("p", {}, text), [
      [name, () => true],
      ["Cancel", () => false],
    ]);
  }

  help() {
    const rows = KEYS.flatMap(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)]);
    return this.dialog("Keys", h("dl", {}, rows), [["Close", () => undefined]]);
  }

  async askToken() {
    const input = h("input", { id: "token", type: "password", autocomplete: "off", maxlength: 200, value: token.read() });
    const content = h(
      "div",
      {},
      h("p", {}, `The server knows you as: ${element("who").textContent}.`),
      h("p", {}, h("label", { for: "token" }, "Token "), input),
      h("p", { class: "dim" }, "It stays in this tab until the tab is closed."),
    );
    const given = await this.dialog("Who you are", content, [
      ["Use it", () => input.value.trim()],
      ["None", () => ""],
      ["Cancel", () => undefined],
    ]);
    if (given === undefined) return;
    token.write(given);
    this.watch.restart();
    this.askWho();
    this.askServer();
    this.route();
  }

  turnTheme() {
    const dark = document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
    setTheme(dark === "dark" ? "light" : "dark");
  }

  // -- keys ---------------------------------------------------------------------------------------------------

  typed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const typing = event.target.matches("input, select, textarea");
    if (event.key === "Escape") this.escape(event, typing);
    else if (typing) this.typedInField(event);
    else this.key(event);
  }

  escape(event, typing) {
    if (typing && event.target.value) {
      event.target.value = "";
      this.refilter();
    } else if (typing) {
      this.view.focus();
    } else if (!this.view.back() && (this.filter.text || this.filter.tag)) {
      element("search").value = element("tag").value = "";
      this.refilter();
    }
    event.preventDefault();
  }

  /** From the search into the list. */
  typedInField(event) {
    if (!["search", "tag"].includes(event.target.id) || !["Enter", "ArrowDown"].includes(event.key)) return;
    const list = this.view.active();
    if (!list) return;
    list.element.focus();
    if (list.at < 0) list.move(1);
    event.preventDefault();
  }

  key(event) {
    const list = this.view.active();
    const keys = {
      "/": () => element("search").focus(),
      "?": () => this.help(),
      t: () => this.turnTheme(),
      f: () => element("failing").click(),
      j: () => (list?.element.focus(), list?.move(1)),
      k: () => (list?.element.focus(), list?.move(-1)),
    };
    const views = Object.keys(this.views);
    const view = views[Number(event.key) - 1];
    if (Object.hasOwn(keys, event.key)) keys[event.key]();
    else if (view !== undefined) this.go(view);
    else if (event.key === "Enter" && event.target === document.body) list?.open();
    else return;
    event.preventDefault();
  }
}

function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function setTheme(name) {
  if (name !== "dark" && name !== "light") return;
  document.documentElement.dataset.theme = name;
  localStorage.setItem("callsign-theme", name);
}

setTheme(localStorage.getItem("callsign-theme"));
new Page();
