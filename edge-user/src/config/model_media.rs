//! `[media]`, as configuration.

use std::{fmt, time::Duration};

/// How the media of calls passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MediaMode {
    /// Not through this appliance, as far as it knows: no flow is opened, no address changed.
    /// Modalities are judged all the same.
    #[default]
    Off,
    /// Through addresses of the av service, which both sides see in place of one another's.
    Relay,
    /// As it is, between public addresses outside and inside.
    Pinhole,
}

impl MediaMode {
    /// All of them.
    pub const ALL: &'static [MediaMode] = &[MediaMode::Off, MediaMode::Relay, MediaMode::Pinhole];

    /// As the file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            MediaMode::Off => "off",
            MediaMode::Relay => "relay",
            MediaMode::Pinhole => "pinhole",
        }
    }
}

impl fmt::Display for MediaMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who sends the packets of a relay on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum MediaPath {
    /// The program in the kernel, but the daemon what leaves by a device to which XDP can send
    /// nothing.
    #[default]
    Auto,
    /// The program in the kernel.
    Kernel,
    /// The daemon.
    Daemon,
}

impl MediaPath {
    /// All of them.
    pub const ALL: &'static [MediaPath] = &[MediaPath::Auto, MediaPath::Kernel, MediaPath::Daemon];

    /// As the file writes it.
    pub const fn name(self) -> &'static str {
        match self {
            MediaPath::Auto => "auto",
            MediaPath::Kernel => "kernel",
            MediaPath::Daemon => "daemon",
        }
    }
}

impl fmt::Display for MediaPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// `[media]`: the media of calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaSettings {
    /// How it passes. Relay needs `[service.av]` with addresses on both sides, and is the default
    /// when it has them; pinholes need an interface on either side.
    pub mode: MediaMode,
    /// Who sends packets on. The daemon cannot in mode pinhole, nor while the firewall only
    /// monitors.
    pub path: MediaPath,
    /// A call whose flows are all silent for so long has ended; what is on hold is never silent.
    pub silence: Duration,
    /// No call is longer.
    pub longest_call: Duration,
}

impl Default for MediaSettings {
    fn default() -> Self {
        Self {
            mode: MediaMode::Off,
            path: MediaPath::Auto,
            silence: Duration::from_secs(300),
            longest_call: Duration::from_secs(24 * 3600),
        }
    }
}
