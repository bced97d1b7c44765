//! Errors of one side as those of the other (RFC 7247 section 7).
//!
//! `service-unavailable` is never 503: that would tell a proxy to send nothing more to the whole
//! gateway (RFC 3261 section 21.5.4).

use crate::xmpp::{ns, xml::Element};

/// Condition (RFC 6120 section 8.3.3), its type, and the status for what went to a full JID and to
/// a bare JID.
pub const CONDITIONS: &[(&str, &str, u16, u16)] = &[
    ("bad-request", "modify", 400, 400),
    ("conflict", "cancel", 400, 400),
    ("feature-not-implemented", "cancel", 405, 501),
    ("forbidden", "auth", 403, 603),
    // With a new address it is 301.
    ("gone", "cancel", 410, 410),
    ("internal-server-error", "cancel", 500, 500),
    ("item-not-found", "cancel", 404, 604),
    ("jid-malformed", "modify", 400, 400),
    ("not-acceptable", "modify", 406, 606),
    ("not-allowed", "cancel", 403, 403),
    ("not-authorized", "auth", 401, 401),
    ("policy-violation", "modify", 403, 403),
    ("recipient-unavailable", "wait", 480, 600),
    ("redirect", "modify", 302, 302),
    ("registration-required", "auth", 407, 407),
    ("remote-server-not-found", "cancel", 404, 404),
    // RFC 7247 has 408, which nobody may say to what is no INVITE (RFC 4320 section 4.2).
    ("remote-server-timeout", "wait", 504, 504),
    ("resource-constraint", "wait", 500, 500),
    ("service-unavailable", "cancel", 403, 403),
    ("subscription-required", "auth", 400, 400),
    ("undefined-condition", "cancel", 400, 400),
    ("unexpected-request", "wait", 491, 491),
];

/// Status and condition. A status that is not here is as the first of its class.
pub const STATUSES: &[(u16, &str)] = &[
    (300, "redirect"),
    (301, "gone"),
    (302, "redirect"),
    (305, "redirect"),
    (380, "not-acceptable"),
    (400, "bad-request"),
    (401, "not-authorized"),
    (402, "bad-request"),
    (403, "forbidden"),
    (404, "item-not-found"),
    (405, "feature-not-implemented"),
    (406, "not-acceptable"),
    (407, "registration-required"),
    (408, "remote-server-timeout"),
    (410, "gone"),
    (413, "policy-violation"),
    (414, "policy-violation"),
    (415, "not-acceptable"),
    (416, "not-acceptable"),
    (420, "feature-not-implemented"),
    (421, "not-acceptable"),
    (423, "resource-constraint"),
    (430, "recipient-unavailable"),
    (439, "feature-not-implemented"),
    (440, "policy-violation"),
    (480, "recipient-unavailable"),
    (481, "item-not-found"),
    (482, "not-acceptable"),
    (483, "not-acceptable"),
    (484, "item-not-found"),
    (485, "item-not-found"),
    (486, "recipient-unavailable"),
    (487, "recipient-unavailable"),
    (488, "not-acceptable"),
    (489, "policy-violation"),
    (491, "unexpected-request"),
    (493, "bad-request"),
    (500, "internal-server-error"),
    (501, "feature-not-implemented"),
    (502, "remote-server-not-found"),
    (503, "internal-server-error"),
    (504, "remote-server-timeout"),
    (505, "not-acceptable"),
    (513, "policy-violation"),
    (600, "recipient-unavailable"),
    (603, "recipient-unavailable"),
    (604, "item-not-found"),
    (606, "not-acceptable"),
];

/// The condition for a final status that is no success.
pub fn condition_of(status: u16) -> &'static str {
    let of = |status: u16| STATUSES.iter().find(|(code, _)| *code == status);
    let row = of(status).or_else(|| of(status / 100 * 100));
    row.map_or("undefined-condition", |(_, condition)| condition)
}

