//! Calls as people read them.

use serde_json::Value;

use super::{
    commands::{CommandError, string},
    table::Table,
};

/// How much is open, for `edge status`; `None`: there is nothing to say.
pub(super) fn summary(media: &Value) -> Option<String> {
    let number = |name: &str| media[name].as_u64().unwrap_or(0);
    if number("opened") + number("flows") + number("failed") == 0 {
        return None;
    }
    let mut text = format!(
        "{} calls, {} flows open; {} opened, {} closed",
        number("calls"),
        number("flows"),
        number("opened"),
        number("closed"),
    );
    for (name, word) in [
        ("without_way", "without a way"),
        ("by_daemon", "by the daemon"),
        ("daemon_lost", "packets lost there"),
        ("failed", "changes failed"),
    ] {
        if number(name) > 0 {
            text.push_str(&format!(", {} {word}", number(name)));
        }
    }
    for (name, word) in [("open_delay", "opening"), ("close_delay", "closing")] {
        let delay = &media[name];
        if delay["count"].as_u64().unwrap_or(0) > 0 {
            let (median, p99) = (&delay["median_microseconds"], &delay["p99_microseconds"]);
            text.push_str(&format!("; {word} took {median} µs (99 %: {p99} µs)"));
        }
    }
    Some(text)
}

/// `edge call list`.
pub(super) fn list_text(json: &Value) -> Result<String, CommandError> {
    let calls = json.as_array().ok_or(CommandError::Form)?;
    let mut table = Table::new(&[
        "call", "state", "seconds", "from", "to", "partner", "media", "flows", "packets", "lost",
    ]);
    for call in calls {
        let lines: Vec<&Value> = call["lines"].as_array().into_iter().flatten().collect();
        let flows = || lines.iter().flat_map(|line| line["flows"].as_array().into_iter().flatten());
        let sum = |name: &str| flows().filter_map(|flow| flow[name].as_u64()).sum::<u64>();
        let kinds: Vec<String> = lines.iter().map(|line| string(&line["kind"])).collect();
        table.row([
            string(&call["id"]),
            string(&call["state"]),
            string(&call["seconds"]),
            string(&call["caller"]),
            string(&call["callee"]),
            string(&call["partner"]),
            kinds.join(" ").trim().to_owned(),
            flows().count().to_string(),
            sum("packets").to_string(),
            sum("lost").to_string(),
        ]);
    }
    if table.is_empty() {
        return Ok("no call has media\n".to_owned());
    }
    Ok(table.render())
}

/// `edge call show`.
pub(super) fn show_text(call: &Value) -> Result<String, CommandError> {
    let id = call["id"].as_str().ok_or(CommandError::Form)?;
    let mut text = format!("call      {id}\n");
    for (word, name) in [
        ("call-id", "call_id"),
        ("from", "caller"),
        ("to", "callee"),
        ("partner", "partner"),
        ("direction", "direction"),
        ("state", "state"),
        ("seconds", "seconds"),
        ("left", "seconds_left"),
    ] {
        let value = string(&call[name]);
        if !value.is_empty() {
            text.push_str(&format!("{word:<9} {value}\n"));
        }
    }
    for line in call["lines"].as_array().into_iter().flatten() {
        let held = if line["held"] == true { ", on hold" } else { "" };
        text.push_str(&format!("\nline {} {}{held}\n", line["line"], string(&line["kind"])));
        text.push_str(&flows_table(line));
    }
    Ok(text)
}

fn flows_table(line: &Value) -> String {
    let mut table = Table::new(&[
        "from",
        "what",
        "comes in at",
        "source",
        "learned",
        "goes to",
        "packets",
        "bytes",
        "dropped",
        "lost",
        "jitter",
        "packets/s",
        "bit/s",
        "next hop",
    ]);
    for flow in line["flows"].as_array().into_iter().flatten() {
        let jitter = flow["jitter_milliseconds"].as_f64().map(|ms| format!("{ms} ms"));
        let port = flow["source_port"].as_u64().map(|port| format!(" port {port}"));
        let source = string(&flow["source"]);
        let source = source.strip_suffix("/32").or(source.strip_suffix("/128")).unwrap_or(&source);
        table.row([
            string(&flow["from"]),
            format!("{} {}", string(&flow["mode"]), string(&flow["component"])),
            string(&flow["local"]),
            format!("{source}{}", port.unwrap_or_default()),
            string(&flow["learned"]),
            string(&flow["to"]),
            string(&flow["packets"]),
            string(&flow["bytes"]),
            string(&flow["dropped"]),
            format!("{} ({} %)", string(&flow["lost"]), string(&flow["lost_percent"])),
            jitter.unwrap_or_default(),
            string(&flow["packets_per_second"]),
            string(&flow["bits_per_second"]),
            next_hop(flow),
        ]);
    }
    table.render()
}

fn next_hop(flow: &Value) -> String {
    if flow["routed"] == false {
        return format!("no way ({})", string(&flow["next_hop"]["neighbour"]));
    }
    let hop = &flow["next_hop"];
    if hop.is_null() {
        return String::new();
    }
    let vlan = hop["vlan"].as_u64().map(|vlan| format!(" vlan {vlan}"));
    let by = if hop["sent_by"] == "daemon" { " by the daemon" } else { "" };
    format!(
        "{} {} {}{}{by}",
        string(&hop["device"]),
        string(&hop["neighbour"]),
        string(&hop["link_address"]),
        vlan.unwrap_or_default()
    )
}

/// `edge call end`.
pub(super) fn ended(json: &Value) -> String {
    format!("the media of call {} is closed\n", string(&json["id"]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn status_says_nothing_of_media_until_there_is_some() {
        assert_eq!(summary(&Value::Null), None);
        let mut media = json!({"calls": 0, "flows": 0, "opened": 0, "closed": 0, "failed": 0});
        assert_eq!(summary(&media), None);
        media["opened"] = json!(4);
        media["without_way"] = json!(1);
        media["open_delay"] =
            json!({"count": 4, "median_microseconds": 80, "p99_microseconds": 120});
        let text = summary(&media).unwrap();
        assert!(text.contains("4 opened") && text.contains("1 without a way"), "{text}");
        assert!(text.contains("opening took 80 µs (99 %: 120 µs)"), "{text}");
    }

    #[test]
    fn a_flow_without_a_way_says_so() {
        let flow = json!({"routed": false, "next_hop": {"neighbour": "10.0.0.9"}});
        assert_eq!(next_hop(&flow), "no way (10.0.0.9)");
        let hop = json!({"device": "eth1", "neighbour": "10.0.0.9", "sent_by": "daemon"});
        let flow = json!({"routed": true, "next_hop": hop});
        assert!(next_hop(&flow).ends_with(" by the daemon"), "{}", next_hop(&flow));
        assert_eq!(list_text(&json!([])).unwrap(), "no call has media\n");
        assert!(list_text(&json!({})).is_err() && show_text(&json!([])).is_err());
    }
}
