"""What a browser makes of the dashboard. Each scenario is a function; tests/dashboard.rs starts a server for it.

    page.py SCENARIO URL SOCKET DNS [MORE]...

URL is the server's HTTP port, SOCKET its registration socket, DNS where it answers over UDP. What does not hold is an
AssertionError, and whatever is waited for has Playwright's own deadline.
"""

import http.server
import inspect
import json
import re
import socket
import sys
import threading
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"
DEADLINE_MS = 60_000
MANY = 10_000
CHANGING_S = 10
HOSTILE = "<img src=x onerror=\"document.title='taken'\">"


class Registry:
    """The registration socket: one request, one reply."""

    def __init__(self, path):
        self.stream = socket.socket(socket.AF_UNIX)
        self.stream.connect(path)
        self.lines = self.stream.makefile("rw")

    def say(self, *requests):
        for request in requests:
            self.lines.write(json.dumps(request) + "\n")
        self.lines.flush()
        replies = [json.loads(self.lines.readline()) for _ in requests]
        for reply in replies:
            assert "error" not in reply, reply
        return replies

    def register(self, service, id, port=8080, address="10.0.0.7", lease="none", **more):
        form = {"service": service, "id": id, "host": "rack1", "address": address, "port": port, "lease": lease}
        self.say({"register": {**form, **more}})

    def report(self, service, id, status, output=""):
        form = {"service": service, "id": id, "host": "rack1", "check": "http", "status": status, "output": output}
        self.say({"report": form})


class Dns:
    """Questions over UDP; what is answered does not matter here."""

    def __init__(self, address):
        host, port = address.rsplit(":", 1)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.settimeout(DEADLINE_MS / 1000)
        self.socket.connect((host, int(port)))

    def ask(self, labels):
        name = b"".join(bytes([len(label)]) + label.encode() for label in labels)
        self.socket.send(bytes.fromhex("000701000001000000000000") + name + bytes.fromhex("0000010001"))
        return self.socket.recv(4096)


class Steps:
    """What this scenario has seen, for whoever makes the next trouble: a file for each."""

    def __init__(self, prefix):
        self.prefix = prefix

    def seen(self, what):
        Path(f"{self.prefix}.{what}").touch()


class Browser:
    """One page, and everything that it asked for or complained about."""

    def __init__(self, browser, url, scheme="light"):
        self.url = url
        self.context = browser.new_context(viewport={"width": 1280, "height": 800}, color_scheme=scheme)
        self.context.set_default_timeout(DEADLINE_MS)
        self.page = self.context.new_page()
        self.asked, self.complaints = [], []
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("console", lambda said: self.complaints.append(said.text) if said.type == "error" else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))

    def open(self, place=""):
        self.page.goto(f"{self.url}/ui/{place}")
        expect(self.page.locator("#link")).to_have_text("live")
        return self.page

    def row(self, text, grid="Instances"):
        return self.page.get_by_role("grid", name=grid).get_by_role("row").filter(has_text=text)

    def quiet(self):
        assert not self.complaints, self.complaints
        elsewhere = [url for url in self.asked if not url.startswith(self.url + "/")]
        assert not elsewhere, elsewhere


def live(browser, registry):
    """What is registered, reported and deregistered is on the page without a reload."""
    registry.register("web", "web-1")
    page = browser.open()
    expect(browser.row("web-1")).to_contain_text("live")
    loads = len([url for url in browser.asked if url.endswith("/ui/")])
    registry.register("api", "api-1", tags=["v2"])
    expect(browser.row("api-1")).to_contain_text("v2")
    expect(browser.row("api", "Services")).to_contain_text("1 / 1")
    registry.report("web", "web-1", "critical", "503")
    expect(browser.row("web-1")).to_contain_text("critical")
    expect(browser.row("web", "Services")).to_contain_text("0 / 1")
    registry.say({"deregister": {"service": "api", "id": "api-1", "host": "rack1"}})
    expect(browser.row("api-1")).to_have_count(0)
    expect(page.locator("#census")).to_contain_text("0 of 1 live")
    # The feed has all of it, with who and why.
    page.get_by_role("link", name="Changes").click()
    reported = browser.row("reported", "Changes")
    expect(reported).to_contain_text("http critical: 503")
    expect(reported).to_contain_text("uid ")
    expect(browser.row("deregistered", "Changes")).to_contain_text("gone")
    registry.say({"settings": {"service": "web", "ttl": "9s"}})
    expect(browser.row("configured", "Changes")).to_contain_text("ttl 9")
    assert len([url for url in browser.asked if url.endswith("/ui/")]) == loads, "it was loaded again"


