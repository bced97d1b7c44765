//! What `edge partner show`, `edge explain domain` and `edge status` tell people of XMPP.

use std::fmt::Write as _;

use serde_json::Value;

use super::{
    commands::string,
    partner_text::{ago, span},
};
use crate::plain::plain;

/// An XMPP partner: what is asked of it, what follows, its streams, and why streams failed.
/// `unix`: now. Empty for any other partner.
pub(super) fn partner(json: &Value, unix: u64) -> String {
    let xmpp = &json["xmpp"];
    let mut text = String::new();
    if xmpp.is_null() {
        return text;
    }
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "xmpp       {}: TLS {}, SASL EXTERNAL {}, dialback {}",
        string(&xmpp["type"]),
        string(&xmpp["tls"]),
        string(&xmpp["sasl"]),
        if xmpp["dialback"] == true { "allowed" } else { "not allowed" },
    );
    for row in list(&xmpp["expected"]) {
        let _ = writeln!(
            text,
            "expected   with a {} certificate of its own{}: {} ({})",
            string(&row["certificate"]),
            of_ours(&row),
            outcome(&string(&row["outcome"])),
            string(&row["why"]),
        );
    }
    if !xmpp["streams"].is_null() {
        let _ = writeln!(
            text,
            "gateway    {} of its users watched, {} watch ours, {} sessions",
            xmpp["watched"], xmpp["subscriptions"], xmpp["sessions"],
        );
    }
    for row in list(&xmpp["streams"]) {
        stream(&mut text, &row, unix);
    }
    for row in list(&xmpp["failing"]) {
        let _ = writeln!(
            text,
            "no stream  to {}: failed {} times, tried again in {}: {}",
            string(&row["domain"]),
            row["failures"],
            span(row["again_in"].as_u64().unwrap_or(0)),
            string(&row["detail"]),
        );
    }
    for refusal in list(&xmpp["refusals"]) {
        let remote = refusal["remote"].as_str().map(|at| format!(" at {at}"));
        let claimed = refusal["claimed"].as_str().map(|name| format!(", which says it is {name}"));
        let _ = writeln!(
            text,
            "failed     {} ago: {}{}{}: {}",
            ago(&refusal["at"], unix),
            string(&refusal["reason"]),
            remote.unwrap_or_default(),
            claimed.unwrap_or_default(),
            string(&refusal["detail"]),
        );
    }
    text
}

/// For which domains of ours a row is, where our certificate does not prove them.
fn of_ours(row: &Value) -> String {
    let domains = row["domains"].as_array().into_iter().flatten().map(string);
    let domains = domains.collect::<Vec<_>>().join(", ");
    match row["own"].as_str() {
        Some("invalid") => {
            format!(", for {domains}, which our certificate does not name or whose time is over")
        }
        Some("missing") => format!(", for {domains}, for which there is no certificate of ours"),
        _ => String::new(),
    }
}

fn outcome(name: &str) -> &str {
    match name {
        "NoConnection" => "no connection",
        "PlainDialback" => "dialback, not encrypted",
        "TlsDialback" => "dialback over TLS",
        "TlsExternal" => "SASL EXTERNAL over TLS",
        other => other,
    }
}

fn stream(text: &mut String, row: &Value, unix: u64) {
    let way = if row["outbound"] == true { "to" } else { "from" };
    let tls = match row["tls"].as_str() {
        Some(version) => format!("{version} {}", string(&row["cipher"])),
        None => "no TLS".to_owned(),
    };
    let step = string(&row["step"]);
    let proved = row["proved"].as_array().into_iter().flatten().map(|proof| {
        let (remote, local) = (string(&proof["remote"]), string(&proof["local"]));
        format!("{remote} to {local} by {}", string(&proof["how"]))
    });
    let proved = match proved.collect::<Vec<_>>() {
        none if none.is_empty() => format!("nothing proved yet ({step})"),
        proved => format!("proved {}", proved.join(", ")),
    };
    let fault = row["certificate_fault"].as_str().map(|fault| format!(" ({})", plain(fault)));
    let expires = row["expires_at"].as_u64();
    let before = row["certificate_before"].as_str().map(plain);
    let _ = writeln!(
        text,
        "stream     {way} {}, for {}: {tls}; {proved}; certificate {}{}{}{}",
        string(&row["remote"]),
        ago(&row["since"], unix),
        row["certificate"].as_str().map_or_else(|| "none".to_owned(), plain),
        fault.unwrap_or_default(),
        expires.map_or_else(String::new, |at| format!(
            ", expires in {}",
            span(at.saturating_sub(unix))
        )),
        before.map_or_else(String::new, |before| format!(
            "; CHANGED: before that it showed {before}"
        )),
    );
}

