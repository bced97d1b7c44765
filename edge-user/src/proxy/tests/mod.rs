//! The rules of the proxy, played through without a socket and in virtual time: one or two edges,
//! and whoever stands around them scripted by the test.

mod bodies;
mod dialogs;
mod discovery;
mod failover;
mod gateway;
mod health;
mod identities;
mod inside_routes;
mod interleave;
mod lifecycle;
mod limits;
mod machines;
mod media;
mod messages;
mod passwords;
mod policy_table;
mod pool;
mod pooled;
mod remote;
mod remote_rights;
mod residue;
mod rfc4475;
mod rfc5118;
mod route_sets;
mod routing;
mod rules;
mod script;
mod strict;
mod targets;
mod torture;
mod trust;
mod udp;
mod verification;
mod ways_back;
mod world;

pub(crate) use crate::proxy::{
    AttemptId, Bounds, ConnectError, ConnectionId, Event, Input, QueryId, Question, Refusal,
    ResolveError, Resolved, Side, WatchChange,
};
pub(crate) use world::*;