/// The same, where it would tell whether there is such a user: those who write to a bare JID learn
/// no more than RFC 6121 section 8.5 lets them.
pub fn private_condition_of(status: u16) -> &'static str {
    match condition_of(status) {
        "item-not-found" | "recipient-unavailable" | "gone" | "redirect" => "service-unavailable",
        other => other,
    }
}

/// What an outsider is told of a status: condition and text. The text is never the inside server's,
/// and there is none where the condition hides what it was.
pub fn told_of(status: u16) -> (&'static str, &'static str) {
    match private_condition_of(status) {
        condition if condition == condition_of(status) => (condition, reason_of(status)),
        condition => (condition, ""),
    }
}

/// The status for a condition. `full`: the stanza went to a full JID. An unknown condition is 400.
pub fn status_of(condition: &str, full: bool) -> u16 {
    let row = CONDITIONS.iter().find(|(name, ..)| *name == condition);
    row.map_or(400, |(_, _, to_full, to_bare)| if full { *to_full } else { *to_bare })
}

/// What a stanza of type `error` says: condition and text. No condition that is known:
/// `undefined-condition`.
pub fn read(stanza: &Element) -> (&'static str, String) {
    let error = stanza.children().find(|child| child.name() == "error" && child.ns() == ns::SERVER);
    let Some(error) = error else { return ("undefined-condition", String::new()) };
    let condition =
        error.children().filter(|child| child.ns() == ns::STANZA_ERRORS).find_map(|child| {
            CONDITIONS.iter().map(|(name, ..)| *name).find(|name| *name == child.name())
        });
    let text = error.child(ns::STANZA_ERRORS, "text").map(|text| text.text().into_owned());
    (condition.unwrap_or("undefined-condition"), text.unwrap_or_default())
}

/// `<error/>`. A condition that is not known is `undefined-condition`.
pub fn element(condition: &str, text: &str) -> Element {
    let row = CONDITIONS.iter().find(|(name, ..)| *name == condition);
    let (name, kind) =
        row.map_or(("undefined-condition", "cancel"), |(name, kind, ..)| (name, kind));
    let mut error = Element::new(ns::SERVER, "error")
        .with("type", kind)
        .with_child(Element::new(ns::STANZA_ERRORS, name));
    if !text.is_empty() {
        error.push(Element::new(ns::STANZA_ERRORS, "text").with_text(text));
    }
    error
}

/// The answer of type `error` to a stanza, to whom it came from. `None`: it is an error itself, or
/// an answer (RFC 6120 sections 8.2.3, 8.3.1).
pub fn answer(stanza: &Element, condition: &str, text: &str) -> Option<Element> {
    let kind = stanza.attribute("type");
    if kind == Some("error") || (stanza.name() == "iq" && kind == Some("result")) {
        return None;
    }
    let name = match stanza.name() {
        "message" => "message",
        "presence" => "presence",
        "iq" => "iq",
        _ => return None,
    };
    let answer = Element::new(ns::SERVER, name)
        .with_some("from", stanza.attribute("to"))
        .with_some("to", stanza.attribute("from"))
        .with_some("id", stanza.attribute("id"))
        .with("type", "error");
    Some(answer.with_child(element(condition, text)))
}

