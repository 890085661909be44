// Why is it not in DNS? And what a client gets now.

import { badge, facts, h, table } from "./elements.js";
import { ask, read } from "./server.js";

const TYPES = ["A", "AAAA", "SRV", "TXT", "PTR", "HTTPS", "SVCB", "SOA", "NS", "CNAME", "ANY"];
/** What clients offer: without EDNS, what paths carry for sure, what many programs say, and over TCP. */
const SIZES = [
  ["udp 1232 octets", "over=udp&size=1232"],
  ["udp 512, no EDNS", "over=udp&size=0"],
  ["udp 512 octets", "over=udp&size=512"],
  ["udp 4096 octets", "over=udp&size=4096"],
  ["tcp", "over=tcp&size=1232"],
];

/** Instances that are shown of one explanation. */
const SHOWN_MAX = 500;

export class Questions {
  constructor(page) {
    this.page = page;
    this.name = h("input", { id: "ask-name", type: "text", required: true, autocomplete: "off", spellcheck: "false", maxlength: 255, placeholder: "web, or web.service.local" });
    const again = { onchange: () => this.run() };
    this.type = h("select", { id: "ask-type", ...again }, TYPES.map((type) => h("option", {}, type)));
    this.size = h("select", { id: "ask-size", ...again }, SIZES.map(([name, value]) => h("option", { value }, name)));
    this.signed = h("input", { type: "checkbox", ...again });
    this.client = h("input", { id: "ask-client", type: "text", autocomplete: "off", spellcheck: "false", maxlength: 45, placeholder: "you" });
    this.answer = h("div", { class: "why", "aria-live": "polite" });
    this.why = h("div", { class: "why", "aria-live": "polite" });
    const form = h(
      "form",
      {
        class: "ask",
        onsubmit: (event) => {
          event.preventDefault();
          page.go("ask", this.name.value.trim());
          this.run();
        },
      },
      h("label", { for: "ask-name" }, "Name"),
      this.name,
      h("label", { for: "ask-type" }, "Type"),
      this.type,
      h("label", { for: "ask-size" }, "Over"),
      this.size,
      h("label", {}, this.signed, " DO"),
      h("label", { for: "ask-client" }, "From"),
      this.client,
      h("button", { type: "submit" }, "Ask"),
    );
    this.element = h("section", { class: "single scroll", tabindex: 0, "aria-label": "Ask" }, h("div", { class: "bar" }, h("h2", {}, "Ask")), form, h("div", { class: "halves" }, this.answer, this.why));
  }

  async show([name]) {
    if (!name || name === this.name.value) return;
    this.name.value = name;
    await this.run();
  }

  async run() {
    const name = this.name.value.trim();
    if (!name) return;
    await Promise.all([this.ask(name), this.explain(name)]);
  }

  async ask(name) {
    const words = [`name=${encodeURIComponent(name)}`, `type=${this.type.value}`, this.size.value];
    if (this.signed.checked) words.push("do=1");
    if (this.client.value.trim()) words.push(`client=${encodeURIComponent(this.client.value.trim())}`);
    try {
      this.showAnswer(await read(`/v1/answer?${words.join("&")}`));
    } catch (error) {
      this.answer.replaceChildren(h("p", { class: "note bad" }, error.message));
    }
  }

  showAnswer(answer) {
    const rows = ["answer", "authority", "additional"].flatMap((section) =>
      answer[section].map((record) => [section, record.name, String(record.ttl), record.type, record.data]),
    );
    const cut = answer.flags.includes("tc");
    this.answer.replaceChildren(
      h("h3", {}, "What a client gets now"),
      facts([
        ["reply", `${answer.rcode} ${answer.flags.filter((flag) => flag !== "qr").join(" ")}`],
        ["octets", `${answer.octets} over ${answer.over}, to ${answer.client}`],
        ["cut", cut ? "yes (TC): the client asks again over TCP" : "no"],
        ["EDNS", answer.edns_octets === undefined ? "none" : `${answer.edns_octets} octets`],
        ["reason", (answer.errors ?? []).map((error) => `${error.name} (${error.code}): ${error.text}`).join("; ")],
      ]),
      rows.length ? table("Records", ["Section", "Name", "TTL", "Type", "Data"], rows) : h("p", { class: "dim" }, "No record."),
    );
  }

  async explain(name) {
    try {
      this.showWhy(await ask("explain", { name }));
    } catch (error) {
      this.why.replaceChildren(h("p", { class: "note bad" }, error.message));
    }
  }

  showWhy(explained) {
    const nearest =
      explained.nearest && h("p", {}, "Did you mean ", h("a", { href: `#/ask/${encodeURIComponent(explained.nearest)}` }, explained.nearest), "?");
    const rows = explained.instances.slice(0, SHOWN_MAX).map((instance) => [
      badge(instance.in_answers ? "live" : "out"),
      instance.id,
      instance.host,
      instance.rule,
    ]);
    const more = explained.instances.length - rows.length;
    this.why.replaceChildren(
      h("h3", {}, "Why"),
      facts([
        ["name", explained.name],
        ["exists", explained.known ? "yes" : "no"],
        ["now", explained.verdict],
      ]),
      nearest ?? "",
      rows.length ? table("Instances and the rule of each", ["In DNS", "Id", "Host", "Rule"], rows) : "",
      more > 0 ? h("p", { class: "dim" }, `and ${more} more; callsign explain has all of them`) : "",
    );
  }

  update() {}
  tick() {}

  focus() {
    this.name.focus();
  }

  active() {
    return undefined;
  }

  back() {
    return false;
  }
}