def hostile(browser, registry):
    """Names, tags, metadata and outputs that look like markup stay text, in every view."""
    registry.register("web", HOSTILE, tags=[HOSTILE, "<b>bold</b>"], meta={"note": HOSTILE})
    registry.report("web", HOSTILE, "critical", f"</script>{HOSTILE}")
    page = browser.open()
    expect(browser.row("critical")).to_contain_text(HOSTILE)
    browser.row("critical").click()
    detail = page.get_by_role("complementary", name="Instance")
    expect(detail.get_by_role("heading", level=2)).to_have_text(HOSTILE)
    expect(detail).to_contain_text(f"</script>{HOSTILE}")
    expect(detail.get_by_role("table", name="History")).to_contain_text(HOSTILE)
    for link in ["Changes", "Ask"]:
        page.get_by_role("link", name=link, exact=True).click()
        if link == "Ask":
            page.get_by_label("Name").fill("web")
            page.get_by_role("button", name="Ask").click()
        expect(page.locator("main")).to_contain_text(HOSTILE)
        assert page.locator("main img, main b, main script").count() == 0, link
    expect(page).not_to_have_title("taken")


def questions(browser, registry):
    """Why a name is not in DNS, and the answer that a client gets, by type, size and DO."""
    for number in range(40):
        registry.register("web", f"web-{number}", port=8000 + number)
    registry.report("web", "web-7", "critical", "503")
    page = browser.open("#/ask/web")
    rules = page.get_by_role("table", name="Instances and the rule of each")
    expect(rules.get_by_role("row").filter(has_text="web-7")).to_contain_text("not in the answers: critical (http)")
    page.get_by_label("Type").select_option("SRV")
    page.get_by_label("Over").select_option("udp 512, no EDNS")
    answer = page.locator(".why").first
    expect(answer).to_contain_text("yes (TC)")
    page.get_by_label("Over").select_option("tcp")
    expect(answer).to_contain_text("over tcp")
    expect(answer.get_by_role("row")).to_have_count(1 + 39 + 39)
    page.get_by_label("Name").fill("wbe")
    page.get_by_label("Name").press("Enter")
    expect(answer).to_contain_text("NXDOMAIN")
    page.get_by_role("link", name="web", exact=True).click()
    expect(page.get_by_label("Name")).to_have_value("web")
    page.get_by_label("From").fill("nobody")
    page.get_by_role("button", name="Ask").click()
    expect(answer).to_contain_text("client must be an address")
    browser.complaints.clear()  # that a refusal came is told there too


def missing(browser, registry, dns):
    """Names that are asked for and are not there, and how often services are asked for."""
    registry.register("web", "web-1")
    page = browser.open("#/missing")
    for name in ["web", "wbe", "wbe", HOSTILE]:
        dns.ask([name, "service", "local"])
    typo = browser.row("wbe.service.local.", "Missing names")
    expect(typo).to_contain_text("2")
    expect(typo).to_contain_text("web")
    expect(browser.row("onerror", "Missing names")).to_be_visible()
    page.get_by_role("link", name="Services").click()
    expect(browser.row("web", "Services")).to_contain_text("0.1")
    typo_from_list = page.get_by_role("link", name="Missing")
    typo_from_list.click()
    browser.row("wbe", "Missing names").click()
    expect(page.get_by_label("Name", exact=True)).to_have_value("wbe.service.local.")


