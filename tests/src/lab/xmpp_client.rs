//! An XMPP user: logs in at a server on loopback, says what it is told to, and waits for what
//! comes. What a stanza is it finds out by itself, so that no reader of ours is asked.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{netns::Namespace, phone::PATIENCE, tls_client::unique};

/// A user who is logged in.
pub struct XmppClient {
    socket: TcpStream,
    jid: String,
    unread: Vec<u8>,
    /// Stanzas that nobody waited for yet.
    waiting: Vec<String>,
}

impl XmppClient {
    /// Logs `user` in and says that it is there.
    pub fn login(
        namespace: &Namespace,
        server: SocketAddr,
        user: &str,
        password: &str,
    ) -> Result<Self> {
        let (name, domain) = user.split_once('@').context("a user without a domain")?;
        let socket = namespace.run(|| TcpStream::connect_timeout(&server, PATIENCE))??;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut client =
            Self { socket, jid: user.to_owned(), unread: Vec::new(), waiting: Vec::new() };
        client.open(domain)?;
        let secret = base64(format!("\0{name}\0{password}").as_bytes());
        client.send(&format!(
            "<auth xmlns='urn:ietf:params:xml:ns:xmpp-sasl' mechanism='PLAIN'>{secret}</auth>"
        ))?;
        client.expect("SASL", |stanza| stanza.starts_with("<success"))?;
        client.open(domain)?;
        client.send(
            "<iq type='set' id='bind'><bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'>\
             <resource>lab</resource></bind></iq>",
        )?;
        client.expect("bind", |stanza| has(stanza, "id", "bind"))?;
        // Who has asked for the roster hears of its changes.
        client
            .send("<iq type='get' id='roster'><query xmlns='jabber:iq:roster'/></iq><presence/>")?;
        client.expect("roster", |stanza| has(stanza, "id", "roster"))?;
        Ok(client)
    }

    /// Its address without a resource.
    pub fn jid(&self) -> &str {
        &self.jid
    }

    /// Its address with the resource.
    pub fn full_jid(&self) -> String {
        format!("{}/lab", self.jid)
    }

    /// Sends XML as it is.
    pub fn send(&mut self, xml: &str) -> Result<()> {
        Ok(self.socket.write_all(xml.as_bytes())?)
    }

    /// Sends a message; its id.
    pub fn message(&mut self, to: &str, body: &str) -> Result<String> {
        let id = unique();
        self.send(&format!(
            "<message to='{to}' type='chat' id='{id}'><body>{body}</body></message>"
        ))?;
        Ok(id)
    }

    /// Sends presence of this type (`subscribe`, `subscribed`, and so on).
    pub fn presence(&mut self, to: &str, kind: &str) -> Result<()> {
        self.send(&format!("<presence to='{to}' type='{kind}'/>"))
    }

    /// Tells everybody who may know: `away`, `dnd` and so on; empty for available.
    pub fn show(&mut self, show: &str, status: &str) -> Result<()> {
        let show = if show.is_empty() { String::new() } else { format!("<show>{show}</show>") };
        self.send(&format!("<presence>{show}<status>{status}</status></presence>"))
    }

    /// Waits for a stanza that `wanted` knows; others are kept for later.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.waiting.iter().position(|stanza| wanted(stanza)) {
                return Ok(self.waiting.remove(at));
            }
            if Instant::now() >= deadline {
                bail!("{what}: not within {PATIENCE:?}; came instead: {:#?}", self.waiting);
            }
            self.read().with_context(|| format!("{what}; came before: {:#?}", self.waiting))?;
        }
    }

    /// Waits for a message from `from` with this body.
    pub fn expect_message(&mut self, from: &str, body: &str) -> Result<String> {
        self.expect(&format!("message from {from}: {body}"), |stanza| {
            stanza.starts_with("<message")
                && is_from(stanza, from)
                && stanza.contains(&format!("<body>{body}</body>"))
        })
    }

    /// Waits for presence of this type (empty: available) from `from`.
    pub fn expect_presence(&mut self, from: &str, kind: &str) -> Result<String> {
        self.expect(&format!("presence {kind:?} from {from}"), |stanza| {
            let of_kind = if kind.is_empty() {
                value(stanza, "type").is_none()
            } else {
                has(stanza, "type", kind)
            };
            stanza.starts_with("<presence") && is_from(stanza, from) && of_kind
        })
    }

    /// What has come and was not waited for, after `time` of silence or more.
    pub fn others(&mut self, time: Duration) -> Result<Vec<String>> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.read()?;
        }
        Ok(std::mem::take(&mut self.waiting))
    }

    fn open(&mut self, domain: &str) -> Result<()> {
        self.send(&format!(
            "<?xml version='1.0'?><stream:stream to='{domain}' version='1.0' \
             xmlns='jabber:client' xmlns:stream='http://etherx.jabber.org/streams'>"
        ))?;
        self.expect("stream features", |stanza| stanza.starts_with("<stream:features"))?;
        Ok(())
    }

    /// Reads what is there, or nothing after a moment.
    fn read(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        match self.socket.read(&mut buffer) {
            Ok(0) => bail!("the server closed the connection"),
            Ok(length) => self.unread.extend_from_slice(&buffer[..length]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("the connection broke"),
        }
        while let Some((stanza, length)) = first_stanza(&self.unread) {
            if !stanza.is_empty() {
                self.waiting.push(stanza);
            }
            self.unread.drain(..length);
        }
        Ok(())
    }
}

