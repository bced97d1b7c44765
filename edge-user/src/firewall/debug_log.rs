//! The kernel program's debug messages, into our log. Only when asked for: each dropped packet
//! makes one, so this is for a quiet lab, never for a busy machine.

use std::{
    os::fd::AsRawFd as _,
    sync::{Arc, Weak},
};

use aya::Ebpf;
use aya_log::EbpfLogger;

use super::{FirewallError, kernel::chain, sys};

/// As long as this lives, messages are read.
pub(super) struct DebugLog {
    _alive: Arc<()>,
}

/// Passes what aya-log reads on to tracing.
struct ToTracing;

impl log::Log for ToTracing {
    fn enabled(&self, _metadata: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        tracing::info!(target: "edge_xdp", "{}", record.args());
    }

    fn flush(&self) {}
}

/// Starts a thread that reads the messages.
pub(super) fn start(ebpf: &mut Ebpf) -> Result<DebugLog, FirewallError> {
    let logger = EbpfLogger::init_with_logger(ebpf, ToTracing)
        .map_err(|fault| FirewallError::Load(format!("debug messages: {}", chain(&fault))))?;
    let alive = Arc::new(());
    let watch = Arc::downgrade(&alive);
    std::thread::Builder::new()
        .name("kernel-log".to_owned())
        .spawn(move || read(logger, &watch))
        .map_err(|fault| FirewallError::io("starting the reader of debug messages", fault))?;
    Ok(DebugLog { _alive: alive })
}

fn read(mut logger: EbpfLogger<ToTracing>, alive: &Weak<()>) {
    while alive.strong_count() > 0 {
        logger.flush();
        if let Err(fault) = sys::wait_readable(logger.as_raw_fd(), 200) {
            tracing::error!(%fault, "debug messages can no longer be read");
            return;
        }
    }
}
