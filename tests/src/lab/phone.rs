//! A telephone with a password: registers, calls and is called, over TLS or TCP. What it says goes
//! by the book; what it must not say, a test writes itself.

use std::{io::Write as _, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::tls_client::{SipClient, unique};
use crate::patience::BUSY;

/// Long enough for a machine that is busy with other work; nothing here waits for time to pass.
pub const PATIENCE: Duration = BUSY;

/// The telephone.
pub struct Phone {
    /// Its connection.
    pub client: SipClient,
    /// `alice@contoso.example`.
    user: String,
    password: String,
    carrier: &'static str,
    cseq: u32,
    /// What it says of its media in INVITE and the answer; empty: nothing.
    pub sdp: String,
}

/// The values of a header, in order.
pub fn headers<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    text.split("\r\n")
        .take_while(|line| !line.is_empty())
        .filter_map(|line| line.split_once(':'))
        .filter(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.trim())
        .collect()
}

impl Phone {
    /// Of this user; `carrier` is `TLS` or `TCP`.
    pub fn new(client: SipClient, user: &str, password: &str, carrier: &'static str) -> Self {
        let (user, password) = (user.to_owned(), password.to_owned());
        Self { client, user, password, carrier, cseq: 0, sdp: String::new() }
    }

    fn contact(&self) -> Result<String> {
        let name = self.user.split('@').next().unwrap_or_default();
        let transport = self.carrier.to_ascii_lowercase();
        Ok(format!("<sip:{name}@{};transport={transport}>", self.client.local()?))
    }

    /// Registers; the status that it ends with.
    pub fn register(&mut self) -> Result<u16> {
        let domain = self.user.split('@').nth(1).unwrap_or_default().to_owned();
        let user = self.user.clone();
        let contact = format!("{};expires=600;reg-id=1", self.contact()?);
        let more = format!("Contact: {contact}\r\nSupported: path, outbound\r\n");
        let answer = self.ask("REGISTER", &format!("sip:{domain}"), &user, &more)?;
        Ok(status(&answer))
    }

    /// A request to `to`, with the password when it is asked for: the final answer.
    pub fn ask(&mut self, method: &str, uri: &str, to: &str, more: &str) -> Result<String> {
        let call = unique();
        let first = self.request(method, uri, to, &call, more)?;
        self.client.write(first.as_bytes())?;
        let answer = self.answer()?;
        let (challenge, credentials) = match status(&answer) {
            401 => ("WWW-Authenticate", "Authorization"),
            407 => ("Proxy-Authenticate", "Proxy-Authorization"),
            _ => return Ok(answer),
        };
        if method == "INVITE" {
            let ack = acknowledge(&first, &answer);
            self.client.write(ack.as_bytes())?;
        }
        let challenge = headers(&answer, challenge).first().copied().context("no challenge")?;
        let digest = self.digest(challenge, method, uri)?;
        let more = format!("{more}{credentials}: {digest}\r\n");
        let second = self.request(method, uri, to, &call, &more)?;
        self.client.write(second.as_bytes())?;
        self.answer()
    }

    fn request(
        &mut self,
        method: &str,
        uri: &str,
        to: &str,
        call: &str,
        more: &str,
    ) -> Result<String> {
        self.cseq += 1;
        let (user, cseq, branch) = (&self.user, self.cseq, unique());
        let body = self.body(method == "INVITE");
        Ok(format!(
            "{method} {uri} SIP/2.0\r\n\
             Via: SIP/2.0/{} {};branch=z9hG4bK{branch};rport\r\n\
             Max-Forwards: 70\r\n\
             From: <sip:{user}>;tag=t{call}\r\n\
             To: <sip:{to}>\r\n\
             Call-ID: {call}\r\n\
             CSeq: {cseq} {method}\r\n{more}{body}",
            self.carrier,
            self.client.local()?,
        ))
    }

