//! A SIP user inside, written by hand: the organisation's server and the user agent behind it in
//! one, over TCP. It takes what the edge brings, asks what it is told to, and keeps dialogs of
//! presence from both ends.

use std::{
    net::{SocketAddr, TcpListener},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    netns::Namespace,
    phone::{PATIENCE, headers, status},
    tls_client::{Caller, SipClient, unique},
};

/// The user and its server.
pub struct SipUser {
    listener: TcpListener,
    /// The first is ours to the edge; the others the edge has opened.
    links: Vec<SipClient>,
    waiting: Vec<Came>,
    address: SocketAddr,
    user: String,
    cseq: u32,
}

/// A message that came, and where.
#[derive(Clone, Debug)]
pub struct Came {
    link: usize,
    /// The whole message.
    pub text: String,
}

/// One end's view of a dialog.
#[derive(Clone, Debug)]
pub struct Dialog {
    call_id: String,
    local: String,
    remote: String,
    target: String,
    routes: Vec<String>,
}

impl SipUser {
    /// Listens at `address` in `namespace`, and connects to the edge's inside address.
    pub fn start(
        namespace: &Namespace,
        user: &str,
        address: SocketAddr,
        edge: SocketAddr,
    ) -> Result<Self> {
        let listener = namespace.listen(address).context("server inside")?;
        listener.set_nonblocking(true)?;
        let nobody = std::path::Path::new("");
        let caller = Caller { namespace, from: None, identity: None, trust: nobody };
        let links = vec![caller.plain(edge).context("to the edge's inside")?];
        let user = user.to_owned();
        Ok(Self { listener, links, waiting: Vec::new(), address, user, cseq: 0 })
    }

    /// Connects anew, after the edge was started again.
    pub fn connect_again(&mut self, namespace: &Namespace, edge: SocketAddr) -> Result<()> {
        let nobody = std::path::Path::new("");
        let caller = Caller { namespace, from: None, identity: None, trust: nobody };
        self.links = vec![caller.plain(edge)?];
        self.waiting.clear();
        Ok(())
    }