def many(browser, registry):
    """Ten thousand instances scroll while a thousand changes come in a second, and only what is seen has elements."""
    for first in range(0, MANY, 500):
        forms = [
            {"service": f"s{number % 100:02}", "id": f"i-{number:05}", "host": "rack1", "address": "10.0.0.7", "port": 80, "lease": "none"}
            for number in range(first, first + 500)
        ]
        registry.say(*[{"register": form} for form in forms])
    page = browser.open()
    expect(page.locator("#census")).to_contain_text(f"{MANY:,} of {MANY:,} live", timeout=DEADLINE_MS)
    grid = page.get_by_role("grid", name="Instances")
    expect(grid).to_have_attribute("aria-rowcount", str(MANY + 1))
    assert grid.get_by_role("row").count() < 60, "rows that nobody sees have elements"
    # To the end, and by keys back to the middle.
    grid.focus()
    page.keyboard.press("End")
    expect(browser.row(f"i-{MANY - 1:05}")).to_be_visible()
    page.keyboard.press("Home")
    expect(browser.row("i-00000")).to_be_visible()
    # Frames while changes come: each status is another one than before.
    page.evaluate(FRAMES)
    changed = 0
    for turn in range(CHANGING_S * 10):
        status = "critical" if turn % 2 == 0 else "passing"
        numbers = [(turn // 2 * 100 + number) % MANY for number in range(100)]
        registry.say(
            *[
                {"report": {"service": f"s{number % 100:02}", "id": f"i-{number:05}", "host": "rack1", "check": "c", "status": status}}
                for number in numbers
            ]
        )
        changed += len(numbers)
        page.mouse.move(900, 400)
        page.mouse.wheel(0, 3000 if turn % 20 < 10 else -3000)
    frames = page.evaluate("window.stopFrames()")
    expect(page.locator("#census")).to_contain_text(f"{MANY:,} of {MANY:,} live", timeout=DEADLINE_MS)
    rate = changed / frames["seconds"]
    print(f"{changed} changes, {rate:.0f} a second; {frames['count'] / frames['seconds']:.0f} frames a second, longest {frames['longest']:.0f} ms")
    # The search is over all of it.
    page.keyboard.press("/")
    page.keyboard.type("i-07777")
    expect(grid).to_have_attribute("aria-rowcount", "2")
    expect(browser.row("i-07777")).to_be_visible()


FRAMES = """() => {
  const frames = { count: 0, longest: 0 };
  const began = performance.now();
  let last = began, on = true;
  const frame = (now) => {
    frames.count += 1;
    frames.longest = Math.max(frames.longest, now - last);
    last = now;
    if (on) requestAnimationFrame(frame);
  };
  requestAnimationFrame(frame);
  window.stopFrames = () => { on = false; return { ...frames, seconds: (performance.now() - began) / 1000 }; };
}"""


def filters(browser, registry):
    """Search, tag and only failing; and all of it by keys."""
    registry.register("web", "web-1", tags=["v1"])
    registry.register("web", "web-2", tags=["v2"])
    registry.register("api", "api-1", tags=["v2"])
    registry.report("web", "web-2", "warning", "slow")
    page = browser.open()
    instances = page.get_by_role("grid", name="Instances")
    expect(instances).to_have_attribute("aria-rowcount", "4")
    page.keyboard.press("f")
    expect(instances).to_have_attribute("aria-rowcount", "2")
    expect(browser.row("web-2")).to_be_visible()
    page.keyboard.press("f")
    page.get_by_label("Only instances with this tag").fill("V2")
    expect(instances).to_have_attribute("aria-rowcount", "3")
    page.keyboard.press("Escape")
    expect(instances).to_have_attribute("aria-rowcount", "4")
    # Search, into the list, open, close, back.
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    page.keyboard.type("web")
    expect(instances).to_have_attribute("aria-rowcount", "3")
    page.keyboard.press("ArrowDown")
    expect(browser.row("web", "Services")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="web: 2 of 2 live")).to_be_visible()
    page.keyboard.press("j")
    page.keyboard.press("j")
    expect(browser.row("web-2")).to_have_attribute("aria-selected", "true")
    page.keyboard.press("k")
    page.keyboard.press("Enter")
    detail = page.get_by_role("complementary", name="Instance")
    expect(detail.get_by_role("heading", level=2)).to_have_text("web-1")
    page.keyboard.press("Escape")
    expect(detail).to_be_hidden()
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="All services")).to_be_visible()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    for key, name in [("2", "Changes"), ("3", "Missing names"), ("4", "Ask"), ("5", "Nodes and ring")]:
        page.keyboard.press(key)
        expect(page.get_by_role("heading", level=2, name=name)).to_be_visible()


def changing(browser, registry):
    """Who may change something does so from the page, and is asked first."""
    registry.register("web", "web-1")
    registry.register("web", "web-2")
    page = browser.open()
    browser.row("web-1").click()
    detail = page.get_by_role("complementary", name="Instance")

    def press(name, answer=None):
        detail.get_by_role("button", name=name, exact=True).click()
        page.get_by_role("dialog").get_by_role("button", name=answer or name, exact=True).click()

    press("Maintenance")
    expect(browser.row("web-1")).to_contain_text("maintenance")
    press("End maintenance")
    expect(browser.row("web-1")).to_contain_text("live")
    press("Deregister", "Cancel")
    press("Drain")
    expect(browser.row("web-1")).to_contain_text("draining")
    assert detail.get_by_role("button", name="Drain", exact=True).count() == 0
    press("Deregister")
    expect(browser.row("web-1")).to_have_count(0)
    expect(detail).to_contain_text("It is not registered now.")
    expect(detail.get_by_role("table", name="History")).to_contain_text("deregistered")


