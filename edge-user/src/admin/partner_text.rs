//! What `edge partner` tells people: the watch list, and everything about one partner.

use std::fmt::Write as _;

use serde_json::Value;

use super::{commands::string, table::Table};

/// The watch list. `unix`: now.
pub(super) fn watch_table(rows: &[Value], unix: u64) -> String {
    let mut table =
        Table::new(&["domain", "source", "standing", "ends in", "messages", "users", "kernel"]);
    for row in rows {
        let evidence = &row["evidence"];
        table.row([
            string(&row["domain"]),
            string(&row["source"]),
            standing(row),
            row["until"].as_u64().map_or_else(String::new, |at| span(at.saturating_sub(unix))),
            string(&evidence["messages"]),
            string(&evidence["distinct_users"]),
            kernel(row),
        ]);
    }
    table.render()
}

fn standing(row: &Value) -> String {
    match row["held_as"].as_str() {
        Some("domain") => format!("{} (whole domain)", string(&row["standing"])),
        Some("prefix") => format!("{} (whole prefix)", string(&row["standing"])),
        _ => string(&row["standing"]),
    }
}

fn kernel(row: &Value) -> String {
    match (&row["blocked_in_kernel"], row["not_blocked"].as_str()) {
        (Value::Bool(true), _) => "blocked".to_owned(),
        (_, Some(why)) => format!("not blocked: {why}"),
        _ => String::new(),
    }
}

/// What one partner did: connections, messages, refusals, evidence. `unix`: now.
pub(super) fn what_it_did(json: &Value, unix: u64) -> String {
    let mut text = String::new();
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    // Writing to a String cannot fail.
    let _ = writeln!(
        text,
        "messages   {} in, {} out, {} refused",
        json["messages_in"], json["messages_out"], json["refused"]
    );
    for connection in list(&json["connections"]) {
        let way = if connection["outbound"] == true { "to" } else { "from" };
        let proved: Vec<String> = list(&connection["proved"]).iter().map(string).collect();
        let expires = connection["expires_at"].as_u64();
        let _ = writeln!(
            text,
            "connected  {way} {}, for {}: proved {}; certificate {}{}",
            string(&connection["remote"]),
            ago(&connection["since"], unix),
            proved.join(" "),
            string(&connection["certificate"]),
            expires.map_or_else(String::new, |at| format!(
                ", expires in {}",
                span(at.saturating_sub(unix))
            )),
        );
    }
    for refusal in list(&json["refusals"]) {
        let _ = writeln!(
            text,
            "refused    {} ago: {} from {}: {}",
            ago(&refusal["at"], unix),
            string(&refusal["reason"]),
            string(&refusal["remote"]),
            string(&refusal["detail"]),
        );
    }
    for row in list(&json["watch"]) {
        watched(&mut text, &row, unix);
    }
    text
}

fn watched(text: &mut String, row: &Value, unix: u64) {
    let evidence = &row["evidence"];
    let ends = row["until"].as_u64().map(|at| span(at.saturating_sub(unix)));
    let _ = writeln!(
        text,
        "watched    {} {}{}, listed {} times{}",
        string(&row["source"]),
        standing(row),
        ends.map_or_else(String::new, |ends| format!(" for {ends} more")),
        row["times_listed"],
        match kernel(row) {
            kernel if kernel.is_empty() => kernel,
            kernel => format!("; kernel: {kernel}"),
        },
    );
    let finals: Vec<String> = evidence["finals"]
        .as_array()
        .into_iter()
        .flatten()
        .zip(2..)
        .map(|(count, class)| format!("{class}xx {count}"))
        .collect();
    let _ = writeln!(
        text,
        "  {} messages to {} users, first {} ago, last {} ago; {}",
        evidence["messages"],
        evidence["distinct_users"],
        ago(&evidence["first_seen"], unix),
        ago(&evidence["last_seen"], unix),
        finals.join(", "),
    );
    for sample in evidence["samples"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  sample {} ago: {} {} to {}",
            ago(&sample["at"], unix),
            string(&sample["method"]),
            sample["status"],
            string(&sample["user"]),
        );
    }
    for certificate in evidence["certificates"].as_array().into_iter().flatten() {
        let _ = writeln!(
            text,
            "  certificate first seen {} ago: {}",
            ago(&certificate["first_seen"], unix),
            string(&certificate["description"]),
        );
    }
}

pub(super) fn ago(at: &Value, unix: u64) -> String {
    at.as_u64().map_or_else(String::new, |at| span(unix.saturating_sub(at)))
}

/// A time in the unit that says most.
pub(super) fn span(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn row() -> Value {
        json!({
            "domain": "bad.example", "source": "203.0.113.7/32", "standing": "listed",
            "until": 1_800_000_600, "held_as": "sender", "times_listed": 2,
            "blocked_in_kernel": false, "not_blocked": "also a next hop of ours",
            "evidence": {
                "first_seen": 1_799_999_000, "last_seen": 1_799_999_990, "messages": 1001,
                "finals": [10, 0, 900, 1, 0], "distinct_users": 1001,
                "samples": [{
                    "at": 1_799_999_990, "method": "MESSAGE", "status": 404,
                    "user": "0123456789abcdef",
                }],
                "certificates": [{
                    "description": "CN=bad.example\u{1b}[2J", "first_seen": 1_799_999_000,
                    "expires_at": 1_900_000_000,
                }],
            },
        })
    }

    #[test]
    fn the_watch_list_says_who_how_long_and_whether_the_kernel_drops_it() {
        let mut blocked = row();
        (blocked["blocked_in_kernel"], blocked["not_blocked"]) = (true.into(), Value::Null);
        blocked["held_as"] = "domain".into();
        assert_eq!(
            watch_table(&[row(), blocked], 1_800_000_000),
            "DOMAIN       SOURCE          STANDING               ENDS IN  MESSAGES  USERS  KERNEL\n\
             bad.example  203.0.113.7/32  listed                 10 min       1001   1001  \
             not blocked: also a next hop of ours\n\
             bad.example  203.0.113.7/32  listed (whole domain)  10 min       1001   1001  blocked\n"
        );
    }

    #[test]
    fn everything_about_one_partner() {
        let json = json!({
            "messages_in": 3, "messages_out": 2, "refused": 1,
            "connections": [{
                "remote": "203.0.113.7:5061", "outbound": false, "since": 1_799_990_000,
                "proved": ["bad.example"], "certificate": "CN=sip.bad.example",
                "expires_at": 1_810_000_000,
            }],
            "refusals": [{
                "at": 1_799_999_999, "reason": "throttled", "remote": "203.0.113.7:5061",
                "detail": "MESSAGE to contoso.example",
            }],
            "watch": [row()],
        });
        assert_eq!(
            what_it_did(&json, 1_800_000_000),
            "messages   3 in, 2 out, 1 refused\n\
             connected  from 203.0.113.7:5061, for 2 h: proved bad.example; \
             certificate CN=sip.bad.example, expires in 115 days\n\
             refused    1 s ago: throttled from 203.0.113.7:5061: MESSAGE to contoso.example\n\
             watched    203.0.113.7/32 listed for 10 min more, listed 2 times; \
             kernel: not blocked: also a next hop of ours\n  \
             1001 messages to 1001 users, first 16 min ago, last 10 s ago; \
             2xx 10, 3xx 0, 4xx 900, 5xx 1, 6xx 0\n  \
             sample 10 s ago: MESSAGE 404 to 0123456789abcdef\n  \
             certificate first seen 16 min ago: CN=bad.example?[2J\n"
        );
    }
}
