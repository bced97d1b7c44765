//! The decision: what happens to one packet, generic over the tables it asks.