/// The reason phrase for a status that we answer with.
pub fn reason_of(status: u16) -> &'static str {
    match status {
        200 => "OK",
        202 => "Accepted",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        410 => "Gone",
        413 => "Request Entity Too Large",
        415 => "Unsupported Media Type",
        420 => "Bad Extension",
        423 => "Interval Too Brief",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        489 => "Bad Event",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        504 => "Server Time-out",
        600 => "Busy Everywhere",
        603 => "Decline",
        604 => "Does Not Exist Anywhere",
        606 => "Not Acceptable",
        _ => "Refused",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_statuses_as_the_table_has_them() {
        for (condition, full, bare) in [
            ("bad-request", 400, 400),
            ("conflict", 400, 400),
            ("feature-not-implemented", 405, 501),
            ("forbidden", 403, 603),
            ("gone", 410, 410),
            ("internal-server-error", 500, 500),
            ("item-not-found", 404, 604),
            ("jid-malformed", 400, 400),
            ("not-acceptable", 406, 606),
            ("not-allowed", 403, 403),
            ("not-authorized", 401, 401),
            ("policy-violation", 403, 403),
            ("recipient-unavailable", 480, 600),
            ("redirect", 302, 302),
            ("registration-required", 407, 407),
            ("remote-server-not-found", 404, 404),
            ("remote-server-timeout", 504, 504),
            ("resource-constraint", 500, 500),
            ("service-unavailable", 403, 403),
            ("subscription-required", 400, 400),
            ("undefined-condition", 400, 400),
            ("unexpected-request", 491, 491),
            ("no-such-condition", 400, 400),
        ] {
            assert_eq!(
                (status_of(condition, true), status_of(condition, false)),
                (full, bare),
                "{condition}"
            );
        }
    }

    #[test]
    fn statuses_are_conditions_as_the_table_has_them() {
        let table: &[(&[u16], &str)] = &[
            (&[300, 302, 305, 399], "redirect"),
            (&[301, 410], "gone"),
            (&[380, 406, 415, 416, 421, 482, 483, 488, 505, 606], "not-acceptable"),
            (&[400, 402, 493, 499], "bad-request"),
            (&[401], "not-authorized"),
            (&[403], "forbidden"),
            (&[404, 481, 484, 485, 604], "item-not-found"),
            (&[405, 420, 439, 501], "feature-not-implemented"),
            (&[407], "registration-required"),
            (&[408, 504], "remote-server-timeout"),
            (&[413, 414, 440, 489, 513], "policy-violation"),
            (&[423], "resource-constraint"),
            (&[430, 480, 486, 487, 600, 603, 699], "recipient-unavailable"),
            (&[491], "unexpected-request"),
            (&[500, 503, 599], "internal-server-error"),
            (&[502], "remote-server-not-found"),
        ];
        for (statuses, condition) in table {
            for status in *statuses {
                assert_eq!(condition_of(*status), *condition, "{status}");
            }
        }
        let rows: usize = table.iter().map(|(statuses, _)| statuses.len()).sum();
        assert_eq!(rows, STATUSES.len() + 4, "every row is tested, and four that have none");
    }

    #[test]
    fn every_status_has_a_condition_and_none_becomes_503() {
        for status in 300..700 {
            let condition = condition_of(status);
            assert!(CONDITIONS.iter().any(|(name, ..)| *name == condition), "{status}");
        }
        for (condition, _, full, bare) in CONDITIONS {
            for status in [*full, *bare] {
                assert_ne!(status, 503, "{condition}");
                assert_ne!(reason_of(status), "Refused", "{condition}");
            }
        }
    }

    #[test]
    fn nobody_learns_from_an_error_who_is_there() {
        let of = private_condition_of;
        assert_eq!([of(404), of(604), of(480), of(410)], ["service-unavailable"; 4]);
        assert_eq!(
            [of(403), of(415), of(500)],
            ["forbidden", "not-acceptable", "internal-server-error"]
        );
        for status in [404, 604, 480, 410, 301, 486] {
            assert_eq!(told_of(status), ("service-unavailable", ""), "{status}");
        }
        assert_eq!(told_of(403), ("forbidden", "Forbidden"));
    }

    #[test]
    fn an_error_is_read_as_it_is_written_and_never_answered() {
        let message = Element::new(ns::SERVER, "message")
            .with("from", "a@x")
            .with("to", "b@y")
            .with("id", "1");
        let error = answer(&message, "forbidden", "Not here").unwrap();
        assert_eq!((error.attribute("from"), error.attribute("to")), (Some("b@y"), Some("a@x")));
        assert_eq!(read(&error), ("forbidden", "Not here".to_owned()));
        assert!(answer(&error, "forbidden", "").is_none());
        let result = Element::new(ns::SERVER, "iq").with("type", "result");
        assert!(answer(&result, "forbidden", "").is_none());
        let strange = message.with_child(
            Element::new(ns::SERVER, "error").with_child(Element::new("urn:x", "forbidden")),
        );
        assert_eq!(read(&strange).0, "undefined-condition");
    }
}
