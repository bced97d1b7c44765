//! A call written by hand: a partner's edge outside, over TLS, and the organisation's server
//! inside, over TCP. Each message is the test's own, so that its SDP can be anything.

use std::{
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    netns::Namespace,
    phone::{PATIENCE, headers},
    tls_client::{SipClient, unique},
};

/// Which end of the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The partner.
    Outside,
    /// The organisation's server.
    Inside,
}

impl End {
    const fn other(self) -> Self {
        match self {
            End::Outside => End::Inside,
            End::Inside => End::Outside,
        }
    }
}

/// One end's connection and what it knows of the dialog.
struct Party {
    sip: SipClient,
    user: String,
    host: String,
    transport: &'static str,
    tag: String,
    contact: String,
    cseq: u32,
    /// The route set, in the order in which this end uses it.
    routes: Vec<String>,
    /// The other end's contact.
    target: String,
}

/// A call between the two.
pub struct HandCall {
    outside: Party,
    inside: Party,
    call_id: String,
    caller: End,
    /// The last request that came to each end, to answer it.
    asked: [String; 2],
    _spare: Option<SipClient>,
}

/// Who takes part.
pub struct Parties {
    /// The partner's connection to our edge.
    pub outside: SipClient,
    /// `bob@fabrikam.example`.
    pub outside_user: String,
    /// The partner's host name.
    pub outside_host: String,
    /// The connection that the edge opened to the server inside, or the server to the edge.
    pub inside: SipClient,
    /// `alice@contoso.example`.
    pub inside_user: String,
    /// The server's address.
    pub inside_host: SocketAddr,
    /// A connection that is only kept open.
    pub spare: Option<SipClient>,
}

/// The server inside, before the edge has connected to it.
pub struct InsideServer {
    listener: TcpListener,
}

impl InsideServer {
    /// Listens at `address` in `namespace`.
    pub fn start(namespace: &Namespace, address: SocketAddr) -> Result<Self> {
        let listener = namespace.listen(address).context("server inside")?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener })
    }

    /// Takes the edge's connection.
    pub fn accept(&self) -> Result<SipClient> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return client(stream),
                Err(_) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error).context("nobody connects to the server inside"),
            }
        }
    }
}

fn client(stream: TcpStream) -> Result<SipClient> {
    stream.set_nonblocking(false)?;
    SipClient::accepted(stream)
}

impl HandCall {
    /// Another call over the same connections; what was said of this one is forgotten.
    pub fn next(&mut self) {
        self.call_id = unique();
        let callee = format!("sip:{}", self.party(self.caller.other()).user);
        for end in [End::Outside, End::Inside] {
            let party = self.party_mut(end);
            party.tag = unique();
            party.routes.clear();
            party.cseq = 0;
        }
        let caller = self.caller;
        self.party_mut(caller).target = callee;
    }

    /// Nothing said yet.
    pub fn new(parties: Parties, caller: End) -> Self {
        let outside = Party {
            sip: parties.outside,
            contact: format!("sip:{}:5061;transport=tls", parties.outside_host),
            user: parties.outside_user,
            host: format!("{}:5061", parties.outside_host),
            transport: "TLS",
            tag: unique(),
            cseq: 0,
            routes: Vec::new(),
            target: String::new(),
        };
        let inside = Party {
            sip: parties.inside,
            contact: format!("sip:{};transport=tcp", parties.inside_host),
            user: parties.inside_user,
            host: parties.inside_host.to_string(),
            transport: "TCP",
            tag: unique(),
            cseq: 0,
            routes: Vec::new(),
            target: String::new(),
        };
        let mut call = Self {
            outside,
            inside,
            call_id: unique(),
            caller,
            asked: [String::new(), String::new()],
            _spare: parties.spare,
        };
        let callee = format!("sip:{}", call.party(caller.other()).user);
        call.party_mut(caller).target = callee;
        call
    }

    fn party(&self, end: End) -> &Party {
        match end {
            End::Outside => &self.outside,
            End::Inside => &self.inside,
        }
    }

    fn party_mut(&mut self, end: End) -> &mut Party {
        match end {
            End::Outside => &mut self.outside,
            End::Inside => &mut self.inside,
        }
    }

