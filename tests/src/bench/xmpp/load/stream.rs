//! How streams begin, step by step and blocking: as the partner that opens one, as the server
//! inside that is connected to, and as a component.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use rustls::{ClientConnection, ServerConnection, StreamOwned, pki_types::ServerName};

use crate::{
    bench::sip::load::{link::Link, tls::Configs},
    lab::{process::wait_for, xmpp_client::value},
};

/// How long a step may take, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(30);
const TLS: &str = "urn:ietf:params:xml:ns:xmpp-tls";
const SASL: &str = "urn:ietf:params:xml:ns:xmpp-sasl";

/// Both domains of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// Who opens it.
    pub from: &'a str,
    /// Who is asked for.
    pub to: &'a str,
}

/// Opens a stream as a partner's server: STARTTLS, SASL EXTERNAL; with `bidi`, both ways.
pub fn open(server: SocketAddr, pair: Pair<'_>, tls: &Configs, bidi: bool) -> Result<Link> {
    let mut socket = TcpStream::connect(server).context("the server does not listen")?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let features = header(&mut socket, pair)?;
    ensure!(features.contains(TLS), "no STARTTLS: {features}");
    ask(&mut socket, &format!("<starttls xmlns='{TLS}'/>"), "<proceed")?;
    let name = ServerName::try_from(pair.to.to_owned())?;
    let connection = ClientConnection::new(tls.client.clone(), name)?;
    let mut stream = StreamOwned::new(connection, socket);
    let features = header(&mut stream, pair)?;
    ensure!(features.contains("EXTERNAL"), "no SASL EXTERNAL: {features}");
    if bidi {
        ensure!(features.contains("urn:xmpp:features:bidi"), "no bidi: {features}");
        write(&mut stream, "<bidi xmlns='urn:xmpp:bidi'/>")?;
    }
    ask(&mut stream, &format!("<auth xmlns='{SASL}' mechanism='EXTERNAL'>=</auth>"), "<success")?;
    header(&mut stream, pair)?;
    let (connection, socket) = stream.into_parts();
    Ok(Link::new(socket, Some(connection.into()))?)
}

/// Takes the stream that the proxy opens to a server inside.
pub fn accept(listener: &TcpListener, tls: &Configs) -> Result<Link> {
    listener.set_nonblocking(true)?;
    let deadline = Instant::now() + PATIENCE;
    let mut socket = loop {
        match listener.accept() {
            Ok((socket, _)) => break socket,
            Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            Err(error) => return Err(error).context("nobody connects to the server inside"),
        }
    };
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    answer_header(&mut socket, &format!("<starttls xmlns='{TLS}'><required/></starttls>"))?;
    until(&mut socket, "/>")?;
    write(&mut socket, &format!("<proceed xmlns='{TLS}'/>"))?;
    let mut stream = StreamOwned::new(ServerConnection::new(tls.server.clone())?, socket);
    let mechanisms =
        format!("<mechanisms xmlns='{SASL}'><mechanism>EXTERNAL</mechanism></mechanisms>");
    answer_header(&mut stream, &mechanisms)?;
    let auth = until(&mut stream, ">")?;
    ensure!(auth.contains("EXTERNAL"), "no SASL EXTERNAL: {auth}");
    if !auth.ends_with("/>") && !auth.contains("</auth>") {
        until(&mut stream, "</auth>")?;
    }
    write(&mut stream, &format!("<success xmlns='{SASL}'/>"))?;
    answer_header(&mut stream, "")?;
    let (connection, socket) = stream.into_parts();
    Ok(Link::new(socket, Some(connection.into()))?)
}

/// Connects as a component (XEP-0114).
pub fn component(server: SocketAddr, domain: &str, secret: &str) -> Result<Link> {
    // It listens for components a moment after it does for servers.
    let mut socket =
        wait_for("the port for components", PATIENCE, || Ok(Some(TcpStream::connect(server)?)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write(
        &mut socket,
        &format!(
            "<?xml version='1.0'?><stream:stream to='{domain}' xmlns='jabber:component:accept' \
             xmlns:stream='http://etherx.jabber.org/streams'>"
        ),
    )?;
    let head = until(&mut socket, "<stream:stream")? + &until(&mut socket, ">")?;
    let at = head.find("<stream:stream").unwrap_or(0);
    let id = value(&head[at..], "id").context("no stream id")?;
    let digest = sha1(&format!("{id}{secret}"))?;
    ask(&mut socket, &format!("<handshake>{digest}</handshake>"), "<handshake")?;
    Ok(Link::new(socket, None)?)
}

/// Writes our header and waits for the other's features.
fn header(stream: &mut (impl Read + Write), pair: Pair<'_>) -> Result<String> {
    write(
        stream,
        &format!(
            "<?xml version='1.0'?><stream:stream from='{}' to='{}' version='1.0' \
             xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams' \
             xmlns:db='jabber:server:dialback'>",
            pair.from, pair.to
        ),
    )?;
    let mut text = until(stream, "<stream:features")?;
    text += &until(stream, ">")?;
    if !text.ends_with("/>") {
        text += &until(stream, "</stream:features>")?;
    }
    Ok(text)
}

/// Waits for the other's header and writes ours, with these features.
fn answer_header(stream: &mut (impl Read + Write), features: &str) -> Result<()> {
    let mut head = until(stream, "<stream:stream")?;
    head += &until(stream, ">")?;
    let at = head.find("<stream:stream").unwrap_or(0);
    let attribute = |name| value(&head[at..], name).unwrap_or_default();
    write(
        stream,
        &format!(
            "<?xml version='1.0'?><stream:stream from='{}' to='{}' id='bench' version='1.0' \
             xmlns='jabber:server' xmlns:stream='http://etherx.jabber.org/streams'>\
             <stream:features>{features}</stream:features>",
            attribute("to"),
            attribute("from"),
        ),
    )
}

fn ask(stream: &mut (impl Read + Write), text: &str, wanted: &str) -> Result<()> {
    write(stream, text)?;
    until(stream, wanted)?;
    until(stream, ">")?;
    Ok(())
}

fn write(stream: &mut impl Write, text: &str) -> Result<()> {
    stream.write_all(text.as_bytes())?;
    Ok(stream.flush()?)
}

/// Reads, byte by byte, until this has come: never more than belongs to the step.
fn until(stream: &mut impl Read, wanted: &str) -> Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(wanted.as_bytes()) {
        let mut byte = [0];
        let read = stream.read(&mut byte);
        let came = String::from_utf8_lossy(&text);
        if read.with_context(|| format!("waiting for {wanted}, came {came}"))? == 0 {
            bail!("closed while waiting for {wanted}: {came}");
        }
        text.push(byte[0]);
    }
    Ok(String::from_utf8(text)?)
}

/// By coreutils: no crate for it is needed.
fn sha1(text: &str) -> Result<String> {
    let mut child = Command::new("sha1sum")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .context("sha1sum (package coreutils)")?;
    child.stdin.take().context("no stdin")?.write_all(text.as_bytes())?;
    let out = child.wait_with_output()?;
    Ok(String::from_utf8_lossy(&out.stdout).chars().take(40).collect())
}
