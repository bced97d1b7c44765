//! `firewall.json` in the state folder: the ids of rule names, and the plan that is in force.
//!
//! Written whole to a new file and renamed, with a checksum over its content; a file that fails
//! it is never half-read.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use edge_ebpf::abi::SCHEMA;
use serde::{Deserialize, Serialize};

use super::{
    FirewallError,
    plan::{RuleIds, RuleSet},
};
use crate::failpoint;

/// What is kept.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Kept {
    /// Schema of the writer.
    pub schema: u32,
    /// Rule ids by name.
    pub ids: RuleIds,
    /// The plan in force.
    pub plan: RuleSet,
}

#[derive(Serialize, Deserialize)]
struct Envelope {
    /// SHA-256 of `content`, in hex.
    sha256: String,
    /// [`Kept`] as JSON.
    content: String,
}

/// Where it is kept.
pub(super) fn file(state: &Path) -> PathBuf {
    state.join("firewall.json")
}

/// What every version keeps alike.
#[derive(Deserialize)]
struct KeptIds {
    schema: u32,
    ids: RuleIds,
}

/// Reads what is kept. `Ok(None)`: nothing is.
pub(super) fn read(state: &Path) -> Result<Option<Kept>, String> {
    let Some(content) = content(state)? else { return Ok(None) };
    let KeptIds { schema, .. } =
        serde_json::from_str(&content).map_err(|fault| fault.to_string())?;
    if schema != SCHEMA {
        return Err(format!("it has schema {schema}, this version has {SCHEMA}"));
    }
    serde_json::from_str(&content).map(Some).map_err(|fault| fault.to_string())
}

/// The ids that another version kept, so that they mean the same rules after an upgrade.
pub(super) fn former_ids(state: &Path) -> Option<RuleIds> {
    let kept: KeptIds = serde_json::from_str(&content(state).ok()??).ok()?;
    Some(kept.ids)
}

/// The content, when it is what was written.
fn content(state: &Path) -> Result<Option<String>, String> {
    let text = match fs::read_to_string(file(state)) {
        Ok(text) => text,
        Err(fault) if fault.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(fault) => return Err(fault.to_string()),
    };
    let envelope: Envelope = serde_json::from_str(&text).map_err(|fault| fault.to_string())?;
    if checksum(&envelope.content) != envelope.sha256 {
        return Err("its checksum does not match".to_owned());
    }
    Ok(Some(envelope.content))
}

/// Sets a file that cannot be read aside, and says so.
pub(super) fn set_aside(state: &Path, fault: &str) -> String {
    let (from, to) = (file(state), state.join("firewall.json.bad"));
    let moved = fs::rename(&from, &to);
    format!(
        "{}: {fault}; {}. Rule counters may start under new ids",
        from.display(),
        match moved {
            Ok(()) => format!("set aside as {}", to.display()),
            Err(fault) => format!("it could not be set aside ({fault})"),
        }
    )
}

/// Writes what is to be kept.
pub(super) fn write(state: &Path, ids: &RuleIds, plan: &RuleSet) -> Result<(), FirewallError> {
    let path = file(state);
    let fault = |fault| FirewallError::io(path.display().to_string(), fault);
    let kept = Kept { schema: SCHEMA, ids: ids.clone(), plan: plan.clone() };
    let content = serde_json::to_string(&kept).map_err(|e| fault(e.into()))?;
    let sha256 = checksum(&content);
    let text = serde_json::to_string(&Envelope { sha256, content }).map_err(|e| fault(e.into()))?;
    fs::create_dir_all(state).map_err(fault)?;
    let new = state.join("firewall.json.new");
    // What a crash left behind goes; a link that somebody put there is not followed.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fault(error)),
        _ => {}
    }
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&new).map_err(fault)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(fault)?;
    fs::rename(&new, &path).map_err(fault)?;
    // After a power cut a boot must not find the plan before.
    fs::File::open(state).and_then(|folder| folder.sync_all()).map_err(fault)?;
    failpoint::wrote("the plan of the rules in force");
    Ok(())
}

fn checksum(content: &str) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, content.as_bytes());
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_refused_whole() {
        let state = std::env::temp_dir().join(format!("edge-state-{}", std::process::id()));
        fs::create_dir_all(&state).unwrap();
        assert_eq!(read(&state), Ok(None));
        let good = serde_json::json!({ "sha256": checksum("{}"), "content": "{}" }).to_string();
        for (text, fault) in [
            ("", "EOF"),
            (r#"{"sha256":"00","content":"{}"}"#, "checksum"),
            (good.as_str(), "missing field"),
        ] {
            fs::write(file(&state), text).unwrap();
            assert!(read(&state).unwrap_err().contains(fault), "{text}");
        }
        assert!(set_aside(&state, "x").contains("set aside as"));
        assert_eq!(read(&state), Ok(None));
        fs::remove_dir_all(&state).unwrap();
    }
}
