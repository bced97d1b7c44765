//! Partners, discovery rules, identity and admission. No sockets.

mod address;
mod certificate;
pub mod discovery;
mod guard;
mod identity;
mod partner;
mod policy;
mod revocation;
mod source;
mod targets;
mod throttle;

pub use address::{AddressFault, usable};
pub use certificate::*;
pub use guard::{Ban, Entry as LoginEntry, Guard, Login, SavedBan, SavedBans};
pub use identity::*;
pub use partner::*;
pub use policy::*;
pub use revocation::*;
pub use source::{first_of_source, source_prefix};
pub use targets::*;
pub use throttle::{
    CertificateSeen, Change as ThrottleChange, Evidence, News, Report, Ruling, Sample, Saved,
    SavedRecord, Sender, Standing, Throttle, Time,
};
