//! Cargo wants a file of every package; this one is there for what it depends on.
