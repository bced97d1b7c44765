//! Configurations in and out of force by an administrator's word: applied, confirmed, rolled back,
//! shadowed. Each goes the way of a reload: whole, or not at all.
//!
//! What leads back is on disk before anything changes. The configured file changes only when the
//! new configuration is in force, and with `--confirm` only when it is confirmed.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use tracing::{error, info, warn};

use super::{Daemon, shadow::Shadow};
use crate::{
    admin::protocol::{Fault, SentFile},
    apply::{Difference, NewFile, Side},
    config::{self, Checked, Config},
    failpoint,
    firewall::{
        Intent,
        plan::{self, RuleSet},
    },
    state::{Author, Choice, Moment, Pending, Version, Versions},
};

/// How long after a failure the way back is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How long a version may wait for its confirmation.
const CONFIRM: std::ops::RangeInclusive<u64> = 1..=86_400;

/// What the daemon knows about configurations.
pub(super) struct Changes {
    versions: Versions,
    /// The text in force.
    text: Mutex<Arc<str>>,
    pending: watch::Sender<Option<Pending>>,
    /// The kernel's rules are not those of the configuration that the daemon follows, and why.
    unsettled: watch::Sender<Option<String>>,
    pub shadow: watch::Sender<Option<Shadow>>,
}

impl Changes {
    /// A version that waits for its confirmation is started with: noted before it is tried, so that
    /// one which keeps the daemon from running gives way. Gives what there is to say.
    pub fn before_start(config: &Config, choice: &mut Choice) -> Option<String> {
        let pending = choice.pending.as_mut()?;
        pending.starts += 1;
        let versions = Versions::in_folder(&config.paths.state);
        versions.set_pending(Some(pending)).err().map(text)
    }

    /// The daemon ends in order: what waits for its confirmation did not make it end.
    pub fn before_end(&self) {
        let Some(pending) = self.pending().filter(|pending| pending.starts > 0) else { return };
        if let Err(error) = self.versions.set_pending(Some(&Pending { starts: 0, ..pending })) {
            warn!(%error, "the starts of an unconfirmed version are counted on");
        }
    }

    /// What a start took is in force: it is kept as a version, unless it is the newest already.
    /// Gives what there is to say.
    pub fn after_start(config: &Config, choice: Choice) -> (Self, Vec<String>) {
        let mut notes = choice.notes;
        let changes = Self {
            versions: Versions::in_folder(&config.paths.state),
            text: Mutex::new(choice.text.into()),
            pending: watch::Sender::new(choice.pending.clone()),
            unsettled: watch::Sender::new(None),
            shadow: watch::Sender::new(None),
        };
        if choice.restore_file {
            notes.extend(changes.write_file(config).err());
        }
        if choice.pending.is_none() {
            notes.extend(changes.versions.set_pending(None).err().map(text));
        }
        let author = Author::new("start", SystemTime::now());
        notes.extend(changes.keep(&choice.how, &author).1);
        (changes, notes)
    }

