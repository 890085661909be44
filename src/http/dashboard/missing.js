// The names that are asked for and are not there: mistakes of spelling, and what is gone.

import { Rows, h, number, put, span } from "./elements.js";

export class Missing {
  constructor(page) {
    this.page = page;
    this.rows = new Rows({
      label: "Missing names",
      key: (missing) => missing.name,
      choose: (missing) => page.go("ask", missing.name),
      empty: "Nobody has asked for a name that is not there.",
      columns: [
        { title: "Name", class: "name", cell: (cell, missing) => put(cell, missing.name) },
        { title: "Asked for", class: "asked", cell: (cell, missing) => put(cell, times(missing)) },
        { title: "Asked/s", class: "asked", cell: (cell, missing) => put(cell, missing.rate > 0 ? number(missing.rate) : "") },
        { title: "Last", class: "asked", cell: (cell, missing) => put(cell, `${span(missing.ago_ms)} ago`) },
        { title: "Known, and nearly so", class: "nearest", cell: (cell, missing) => put(cell, missing.nearest ?? "") },
      ],
    });
    this.rates = h("span", { class: "dim" });
    this.note = h("p", { class: "legend" });
    this.element = h("section", { class: "single" }, h("div", { class: "bar" }, h("h2", {}, "Missing names"), this.rates), this.rows.element, this.note);
  }

  show() {
    this.update();
  }

  update() {
    const { traffic, filter } = this.page;
    if (!traffic) return;
    const share = traffic.rate > 0 ? ` of ${number(traffic.rate)}` : "";
    put(this.rates, `${number(traffic.missing_rate)}${share} queries a second, over ${traffic.window_s} s`);
    put(
      this.note,
      `Those answered NXDOMAIN by this server since it started, asked for most first. Above ${traffic.all_below} queries a second and worker, one in ${traffic.one_in} is counted and stands for as many; ~ says that a count may be too high.`,
    );
    this.rows.set(traffic.missing.filter((missing) => !filter.text || missing.name.toLowerCase().includes(filter.text)));
  }

  tick() {
    this.update();
  }

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

function times(missing) {
  return missing.over > 0 ? `~ ${missing.count.toLocaleString("en")}` : missing.count.toLocaleString("en");
}
