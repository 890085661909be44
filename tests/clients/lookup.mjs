// What a Node program sees of each service that is named: resolve* is c-ares, lookup is getaddrinfo; both on
// /etc/resolv.conf, port 53.
import dns from "node:dns/promises";

async function show(word, asked, text) {
  try {
    for (const found of await asked) console.log(word, text(found));
  } catch (error) {
    console.log("error", word, error.code);
  }
}

for (const service of process.argv.slice(2)) {
  const name = `${service}.service.local`;
  console.log("service", service);
  await show("srv", dns.resolveSrv(`_${service}._tcp.service.local`), (r) => `${r.priority} ${r.weight} ${r.port} ${r.name}`);
  await show("address", dns.resolve4(name), String);
  await show("address6", dns.resolve6(name), String);
  await show("lookup", dns.lookup(name, { all: true }), (found) => found.address);
}