def rights(browser, registry, more):
    """Without a token the page reads; with one it may what the token may; a wrong one is told."""
    [token] = more
    registry.register("web", "web-1")
    page = browser.open()
    browser.row("web-1").click()
    detail = page.get_by_role("complementary", name="Instance")
    expect(detail).to_contain_text("may only read this")
    assert detail.get_by_role("button").count() == 1, "more than Close"

    def show(text):
        page.locator("#who").click()
        page.get_by_label("Token").fill(text)
        page.get_by_role("button", name="Use it").click()

    show("callsign_nonsense")
    expect(page.locator("#banners")).to_contain_text("token")
    browser.complaints.clear()  # that refusals came is told there too
    show(token)
    expect(page.locator("#who")).to_have_text("token ops")
    expect(detail.get_by_role("button", name="Drain")).to_be_visible()
    detail.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(browser.row("web-1")).to_contain_text("draining")
    assert token not in page.content(), "the token is on the page"
    assert page.evaluate("localStorage.length + document.cookie.length") == 0, "it outlives the tab"
    browser.complaints.clear()


def banners(browser, registry, steps):
    """A guard, and a server that is gone, are told at once."""
    registry.say({"settings": {"service": "web", "guard": "50%", "guard_for": "1h"}})
    for number in range(6):
        registry.register("web", f"web-{number}")
    page = browser.open()
    told = page.locator("#banners")
    for number in range(4):
        registry.report("web", f"web-{number}", "critical", "500")
    expect(told).to_contain_text("Guard: ")
    expect(told).to_contain_text("web")
    expect(browser.row("held")).to_have_count(4)
    expect(browser.row("web", "Services")).to_contain_text("6 / 6")
    steps.seen("guard")
    expect(told).to_contain_text("Not connected since")
    expect(page.locator("#link")).to_have_text("not connected")
    expect(browser.row("web-5")).to_contain_text("live")
    browser.complaints.clear()  # each request that nobody answers


def full_disk(browser, steps):
    """While the store takes nothing, that is told with its reason, answers stay, and what one asks for is refused."""
    page = browser.open()
    told = page.locator("#banners")
    expect(browser.row("web-1")).to_contain_text("live")
    expect(told).to_be_empty()
    steps.seen("calm")
    expect(told).to_contain_text("Read-only: the store takes no changes")
    expect(told).to_contain_text("No space left")
    browser.row("web-1").click()
    detail = page.get_by_role("complementary", name="Instance")
    detail.get_by_role("button", name="Drain").click()
    page.get_by_role("dialog").get_by_role("button", name="Drain").click()
    expect(told.locator("p")).to_have_count(2)
    expect(browser.row("web-1")).to_contain_text("live")
    steps.seen("trouble")
    expect(browser.row("web-2")).to_contain_text("live")
    expect(told).to_be_empty()
    browser.complaints.clear()  # the refusal is told there too


def nodes(browser, steps):
    """Nodes with their shares of the ring; one that dies is gone, and its share with the other."""
    page = browser.open("#/cluster")
    table = page.get_by_role("table", name="Nodes")
    ring = page.locator(".ring")
    for name, own in [("a", " (this one)"), ("b", "")]:
        row = table.get_by_role("row").filter(has=page.get_by_role("cell", name=name + own, exact=True))
        expect(row).to_contain_text("live")
        expect(row.get_by_role("cell").nth(5)).to_have_text("0")
        expect(row.get_by_role("cell").nth(6)).to_have_text(re.compile(r"^[1-9]\d\.\d\d%$"))
    expect(ring).to_have_attribute("aria-label", re.compile(r"^a \d\d\.\d\d%, b \d\d\.\d\d%$"))
    expect(ring.locator(".part")).to_have_count(2)
    expect(page.locator("main")).to_contain_text("etcd")
    steps.seen("both")
    expect(ring).to_have_attribute("aria-label", "a 100%")
    expect(ring.locator(".part")).to_have_count(1)
    dead = table.get_by_role("row").filter(has=page.get_by_role("cell", name="b", exact=True))
    expect(dead).to_contain_text("gone")
    expect(page.locator("#banners")).to_be_empty()


