//! Single values: texts to addresses, prefixes, ports, names, times and next hops.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use super::{
    findings::{Fault, quoted},
    model::{Host, InsideServer, NextHop, Transport, Zone},
};
use crate::domain::Domain;

pub(super) fn domain(text: &str) -> Result<Domain, Fault> {
    if text.starts_with("*.") {
        return Err(Fault::new(
            format!("{} is a pattern, and names are never matched by pattern", quoted(text)),
            "name each domain",
        ));
    }
    text.parse().map_err(|error| {
        Fault::new(
            format!("{} is no domain name: {error}", quoted(text)),
            "write a full name such as \"contoso.example\"",
        )
    })
}

pub(super) fn zone(text: &str) -> Result<Zone, Fault> {
    match text {
        "external" => Ok(Zone::External),
        "internal" => Ok(Zone::Internal),
        _ => Err(Fault::new(
            format!("{} is no zone", quoted(text)),
            "write \"external\" or \"internal\"",
        )),
    }
}

pub(super) fn address(text: &str) -> Result<IpAddr, Fault> {
    let parsed: IpAddr = text.parse().map_err(|_| {
        Fault::new(
            format!("{} is no IP address", quoted(text)),
            "write an IPv4 or IPv6 address such as \"203.0.113.10\" or \"2001:db8::10\"",
        )
    })?;
    not_mapped(parsed)
}

fn not_mapped(address: IpAddr) -> Result<IpAddr, Fault> {
    let canonical = address.to_canonical();
    if canonical == address {
        Ok(address)
    } else {
        Err(Fault::new(
            format!("{address} is an IPv4 address in IPv6 form"),
            format!("write {canonical}"),
        ))
    }
}

/// A prefix, or an address as the prefix of itself.
pub(super) fn prefix(text: &str) -> Result<IpNet, Fault> {
    if !text.contains('/') {
        return address(text).map(IpNet::from);
    }
    let net: IpNet = text.parse().map_err(|_| {
        Fault::new(
            format!("{} is no address or prefix", quoted(text)),
            "write a prefix such as \"192.0.2.0/24\" or \"2001:db8::/32\"",
        )
    })?;
    not_mapped(net.addr())?;
    if net.trunc() == net {
        Ok(net)
    } else {
        Err(Fault::new(
            format!("{net} has bits beyond its prefix length"),
            format!("write {}, or the address alone", net.trunc()),
        ))
    }
}

/// Whether a prefix is the whole of its family.
pub(super) fn is_everything(net: &IpNet) -> bool {
    net.prefix_len() == 0
}

/// `address` or `address:port`.
pub(super) fn socket(text: &str, default_port: u16) -> Result<SocketAddr, Fault> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(SocketAddr::new(not_mapped(address)?, default_port));
    }
    let socket: SocketAddr = text.parse().map_err(|_| {
        Fault::new(
            format!("{} is no address with port", quoted(text)),
            "write \"203.0.113.10:5061\" or \"[2001:db8::10]:5061\"",
        )
    })?;
    if socket.port() == 0 {
        return Err(port_fault());
    }
    Ok(SocketAddr::new(not_mapped(socket.ip())?, socket.port()))
}

/// An address to listen on: one of ours, a definite one.
pub(super) fn listen(text: &str, default_port: u16) -> Result<SocketAddr, Fault> {
    let socket = socket(text, default_port)?;
    definite(socket.ip())?;
    Ok(socket)
}

/// An address that can be ours.
pub(super) fn definite(address: IpAddr) -> Result<IpAddr, Fault> {
    let what = match address {
        a if a.is_unspecified() => "stands for every address",
        a if a.is_multicast() => "is a multicast address",
        IpAddr::V4(a) if a.is_broadcast() => "is the broadcast address",
        IpAddr::V4(a) if a.is_link_local() => "is a link-local address",
        IpAddr::V6(a) if a.is_unicast_link_local() => "is a link-local address",
        a => return Ok(a),
    };
    Err(Fault::new(
        format!("{address} {what}"),
        "name each address: rules and pinholes are made for exactly these",
    ))
}

/// `tls:10.0.0.10:5061`; a bare address means TLS.
pub(super) fn inside_listen(text: &str) -> Result<(Transport, SocketAddr), Fault> {
    let (transport, rest) = match text.split_once(':') {
        Some(("tls", rest)) => (Transport::Tls, rest),
        Some(("tcp", rest)) => (Transport::Tcp, rest),
        Some(("udp", rest)) => (Transport::Udp, rest),
        _ => (Transport::Tls, text),
    };
    Ok((transport, listen(rest, default_port(transport))?))
}

pub(super) fn default_port(transport: Transport) -> u16 {
    if transport == Transport::Tls { 5061 } else { 5060 }
}

/// A server of ours: a certificate name, an address or a prefix.
pub(super) fn inside_server(text: &str) -> Result<InsideServer, Fault> {
    let looks_like_address = text.contains(['/', ':']) || text.parse::<IpAddr>().is_ok();
    if !looks_like_address {
        return domain(text).map(InsideServer::Name);
    }
    let net = prefix(text)?;
    if is_everything(&net) {
        return Err(Fault::new(
            format!("{net} would let everybody in as a server of ours"),
            "name the servers' own addresses or prefixes",
        ));
    }
    Ok(InsideServer::Prefix(net))
}

