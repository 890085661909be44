// The nodes that share the registry, the ring between them, and the server itself.

import { badge, facts, h, share, span, table } from "./elements.js";
import { ask } from "./server.js";

/** How often the nodes are asked for while they are looked at. */
const EVERY_MS = 3_000;
/** Lines of the server's listeners and zones that are shown. */
const LINES_MAX = 40;

export class Cluster {
  constructor(page) {
    this.page = page;
    this.nodes = h("div");
    this.ring = h("div", { class: "ring", role: "img" });
    this.server = h("div");
    this.element = h(
      "section",
      { class: "single scroll", tabindex: 0, "aria-label": "Cluster" },
      h("div", { class: "bar" }, h("h2", {}, "Nodes and ring")),
      this.nodes,
      h("h3", {}, "Ring"),
      this.ring,
      h("h3", {}, "This server"),
      this.server,
    );
  }

  async show() {
    this.at = performance.now();
    this.showServer();
    await this.page.attempt(async () => {
      const [nodes, ring] = await Promise.all([ask("nodes"), ask("ring")]);
      this.showNodes(nodes, ring);
    });
  }

  showNodes(nodes, ring) {
    const rows = nodes.nodes.map((node) => [
      badge(node.alive ? "live" : "gone"),
      node.name + (node.own ? " (this one)" : ""),
      node.addresses.join(", "),
      node.dns ? String(node.dns) : "",
      node.revision === undefined ? (node.silent ?? "") : String(node.revision),
      node.lag === undefined ? "" : String(node.lag),
      share(node.share),
    ]);
    this.nodes.replaceChildren(table("Nodes", ["State", "Node", "Addresses", "DNS", "Revision", "Behind", "Share"], rows));
    const parts = ring.nodes.map((node, at) => {
      const part = h("span", { class: `part part${at % 6}` }, `${node.name} ${share(node.share)}`);
      part.style.flexGrow = String(node.slots);
      return part;
    });
    this.ring.replaceChildren(...parts);
    this.ring.setAttribute("aria-label", ring.nodes.map((node) => `${node.name} ${share(node.share)}`).join(", "));
  }

  showServer() {
    const status = this.page.status;
    if (!status) return;
    this.server.replaceChildren(
      facts([
        ["version", status.version],
        ["store", status.store],
        ["revision", status.revision],
        ["serial", status.serial],
        ["up", span(status.uptime_s * 1000)],
        ["domains", status.domains.join(", ")],
        ["listens", status.listeners.slice(0, LINES_MAX).join(", ")],
        ["zones", status.zones.slice(0, LINES_MAX).join(", ")],
      ]),
    );
  }

  update() {}

  tick() {
    if (performance.now() - this.at > EVERY_MS) this.show();
  }

  focus() {
    this.element.focus();
  }

  active() {
    return undefined;
  }

  back() {
    return false;
  }
}