def cut_off(browser, steps):
    """A node that etcd does not reach says so, then that its time is over, and has all that it missed afterwards."""
    page = browser.open()
    told = page.locator("#banners")
    expect(browser.row("web-1")).to_contain_text("live")
    expect(told).to_be_empty()
    steps.seen("calm")
    expect(told).to_contain_text("Stale: etcd cannot be followed for")
    expect(told).to_contain_text("answers are those of before")
    expect(told).to_contain_text("Read-only: the store takes no changes")
    steps.seen("stale")
    expect(told).to_contain_text("longer than stale-for: DNS answers SERVFAIL")
    expect(browser.row("web-1")).to_contain_text("live")
    expect(browser.row("web-2")).to_have_count(0)
    # How far it is behind, it hears of the other node.
    page.get_by_role("link", name="Cluster").click()
    own = page.get_by_role("table", name="Nodes").get_by_role("row").filter(has_text="this one")
    expect(own.get_by_role("cell").nth(5)).to_have_text(re.compile(r"^[1-9]\d*$"))
    steps.seen("servfail")
    expect(told).to_be_empty()
    expect(own.get_by_role("cell").nth(5)).to_have_text("0")
    page.get_by_role("link", name="Services").click()
    expect(browser.row("web-2")).to_contain_text("live")
    browser.complaints.clear()  # figures of availability are refused meanwhile, which is told there


def origins(browser, registry):
    """Another origin's page changes and reads nothing, by whatever name it speaks to the server."""
    registry.register("web", "web-1")
    page = browser.page
    port = browser.url.rsplit(":", 1)[1]
    elsewhere = another_origin()
    for attacker in [f"http://127.0.0.1:{elsewhere}/", f"http://evil.example:{elsewhere}/"]:
        for host in ["127.0.0.1", "localhost"]:
            page.goto(attacker)
            done = page.evaluate(ATTACK, f"http://{host}:{port}")
            assert len(done) == 6 and set(done.values()) == {"failed"}, (attacker, host, done)
        # A form goes wherever it is sent; what it says is not heard.
        for kind in ["text/plain", "application/x-www-form-urlencoded"]:
            page.goto(attacker)
            with page.expect_navigation():
                page.evaluate(FORM, [f"http://127.0.0.1:{port}/v1/ask", kind])
            assert "may not speak to this server" in page.content(), page.content()
        # Nor is the page shown in a frame of another.
        page.goto(attacker)
        with page.expect_response(lambda response: response.url.endswith("/ui/")) as framed:
            page.evaluate(FRAME, f"http://127.0.0.1:{port}/ui/")
        assert framed.value.status == 403
        # A link leads to the page.
        page.goto(attacker)
        with page.expect_navigation() as followed:
            page.evaluate("(url) => { location.href = url; }", f"http://127.0.0.1:{port}/ui/")
        assert followed.value.status == 200
    # A name of the attacker's that leads here: as the browser sees it, this is the page's own origin.
    answered = page.goto(f"http://evil.example:{port}/ui/")
    assert answered.status == 403 and "is no name of this server" in answered.text(), answered.text()
    [reply] = registry.say({"lookup": {"id": "web-1"}})
    instance = reply["found"]["instances"][0]
    assert instance["health"] == "passing" and not instance["draining"], instance
    browser.complaints.clear()
    browser.asked.clear()


def another_origin():
    """A page on a port of its own; the port."""

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title>")

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server.server_port


FRAME = "(url) => { const frame = document.createElement('iframe'); frame.src = url; document.body.append(frame); }"
ATTACK = """async (server) => {
  const drain = JSON.stringify({ drain: { service: "web", id: "web-1", host: "rack1" } });
  const ways = {
    read: () => fetch(`${server}/v1/catalog/services`),
    watch: () => fetch(`${server}/v1/watch/`),
    json: () => fetch(`${server}/v1/ask`, { method: "POST", headers: { "Content-Type": "application/json" }, body: drain }),
    text: () => fetch(`${server}/v1/ask`, { method: "POST", body: drain }),
    put: () => fetch(`${server}/v1/agent/service/deregister/web-1`, { method: "PUT" }),
    script: () => import(`${server}/ui/app.js`),
  };
  const done = {};
  for (const [name, way] of Object.entries(ways)) {
    try { await way(); done[name] = "done"; } catch { done[name] = "failed"; }
  }
  return done;
}"""
FORM = """([url, kind]) => {
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: url, enctype: kind });
  const input = document.createElement("input");
  Object.assign(input, { name: '{"drain":{"service":"web","id":"web-1","host":"rack1"}}', value: "" });
  form.append(input);
  document.body.append(form);
  form.submit();
}"""