    /// Its address of record.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Waits for a message that `wanted` knows; others are kept for later.
    pub fn expect(&mut self, what: &str, wanted: impl Fn(&str) -> bool) -> Result<Came> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.waiting.iter().position(|came| wanted(&came.text)) {
                return Ok(self.waiting.remove(at));
            }
            if Instant::now() >= deadline {
                let came: Vec<&str> = self.waiting.iter().map(|came| came.text.as_str()).collect();
                bail!("{what}: not within {PATIENCE:?}; came instead: {came:#?}");
            }
            self.read();
        }
    }

    /// The next request with this method.
    pub fn expect_request(&mut self, method: &str) -> Result<Came> {
        self.expect(method, |text| text.starts_with(&format!("{method} ")))
    }

    /// The next MESSAGE with this in its body, answered with 200.
    pub fn expect_message(&mut self, body: &str) -> Result<Came> {
        let came = self.expect(&format!("MESSAGE with {body}"), |text| {
            text.starts_with("MESSAGE ") && body_of(text).contains(body)
        })?;
        self.reply(&came, "200 OK", "", "")?;
        Ok(came)
    }

    /// The next NOTIFY that has all of this in it, answered with 200. Those before it are answered
    /// too.
    pub fn expect_notify(&mut self, parts: &[&str]) -> Result<Came> {
        loop {
            let came = self.expect(&format!("NOTIFY with {parts:?}"), |text| {
                text.starts_with("NOTIFY ") || text.starts_with("BENOTIFY ")
            })?;
            if came.text.starts_with("NOTIFY ") {
                self.reply(&came, "200 OK", "", "")?;
            }
            if parts.iter().all(|part| came.text.contains(part)) {
                return Ok(came);
            }
        }
    }

    /// Answers a request. `more`: further headers, each with its line end.
    pub fn reply(&mut self, request: &Came, status: &str, more: &str, body: &str) -> Result<()> {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for value in headers(&request.text, name) {
                let value = if name == "To" { self.tagged(value) } else { value.to_owned() };
                text.push_str(&format!("{name}: {value}\r\n"));
            }
        }
        text.push_str(&format!("Contact: {}\r\n{more}", self.contact()));
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        let link = self.links.get_mut(request.link).context("that connection is gone")?;
        Ok(link.write(text.as_bytes())?)
    }

    /// A request outside of any dialog: its final answer. `more` holds further headers.
    pub fn ask(&mut self, method: &str, to: &str, more: &str, body: &str) -> Result<String> {
        let call_id = unique();
        self.cseq += 1;
        let head = format!(
            "From: <sip:{}>;tag={}\r\nTo: <sip:{to}>\r\nCall-ID: {call_id}\r\nCSeq: {} {method}\r\n",
            self.user,
            self.tag(),
            self.cseq
        );
        self.send(method, &format!("sip:{to}"), &head, &[], more, body)?;
        self.answer(&call_id, method)
    }

    /// A message of plain text: the status that it is answered with.
    pub fn message(&mut self, to: &str, body: &str) -> Result<u16> {
        Ok(status(&self.ask("MESSAGE", to, "Content-Type: text/plain\r\n", body)?))
    }

    /// Subscribes to somebody's presence.
    pub fn subscribe(&mut self, to: &str, expires: u32) -> Result<Dialog> {
        let answer = self.ask("SUBSCRIBE", to, &presence_headers(expires), "")?;
        ensure!(status(&answer) / 100 == 2, "refused: {answer}");
        Dialog::of_answer(&answer)
    }

    /// SUBSCRIBE within: refreshes it, or ends it with 0.
    pub fn subscribe_within(&mut self, dialog: &Dialog, expires: u32) -> Result<u16> {
        Ok(status(&self.within(dialog, "SUBSCRIBE", &presence_headers(expires), "")?))
    }

    /// The next SUBSCRIBE to presence, answered with 200.
    pub fn expect_subscribe(&mut self) -> Result<Dialog> {
        let came = self.expect_request("SUBSCRIBE")?;
        let expires = headers(&came.text, "Expires").first().map_or("3600", |value| *value);
        self.reply(&came, "200 OK", &format!("Expires: {expires}\r\n"), "")?;
        Ok(self.dialog_of_request(&came.text))
    }

    /// Tells a subscriber: the state of the subscription (`active`, `terminated;reason=rejected`)
    /// and PIDF, or nothing. The status that it is answered with.
    pub fn notify(&mut self, dialog: &Dialog, state: &str, pidf: &str) -> Result<u16> {
        let kind = if pidf.is_empty() { "" } else { "Content-Type: application/pidf+xml\r\n" };
        let more = format!("Event: presence\r\nSubscription-State: {state}\r\n{kind}");
        Ok(status(&self.within(dialog, "NOTIFY", &more, pidf)?))
    }

    /// The dialog of a request that came.
    pub fn dialog_of_request(&self, text: &str) -> Dialog {
        let one = |name: &str| headers(text, name).first().copied().unwrap_or_default();
        Dialog {
            call_id: one("Call-ID").to_owned(),
            local: self.tagged(one("To")),
            remote: one("From").to_owned(),
            target: uri(one("Contact")),
            routes: routes(text),
        }
    }

    /// A request within a dialog: its final answer.
    pub fn within(
        &mut self,
        dialog: &Dialog,
        method: &str,
        more: &str,
        body: &str,
    ) -> Result<String> {
        self.cseq += 1;
        let head = format!(
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {method}\r\n",
            dialog.local, dialog.remote, dialog.call_id, self.cseq
        );
        self.send(method, &dialog.target, &head, &dialog.routes, more, body)?;
        self.answer(&dialog.call_id, method)
    }

    /// What has come and was not waited for, after this time.
    pub fn others(&mut self, time: Duration) -> Vec<String> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.read();
        }
        self.waiting.drain(..).map(|came| came.text).collect()
    }

    fn send(
        &mut self,
        method: &str,
        target: &str,
        head: &str,
        routes: &[String],
        more: &str,
        body: &str,
    ) -> Result<()> {
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let text = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/TCP {};branch=z9hG4bK{}\r\n\
             Max-Forwards: 70\r\n{routes}{head}Contact: {}\r\n{more}Content-Length: {}\r\n\r\n{body}",
            self.address,
            unique(),
            self.contact(),
            body.len()
        );
        Ok(self.links[0].write(text.as_bytes())?)
    }

    fn answer(&mut self, call_id: &str, method: &str) -> Result<String> {
        let came = self.expect(&format!("an answer to {method}"), |text| {
            status(text) >= 200
                && text.starts_with("SIP/2.0 ")
                && headers(text, "Call-ID").first() == Some(&call_id)
                && headers(text, "CSeq").first().is_some_and(|value| value.ends_with(method))
        })?;
        Ok(came.text)
    }

    fn read(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let ready = stream.set_nonblocking(false).is_ok();
            self.links.extend(ready.then(|| SipClient::accepted(stream)).and_then(Result::ok));
        }
        let mut any = false;
        for (link, client) in self.links.iter_mut().enumerate() {
            // A connection that ended has nothing more to say; whoever waits says what is missing.
            while let Ok(Some(text)) = client.poll() {
                any = true;
                self.waiting.push(Came { link, text });
            }
        }
        if !any {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn contact(&self) -> String {
        let name = self.user.split('@').next().unwrap_or_default();
        format!("<sip:{name}@{};transport=tcp>", self.address)
    }

    fn tag(&self) -> String {
        format!("inside{}", self.address.port())
    }

    fn tagged(&self, value: &str) -> String {
        if value.contains(";tag=") {
            value.to_owned()
        } else {
            format!("{value};tag={}", self.tag())
        }
    }
}

impl Dialog {
    fn of_answer(text: &str) -> Result<Self> {
        let one = |name: &str| {
            headers(text, name).first().map(|value| (*value).to_owned()).context(name.to_owned())
        };
        let mut routes = routes(text);
        routes.reverse();
        Ok(Self {
            call_id: one("Call-ID")?,
            local: one("From")?,
            remote: one("To")?,
            target: uri(&one("Contact")?),
            routes,
        })
    }
}

/// A message's body.
pub fn body_of(text: &str) -> &str {
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

/// PIDF of one tuple with a note.
pub fn pidf(user: &str, basic: &str, note: &str) -> String {
    format!(
        "<?xml version='1.0' encoding='UTF-8'?>\
         <presence xmlns='urn:ietf:params:xml:ns:pidf' entity='pres:{user}'>\
         <tuple id='t1'><status><basic>{basic}</basic></status></tuple><note>{note}</note></presence>"
    )
}

fn presence_headers(expires: u32) -> String {
    format!("Event: presence\r\nAccept: application/pidf+xml\r\nExpires: {expires}\r\n")
}

fn routes(text: &str) -> Vec<String> {
    let values = headers(text, "Record-Route");
    values.iter().flat_map(|value| value.split(',')).map(|part| part.trim().to_owned()).collect()
}

fn uri(value: &str) -> String {
    let inner = value.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inner.map_or(value, |(uri, _)| uri).to_owned()
}
