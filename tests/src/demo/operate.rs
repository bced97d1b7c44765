//! Step: what an administrator asks and changes: a packet explained by the live program, the ports
//! planned, a configuration tried, applied and rolled back, drops and rates looked at.

use std::net::IpAddr;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::{
    block,
    world::{FEDERATION_PORT, World},
};
use crate::lab::{daemon::binary, layout::Site};

/// Explains, plans, applies, rolls back.
pub fn operate(world: &mut World) -> Result<String> {
    block::ensure_blocked(world)?;
    let status = world.contoso.json(&["status"])?;
    let device = text(&status, "/firewall/attached/0/device")?;
    let mut told = Vec::new();
    for (from, to) in Site::Northwind.outside().into_iter().zip(Site::Contoso.outside()) {
        let blocked = explain(world, &device, from, to)?;
        ensure!(blocked["disagrees"].is_null(), "the replay disagrees: {blocked}");
        told.push(text(&blocked, "/reason")?);
    }
    let (from, to) = (Site::Stranger.outside()[0], Site::Contoso.outside()[0]);
    told.push(text(&explain(world, &device, from, to)?, "/reason")?);
    ensure!(told == ["blocked-domain", "blocked-domain", "rule"], "explained: {told:?}");
    let plan = world.contoso.json(&["plan", "ports"])?;
    ensure!(plan.to_string().contains("access"), "the plan names no access service: {plan}");

    let file = world.contoso.file();
    let before = std::fs::read_to_string(&file)?;
    let new = file.with_extension("new.toml");
    let rule = "\n[[firewall.rule]]\nname = \"demo\"\nzone = \"external\"\nprotocol = \"udp\"\n\
                ports = [4000]\npackets_per_second_per_source = 10\n";
    std::fs::write(&new, format!("{before}{rule}"))?;
    let path = new.to_str().context("the lab's path is no text")?;
    let tried = world.contoso.json(&["apply", path, "--dry-run"])?;
    ensure!(tried.to_string().contains("demo"), "the dry run does not name the rule: {tried}");
    ensure!(!rules(world)?.contains("\"demo\""), "a dry run changed something");
    world.contoso.json(&["apply", path])?;
    ensure!(rules(world)?.contains("\"demo\""), "the rule is not in force");
    world.contoso.json(&["rollback"])?;
    ensure!(!rules(world)?.contains("\"demo\""), "the rollback left the rule");
    ensure!(std::fs::read_to_string(&file)? == before, "the file is not what it was");

    let (dropped, remembered) = look(world)?;
    Ok(format!(
        "explain: a blocked partner's SYN to {FEDERATION_PORT} over IPv4 and IPv6 {}, a stranger's \
         {}; plan, apply --dry-run, apply, rollback of a rule; top: {dropped:.0} packets a second of \
         a blocked domain; drops: {remembered} remembered of it",
        told[0], told[2],
    ))
}

/// What `top` and `drops` say while a blocked partner sends: its packets a second, and how many of
/// its drops are remembered.
fn look(world: &World) -> Result<(f64, usize)> {
    let top = block::while_northwind_sends(world, || world.contoso.json(&["top", "--once"]))?;
    let reasons = top["reasons"].as_array().context("edge top names no reasons")?;
    let blocked = reasons.iter().find(|row| row["name"] == "blocked-domain");
    let rate = blocked.and_then(|row| row["packets_per_second"].as_f64()).unwrap_or_default();
    ensure!(rate > 0.0, "edge top does not see what is dropped: {top}");
    let drops = world.contoso.json(&["drops", "--reason", "blocked-domain"])?;
    let rows = drops.as_array().context("edge drops gives no list")?;
    for from in Site::Northwind.outside() {
        let is_from = |row: &&Value| row["source"] == from.to_string();
        let row = rows.iter().rfind(is_from);
        let row = row.with_context(|| format!("no drop from {from} is remembered: {drops}"))?;
        ensure!(row["reason"] == "blocked-domain" && row["verdict"] == "drop", "{row}");
        ensure!(row["destination_port"] == FEDERATION_PORT, "{row}");
    }
    Ok((rate, rows.len()))
}

/// Asks the live program, from inside the appliance's namespace, about a SYN.
fn explain(world: &World, device: &str, from: IpAddr, to: IpAddr) -> Result<Value> {
    let output = world
        .contoso
        .namespace()
        .command(binary()?)
        .arg("-c")
        .arg(world.contoso.file())
        .args(["--json", "explain", "packet", "--in", device, "--proto", "tcp"])
        .args(["--src", &from.to_string(), "--dst", &to.to_string()])
        .args(["--dport", &FEDERATION_PORT.to_string()])
        .output()?;
    if !output.status.success() {
        bail!("edge explain packet: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn rules(world: &World) -> Result<String> {
    Ok(world.contoso.json(&["rule", "list"])?.to_string())
}

fn text(value: &Value, place: &str) -> Result<String> {
    let found = value.pointer(place).and_then(Value::as_str);
    found.map(str::to_owned).with_context(|| format!("no {place} in {value}"))
}