def accessible(browser, registry, dns):
    """axe finds nothing serious in any view, dark or light."""
    import axe_playwright_python

    axe = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
    furnish(registry)
    dns.ask(["wbe", "service", "local"])
    page = browser.open()
    found = []
    for scheme in ["light", "dark"]:
        page.emulate_media(color_scheme=scheme)
        for place, text in VIEWS:
            page.goto(f"{browser.url}/ui/{place}")
            expect(page.locator("main")).to_contain_text(text)
            page.evaluate(axe)
            result = page.evaluate("axe.run({ resultTypes: ['violations'] })")
            assert len(result["passes"]) > 10, "it looked at nothing"
            for violation in result["violations"]:
                nodes = [node["html"][:200] for node in violation["nodes"][:3]]
                print(scheme, place, violation["impact"], violation["id"], nodes)
                if violation["impact"] in ["serious", "critical"]:
                    found.append((scheme, place, violation["id"], nodes))
    assert not found, found


VIEWS = [
    ("#/services", "api-1"),
    ("#/services/web/web/rack1/web-2", "503 from /health"),
    ("#/changes", "registered"),
    ("#/missing", "wbe.service.local."),
    ("#/ask/web", "not in the answers"),
    ("#/cluster", "this one"),
]


def furnish(registry):
    """Something of everything, as an operator may have it."""
    names = ["api", "auth", "billing", "cache", "db", "gateway", "images", "ledger", "mail", "queue", "search", "web"]
    for place, name in enumerate(names):
        for number in range(1, 3 + place * 5 % 7):
            tags = [["v1", "v2"][number % 2], ["eu", "us"][(number + place) % 2]]
            lease = ["10m", "1h", "none"][(number + place) % 3]
            registry.register(name, f"{name}-{number}", port=8000 + number, address=f"10.0.{place}.{number + 6}", tags=tags, lease=lease)
    registry.report("web", "web-2", "critical", "503 from /health")
    registry.report("db", "db-1", "warning", "disk 91% full")
    registry.say({"drain": {"service": "api", "id": "api-1", "host": "rack1"}})
    registry.say({"report": {"service": "cache", "id": "cache-2", "host": "rack1", "check": "maintenance", "status": "maintenance", "output": "a new kernel"}})
    registry.say({"deregister": {"service": "queue", "id": "queue-1", "host": "rack1"}})


def pictures(browser, registry, dns, more):
    """Pictures of both themes, for docs/images and for whoever changes the page; not one of the tests."""
    furnish(registry)
    for _ in range(40):
        dns.ask(["web", "service", "local"])
    for _ in range(7):
        dns.ask(["wbe", "service", "local"])
    page = browser.open()
    page.set_viewport_size({"width": 1280, "height": 640})
    for scheme, place, name in [
        ("light", "#/services", "services"),
        ("dark", "#/services/web/web/rack1/web-2", "instance"),
        ("light", "#/ask/web", "ask"),
        ("dark", "#/changes", "changes"),
    ]:
        page.emulate_media(color_scheme=scheme)
        page.goto(f"{browser.url}/ui/{place}")
        page.wait_for_timeout(2500)  # rates and leases are there
        page.screenshot(path=f"{more[0]}/dashboard-{name}.png")


SCENARIOS = {
    scenario.__name__: scenario
    for scenario in [live, hostile, questions, missing, many, filters, changing, rights, banners, full_disk, nodes, cut_off, origins, accessible, pictures]
}


def main(name, url, path, dns, *more):
    scenario = SCENARIOS[name]
    given = {"registry": lambda: Registry(path), "dns": lambda: Dns(dns), "more": lambda: more, "steps": lambda: Steps(more[0])}
    wanted = list(inspect.signature(scenario).parameters)[1:]
    expect.set_options(timeout=DEADLINE_MS)
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--host-resolver-rules=MAP evil.example 127.0.0.1"])
        browser = Browser(chromium, url)
        try:
            scenario(browser, **{parameter: given[parameter]() for parameter in wanted})
            browser.quiet()
        except BaseException:
            print(browser.page.url, browser.complaints, browser.page.locator("body").inner_text()[:3000], sep="\n")
            raise
        finally:
            chromium.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
