//! Client transactions (RFC 3261 section 17.1): found by branch, ended by a final response or by
//! timers B and F. There is nothing to send again: the connection is reliable.

use std::time::Instant;

use crate::{domain::Domain, ids::IdMap, sip::Message};

/// What came of a request.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Status; 408 when nothing came in time, 500 when there was no room.
    pub status: u16,
    /// The response, if there was one.
    pub response: Option<&'a Message>,
}

impl Answer<'_> {
    /// Not a response, but what stands for one.
    pub fn without_response(status: u16) -> Self {
        Self { status, response: None }
    }

    /// 2xx.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// A request that waits for its final response. `P`: what it is for.
#[derive(Debug)]
pub struct Client<P> {
    /// Its branch.
    pub branch: String,
    /// The partner whose user it is of or for.
    pub entry: Domain,
    /// Its CSeq number.
    pub cseq: u32,
    /// Its method.
    pub method: &'static str,
    /// What it is for.
    pub purpose: P,
    /// Timer B, C or F.
    pub due: Option<Instant>,
    /// The request, of an INVITE: its ACK is made of it.
    pub invite: Option<Message>,
    /// A provisional response came: it may be cancelled.
    pub rings: bool,
    /// It was.
    pub cancelled: bool,
}

/// All of them.
#[derive(Debug)]
pub struct Clients<P> {
    map: IdMap<u64, Client<P>>,
}

impl<P> Default for Clients<P> {
    fn default() -> Self {
        Self { map: IdMap::default() }
    }
}

impl<P> Clients<P> {
    /// How many.
    pub fn len(&self) -> usize {
        self.map.len()
    }

    /// Puts one in.
    pub fn insert(&mut self, id: u64, client: Client<P>) {
        self.map.insert(id, client);
    }

    /// Takes one out.
    pub fn remove(&mut self, id: u64) -> Option<Client<P>> {
        self.map.remove(&id)
    }

    /// One by its id.
    pub fn get_mut(&mut self, id: u64) -> Option<&mut Client<P>> {
        self.map.get_mut(&id)
    }

    /// The transaction that a response belongs to (RFC 3261 section 17.1.3).
    pub fn of_response(&self, id: u64, branch: &str, response: &Message) -> bool {
        let Ok(cseq) = response.cseq() else { return false };
        self.map.get(&id).is_some_and(|client| {
            client.branch == branch
                && client.cseq == cseq.number
                && client.method == cseq.method.as_str()
        })
    }
}
