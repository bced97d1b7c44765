//! Lists of blocks: taken in, kept, and taken away again.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};

use super::Daemon;
use crate::{
    admin::{blocks::lists_json, protocol::ListImport, server::Caller},
    firewall::{
        FirewallError,
        lists::{List, ListAbout, ListTally, Parsed, list_name, remove_file, stage_file},
    },
    state::words,
};

/// Prefixes that are left out and named one by one.
const NAMED: usize = 10;

impl Daemon {
    /// More entries than this fit no table.
    pub(super) fn most_list_entries(&self) -> usize {
        let firewall = &self.config().firewall;
        let each =
            u64::from(firewall.max_blocked_addresses) + u64::from(firewall.max_blocked_prefixes);
        usize::try_from(2 * each).unwrap_or(usize::MAX)
    }

    /// Takes a list in: whole, or not at all.
    pub(super) async fn import_list(
        &self,
        caller: Caller,
        import: ListImport,
        parsed: Parsed,
    ) -> Result<Value, String> {
        let name = list_name(&import.name)?;
        if parsed.bad > 0 && !import.skip_bad {
            return Err(bad_lines(&import.file, &parsed));
        }
        // Not the lock of the other changes: those must not wait for a million entries.
        let _one = self.lists.lock().await;
        let outlook = self.firewall.outlook(&name).await.map_err(text)?;
        let Parsed { mut content, bad, repeated, .. } = parsed;
        let (list, left_out, tally) = tokio::task::spawn_blocking(move || {
            let left_out = content.leave_out(&outlook.management);
            let tally = outlook.tally(&content);
            (content, left_out, tally)
        })
        .await
        .map_err(text)?;
        let mut notes: Vec<String> = (left_out.iter().take(NAMED))
            .map(|prefix| format!("{prefix} overlaps a management prefix and is left out"))
            .collect();
        if left_out.len() > NAMED {
            notes.push(format!("and {} more", left_out.len() - NAMED));
        }
        let ListTally { added, removed, kept, no_room } = tally;
        let mut answer = json!({
            "list": name, "dry_run": import.dry_run, "added": added, "removed": removed,
            "kept": kept, "bad": bad, "repeated": repeated, "refused": left_out.len(),
            "fits": no_room.is_none(),
        });
        if import.dry_run {
            notes.push(no_room.unwrap_or_else(|| "it fits".to_owned()));
            answer["notes"] = json!(notes);
            return Ok(answer);
        }
        if let Some(no_room) = no_room {
            return Err(no_room);
        }
        let now = SystemTime::now();
        let about = ListAbout {
            name: name.clone(),
            comment: import.comment.as_deref().map(words),
            expires_at: import
                .seconds
                .and_then(|seconds| now.checked_add(Duration::from_secs(seconds))),
            by: caller.to_string(),
            at: now,
        };
        let took = self.put_list(List { about, content: Arc::new(list) }).await?;
        answer["took_milliseconds"] = json!(took.as_millis() as u64);
        answer["notes"] = json!(notes);
        Ok(answer)
    }

    /// On the disk beside its place, into the kernel, then into its place.
    async fn put_list(&self, list: List) -> Result<Duration, String> {
        let (state, list) = (self.config().paths.state.clone(), Arc::new(list));
        let staged = Arc::clone(&list);
        let staged = tokio::task::spawn_blocking(move || stage_file(&state, &staged));
        let staged = staged.await.map_err(text)?.map_err(text)?;
        match self.firewall.set_list(&list.about.name, Some(Arc::clone(&list))).await {
            Err(fault) => {
                staged.discard();
                Err(fault.to_string())
            }
            Ok(applied) => {
                let kept = tokio::task::spawn_blocking(move || staged.keep()).await;
                kept.map_err(text)?.map_err(|fault| {
                    format!("the list is in force, but not kept for the next start: {fault}")
                })?;
                Ok(applied.took)
            }
        }
    }

    /// Takes a list away.
    pub(super) async fn remove_list(&self, name: &str) -> Result<Value, String> {
        let _one = self.lists.lock().await;
        let lists = self.firewall.lists().await.map_err(text)?;
        let Some(list) = lists.iter().find(|list| list.about.name == name) else {
            return Err(FirewallError::NoSuchList { name: name.to_owned() }.to_string());
        };
        let applied = self.firewall.set_list(name, None).await.map_err(text)?;
        let (state, owned) = (self.config().paths.state.clone(), name.to_owned());
        let removed = tokio::task::spawn_blocking(move || remove_file(&state, &owned)).await;
        removed.map_err(text)?.map_err(|fault| {
            format!("the list is no longer in force, but comes back at the next start: {fault}")
        })?;
        Ok(json!({
            "list": name, "removed": list.content.len(),
            "took_milliseconds": applied.took.as_millis() as u64,
        }))
    }

    /// The lists in force.
    pub(super) async fn list_lists(&self) -> Result<Value, String> {
        self.firewall.lists().await.map(|lists| lists_json(&lists)).map_err(text)
    }
}

fn bad_lines(file: &str, parsed: &Parsed) -> String {
    let mut lines: Vec<String> =
        parsed.faults.iter().map(|fault| format!("{file}:{fault}")).collect();
    let more = parsed.bad - lines.len() as u64;
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    lines.push("nothing was taken: mend these lines, or skip them with --skip-bad".to_owned());
    lines.join("\n")
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
