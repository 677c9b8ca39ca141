//! Two reports against each other.

use knarr_integration::Value;

/// One difference between the runtime under test and a peer.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Difference {
    /// Where in the report: keys joined by colons.
    pub path: String,
    /// What the runtime under test shows, as compact JSON; `absent` where nothing.
    pub ours: String,
    /// What the peer shows.
    pub theirs: String,
    /// Which peer, with its version.
    pub peer: String,
    /// Name of the configuration.
    pub case: String,
}

/// All differences between two reports of one configuration.
pub fn compare(case: &str, peer: &str, ours: &Value, theirs: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    let mut note = |path: &str, ours: Option<&Value>, theirs: Option<&Value>| {
        let show = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
        found.push(Difference {
            path: path.to_owned(),
            ours: show(ours),
            theirs: show(theirs),
            peer: peer.to_owned(),
            case: case.to_owned(),
        });
    };
    if ours["accepted"] == theirs["accepted"] {
        walk("", ours, theirs, &mut note);
    } else {
        // Of a container that was refused there is nothing more to compare.
        note("accepted", ours.get("accepted"), theirs.get("accepted"));
    }
    found
}

fn walk(
    path: &str,
    ours: &Value,
    theirs: &Value,
    note: &mut impl FnMut(&str, Option<&Value>, Option<&Value>),
) {
    let (Some(left), Some(right)) = (ours.as_object(), theirs.as_object()) else {
        if ours != theirs {
            note(path, Some(ours), Some(theirs));
        }
        return;
    };
    let mut keys: Vec<&String> = left.keys().chain(right.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let inner = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}:{key}")
        };
        match (left.get(key), right.get(key)) {
            (Some(a), Some(b)) => walk(&inner, a, b, note),
            (a, b) => note(&inner, a, b),
        }
    }
}