/// What becomes of a domain, and why. `row`: as the daemon shows a partner.
pub(super) fn explain(row: &Value, unix: u64) -> String {
    let name = string(&row["name"]);
    if let Some(why) = row["why"].as_str() {
        return format!("{name} does not federate: {} ({why})\n", string(&row["reason"]));
    }
    let kind = string(&row["kind"]);
    let mut text = format!("{name} federates as {kind}");
    if let Some(host) = row["host"].as_str() {
        let _ = write!(text, ", by {host}");
    }
    if row["enabled"] == false {
        text.push_str(", which is not in use");
    }
    text.push('\n');
    dns(&mut text, &row["dns"]);
    text + &partner(row, unix)
}

/// Where DNS says that its edges are.
fn dns(text: &mut String, row: &Value) {
    if let Some(fault) = row["fault"].as_str() {
        let _ =
            writeln!(text, "dns        {fault} ({}): it cannot be reached", string(&row["asked"]));
    }
    for host in row["hosts"].as_array().into_iter().flatten() {
        let addresses: Vec<_> =
            host["addresses"].as_array().into_iter().flatten().map(string).collect();
        let (name, port) = (string(&host["host"]), &host["port"]);
        let _ = writeln!(text, "dns        {name} port {port} at {}", addresses.join(", "));
    }
}