/// The first whole stanza of a stream, and where it ends; an empty one for what stands between
/// stanzas (a header, white space).
fn first_stanza(bytes: &[u8]) -> Option<(String, usize)> {
    let start = bytes.iter().position(|byte| *byte == b'<')?;
    if start > 0 {
        return Some((String::new(), start));
    }
    let (mut at, mut depth) = (0, 0_usize);
    while let Some(tag) = next_tag(bytes, at) {
        let text = &bytes[tag.0..tag.1];
        at = tag.1;
        let header = text.starts_with(b"<?") || text.starts_with(b"<stream:stream");
        if depth == 0 && (header || text.starts_with(b"</")) {
            return Some((String::new(), at));
        }
        if text.starts_with(b"</") {
            depth -= 1;
        } else if !text.ends_with(b"/>") {
            depth += 1;
        }
        if depth == 0 {
            return Some((String::from_utf8_lossy(&bytes[..at]).into_owned(), at));
        }
    }
    None
}

/// Where the next tag begins and ends; a `>` in an attribute ends none.
fn next_tag(bytes: &[u8], from: usize) -> Option<(usize, usize)> {
    let start = from + bytes.get(from..)?.iter().position(|byte| *byte == b'<')?;
    let mut quote = None;
    for (at, byte) in bytes.iter().enumerate().skip(start) {
        match (quote, byte) {
            (None, b'>') => return Some((start, at + 1)),
            (None, b'\'' | b'"') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            _ => {}
        }
    }
    None
}

/// An attribute of the stanza itself.
pub fn value<'a>(stanza: &'a str, attribute: &str) -> Option<&'a str> {
    let (_, end) = next_tag(stanza.as_bytes(), 0)?;
    let head = &stanza[..end];
    [format!(" {attribute}='"), format!(" {attribute}=\"")].iter().find_map(|opening| {
        let (_, rest) = head.split_once(opening.as_str())?;
        rest.split(['\'', '"']).next()
    })
}

fn has(stanza: &str, attribute: &str, wanted: &str) -> bool {
    value(stanza, attribute) == Some(wanted)
}

/// Whether a stanza is of this user, whichever resource.
fn is_from(stanza: &str, jid: &str) -> bool {
    value(stanza, "from").is_some_and(|from| {
        from.strip_prefix(jid).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let number =
            (0..3).fold(0_usize, |sum, at| sum << 8 | usize::from(*chunk.get(at).unwrap_or(&0)));
        for place in 0..4 {
            let digit = ALPHABET[number >> (18 - 6 * place) & 63];
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stanzas_are_cut_where_they_end() {
        let stream = "<?xml version='1.0'?><stream:stream from='a'><stream:features><x a='>'/>\
                      </stream:features> <presence/><message from='a@b/c'><body>1 &lt; 2</body>\
                      </message><iq id='1'";
        let (mut rest, mut stanzas) = (stream.as_bytes(), Vec::new());
        while let Some((stanza, length)) = first_stanza(rest) {
            stanzas.push(stanza);
            rest = &rest[length..];
        }
        stanzas.retain(|stanza| !stanza.is_empty());
        assert_eq!(
            stanzas,
            [
                "<stream:features><x a='>'/></stream:features>",
                "<presence/>",
                "<message from='a@b/c'><body>1 &lt; 2</body></message>"
            ]
        );
        assert!(is_from(&stanzas[2], "a@b") && !is_from(&stanzas[2], "a@"));
    }

    #[test]
    fn base64_pads() {
        for (plain, coded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v")] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
