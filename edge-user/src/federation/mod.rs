//! Partners, discovery rules, identity and admission. No sockets.

mod address;
mod identity;
mod policy;

pub use address::{AddressFault, usable};
pub use identity::*;
pub use policy::*;
