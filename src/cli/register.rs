//! `callsign register`: registers once with `--lease`, else stays in the foreground and holds it.

use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;

use callsign::client::hold::{Ended, Holder, LEAVE_WITHIN, ORDERS_MAX, Order};
use callsign::name::{Name, ServiceName, ends_in_digits};
use callsign::protocol::{Pairs, PortForm, RegisterForm, RegisteredForm, Reply, Request, Several};
use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Asking, Done, FAILED, Failure, Format, USAGE, message, number, output};

/// Register an instance of a service
#[derive(Debug, Args)]
#[command(
    after_help = "Without --lease it stays in the foreground, renews, registers again after the server was away, and
deregisters on Ctrl-C or SIGTERM. With --lease 15s or --lease none it registers once and returns.

Example:
  callsign register web 10.0.0.7:8080 --tag v2 --protocol http
  callsign register web :8080 --port-name metrics=9090 --port-name dns=53/udp
  callsign register db 5432 --target db.example.com. --lease none"
)]
pub struct Register {
    /// The service's name
    service: String,
    /// Where the instance accepts; :PORT or PORT lets the server choose the address
    #[arg(value_name = "ADDR:PORT", value_parser = place)]
    place: Option<Place>,
    /// A time such as 15s, `connection` or `none`
    #[arg(long, value_name = "LEASE")]
    lease: Option<String>,
    #[command(flatten)]
    options: Options,
    #[command(flatten)]
    asking: Asking,
}

/// What `register` and `run` say of an instance alike.
#[derive(Debug, Args)]
#[command(next_help_heading = "Instance")]
pub struct Options {
    /// Its id [default: made from service, host and port]
    #[arg(long)]
    id: Option<String>,
    /// The machine it runs on [default: what the server calls this one; with several servers this machine's own name]
    #[arg(long)]
    host: Option<String>,
    /// An address of it; may be given several times
    #[arg(long, value_name = "ADDR")]
    pub address: Vec<String>,
    /// A host name that others resolve, instead of addresses
    #[arg(long, value_name = "HOST", conflicts_with = "address")]
    target: Option<String>,
    /// A tag; may be given several times
    #[arg(long, value_name = "T")]
    tag: Vec<String>,
    /// Metadata; may be given several times
    #[arg(long, value_name = "K=V", value_parser = pair)]
    meta: Vec<(String, String)>,
    /// The application's protocol, such as http, h2 or redis
    #[arg(long, value_name = "P")]
    protocol: Option<String>,
    /// A port with a name, and /udp where it is one; may be given several times
    #[arg(long, value_name = "N=PORT", value_parser = named_port)]
    port_name: Vec<(String, PortForm)>,
    /// Share of the traffic among instances of one priority [default: 1]
    #[arg(long, value_name = "N", value_parser = number::<i64>)]
    weight: Option<i64>,
    /// Lower is preferred [default: 0]
    #[arg(long, value_name = "N", value_parser = number::<i64>)]
    priority: Option<i64>,
}

impl Options {
    pub fn form(
        &self,
        asking: &Asking,
        service: &str,
        address: Option<String>,
        port: Option<i64>,
        lease: Option<String>,
    ) -> Result<RegisterForm, Failure> {
        one_label(service)?;
        let addresses: Vec<String> = address.into_iter().chain(self.address.iter().cloned()).collect();
        Ok(RegisterForm {
            service: service.to_owned(),
            id: self.id.clone(),
            host: asking.host(self.host.as_ref())?,
            address: some(addresses).map(Several),
            target: self.target.clone(),
            port,
            ports: some(self.port_name.clone()).map(Pairs),
            protocol: self.protocol.clone(),
            tags: some(self.tag.clone()),
            meta: some(self.meta.clone()).map(Pairs),
            weight: self.weight,
            priority: self.priority,
            lease,
            checks: None,
        })
    }
}

