# The everyday commands. `just --list` shows them; ./check is what decides.

# Format, clippy and the tests that need only Rust.
quick:
    ./check --quick

# Everything, as CI runs it.
check:
    ./check

# A server on the default ports.
serve *ARGS:
    cargo run --release --locked -- serve {{ARGS}}

# One test by name: `just test lease_expires`.
test NAME:
    cargo test --locked {{NAME}}

# Rewrite the scenarios' expected replies; then read the diff.
scenarios:
    UPDATE=1 cargo test --locked --test scenarios
    git diff --stat -- tests/scenarios

# The benchmarks of the core.
bench *ARGS:
    cargo bench --locked {{ARGS}}

# Both README commands in an empty Debian 12 (as root).
fresh:
    packaging/fresh