/// One line for `edge status`; `None`: XMPP is not served.
pub(super) fn summary(xmpp: &Value) -> Option<String> {
    if xmpp.is_null() {
        return None;
    }
    let off = if xmpp["enabled"] == false { "switched off; " } else { "" };
    Some(format!(
        "{off}{} streams ({} proved), {} inside; {} sessions, {} subscriptions; messages {} to XMPP, \
         {} to SIP",
        xmpp["streams"],
        xmpp["streams_proved"],
        xmpp["streams_inside"],
        xmpp["sessions"],
        xmpp["subscriptions"].as_u64().unwrap_or(0) + xmpp["watched"].as_u64().unwrap_or(0),
        xmpp["messages_to_xmpp"],
        xmpp["messages_to_sip"],
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> Value {
        json!({
            "name": "jabber.example", "kind": "xmpp", "host": null, "enabled": true,
            "xmpp": {
                "type": "federated", "tls": "required", "sasl": "optional", "dialback": true,
                "expected": [{
                    "certificate": "valid", "outcome": "TlsExternal", "why": "both are valid",
                    "own": "valid", "domains": ["contoso.example"],
                }, {
                    "certificate": "valid", "outcome": "TlsDialback", "why": "ours does not do",
                    "own": "invalid", "domains": ["chat.contoso.example"],
                }],
                "streams": [{
                    "remote": "203.0.113.7:5269", "outbound": true, "since": 1_799_999_000,
                    "tls": "TLSv1.3", "cipher": "TLS13_AES_256_GCM_SHA384",
                    "certificate": "CN=x\u{1b}[2J", "certificate_fault": null,
                    "certificate_before": "CN=old",
                    "expires_at": 1_800_864_000,
                    "proved": [{
                        "local": "contoso.example", "remote": "jabber.example", "how": "dialback",
                    }],
                }],
                "watched": 1, "subscriptions": 2, "sessions": 3,
                "refusals": [{
                    "at": 1_799_999_990, "reason": "xmpp-certificate",
                    "remote": "203.0.113.8:40000", "detail": "they: TLS: expired",
                }, {
                    "at": 1_799_999_995, "reason": "xmpp-certificate", "claimed": "jabber.example",
                    "remote": "203.0.113.9:40000", "detail": "unknown",
                }],
            },
        })
    }

    #[test]
    fn a_partner_s_streams_say_how_they_are_proved_and_why_not() {
        assert_eq!(
            partner(&row(), 1_800_000_000),
            "xmpp       federated: TLS required, SASL EXTERNAL optional, dialback allowed\n\
             expected   with a valid certificate of its own: SASL EXTERNAL over TLS (both are valid)\n\
             expected   with a valid certificate of its own, for chat.contoso.example, which our \
             certificate does not name or whose time is over: dialback over TLS (ours does not do)\n\
             gateway    1 of its users watched, 2 watch ours, 3 sessions\n\
             stream     to 203.0.113.7:5269, for 16 min: TLSv1.3 TLS13_AES_256_GCM_SHA384; proved \
             jabber.example to contoso.example by dialback; certificate CN=x?[2J, expires in 10 \
             days; CHANGED: before that it showed CN=old\n\
             failed     10 s ago: xmpp-certificate at 203.0.113.8:40000: they: TLS: expired\n\
             failed     5 s ago: xmpp-certificate at 203.0.113.9:40000, which says it is \
             jabber.example: unknown\n"
        );
        assert_eq!(partner(&json!({"kind": "allowed-domain"}), 0), "");
    }

    #[test]
    fn a_domain_is_explained_whatever_it_is() {
        let text = explain(&row(), 1_800_000_000);
        assert!(
            text.starts_with("jabber.example federates as xmpp\nxmpp       federated"),
            "{text}"
        );
        let refused =
            json!({"name": "x.example", "reason": "domain-not-allowed", "why": "allow it"});
        assert_eq!(
            explain(&refused, 0),
            "x.example does not federate: domain-not-allowed (allow it)\n"
        );
        let server = json!({
            "name": "s.example", "kind": "allowed-server", "host": "sip.s.example", "enabled": false,
        });
        assert_eq!(
            explain(&server, 0),
            "s.example federates as allowed-server, by sip.s.example, which is not in use\n"
        );
    }

    #[test]
    fn what_dns_says_stands_with_a_domain() {
        let mut row = json!({
            "name": "d.example", "kind": "discovered", "host": null, "enabled": true,
            "dns": {"hosts": [
                {"host": "a.d.example", "port": 5061, "addresses": ["192.0.2.1", "2001:db8::1"]},
                {"host": "b.d.example", "port": 5062, "addresses": ["192.0.2.2"]},
            ]},
        });
        assert_eq!(
            explain(&row, 0),
            "d.example federates as discovered\n\
             dns        a.d.example port 5061 at 192.0.2.1, 2001:db8::1\n\
             dns        b.d.example port 5062 at 192.0.2.2\n"
        );
        row["dns"] = json!({"fault": "no DNS record", "asked": "_sips._tcp.d.example"});
        assert_eq!(
            explain(&row, 0),
            "d.example federates as discovered\n\
             dns        no DNS record (_sips._tcp.d.example): it cannot be reached\n"
        );
    }

    #[test]
    fn status_has_one_line() {
        assert_eq!(summary(&Value::Null), None);
        let state = json!({
            "enabled": false, "streams": 2, "streams_proved": 1, "streams_inside": 0,
            "sessions": 4, "subscriptions": 5, "watched": 6, "messages_to_xmpp": 7,
            "messages_to_sip": 8,
        });
        assert_eq!(
            summary(&state).unwrap(),
            "switched off; 2 streams (1 proved), 0 inside; 4 sessions, 11 subscriptions; messages 7 \
             to XMPP, 8 to SIP"
        );
    }
}
