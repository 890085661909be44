fn main() {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let config = callsign::config::Config::defaults(&callsign::config::Surroundings::here()).unwrap();
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(callsign::serve::run(config))
        .unwrap();
}
