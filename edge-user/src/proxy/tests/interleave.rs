//! Whatever happens in whatever order: each request is answered once, or the sender is gone, or it
//! was sent on and nobody answered; and in the end nothing is left (`script` has the rules).

use proptest::prelude::*;

use super::script::run;

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_interleaving_settles_each_request_once(
        script in proptest::collection::vec(any::<u8>(), 0..500),
    ) {
        run(&script);
    }

    /// The same with more of what happens to a few calls: answers, cancels, timers, cuts.
    #[test]
    fn any_fate_of_a_few_calls_settles_each_once(
        hops in any::<u8>(),
        events in proptest::collection::vec((0..9usize, any::<[u8; 3]>()), 0..60),
    ) {
        // Ask, answer (three times as often), connect, pass, close, again, in-dialog.
        let operations = [2, 5, 6, 7, 9, 11, 12, 13, 14];
        let mut script = vec![hops];
        for (operation, [a, b, c]) in events {
            let b = if operation == 0 { b & 0x06 } else { b };
            let c = if operation == 0 { (c & 0x83) | 1 } else { c };
            script.extend([operations[operation], a, b, c]);
        }
        run(&script);
    }

    /// The same after a remote user has registered: requests along that Path come in between.
    #[test]
    fn any_fate_of_a_registered_user_settles_each_once(
        events in proptest::collection::vec((0..8usize, any::<[u8; 3]>()), 0..60),
    ) {
        // Answer, along the Path, connect, pass, close, again, in-dialog.
        let operations = [5, 7, 7, 9, 11, 12, 13, 14];
        let mut script = REGISTERED.to_vec();
        for (operation, [a, b, c]) in events {
            script.extend([operations[operation], a, b, c]);
        }
        run(&script);
    }
}

/// A remote user asks to be registered, the next hop is connected to, and says 200.
const REGISTERED: [u8; 12] = [0, 2, 2, 8, 2, 9, 0, 1, 5, 0, 2, 0];

#[test]
fn the_script_knows_how_to_reach_a_registered_user() {
    let along_the_path = [7, 1, 0, 1];
    assert_eq!(run(&[&REGISTERED[..], &along_the_path].concat()), 1);
}
