//! Partners, discovery rules, identity and admission. No sockets.

mod identity;

pub use identity::*;