    fn text(&self) -> Arc<str> {
        Arc::clone(&self.text.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn set_text(&self, text: &str) {
        *self.text.lock().unwrap_or_else(PoisonError::into_inner) = text.into();
    }

    fn pending(&self) -> Option<Pending> {
        self.pending.borrow().clone()
    }

    /// Keeps what is in force as the newest version, unless it is already. Gives its number, and
    /// a warning when the disk does not take it.
    fn keep(&self, how: &str, author: &Author) -> (Option<u32>, Option<String>) {
        let in_force = self.text();
        if let Some(newest) = self.versions.newest()
            && *newest.text == *in_force
        {
            return (Some(newest.number), None);
        }
        match self.versions.add(&in_force, how, author) {
            Ok(number) => {
                info!(number, how, by = author.by, "a version of the configuration is in force");
                (Some(number), None)
            }
            Err(fault) => (None, Some(format!("no version was kept: {fault}"))),
        }
    }

    /// Makes the configured file say what is in force. A text that stood there and was never in
    /// force is kept beside it.
    fn write_file(&self, config: &Config) -> Result<(), String> {
        match NewFile::prepare(&config.file, &self.text()) {
            Ok(new) => new.commit().map_err(text),
            Err(fault) => Err(fault.to_string()),
        }
    }

    fn none_pending(&self) -> Result<(), String> {
        let Some(pending) = self.pending() else { return Ok(()) };
        let left = pending.left(&Moment::now()).unwrap_or_default().as_secs();
        Err(format!(
            "version {} waits for its confirmation ({left} s left): `edge confirm` keeps it, \
             `edge rollback` takes it back",
            pending.version
        ))
    }

    /// Whether a version waits for its confirmation.
    pub fn is_pending(&self) -> bool {
        self.pending.borrow().is_some()
    }

    /// The kernel's rules are not those that they should be.
    pub fn not_settled(&self, why: &str) {
        error!(why, "ALARM: the rules in force are not those of the configuration; trying again");
        self.unsettled.send_replace(Some(why.to_owned()));
    }

    /// The kernel has the rules that it should.
    pub fn settled(&self) {
        self.unsettled.send_if_modified(|why| why.take().is_some());
    }

    /// The shadow was compared with rules that are no longer in force.
    pub fn end_shadow(&self) {
        self.shadow.send_replace(None);
    }
}

impl Daemon {
    /// Reads the file again. When anything in it is wrong, or cannot be had, nothing changes.
    pub(super) async fn reload(&self, author: &Author) -> Result<Vec<String>, Fault> {
        let _one = self.change.lock().await;
        self.changes.none_pending()?;
        let (new, _) = self.text_of(None)?;
        let (config, mut warnings) = self.checked(&new, None).await?;
        warnings.extend(self.take(config).await?);
        self.changes.set_text(&new);
        warnings.extend(self.disk(|changes| changes.keep("reload", author).1));
        Ok(warnings)
    }

    /// Puts a file in force; it becomes the configured file. With `confirm` it does only when it
    /// is confirmed in time, and what was in force comes back otherwise.
    pub(super) async fn apply(
        &self,
        file: Option<SentFile>,
        confirm: Option<u64>,
        author: &Author,
    ) -> Result<Value, Fault> {
        if confirm.is_some_and(|seconds| !CONFIRM.contains(&seconds)) {
            return Err("--confirm takes a time from 1s to 1d".to_owned().into());
        }
        let _one = self.change.lock().await;
        self.changes.none_pending()?;
        let sent = file.as_ref().map(|file| file.name.clone());
        let (new, name) = self.text_of(file)?;
        let (config, mut warnings) = self.checked(&new, sent.as_deref()).await?;
        let difference = self.difference(&config, &new)?;
        let how = format!("apply {name}");
        let version = match confirm {
            None => self.apply_for_good(&new, config, &how, author, &mut warnings).await?,
            Some(seconds) => {
                let time = Duration::from_secs(seconds);
                Some(self.apply_for_now(&new, config, &how, author, time, &mut warnings).await?)
            }
        };
        Ok(json!({
            "version": version,
            "file": self.config().file,
            "confirm_within_seconds": confirm,
            "former": self.changes.pending().map(|pending| pending.former),
            "difference": difference,
            "warnings": warnings,
        }))
    }

    async fn apply_for_good(
        &self,
        new: &str,
        config: Arc<Config>,
        how: &str,
        author: &Author,
        warnings: &mut Vec<String>,
    ) -> Result<Option<u32>, String> {
        let old = self.config();
        // On the disk before anything changes: what is left is a rename.
        let file = self.disk(|_| self.new_file(&old, new))?;
        let former = self.changes.text();
        failpoint::step("apply-file-prepared");
        warnings.extend(self.take(config).await?);
        failpoint::step("apply-in-force");
        if let Err(fault) = self.disk(|_| self.replace_file(file, &former, warnings)) {
            return Err(match self.take(old).await {
                Ok(_) => fault,
                Err(second) => format!("{fault}; and the former could not be put back: {second}"),
            });
        }
        failpoint::step("apply-file-replaced");
        self.changes.set_text(new);
        let (number, warning) = self.disk(|changes| changes.keep(how, author));
        warnings.extend(warning);
        Ok(number)
    }

    async fn apply_for_now(
        &self,
        new: &str,
        config: Arc<Config>,
        how: &str,
        author: &Author,
        time: Duration,
        warnings: &mut Vec<String>,
    ) -> Result<u32, String> {
        let old = self.config();
        let pending = self.disk(|changes| -> Result<Pending, String> {
            // Whether the file can be replaced is found out now, not when it is confirmed.
            drop(NewFile::prepare(&old.file, new).map_err(text)?);
            let (former, warning) = changes.keep("in force before a change", author);
            let former = former.ok_or_else(|| warning.unwrap_or_default())?;
            let version = changes.versions.add(new, how, author).map_err(text)?;
            failpoint::step("pending-version-kept");
            let end = Moment::now().after(time);
            let (boot, until_milliseconds) = (end.boot, end.milliseconds);
            let pending = Pending { version, former, boot, until_milliseconds, starts: 0 };
            changes.versions.set_pending(Some(&pending)).map_err(|fault| {
                changes.versions.take_back(version);
                fault.to_string()
            })?;
            failpoint::step("pending-noted");
            Ok(pending)
        })?;
        match self.take(config).await {
            Ok(more) => warnings.extend(more),
            Err(fault) => {
                let forgotten = self.disk(|changes| {
                    changes.versions.take_back(pending.version);
                    changes.versions.set_pending(None)
                });
                return Err(match forgotten {
                    Ok(()) => fault,
                    Err(second) => format!("{fault}; and {second}"),
                });
            }
        }
        failpoint::step("pending-in-force");
        self.changes.set_text(new);
        let version = pending.version;
        info!(version, former = pending.former, how, by = author.by, "in force until confirmed");
        self.changes.pending.send_replace(Some(pending));
        Ok(version)
    }

    /// Keeps what waits for its confirmation.
    pub(super) async fn confirm(&self, author: &Author) -> Result<Value, String> {
        let _one = self.change.lock().await;
        let pending = self.changes.pending().ok_or("no version waits for its confirmation")?;
        let mut warnings = Vec::new();
        let config = self.config();
        if pending.left(&Moment::now()).is_none() {
            // The way back may be half done.
            warnings.extend(self.take(Arc::clone(&config)).await?);
        }
        self.disk(|changes| -> Result<(), String> {
            let file = self.new_file(&config, &changes.text())?;
            self.replace_file(file, "", &mut warnings)?;
            failpoint::step("confirm-file-replaced");
            changes.versions.set_pending(None).map_err(text)
        })?;
        self.changes.pending.send_replace(None);
        info!(version = pending.version, by = author.by, "a version was confirmed");
        Ok(json!({"version": pending.version, "file": config.file, "warnings": warnings}))
    }

    /// Goes back to a version: the one named, or the one before. What waits for its confirmation
    /// waits no more. Blocks that an administrator made are left alone.
    pub(super) async fn rollback(
        &self,
        number: Option<u32>,
        author: &Author,
    ) -> Result<Value, Fault> {
        let _one = self.change.lock().await;
        let pending = self.changes.pending();
        let target = self
            .disk(|changes| match number.or(pending.as_ref().map(|pending| pending.former)) {
                Some(number) => changes.versions.get(number),
                None => changes.versions.former(&changes.text()),
            })
            .map_err(text)?;
        let how = format!("rollback to {}", target.number);
        let warnings = self.go_back(&target, &how, author).await?;
        info!(version = target.number, by = author.by, "rolled back");
        Ok(json!({
            "version": target.number,
            "file": self.config().file,
            "how": target.how,
            "warnings": warnings,
        }))
    }

    /// The time of a version is over.
    async fn not_confirmed(&self, pending: &Pending) -> Result<(), String> {
        let _one = self.change.lock().await;
        if self.changes.pending().as_ref() != Some(pending) {
            return Ok(());
        }
        let target = self.disk(|changes| changes.versions.get(pending.former)).map_err(text)?;
        let (version, former) = (pending.version, pending.former);
        let author = Author::new("edge", SystemTime::now());
        let how = format!("version {version} was not confirmed, back to {former}");
        let back = self.go_back(&target, &how, &author).await;
        if back.is_err() {
            self.rules_back(&target).await;
        }
        for warning in back.map_err(text)? {
            warn!(warning, "after the way back");
        }
        warn!(version, former, "a version was not confirmed in time: the former is in force");
        Ok(())
    }

    async fn go_back(
        &self,
        target: &Version,
        how: &str,
        author: &Author,
    ) -> Result<Vec<String>, Fault> {
        let (config, mut warnings) = self.checked(&target.text, None).await?;
        let old = self.config();
        let file = self.disk(|_| self.new_file(&old, &target.text));
        let former = self.changes.text();
        warnings.extend(self.take(config).await?);
        failpoint::step("back-in-force");
        self.changes.set_text(&target.text);
        self.disk(|changes| {
            // In force it is, whatever becomes of the file.
            let written = file.and_then(|file| self.replace_file(file, &former, &mut warnings));
            warnings.extend(written.err());
            failpoint::step("back-file-replaced");
            warnings.extend(changes.keep(how, author).1);
            warnings.extend(changes.versions.set_pending(None).err().map(text));
        });
        self.changes.pending.send_replace(None);
        Ok(warnings)
    }

    /// A version cannot come back whole (a file that it names is gone, an address is taken): its
    /// rules can.
    async fn rules_back(&self, target: &Version) {
        let done = match config::rules_of(&target.text, &self.config().file) {
            Ok(config) => {
                let rules = Intent::PutBack(Arc::new(config));
                self.firewall.apply(vec![rules]).await.map(drop).map_err(text)
            }
            Err(fault) => Err(fault.to_string()),
        };
        match done {
            Ok(()) => {
                warn!(version = target.number, "the rules of this version are in force again")
            }
            Err(fault) => {
                error!(fault, "ALARM: nor can the rules of the former version be put back")
            }
        }
    }

    /// The text beside the configured file, when that says something else.
    fn new_file(&self, config: &Config, new: &str) -> Result<Option<NewFile>, String> {
        let found = std::fs::read_to_string(&config.file).unwrap_or_default();
        if found == new {
            return Ok(None);
        }
        NewFile::prepare(&config.file, new).map(Some).map_err(text)
    }

    /// Puts it in the file's place. A text that is lost with it, whenever that was written there,
    /// and that was never in force is kept under another name.
    fn replace_file(
        &self,
        file: Option<NewFile>,
        old: &str,
        warnings: &mut Vec<String>,
    ) -> Result<(), String> {
        let Some(file) = file else { return Ok(()) };
        let found = file.found();
        let is_version = |(versions, _): (Vec<Version>, _)| {
            versions.iter().any(|version: &Version| version.text == found)
        };
        let known = found.is_empty()
            || found == old
            || *found == *self.changes.text()
            || self.changes.versions.list().is_ok_and(is_version);
        if !known {
            let kept = file.keep_old().map_err(text)?;
            warnings.push(format!(
                "{} was changed and never in force: what it said is kept in {}",
                self.config().file.display(),
                kept.display()
            ));
        }
        file.commit().map_err(text)
    }

    /// What a file would change.
    pub(super) async fn dry_run(&self, file: Option<SentFile>) -> Result<Value, Fault> {
        let sent = file.as_ref().map(|file| file.name.clone());
        let (new, _) = self.text_of(file)?;
        let (config, mut warnings) = self.checked(&new, sent.as_deref()).await?;
        let difference = self.difference(&config, &new)?;
        let refused = self.would_refuse(&config).await;
        warnings.extend(refused.iter().map(|why| format!("it would be refused: {why}")));
        Ok(json!({
            "text": difference.to_string(),
            "difference": difference,
            "warnings": warnings,
            "refused": refused,
        }))
    }

    /// The versions without their texts, and what is damaged.
    pub(super) fn version_list(&self) -> Result<Value, String> {
        let pending = self.changes.pending();
        let list = self.disk(|changes| changes.versions.list()).map_err(text)?;
        let in_force = self.changes.text();
        Ok(crate::admin::apply::version_list(list, &in_force, pending.as_ref()))
    }

    /// One version with its text.
    pub(super) fn version_show(&self, number: u32) -> Result<Value, String> {
        let version = self.disk(|changes| changes.versions.get(number)).map_err(text)?;
        serde_json::to_value(version).map_err(text)
    }

    /// For `edge status`: the version in force, and what waits.
    pub(super) fn configuration(&self) -> Value {
        let in_force = self.changes.text();
        let newest = self.disk(|changes| changes.versions.holding(&in_force));
        let waits = self.changes.pending().map(|pending| {
            json!({
                "version": pending.version,
                "former": pending.former,
                "seconds_left": pending.left(&Moment::now()).unwrap_or_default().as_secs(),
            })
        });
        json!({
            "version": newest.as_ref().map(|version| version.number),
            "how": newest.as_ref().map(|version| &version.how),
            "by": newest.as_ref().map(|version| &version.author.by),
            "at": newest.as_ref().map(|version| version.author.at),
            "waits": waits,
            "unsettled": *self.changes.unsettled.borrow(),
            "shadow": self.shadow(),
        })
    }

    /// Takes a version back when its time is over, and ends a shadow at its own.
    pub(super) async fn keep_time(self: Arc<Self>) {
        let mut pending = self.changes.pending.subscribe();
        let mut shadow = self.changes.shadow.subscribe();
        let mut unsettled = self.changes.unsettled.subscribe();
        let mut settle_at = None;
        loop {
            failpoint::panics("keep-time");
            if unsettled.borrow_and_update().is_none() {
                settle_at = None;
            } else if settle_at.get_or_insert_with(|| Instant::now() + RETRY) <= &mut Instant::now()
            {
                settle_at = None;
                if self.settle_rules().await.is_ok() {
                    info!("the rules in force are those of the configuration again");
                }
                continue;
            }
            let waiting = pending.borrow_and_update().clone();
            let until = shadow.borrow_and_update().as_ref().and_then(|shadow| shadow.until);
            if let Some(waiting) = &waiting
                && waiting.left(&Moment::now()).is_none()
            {
                if let Err(error) = self.not_confirmed(waiting).await {
                    error!(error, "ALARM: an unconfirmed version is still in force; trying again");
                    tokio::time::sleep(RETRY).await;
                }
                continue;
            }
            if until.is_some_and(|until| until <= Instant::now()) {
                if let Err(error) = self.shadow_stop().await {
                    warn!(error, "the shadow counts on: it could not be ended");
                    self.changes.end_shadow();
                }
                continue;
            }
            let left = waiting.and_then(|waiting| waiting.left(&Moment::now()));
            let waiting_until = left.map(|left| Instant::now() + left);
            let wait = async {
                match [waiting_until, until, settle_at].into_iter().flatten().min() {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            // The senders live as long as the daemon.
            tokio::select! {
                _ = pending.changed() => {}
                _ = shadow.changed() => {}
                _ = unsettled.changed() => {}
                () = wait => {}
            }
        }
    }

    /// The text that was sent, or the configured file's; and its name.
    pub(super) fn text_of(&self, file: Option<SentFile>) -> Result<(String, String), Fault> {
        match file {
            Some(file) => Ok((file.text, file.name)),
            None => {
                let path = self.config().file.clone();
                let text = self.disk(|_| config::read_text(&path)).map_err(Fault::configuration)?;
                Ok((text, path.display().to_string()))
            }
        }
    }

    /// The text as a configuration that is to stand in the configured file, and its warnings.
    /// `sent`: the name under which its errors are told.
    pub(super) async fn checked(
        &self,
        new: &str,
        sent: Option<&str>,
    ) -> Result<(Arc<Config>, Vec<String>), Fault> {
        let (path, new) = (self.config().file.clone(), new.to_owned());
        let checked = tokio::task::spawn_blocking(move || config::check_as(&new, &path)).await;
        let Checked { config, mut findings } = checked.map_err(text)?;
        if let Some(name) = sent {
            findings.file = name.into();
        }
        let Some(config) = config else { return Err(Fault::configuration(findings)) };
        let warnings = findings.warnings.iter().map(|finding| {
            format!("{}:{}: {}; {}", finding.line, finding.column, finding.message, finding.mend)
        });
        Ok((Arc::new(config), warnings.collect()))
    }

    pub(super) fn difference(&self, config: &Config, new: &str) -> Result<Difference, String> {
        let compile =
            |config: &Config| -> Result<RuleSet, String> { plan::compile(config).map_err(text) };
        let (old, in_force) = (compile(&self.config())?, self.changes.text());
        let plan = compile(config)?;
        Ok(Difference::between(
            Side { plan: &old, text: &in_force },
            Side { plan: &plan, text: new },
        ))
    }

    /// Waits for the disk: beside the threads of the network.
    fn disk<T>(&self, work: impl FnOnce(&Changes) -> T) -> T {
        tokio::task::block_in_place(|| work(&self.changes))
    }
}

pub(super) fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
