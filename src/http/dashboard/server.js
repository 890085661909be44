// What the page asks the server, and what it is told without asking.

const TOKEN = "callsign-token";
/** How long to wait before a stream that ended is asked for again: at first, and at most. */
const AGAIN_MS = 500;
const AGAIN_MS_MAX = 5_000;

/** The server refused; its own words. */
export class Refused extends Error {
  constructor(message, code) {
    super(message);
    this.code = code;
  }
}

export const token = {
  read: () => sessionStorage.getItem(TOKEN) ?? "",
  write: (text) => (text ? sessionStorage.setItem(TOKEN, text) : sessionStorage.removeItem(TOKEN)),
};

function headers(more) {
  const text = token.read();
  return text ? { ...more, Authorization: `Bearer ${text}` } : more;
}

/** One request of the registration protocol; what stands behind the verb of its reply. */
export async function ask(verb, form = {}) {
  const response = await fetch("/v1/ask", {
    method: "POST",
    headers: headers({ "Content-Type": "application/json" }),
    body: JSON.stringify({ [verb]: form }),
  });
  const text = await response.text();
  let reply;
  try {
    reply = JSON.parse(text);
  } catch {
    throw new Refused(text || `status ${response.status}`, response.status);
  }
  if (reply.error) throw new Refused(reply.error.message, reply.error.code);
  return Object.values(reply)[0];
}

/** A read of one of the server's other paths. */
export async function read(path) {
  const response = await fetch(path, { headers: headers({}) });
  if (!response.ok) throw new Refused(await response.text(), response.status);
  return response.json();
}

/** The stream of everything that changes, for as long as the page is there. */
export class Watch {
  /** `told(name, value)` hears `snapshot` and `change`, `begun()` that a stream begins; `state(text, error)` how it is. */
  constructor(told, begun, state) {
    Object.assign(this, { told, begun, state });
    this.run();
  }

  /** Begins anew, as somebody else. */
  restart() {
    this.place = undefined;
    this.pause = 0;
    this.abort?.abort();
    this.wake?.();
  }

  async run() {
    for (;;) {
      try {
        await this.follow();
        this.state("lost");
      } catch (error) {
        this.state("lost", error);
      }
      this.pause = Math.min(Math.max(2 * (this.pause ?? 0), AGAIN_MS), AGAIN_MS_MAX);
      await new Promise((wake) => {
        this.wake = wake;
        setTimeout(wake, this.pause);
      });
    }
  }

  async follow() {
    this.abort = new AbortController();
    this.begun();
    const since = this.place === undefined ? "" : `&since=${encodeURIComponent(this.place)}`;
    const response = await fetch(`/v1/watch/?all${since}`, {
      headers: headers({ Accept: "text/event-stream" }),
      signal: this.abort.signal,
    });
    if (!response.ok) throw new Refused(await response.text(), response.status);
    this.pause = 0;
    this.state("live");
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    let text = "";
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      text += value;
      let from = 0;
      for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n", from)) {
        this.event(text.slice(from, end));
        from = end + 2;
      }
      if (from > 0) text = text.slice(from);
    }
  }

  /** One event: lines of `id:`, `event:` and `data:`. */
  event(block) {
    let [id, name, data] = [undefined, "message", ""];
    for (const line of block.split("\n")) {
      const colon = line.indexOf(":");
      const value = line.slice(colon + 1).trimStart();
      if (line.startsWith("id:")) id = value;
      else if (line.startsWith("event:")) name = value;
      else if (line.startsWith("data:")) data += value;
    }
    if (name === "snapshot" || name === "change") this.told(name, JSON.parse(data)[name]);
    // Behind what it is the place of: what failed half-way is told again.
    if (id !== undefined) this.place = id;
  }
}
