//! The shell: tokio sockets, TLS, DNS and timers; drives the pure cores.