/// The server adds its domain: who writes it means the label before it.
fn one_label(service: &str) -> Result<(), Failure> {
    let is_place = service.parse::<SocketAddr>().is_ok() || service.parse::<IpAddr>().is_ok();
    match service.split_once('.') {
        Some((first, _)) if !is_place && ServiceName::parse(first).is_ok() => {
            let joined = service.trim_end_matches('.').replace('.', "-");
            Err(Failure::new(
                USAGE,
                format!(
                    "service must be one label; try `{first}`, for the server adds its domain, or `{joined}`"
                ),
            ))
        }
        _ => Ok(()),
    }
}

fn some<T>(list: Vec<T>) -> Option<Vec<T>> {
    Some(list).filter(|list| !list.is_empty())
}

impl Register {
    pub async fn run(self) -> Done {
        if self.place.is_none()
            && let Ok(Place { address: Some(_), .. }) = place(&self.service)
        {
            return Err(Failure::new(
                USAGE,
                format!("the service's name is missing in front of {}", self.service),
            )
            .hint(format!("callsign register NAME {}", self.service)));
        }
        let place = self.place.clone().unwrap_or_default();
        let form =
            self.options.form(&self.asking, &self.service, place.address, place.port, self.lease.clone())?;
        match self.lease.as_deref() {
            None | Some("connection") => self.stay(form).await,
            Some(_) => {
                let (client, reply) = self.asking.ask(&Request::Register(Box::new(form))).await?;
                let Reply::Registered(registered) = reply else {
                    return Err(client.unexpected(&reply).into());
                };
                shown(self.asking.output, &registered)?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }

    async fn stay(self, form: RegisterForm) -> Done {
        let failed = |error| Failure::new(FAILED, format!("listening for signals: {error}"));
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        let mut hangup = signal(SignalKind::hangup()).map_err(failed)?;
        let (orders, received) = mpsc::channel(ORDERS_MAX);
        let format = self.asking.output;
        let holder = Holder::new(self.asking.way()?, self.asking.timeout, form, received);
        let mut holding = std::pin::pin!(holder.hold(|registered| shown(format, registered)));
        // Each arm only waits; what was half done when another one won goes on in `holding`.
        let ended = tokio::select! {
            ended = &mut holding => ended?,
            _ = interrupt.recv() => leave(orders, holding).await?,
            _ = terminate.recv() => leave(orders, holding).await?,
            _ = hangup.recv() => leave(orders, holding).await?,
        };
        match ended {
            Ended::Left => Ok(ExitCode::SUCCESS),
            Ended::Unconfirmed(error) => {
                message::say(&format!("{error}; {UNCONFIRMED}"));
                Ok(ExitCode::SUCCESS)
            }
            Ended::Superseded(problem) => Err(problem.into()),
        }
    }
}

const UNCONFIRMED: &str = "the server did not confirm the deregistration; the lease will end it";

/// Deregisters, as far as a server is there to hear it: else the lease ends it.
async fn leave(
    orders: mpsc::Sender<Order>,
    holding: impl Future<Output = Result<Ended, Failure>>,
) -> Result<Ended, Failure> {
    let asked = async { orders.send(Order::Leave).await };
    match timeout(LEAVE_WITHIN, async { tokio::join!(asked, holding).1 }).await {
        Ok(ended) => ended,
        Err(_) => {
            message::say(UNCONFIRMED);
            Ok(Ended::Left)
        }
    }
}

fn shown(format: Format, registered: &RegisteredForm) -> Result<(), Failure> {
    for warning in &registered.warnings {
        message::say(warning);
    }
    if format != Format::Table {
        return output::value(format, registered);
    }
    let RegisteredForm { service, id, dns, port, lease, .. } = registered;
    let place = registered.target.clone().unwrap_or_else(|| registered.address.join(","));
    let port = port.map(|port| format!(" port {port}")).unwrap_or_default();
    output::line(&format!("registered {service} {id} at {place}{port} as {dns}, lease {lease}"))
}

/// Where an instance accepts, as it was typed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Place {
    address: Option<String>,
    port: Option<i64>,
}

fn place(text: &str) -> Result<Place, String> {
    let (address, port) = match text.rsplit_once(':') {
        None => ("", text),
        Some((address, port)) => (address, port),
    };
    let port =
        Some(port.parse().map_err(|_| "write ADDR:PORT, :PORT or PORT, such as 10.0.0.7:8080".to_owned())?);
    let bare = address.strip_prefix('[').and_then(|address| address.strip_suffix(']'));
    match (address, bare) {
        ("", _) => Ok(Place { address: None, port }),
        (_, Some(bare)) => Ok(Place { address: Some(bare.to_owned()), port }),
        (address, None) if address.contains(':') => {
            Err("put an IPv6 address into brackets, such as [2001:db8::7]:8080".to_owned())
        }
        ("localhost", None) => Ok(Place { address: Some("localhost".to_owned()), port }),
        (address, None) if address.parse::<std::net::Ipv4Addr>().is_err() => Err(no_address(address)),
        (address, None) => Ok(Place { address: Some(address.to_owned()), port }),
    }
}

/// What to write instead of `text`, which may be meant as a host name.
fn no_address(text: &str) -> String {
    if Name::parse(text).is_ok_and(|name| ends_in_digits(&name)) {
        return format!("`{text}` is neither an address nor a host name: its last label is all digits");
    }
    let name = text.trim_end_matches('.');
    match name.contains('.') {
        true => format!("`{text}` is no IP address; for a host name write PORT --target {text}"),
        false => format!(
            "`{text}` is no IP address, and a host name must be a full name with a dot, such as {name}.example.com; write PORT --target {name}.example.com"
        ),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn named_port(text: &str) -> Result<(String, PortForm), String> {
    let rule = "write NAME=PORT or NAME=PORT/udp, such as metrics=9090";
    let (name, port) = text.split_once('=').ok_or(rule)?;
    let (port, transport) = match port.split_once('/') {
        Some((port, transport)) => (port, Some(transport.to_owned())),
        None => (port, None),
    };
    Ok((name.to_owned(), PortForm { port: port.parse().map_err(|_| rule)?, transport }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_in_every_form() {
        let of =
            |address: Option<&str>, port| Ok(Place { address: address.map(str::to_owned), port: Some(port) });
        assert_eq!(place("10.0.0.7:8080"), of(Some("10.0.0.7"), 8080));
        assert_eq!(place("[2001:db8::7]:8080"), of(Some("2001:db8::7"), 8080));
        assert_eq!(place("localhost:80"), of(Some("localhost"), 80));
        assert_eq!(place(":8080"), of(None, 8080));
        assert_eq!(place("8080"), of(None, 8080));
        assert!(place("2001:db8::7:8080").unwrap_err().contains("brackets"));
        assert!(place("db.example.com:5432").unwrap_err().contains("--target db.example.com"));
        assert!(place("10.0.0.7").unwrap_err().contains("ADDR:PORT"));
        for text in ["10.0.0.300:80", "10.0.0:80", "7:80"] {
            let told = place(text).unwrap_err();
            assert!(told.contains("its last label is all digits") && !told.contains("--target"), "{told}");
        }
        let told = place("myhost:8080").unwrap_err();
        assert!(told.contains("a full name with a dot, such as myhost.example.com;"), "{told}");
    }

    #[test]
    fn named_ports_carry_their_transport() {
        let port = |port, transport: Option<&str>| PortForm { port, transport: transport.map(str::to_owned) };
        assert_eq!(named_port("dns=53/udp"), Ok(("dns".to_owned(), port(53, Some("udp")))));
        assert_eq!(named_port("metrics=9090"), Ok(("metrics".to_owned(), port(9090, None))));
        assert!(named_port("metrics").is_err() && named_port("metrics=x").is_err());
    }
}