    /// A request within a dialog. `text`: the message that formed it, `routes`: in the order in
    /// which they are to be passed.
    pub fn within(
        &mut self,
        method: &str,
        target: &str,
        (from, to): (&str, &str),
        call: &str,
        routes: &[&str],
    ) -> Result<()> {
        self.cseq += u32::from(method != "ACK");
        let routes: String = routes.iter().map(|route| format!("Route: {route}\r\n")).collect();
        let text = format!(
            "{method} {target} SIP/2.0\r\n\
             Via: SIP/2.0/{} {};branch=z9hG4bK{};rport\r\n\
             Max-Forwards: 70\r\n{routes}\
             From: {from}\r\nTo: {to}\r\nCall-ID: {call}\r\n\
             CSeq: {} {method}\r\nContent-Length: 0\r\n\r\n",
            self.carrier,
            self.client.local()?,
            unique(),
            self.cseq,
        );
        Ok(self.client.write(text.as_bytes())?)
    }

    /// The next final answer.
    pub fn answer(&mut self) -> Result<String> {
        loop {
            let text = self.client.message(PATIENCE)?;
            ensure!(text.starts_with("SIP/2.0 "), "a request, not an answer: {text}");
            if status(&text) >= 200 {
                return Ok(text);
            }
        }
    }

    /// The next request, which has this method.
    pub fn expect(&mut self, method: &str) -> Result<String> {
        let text = self.client.message(PATIENCE)?;
        if !text.starts_with(&format!("{method} ")) {
            bail!("not {method}: {text}");
        }
        Ok(text)
    }

    /// Answers a request.
    pub fn reply(&mut self, request: &str, status: &str, tag: &str) -> Result<()> {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for name in ["Via", "Record-Route", "From", "To", "Call-ID", "CSeq"] {
            for value in headers(request, name) {
                let tagged = name == "To" && !value.contains(";tag=");
                let tag = if tagged { format!(";tag={tag}") } else { String::new() };
                text.push_str(&format!("{name}: {value}{tag}\r\n"));
            }
        }
        let body = self.body(request.starts_with("INVITE "));
        text.push_str(&format!("Contact: {}\r\n{body}", self.contact()?));
        Ok(self.client.write(text.as_bytes())?)
    }

    /// The end of a message.
    fn body(&self, has_media: bool) -> String {
        let sdp = if has_media { &*self.sdp } else { "" };
        let kind = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!("{kind}Content-Length: {}\r\n\r\n{sdp}", sdp.len())
    }

    fn digest(&self, challenge: &str, method: &str, uri: &str) -> Result<String> {
        let value = |name: &str| {
            let (_, rest) = challenge.split_once(&format!("{name}=\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let realm = value("realm").context("no realm")?;
        let nonce = value("nonce").context("no nonce")?;
        let name = self.user.split('@').next().unwrap_or_default();
        let who = md5(&format!("{name}:{realm}:{}", self.password))?;
        let what = md5(&format!("{method}:{uri}"))?;
        let response = md5(&format!("{who}:{nonce}:{what}"))?;
        Ok(format!(
            "Digest username=\"{name}\", realm=\"{realm}\", nonce=\"{nonce}\", uri=\"{uri}\", \
             response=\"{response}\", algorithm=MD5"
        ))
    }
}

/// The status of an answer.
pub fn status(text: &str) -> u16 {
    text.get(8..11).and_then(|code| code.parse().ok()).unwrap_or(0)
}

/// ACK for a final answer that is not a 2xx.
fn acknowledge(invite: &str, answer: &str) -> String {
    let uri = invite.split(' ').nth(1).unwrap_or_default();
    let one = |text: &str, name: &str| headers(text, name).first().unwrap_or(&"").to_string();
    let number = one(invite, "CSeq").split(' ').next().unwrap_or_default().to_owned();
    format!(
        "ACK {uri} SIP/2.0\r\nVia: {}\r\nMax-Forwards: 70\r\nFrom: {}\r\nTo: {}\r\n\
         Call-ID: {}\r\nCSeq: {number} ACK\r\nContent-Length: 0\r\n\r\n",
        one(invite, "Via"),
        one(invite, "From"),
        one(answer, "To"),
        one(invite, "Call-ID"),
    )
}

/// By coreutils: no crate for it is needed.
fn md5(text: &str) -> Result<String> {
    let mut child = std::process::Command::new("md5sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("md5sum (package coreutils)")?;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let out = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&out.stdout).chars().take(32).collect())
}
