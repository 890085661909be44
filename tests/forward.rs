//! Names that are not ours, through the running server: what upstreams are asked, and what clients are told.
//!
//! The upstreams are small sockets of the tests' own (`forward/fake.rs`), so that one can answer wrongly, late or
//! never; real name servers and real programs are in `forward_programs.rs`. Tests are called after the rules' numbers.

mod harness;

#[path = "forward/fake.rs"]
mod fake;
#[path = "forward/names.rs"]
mod names;
#[path = "forward/replies.rs"]
mod replies;
#[path = "forward/troubles.rs"]
mod troubles;