/// `sip:host[:port][;transport=tls|tcp|udp]` (RFC 3261 section 19.1, the part that a next hop
/// needs; no user, no other parameter).
pub(super) fn next_hop(text: &str) -> Result<NextHop, Fault> {
    if let Some(name) = text.strip_prefix("srv:") {
        return srv_next_hop(text, name);
    }
    let fault = |what: &str| {
        Fault::new(
            format!("{} is no next hop: {what}", quoted(text)),
            "write \"sip:director.contoso.example:5061;transport=tls\"",
        )
    };
    let rest = text.strip_prefix("sip:").ok_or_else(|| fault("it does not begin with sip:"))?;
    if rest.contains('@') {
        return Err(fault("it holds a user"));
    }
    let (host_port, parameters) = rest.split_once(';').unwrap_or((rest, "transport=tls"));
    let transport = match parameters {
        "transport=tls" => Transport::Tls,
        "transport=tcp" => Transport::Tcp,
        "transport=udp" => Transport::Udp,
        _ => return Err(fault("after the ; stands transport=tls, tcp or udp")),
    };
    let (host, port) = split_port(host_port).ok_or_else(|| fault("the host is not readable"))?;
    let port = match port {
        Some(port) => parse_port(port).ok_or_else(|| fault("the port is not 1 to 65535"))?,
        None => default_port(transport),
    };
    let host = if let Some(v6) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        let v6 = v6.parse().map_err(|_| fault("between [ and ] stands an IPv6 address"))?;
        Host::Address(definite(not_mapped(IpAddr::V6(v6))?)?)
    } else if let Ok(v4) = host.parse() {
        Host::Address(definite(IpAddr::V4(v4))?)
    } else {
        Host::Name(domain(host)?)
    };
    Ok(NextHop { host, port, transport })
}

/// `srv:_sips._tcp.pool.contoso.example`: the name says the transport.
fn srv_next_hop(text: &str, name: &str) -> Result<NextHop, Fault> {
    let fault = |what: &str| {
        Fault::new(
            format!("{} is no next hop: {what}", quoted(text)),
            "write \"srv:_sips._tcp.pool.contoso.example\"; _sip._tcp and _sip._udp go too",
        )
    };
    let mut labels = name.splitn(3, '.');
    let (Some(service), Some(protocol), Some(rest)) = (labels.next(), labels.next(), labels.next())
    else {
        return Err(fault("an SRV record's name begins with a service and a protocol"));
    };
    let transport = match (service, protocol) {
        ("_sips" | "_sipinternaltls", "_tcp") => Transport::Tls,
        ("_sip" | "_sipinternal", "_tcp") => Transport::Tcp,
        ("_sip", "_udp") => Transport::Udp,
        _ => return Err(fault("this service over this protocol is not known")),
    };
    let service = format!("{service}.{protocol}").into();
    let host = Host::Srv { service, domain: domain(rest)? };
    Ok(NextHop { host, port: default_port(transport), transport })
}

fn split_port(text: &str) -> Option<(&str, Option<&str>)> {
    let after_v6 = text.rfind(']').map_or(0, |i| i + 1);
    let (_, tail) = text.split_at_checked(after_v6)?;
    match tail.find(':') {
        Some(i) => {
            let (host, port) = text.split_at_checked(after_v6 + i)?;
            Some((host, port.strip_prefix(':')))
        }
        None => Some((text, None)),
    }
}

fn parse_port(text: &str) -> Option<u16> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok().filter(|port| *port != 0)
}

pub(super) fn port_fault() -> Fault {
    Fault::new("this is no port", "write a port from 1 to 65535")
}

/// `"50000-59999"`, or a port in quotes.
pub(super) fn port_range(text: &str) -> Result<(u16, u16), Fault> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = parse_port(first.trim()).zip(parse_port(last.trim())).ok_or_else(|| {
        Fault::new(
            format!("{} is no range of ports", quoted(text)),
            "write \"50000-59999\", each from 1 to 65535",
        )
    })?;
    if first > last {
        return Err(Fault::new(
            format!("the range of ports {} runs backwards", quoted(text)),
            format!("write \"{last}-{first}\""),
        ));
    }
    Ok((first, last))
}

pub(super) fn duration_fault(text: &str) -> Fault {
    Fault::new(
        format!("{} is no time", quoted(text)),
        "write a time such as \"500ms\", \"5s\", \"20min\" or \"1h\"",
    )
}

pub(super) fn duration(text: &str) -> Result<Duration, Fault> {
    let fault = || duration_fault(text);
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).ok_or_else(fault)?;
    let number: u64 = number.parse().map_err(|_| fault())?;
    let seconds = match unit.trim() {
        "ms" => return Ok(Duration::from_millis(number)),
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(fault()),
    };
    number.checked_mul(seconds).map(Duration::from_secs).ok_or_else(fault)
}

/// A device's name (the kernel's rules: 1 to 15 bytes, no slash, colon or space).
pub(super) fn device(text: &str) -> Result<String, Fault> {
    let bad = text.is_empty()
        || text.len() > 15
        || text == "."
        || text == ".."
        || text.bytes().any(|b| b == b'/' || b == b':' || !b.is_ascii_graphic());
    if bad {
        return Err(Fault::new(
            format!("{} is no device name", quoted(text)),
            "write a name such as \"eth0\" (`ip link` lists them)",
        ));
    }
    Ok(text.to_owned())
}
