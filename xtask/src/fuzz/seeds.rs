//! What libFuzzer's targets begin with. Every test run plays it through their functions, too
//! (`tests/tests/fuzz_seeds.rs`).

use std::{fs, path::Path};

use anyhow::{Context as _, Result};

#[path = "../../../edge-user/src/xmpp/xml/hostile.rs"]
mod hostile;

/// A name, and bytes.
type Seed = (String, Vec<u8>);

/// Those of a target. `workspace`: the top folder.
pub fn of(target: &str, workspace: &Path) -> Result<Vec<Seed>> {
    let folder = workspace.join("tests/fuzz/seeds");
    Ok(match target {
        // The example is the way in: without it, most inputs are no configuration at all.
        "config" => {
            let example = workspace.join("edge-user/edge.example.toml");
            vec![("example".to_owned(), read(&example)?)]
        }
        "sdp" => descriptions(&workspace.join("edge-user/src/media/sdp/tests"))?,
        // A remote user registers and is called along the Path: the way in to what needs both.
        "proxy" => {
            let registered = [0, 2, 2, 8, 2, 9, 0, 1, 5, 0, 2, 0, 7, 1, 0, 1];
            vec![("registered".to_owned(), registered.to_vec())]
        }
        _ if target.starts_with("sip_") => sip(target, &folder)?,
        _ if target.starts_with("xmpp_") => xmpp(target, &folder)?,
        _ => Vec::new(),
    })
}

fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// Files whose names end so: their names without that, and what is in them.
fn files(folder: &Path, ending: &str) -> Result<Vec<Seed>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == ending) {
            let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
            found.push((name, read(&path)?));
        }
    }
    found.sort();
    Ok(found)
}

/// As a SIP message has its lines.
fn with_line_ends(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace('\n', "\r\n")
}

/// The session descriptions of the tests, alone and as parts of a body.
fn descriptions(folder: &Path) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for (name, text) in files(folder, "sdp")? {
        let text = with_line_ends(&text);
        let part = format!("--b1\r\nContent-Type: application/sdp\r\n\r\n{text}\r\n");
        seeds.push((format!("{name}-parts"), format!("{part}{part}--b1--\r\n").into_bytes()));
        seeds.push((name, text.into_bytes()));
    }
    Ok(seeds)
}

/// Stanzas, and XML that the guard stops, after the bytes that each target reads first.
fn xmpp(target: &str, folder: &Path) -> Result<Vec<Seed>> {
    let first: &[u8] = match target {
        // How it is cut, and no bound on what comes first.
        "xmpp_guard" => b"\x07\xff",
        // A partner connects, opens a stream, and writes these raw bytes.
        "xmpp_streams" => b"\x00\x00\x01\x01\x00\x00\x04\x00\xff",
        _ => b"\x00",
    };
    let mut seeds = files(folder, "xml")?;
    if target == "xmpp_guard" {
        let stanzas = hostile::stanzas().into_iter().map(|(bytes, ..)| bytes);
        let headers = hostile::headers().into_iter().map(|(bytes, _)| bytes);
        let all = stanzas.chain(headers).enumerate();
        seeds.extend(all.map(|(n, bytes)| (format!("hostile-{n}"), bytes)));
    }
    Ok(seeds
        .into_iter()
        .map(|(name, text)| (name, [first, text.trim_ascii_end()].concat()))
        .collect())
}

/// The messages to begin with, as each target reads them.
fn sip(target: &str, folder: &Path) -> Result<Vec<Seed>> {
    let mut seeds = Vec::new();
    for (name, text) in files(folder, "sip")? {
        let message = with_line_ends(&text).into_bytes();
        match target {
            // Lengths of chunks come first.
            "sip_framing" => {
                let twice = [b"\x01\x28\x03", &*message, &message].concat();
                seeds.push((format!("{name}-twice"), twice));
            }
            // Which value it is comes first.
            "sip_values" => {
                for (at, line) in String::from_utf8_lossy(&text).lines().enumerate() {
                    let value = line.split_once(": ").map_or(line, |(_, value)| value);
                    for choice in 0..4u8 {
                        let bytes = [&[choice], value.as_bytes()].concat();
                        seeds.push((format!("{name}-{at}-{choice}"), bytes));
                    }
                }
            }
            _ => seeds.push((name, message)),
        }
    }
    Ok(seeds)
}
