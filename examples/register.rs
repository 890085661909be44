//! A process that is registered for as long as it runs; docs/registering.md shows it, and the same in other languages.
//!
//!     SOCKET=/run/callsign/callsign.sock cargo run --example register

use callsign::client::{Registration, Server, Way};
use callsign::protocol::RegisterForm;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let server = Server::Unix(std::env::var("SOCKET")?.into());
    let form = RegisterForm { service: "web".to_owned(), port: Some(8080), ..RegisterForm::default() };
    let registration = Registration::register(Way::to(server), form).await?;
    println!("{:?}", registration.registered());
    tokio::signal::ctrl_c().await?;
    registration.leave().await?;
    Ok(())
}
