//! Domain -> addresses -> blocks: TTL, owners, the shared-address rule. Pure.
