//! `edge apply` and its kin against a running daemon.

use std::{
    io::{ErrorKind, Read as _},
    net::{SocketAddr, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use edge_tests::{
    lab::{
        Lab,
        config::EdgeConfig,
        daemon::{self, Answer, Edge},
        layout::Site,
    },
    patience::BUSY,
};
use edge_user::firewall::inspect;
use serde_json::Value;

/// A time for what is to end by itself: what is done before may take as long on a machine that is
/// busy.
const SOON: &str = "6s";
/// It is over after this.
const SOON_IS_OVER: Duration = Duration::from_millis(6200);

struct Bench {
    edge: Edge,
    lab: Lab,
}

impl Bench {
    fn new(tag: &str) -> Self {
        Self::with(tag, |config| config)
    }

    fn with(tag: &str, change: impl Fn(EdgeConfig) -> EdgeConfig) -> Self {
        let lab = Lab::raise(tag).unwrap();
        let ids = &lab.identities;
        let config = change(EdgeConfig::new(Site::Contoso, &ids.contoso, &ids.trust));
        Self { edge: Edge::start(&lab, config).unwrap(), lab }
    }

    /// A file beside the configured one, with a rule more.
    fn file_with(&self, rule: &str, port: u16) -> PathBuf {
        let text = std::fs::read_to_string(self.edge.file()).unwrap()
            + &format!(
                "\n[[firewall.rule]]\nname = \"{rule}\"\nzone = \"external\"\nprotocol = \"udp\"\n\
                 ports = [{port}]\nto = \"any\"\nfrom = \"any\"\n"
            );
        let path = self.edge.dir().join(format!("{rule}.toml"));
        std::fs::write(&path, text).unwrap();
        path
    }

    fn run(&self, arguments: &[&str]) -> Answer {
        let answer = self.edge.command(arguments).unwrap();
        assert_eq!(answer.code, 0, "{arguments:?}: {}{}", answer.stdout, answer.stderr);
        answer
    }

    fn has_rule(&self, name: &str) -> bool {
        let rules = self.edge.json(&["rule", "list"]).unwrap();
        rules.as_array().unwrap().iter().any(|rule| rule["name"] == name)
    }

    fn file_has(&self, word: &str) -> bool {
        std::fs::read_to_string(self.edge.file()).unwrap().contains(word)
    }

    fn versions(&self) -> Vec<Value> {
        self.edge.json(&["version", "list"]).unwrap()["versions"].as_array().unwrap().clone()
    }

    fn wait_for_rule(&self, name: &str, there: bool) {
        let began = Instant::now();
        while self.has_rule(name) != there {
            assert!(began.elapsed() < BUSY, "{name}: {}", self.edge.log());
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

fn path(path: &std::path::Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_file_is_shown_applied_kept_as_a_version_and_rolled_back() {
    let mut bench = Bench::new("apply");
    let file = bench.file_with("extra", 7000);
    let configured = std::fs::read_to_string(bench.edge.file()).unwrap();

    let dry = bench.run(&["apply", path(&file), "--dry-run"]);
    assert_eq!(dry.stdout, "+ rule extra: external udp 7000 to any from any\n");
    let dry = bench.edge.json(&["apply", path(&file), "--dry-run"]).unwrap();
    assert_eq!(dry["difference"]["rules_added"][0]["name"], "extra");
    assert!(!bench.has_rule("extra") && !bench.file_has("extra"), "a dry run changes nothing");
    assert_eq!(bench.run(&["apply", "--dry-run"]).stdout, "nothing changes\n");
    assert_eq!(bench.versions().len(), 1);

    // What would be refused is said at once, by the words of the refusal.
    let more = "\n[[interface]]\ndevice = \"nowhere0\"\nzone = \"external\"\n";
    for (text, why) in [
        (configured.clone() + more, "nowhere0"),
        (configured.replacen("/state\"", "/elsewhere\"", 1), "[paths]"),
    ] {
        let impossible = bench.edge.dir().join("impossible.toml");
        std::fs::write(&impossible, text).unwrap();
        let dry = bench.run(&["apply", path(&impossible), "--dry-run"]).stdout;
        let refused = bench.edge.command(&["apply", path(&impossible)]).unwrap();
        let said = refused.stderr.trim_start_matches("edge: ").trim_end();
        assert!(refused.code == 1 && said.contains(why), "{refused:?}");
        assert!(dry.contains(&format!("warning: it would be refused: {said}\n")), "{dry}");
    }

    let answer = bench.run(&["apply", path(&file)]);
    assert!(answer.stdout.contains("version 2 is in force"), "{}", answer.stdout);
    assert!(bench.has_rule("extra") && bench.file_has("extra"));
    let versions = bench.versions();
    assert_eq!(versions.len(), 2);
    assert_eq!(versions[0]["in_force"], true);
    assert!(versions[0]["how"].as_str().unwrap().starts_with("apply "), "{versions:?}");
    assert!(versions[0]["by"].as_str().unwrap().starts_with("uid 0"), "{versions:?}");
    let old = bench.edge.json(&["version", "show", "1"]).unwrap();
    assert_eq!(old["text"], configured.as_str());

    // A rollback of the file leaves an administrator's blocks alone.
    bench.run(&["block", "add", "203.0.113.0/24"]);
    bench.run(&["block", "add", "2001:db8:bad::/48"]);
    let answer = bench.run(&["rollback"]);
    assert!(answer.stdout.contains("version 1 is in force again"), "{}", answer.stdout);
    assert!(!bench.has_rule("extra"));
    assert_eq!(std::fs::read_to_string(bench.edge.file()).unwrap(), configured);
    let blocks = bench.edge.json(&["block", "list"]).unwrap().to_string();
    assert!(blocks.contains("203.0.113.0/24") && blocks.contains("2001:db8:bad::/48"), "{blocks}");
    bench.run(&["rollback", "2"]);
    assert!(bench.has_rule("extra") && bench.file_has("extra"));
    let unknown = bench.edge.command(&["rollback", "77"]).unwrap();
    assert!(unknown.code != 0 && unknown.stderr.contains("edge version list"), "{unknown:?}");

    // A file that is wrong changes nothing, and its own name stands in the errors.
    let wrong = bench.edge.dir().join("wrong.toml");
    std::fs::write(&wrong, "[edge]\nfqdn = 5\n").unwrap();
    let refused = bench.edge.command(&["apply", path(&wrong)]).unwrap();
    assert!(refused.code != 0 && refused.stderr.contains("wrong.toml"), "{refused:?}");
    assert!(bench.has_rule("extra") && bench.file_has("extra"));
    assert_eq!(bench.versions().len(), 4);

    // Without a daemon the versions can be read and compared with, and nothing can be changed.
    bench.edge.kill().unwrap();
    assert_eq!(bench.versions().len(), 4);
    let dry = bench.run(&["apply", path(&file), "--dry-run"]);
    assert!(dry.stdout.contains("nothing changes"), "{}", dry.stdout);
    let refused = bench.edge.command(&["apply", path(&file)]).unwrap();
    assert_eq!(refused.code, 3, "{refused:?}");
    // A start with the same file is no new version.
    bench.edge.run().unwrap();
    assert_eq!(bench.versions().len(), 4);
}

#[test]
fn an_apply_to_be_confirmed_goes_back_by_itself_also_over_a_killed_daemon() {
    let mut bench = Bench::new("confirm");
    let one = bench.file_with("one", 7001);
    // Not confirmed in time: back, and the file was never touched.
    bench.run(&["apply", path(&one), "--confirm", "1s"]);
    // The rules are back a moment before the list of versions says so.
    let back = "version 2 was not confirmed, back to 1";
    super::eventually(back, || bench.versions()[0]["how"] == back);
    assert!(!bench.has_rule("one") && !bench.file_has("\"one\""));
    let waits = || !bench.edge.status().unwrap()["configuration"]["waits"].is_null();
    super::eventually("nothing waits any more", || !waits());
    assert!(bench.edge.command(&["confirm"]).unwrap().code != 0, "nothing waits any more");

    // While it waits nothing else is taken. Killed and started within the time it holds on, and
    // can be confirmed.
    let answer = bench.run(&["apply", path(&one), "--confirm", "10min"]);
    assert!(answer.stdout.contains("edge confirm"), "{}", answer.stdout);
    assert!(bench.has_rule("one") && !bench.file_has("\"one\""));
    let refused = bench.edge.command(&["apply"]).unwrap();
    assert!(refused.code != 0 && refused.stderr.contains("waits"), "{refused:?}");
    let refused = bench.edge.command(&["reload"]).unwrap();
    assert!(refused.code != 0 && refused.stderr.contains("waits"), "{refused:?}");
    bench.edge.kill().unwrap();
    bench.edge.run().unwrap();
    assert!(bench.has_rule("one") && !bench.file_has("\"one\""));
    let waits = bench.edge.status().unwrap()["configuration"]["waits"].clone();
    assert_eq!((&waits["version"], &waits["former"]), (&4.into(), &3.into()), "{waits}");
    bench.run(&["confirm"]);
    assert!(bench.has_rule("one") && bench.file_has("\"one\""));
    assert!(bench.edge.status().unwrap()["configuration"]["waits"].is_null());

    // Killed, and started when its time was over: the former is taken.
    let two = bench.file_with("two", 7002);
    bench.run(&["apply", path(&two), "--confirm", SOON]);
    bench.edge.kill().unwrap();
    assert!(bench.has_rule("two"), "what is loaded stays in force without a daemon");
    std::thread::sleep(SOON_IS_OVER);
    bench.edge.run().unwrap();
    assert!(bench.has_rule("one") && !bench.has_rule("two") && !bench.file_has("\"two\""));

    // The configured file itself was edited: it says the former again.
    let before = std::fs::read_to_string(bench.edge.file()).unwrap();
    std::fs::copy(&two, bench.edge.file()).unwrap();
    bench.run(&["apply", "--confirm", SOON]);
    assert!(bench.has_rule("two"));
    bench.wait_for_rule("two", false);
    // The rules are back a moment before the file is.
    super::eventually("the file of before", || {
        std::fs::read_to_string(bench.edge.file()).unwrap() == before
    });

    // Taken back by hand.
    bench.run(&["apply", path(&two), "--confirm", "10min"]);
    bench.run(&["rollback"]);
    assert!(bench.has_rule("one") && !bench.has_rule("two"));
    assert!(bench.edge.status().unwrap()["configuration"]["waits"].is_null());
}

#[test]
fn a_text_that_was_never_in_force_is_not_lost() {
    let bench = Bench::new("edited");
    let one = bench.file_with("one", 7001);
    let edited = std::fs::read_to_string(bench.edge.file()).unwrap() + "\n# a note of mine\n";
    std::fs::write(bench.edge.file(), &edited).unwrap();
    let answer = bench.run(&["apply", path(&one)]);
    let kept = bench.edge.file().with_file_name("edge.toml.before");
    assert!(answer.stdout.contains(path(&kept)), "{}", answer.stdout);
    assert_eq!(std::fs::read_to_string(kept).unwrap(), edited);
    assert!(bench.file_has("\"one\""));
}

#[test]
fn a_shadow_is_started_shown_and_ended_by_command_by_time_and_by_an_apply() {
    let bench = Bench::new("shadow");
    let file = bench.file_with("extra", 7000);
    let counting =
        || bench.edge.json(&["shadow", "status"]).unwrap()["counting"].as_bool().unwrap();
    assert!(!counting());
    let answer = bench.run(&["apply", "--shadow", path(&file)]);
    assert!(answer.stdout.contains("counts as a shadow"), "{}", answer.stdout);
    assert!(counting());
    assert!(!bench.has_rule("extra") && !bench.file_has("extra"), "nothing is in force by it");
    let about = bench.edge.json(&["shadow", "status"]).unwrap()["about"].clone();
    assert_eq!(about["difference"]["rules_added"][0]["name"], "extra");
    let text = bench.run(&["shadow", "status"]).stdout;
    assert!(text.contains("extra.toml counts as a shadow since"), "{text}");
    assert!(bench.run(&["status"]).stdout.contains("shadow "));
    bench.run(&["shadow", "stop"]);
    assert!(!counting());
    bench.run(&["apply", "--shadow", "--for", SOON, path(&file)]);
    assert!(counting());
    super::eventually("its time is over", || !counting());
    bench.run(&["apply", "--shadow", path(&file)]);
    bench.run(&["apply", path(&file)]);
    assert!(!counting());
    assert!(bench.has_rule("extra"));
}

/// Whether the configured file is exactly one of these texts; tells which.
fn which(bench: &Bench, texts: [&str; 2]) -> usize {
    let found = std::fs::read_to_string(bench.edge.file()).unwrap();
    texts.iter().position(|text| *text == found).unwrap_or_else(|| panic!("half a file: {found}"))
}

#[test]
fn kill_9_between_the_steps_on_the_disk_leaves_one_whole_configuration() {
    let mut bench = Bench::new("steps");
    let new_file = bench.file_with("extra", 7000);
    let old = std::fs::read_to_string(bench.edge.file()).unwrap();
    let new = std::fs::read_to_string(&new_file).unwrap();
    let apply: &[&str] = &["apply", path(&new_file)];
    let later: &[&str] = &["apply", path(&new_file), "--confirm", "10min"];
    // The step, the commands (the last one dies), and then: is the new one in force after a
    // start, and does the file hold it?
    let cases: [(&str, &[&[&str]], bool, bool); 9] = [
        ("apply-file-prepared", &[apply], false, false),
        ("apply-in-force", &[apply], false, false),
        ("apply-file-replaced", &[apply], true, true),
        ("pending-version-kept", &[later], false, false),
        ("pending-noted", &[later], true, false),
        ("pending-in-force", &[later], true, false),
        ("confirm-file-replaced", &[later, &["confirm"]], true, true),
        ("back-in-force", &[apply, &["rollback"]], true, true),
        ("back-file-replaced", &[apply, &["rollback"]], false, false),
    ];
    for (step, commands, is_new, in_file) in cases {
        bench.edge.stop().unwrap();
        bench.edge.environment = vec![("EDGE_KILL_AT".to_owned(), step.to_owned())];
        bench.edge.run().unwrap();
        let (last, first) = commands.split_last().unwrap();
        first.iter().for_each(|command| drop(bench.run(command)));
        assert_ne!(bench.edge.command(last).unwrap().code, 0, "{step}");
        bench.edge.ended().unwrap();
        which(&bench, [&old, &new]);
        bench.edge.environment.clear();
        bench.edge.run().unwrap();
        assert_eq!(bench.has_rule("extra"), is_new, "{step}");
        assert_eq!(which(&bench, [&old, &new]) == 1, in_file, "{step}");
        let list = bench.edge.json(&["version", "list"]).unwrap();
        assert!(list["damaged"].as_array().unwrap().is_empty(), "{step}: {list}");
        // What waits can be taken back, and everything goes on as before.
        if bench.has_rule("extra") {
            bench.run(&["rollback"]);
        }
        assert!(!bench.has_rule("extra"), "{step}");
        assert_eq!(which(&bench, [&old, &new]), 0, "{step}");
    }
}

/// The kernel takes the rules of a configuration only in part, and the former ones not at once:
/// that is said, and tried until it does.
#[test]
fn rules_that_could_not_be_put_back_are_told_and_tried_again() {
    let mut bench = Bench::new("unsettled");
    bench.edge.stop().unwrap();
    let fails = "in-force:1,put-back:3";
    bench.edge.environment = vec![("EDGE_FAIL_AT".to_owned(), fails.to_owned())];
    bench.edge.run().unwrap();
    let file = bench.file_with("extra", 7000);
    let refused = bench.edge.command(&["apply", path(&file)]).unwrap();
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("could not be put back"), "{}", refused.stderr);
    assert!(bench.has_rule("extra"), "the kernel has the new rules");
    let status = bench.edge.command(&["status"]).unwrap().stdout;
    assert!(status.contains("ALARM     the rules in force"), "{status}");
    // It is tried every 5 s.
    let began = Instant::now();
    let wrong = || bench.edge.command(&["status"]).unwrap().stdout.contains("the rules in force");
    while bench.has_rule("extra") || wrong() {
        assert!(began.elapsed() < BUSY, "{}", bench.edge.log());
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// `edge run` to its own end, with this in its environment.
fn ended_run(bench: &Bench, variable: &str, value: &str) -> std::process::Output {
    let mut command = bench.edge.namespace().command(daemon::binary().unwrap());
    command.args(["run", "-c"]).arg(bench.edge.file()).env(variable, value);
    command.output().unwrap()
}

#[test]
fn an_unconfirmed_version_that_keeps_the_daemon_from_running_gives_way() {
    let mut bench = Bench::new("failing");
    let file = bench.file_with("extra", 7000);
    bench.run(&["apply", path(&file), "--confirm", "1h"]);
    bench.edge.kill().unwrap();
    for _ in 0..2 {
        assert_eq!(ended_run(&bench, "EDGE_KILL_AT", "start:3").status.code(), None, "killed");
    }
    bench.edge.run().unwrap();
    assert!(!bench.has_rule("extra"), "the former version is in force");
    assert!(!bench.file_has("extra"));
    // One that was ended in order is not counted.
    bench.run(&["apply", path(&file), "--confirm", "1h"]);
    for _ in 0..3 {
        bench.edge.stop().unwrap();
        bench.edge.run().unwrap();
        assert!(bench.has_rule("extra"));
    }
}

#[test]
fn a_start_that_fails_late_leaves_the_rules_of_before() {
    let mut bench = Bench::new("late");
    bench.edge.stop().unwrap();
    let socket = bench.edge.dir().join("run/control.sock");
    let old = std::fs::read_to_string(bench.edge.file()).unwrap();
    let new = std::fs::read_to_string(bench.file_with("extra", 7000)).unwrap();
    std::fs::write(bench.edge.file(), new).unwrap();
    let taken = SocketAddr::new(Site::Contoso.v4().into(), 5061);
    let holder = bench.edge.namespace().listen(taken).unwrap();
    let fails = |variable, value| {
        let output = ended_run(&bench, variable, value);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(!bench.has_rule("extra"), "the rules of before are in force");
    };
    fails("NO_COLOR", "1");
    drop(holder);
    // The new rules are in force already when these fail.
    fails("EDGE_FAIL_AT", "start-in-force:1");
    std::fs::create_dir(&socket).unwrap();
    fails("NO_COLOR", "1");
    fails("NO_COLOR", "1");
    std::fs::remove_dir(&socket).unwrap();
    bench.edge.run().unwrap();
    assert!(bench.has_rule("extra"));
    std::fs::write(bench.edge.file(), old).unwrap();
}

#[test]
fn the_daemon_ends_when_a_task_of_it_does() {
    let mut bench = Bench::new("panics");
    bench.edge.stop().unwrap();
    let output = ended_run(&bench, "EDGE_PANIC_AT", "keep-time");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("a task of the daemon has failed"), "{text}");
    // The owner of the firewall, at what it is asked first.
    bench.edge.environment = vec![("EDGE_PANIC_AT".to_owned(), "owner".to_owned())];
    let asked = |bench: &Bench| bench.edge.command(&["block", "add", "203.0.113.9"]).unwrap();
    if bench.edge.run().is_ok() {
        assert_eq!(asked(&bench).code, 1);
        bench.edge.ended().unwrap();
    }
    assert!(bench.edge.log().contains("the firewall's owner has ended"), "{}", bench.edge.log());
    assert!(!inspect::status(bench.edge.pins()).unwrap().attached.is_empty(), "it is enforced");
}

#[test]
fn an_output_that_is_cut_is_a_failure() {
    let bench = Bench::new("full");
    for arguments in [&["plan", "ports"][..], &["check"], &["version", "show", "1"], &["status"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = bench.edge.cli(arguments).unwrap().stdout(full).output().unwrap();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(text.contains("could not be written whole"), "{arguments:?}: {text}");
    }
}

/// The former version cannot come back whole while a file that it names is gone: its rules can.
#[test]
fn the_rules_come_back_also_when_their_version_cannot() {
    let bench = Bench::new("halfback");
    let identity = &bench.edge.config.identity;
    let copy = bench.edge.dir().join("copy.pem");
    std::fs::copy(&identity.certificate, &copy).unwrap();
    let file = bench.file_with("extra", 7000);
    let text = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, text.replace(path(&identity.certificate), path(&copy))).unwrap();
    let away = bench.edge.dir().join("away.pem");
    let waits = || !bench.edge.status().unwrap()["configuration"]["waits"].is_null();

    bench.run(&["apply", path(&file), "--confirm", SOON]);
    std::fs::rename(&identity.certificate, &away).unwrap();
    bench.wait_for_rule("extra", false);
    assert!(waits(), "the rest still does");
    std::fs::rename(&away, &identity.certificate).unwrap();
    super::eventually("the whole version is back", || !waits());
    assert!(!bench.has_rule("extra"));

    // Whoever confirms it after all has its rules, too.
    bench.run(&["apply", path(&file), "--confirm", SOON]);
    std::fs::rename(&identity.certificate, &away).unwrap();
    bench.wait_for_rule("extra", false);
    bench.run(&["confirm"]);
    assert!(bench.has_rule("extra") && bench.file_has("extra") && !waits());
    std::fs::rename(&away, &identity.certificate).unwrap();
}

#[test]
fn exit_codes_tell_a_bad_configuration_from_a_failure_and_from_no_daemon() {
    let mut bench = Bench::new("codes");
    let good = std::fs::read_to_string(bench.edge.file()).unwrap();
    let bad = bench.edge.dir().join("bad.toml");
    std::fs::write(&bad, format!("{good}\n[nothing]\n")).unwrap();
    let (bad, nowhere) = (path(&bad), "/nowhere/drops.pcapng");
    // What is asked, and the code with a daemon and without one.
    let table: [(&[&str], i32, i32); 9] = [
        (&["status"], 0, 3),
        (&["apply", bad], 2, 3),
        (&["apply", bad, "--dry-run"], 2, 2),
        (&["apply", bad, "--shadow"], 2, 3),
        (&["apply", "/nowhere.toml"], 2, 2),
        (&["confirm"], 1, 3),
        (&["rollback", "77"], 1, 3),
        (&["block", "remove", "203.0.113.9"], 1, 3),
        (&["drops", "--pcap", nowhere], 1, 3),
    ];
    let check = |runs: bool, bench: &Bench| {
        for (arguments, with, without) in table {
            let answer = bench.edge.command(arguments).unwrap();
            let expected = if runs { with } else { without };
            assert_eq!(answer.code, expected, "{runs} {arguments:?}: {}", answer.stderr);
        }
    };
    check(true, &bench);
    std::fs::copy(bad, bench.edge.file()).unwrap();
    for (arguments, code) in [(&["reload"][..], 2), (&["apply"], 2), (&["check"], 2)] {
        assert_eq!(bench.edge.command(arguments).unwrap().code, code, "{arguments:?}");
    }
    std::fs::write(bench.edge.file(), good).unwrap();
    bench.edge.kill().unwrap();
    check(false, &bench);
    assert_eq!(bench.edge.command(&["reload"]).unwrap().code, 3);
}

/// A reload is whole, or not at all: the last listener that cannot be had leaves everything as it
/// was, the connections that it would have closed too.
#[test]
fn a_change_whose_last_listener_is_taken_closes_no_connection() {
    let bench = Bench::with("whole", |config| config.xmpp(&[]));
    let taken = SocketAddr::new(Site::Contoso.v4().into(), 5299);
    let holder = bench.edge.namespace().listen(taken).unwrap();
    let (to, from) = (bench.edge.config.inside_address(), Site::Contoso.server4());
    let inside = bench.lab.inside(Site::Contoso);
    let mut inside = inside.run(|| TcpStream::connect(to).unwrap()).unwrap();
    inside.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut is_open = || match inside.read(&mut [0; 16]) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => true,
        Ok(0) => false,
        other => panic!("{other:?}"),
    };

    // One server less inside, a rule more, and an address for XMPP that another has.
    let file = bench.file_with("extra", 7000);
    let text = std::fs::read_to_string(&file).unwrap();
    let new = text.replace(&format!("\"{from}/32\", "), "").replace(":5269\", \"[", ":5299\", \"[");
    assert_ne!(new.len(), text.len());
    std::fs::write(&file, new).unwrap();
    let refused = bench.edge.command(&["apply", path(&file)]).unwrap();
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("5299"), "{}", refused.stderr);
    assert!(!bench.has_rule("extra") && is_open());

    drop(holder);
    // A child that another test starts may hold the address for a moment.
    super::eventually("the address is free", || {
        bench.edge.command(&["apply", path(&file)]).unwrap().code == 0
    });
    assert!(bench.has_rule("extra"));
    let began = Instant::now();
    while is_open() {
        assert!(began.elapsed() < BUSY, "the server is no longer listed");
    }
}