    /// `end` sends a request with a body of SDP (or none).
    pub fn ask(&mut self, end: End, method: &str, sdp: &str) -> Result<()> {
        let (own, other) = (self.party(end), self.party(end.other()));
        let established = !own.routes.is_empty() || method != "INVITE";
        let other_tag = if established || self.caller != end {
            format!(";tag={}", other.tag)
        } else {
            String::new()
        };
        let cseq = if method == "ACK" { own.cseq } else { own.cseq + 1 };
        let routes: String = own.routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/{transport} {host};branch=z9hG4bK{branch}\r\n\
             Max-Forwards: 70\r\n{routes}From: <sip:{from}>;tag={tag}\r\nTo: <sip:{to}>{other_tag}\r\n\
             Call-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <{contact}>\r\n{body}",
            target = own.target,
            transport = own.transport,
            host = own.host,
            branch = unique(),
            from = own.user,
            tag = own.tag,
            to = other.user,
            call_id = self.call_id,
            contact = own.contact,
            body = body(sdp),
        );
        let own = self.party_mut(end);
        own.cseq = cseq;
        own.sip.write(text.as_bytes())?;
        Ok(())
    }

    /// The request that comes to `end`; it is kept to be answered.
    pub fn asked(&mut self, end: End) -> Result<String> {
        let text = self.party_mut(end).sip.message(PATIENCE)?;
        ensure!(!text.starts_with("SIP/2.0"), "a response, no request: {text}");
        if text.starts_with("INVITE") {
            let routes: Vec<String> =
                headers(&text, "record-route").iter().flat_map(|v| split(v)).collect();
            let contact = headers(&text, "contact").first().map(|value| uri(value));
            let from = headers(&text, "from").first().and_then(|value| tag(value));
            if let Some(from) = from {
                self.party_mut(end.other()).tag = from;
            }
            let own = self.party_mut(end);
            if own.routes.is_empty() {
                own.routes = routes;
            }
            own.target = contact.unwrap_or_default();
        }
        self.asked[end as usize].clone_from(&text);
        Ok(text)
    }

    /// `end` answers the last request that came to it.
    pub fn answer(&mut self, end: End, status: u16, sdp: &str, more: &str) -> Result<()> {
        let request = self.asked[end as usize].clone();
        let own = self.party(end);
        let mut text = format!("SIP/2.0 {status} Answer\r\n");
        for name in ["via", "record-route", "from", "to", "call-id", "cseq"] {
            for value in headers(&request, name) {
                let tagged = name != "to" || value.contains(";tag=");
                let tag = if tagged { String::new() } else { format!(";tag={}", own.tag) };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        text.push_str(&format!("Contact: <{}>\r\n{more}{}", own.contact, body(sdp)));
        self.party_mut(end).sip.write(text.as_bytes())?;
        Ok(())
    }

    /// The next response (but 100) that comes to `end`.
    pub fn answered(&mut self, end: End) -> Result<String> {
        loop {
            let text = self.party_mut(end).sip.message(PATIENCE)?;
            if text.starts_with("SIP/2.0 100") {
                continue;
            }
            ensure!(text.starts_with("SIP/2.0"), "a request, no response: {text}");
            let dialog = text.contains("INVITE\r\n") && text.starts_with("SIP/2.0 2");
            if dialog {
                let mut routes: Vec<String> =
                    headers(&text, "record-route").iter().flat_map(|v| split(v)).collect();
                routes.reverse();
                let contact = headers(&text, "contact").first().map(|value| uri(value));
                let to = headers(&text, "to").first().and_then(|value| tag(value));
                if let Some(to) = to {
                    self.party_mut(end.other()).tag = to;
                }
                let own = self.party_mut(end);
                if own.routes.is_empty() {
                    own.routes = routes;
                }
                own.target = contact.unwrap_or_default();
            }
            return Ok(text);
        }
    }

    /// The whole of an offer and its answer: the SDP that the callee saw, and the caller.
    pub fn exchange(&mut self, from: End, offer: &str, answer: &str) -> Result<[String; 2]> {
        self.ask(from, "INVITE", offer)?;
        let seen = self.asked(from.other())?;
        self.answer(from.other(), 200, answer, "")?;
        let got = self.answered(from)?;
        if !got.starts_with("SIP/2.0 200") {
            bail!("refused: {got}");
        }
        self.ask(from, "ACK", "")?;
        let ack = self.asked(from.other())?;
        ensure!(ack.starts_with("ACK"), "no ACK: {ack}");
        Ok([sdp_of(&seen), sdp_of(&got)])
    }

    /// Hangs up.
    pub fn hang_up(&mut self, end: End) -> Result<()> {
        self.ask(end, "BYE", "")?;
        let bye = self.asked(end.other())?;
        ensure!(bye.starts_with("BYE"), "no BYE: {bye}");
        self.answer(end.other(), 200, "", "")?;
        let answer = self.answered(end)?;
        ensure!(answer.starts_with("SIP/2.0 200"), "{answer}");
        Ok(())
    }
}

fn body(sdp: &str) -> String {
    if sdp.is_empty() {
        return "Content-Length: 0\r\n\r\n".to_owned();
    }
    format!("Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{sdp}", sdp.len())
}

fn split(value: &str) -> Vec<String> {
    value.split(',').map(|part| part.trim().to_owned()).collect()
}

fn uri(value: &str) -> String {
    let inner = value.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or(value, |(uri, _)| uri).to_owned()
}

fn tag(value: &str) -> Option<String> {
    let (_, rest) = value.split_once(";tag=")?;
    Some(rest.split(';').next().unwrap_or(rest).to_owned())
}

/// A message's body.
pub fn sdp_of(message: &str) -> String {
    message.split_once("\r\n\r\n").map_or_else(String::new, |(_, body)| body.to_owned())
}

/// SDP of one audio line at `at`; `more` is further attribute lines, each with its line end.
pub fn audio(at: SocketAddr, more: &str) -> String {
    format!("{}m=audio {} RTP/AVP 0\r\na=rtpmap:0 PCMU/8000\r\n{more}", head(at.ip()), at.port())
}

/// The session part of SDP.
pub fn head(address: IpAddr) -> String {
    let family = if address.is_ipv4() { "IP4" } else { "IP6" };
    format!("v=0\r\no=- 1 1 IN {family} {address}\r\ns=-\r\nc=IN {family} {address}\r\nt=0 0\r\n")
}

/// Where the first m-line of SDP says that media goes.
pub fn media_address(sdp: &str) -> Result<SocketAddr> {
    let mut address: Option<IpAddr> = None;
    let mut port: Option<u16> = None;
    for line in sdp.lines() {
        if let Some(rest) = line.strip_prefix("c=") {
            address = rest.split_whitespace().nth(2).and_then(|text| text.parse().ok());
        } else if let Some(rest) = line.strip_prefix("m=") {
            if port.is_some() {
                break;
            }
            port = rest.split_whitespace().nth(1).and_then(|text| text.parse().ok());
        }
    }
    let (Some(address), Some(port)) = (address, port) else { bail!("no address in {sdp:?}") };
    Ok(SocketAddr::new(address, port))
}
