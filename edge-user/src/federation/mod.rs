//! Partners, discovery rules, identity and admission. No sockets.

mod address;
pub mod discovery;
mod identity;
mod partner;
mod policy;
mod targets;

pub use address::{AddressFault, usable};
pub use identity::*;
pub use partner::*;
pub use policy::*;
pub use targets::*;
