//! The list of explained differences: what matches what, what nothing matches any more, and the page
//! for operators that is made from it.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use knarr_integration::Value;

use crate::compare::Difference;

/// The list's text.
const LIST: &str = include_str!("../../../differences.json");

/// One explained difference.
#[derive(Debug)]
pub struct Entry {
    /// Its name, for messages.
    pub id: String,
    /// Patterns of configurations' names; `*` stands for anything.
    configs: Vec<String>,
    /// Patterns of paths of the report.
    paths: Vec<String>,
    /// Patterns of peers (`runc *`, `crun 1.8*`) that differ.
    peers: Vec<String>,
    /// Patterns of what knarr and the peer show; absent means anything.
    ours: Option<String>,
    theirs: Option<String>,
    /// The version of cgroups on which it shows; absent means both.
    cgroup: Option<u64>,
    /// Whether it shows on every host: other entries are never stale.
    elsewhere: bool,
    /// Which of the headings of the page.
    kind: String,
    title: String,
    text: String,
}

/// Headings of the page, by `kind`.
const KINDS: &[(&str, &str)] = &[
    ("specification", "knarr follows the specification"),
    ("caller", "knarr does what callers rely on"),
    ("safety", "knarr is stricter or safer"),
    (
        "one peer",
        "The peers differ, and knarr does as one of them",
    ),
    ("free", "The specification leaves it open"),
];

/// Reads the list.
pub fn read() -> Vec<Entry> {
    let list: Value = serde_json::from_str(LIST).expect("differences.json is JSON");
    let strings = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.map(|text| text.as_str().unwrap().to_owned()).collect()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let entries = list["differences"]
        .as_array()
        .expect("a list of differences");
    entries
        .iter()
        .map(|entry| {
            let id = text(&entry["id"]).expect("each difference has an id");
            let need = |name: &str| text(&entry[name]).unwrap_or_else(|| panic!("{id}: no {name}"));
            let configs = strings(&entry["configs"]);
            Entry {
                configs: if configs.is_empty() {
                    vec!["*".to_owned()]
                } else {
                    configs
                },
                paths: strings(&entry["paths"]),
                peers: strings(&entry["peers"]),
                ours: text(&entry["ours"]),
                theirs: text(&entry["theirs"]),
                cgroup: entry["cgroup"].as_u64(),
                elsewhere: entry["elsewhere"] == true,
                kind: need("kind"),
                title: need("title"),
                text: need("text"),
                id,
            }
        })
        .collect()
}

impl Entry {
    /// Whether it speaks of that peer.
    fn concerns(&self, peer: &str) -> bool {
        self.peers.iter().any(|pattern| glob(pattern, peer))
    }

    /// Whether it explains the difference.
    fn explains(&self, difference: &Difference) -> bool {
        let any = |patterns: &[String], text: &str| patterns.iter().any(|p| glob(p, text));
        let value =
            |pattern: &Option<String>, text: &str| pattern.as_deref().is_none_or(|p| glob(p, text));
        any(&self.configs, &difference.case)
            && any(&self.paths, &difference.path)
            && self.concerns(&difference.peer)
            && value(&self.ours, &difference.ours)
            && value(&self.theirs, &difference.theirs)
    }
}

/// What the list makes of the differences found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Those that no entry explains.
    pub unexplained: Vec<Difference>,
    /// How many an entry explains.
    pub explained: usize,
    /// Entries, with the peer, that explain nothing though it took part.
    pub stale: Vec<String>,
}

/// Judges all differences. `cgroups` is the version on the host, `peers` are those that took part; `whole`
/// tells that every configuration ran.
pub fn judge(
    entries: &[Entry],
    found: &[Difference],
    cgroups: u64,
    peers: &[String],
    whole: bool,
) -> Verdict {
    let here = |entry: &Entry| entry.cgroup.is_none_or(|wanted| wanted == cgroups);
    let mut verdict = Verdict::default();
    let mut used: Vec<BTreeSet<&str>> = vec![BTreeSet::new(); entries.len()];
    for difference in found {
        let mut explained = false;
        for (entry, used) in entries.iter().zip(&mut used) {
            if here(entry) && entry.explains(difference) {
                used.insert(&difference.peer);
                explained = true;
            }
        }
        if explained {
            verdict.explained += 1;
        } else {
            verdict.unexplained.push(difference.clone());
        }
    }
    for (entry, used) in entries.iter().zip(&used) {
        if !whole || entry.elsewhere || !here(entry) {
            continue;
        }
        for peer in peers {
            if entry.concerns(peer) && !used.contains(peer.as_str()) {
                verdict.stale.push(format!("{} ({peer})", entry.id));
            }
        }
    }
    verdict
}

/// Whether `text` is like `pattern`, in which `*` stands for anything.
fn glob(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut text) = text.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = text.find(part) else {
            return false;
        };
        text = &text[at + part.len()..];
    }
    text.ends_with(last)
}

/// The page for operators.
pub fn page(entries: &[Entry]) -> String {
    let mut page = String::from(
        "# What is different from runc and crun, and why\n\n\
         Made from `integration/differences.json` by `differ --page`. The same configurations are run under\n\
         knarr, runc and crun; everything that a process inside, the host and the caller can see is compared,\n\
         and each difference that stays is listed here. \"crun 1.8*\" means that version only.\n",
    );
    for (kind, heading) in KINDS {
        let of_kind: Vec<&Entry> = entries.iter().filter(|entry| entry.kind == *kind).collect();
        if of_kind.is_empty() {
            continue;
        }
        let _ = write!(page, "\n## {heading}\n");
        for entry in of_kind {
            let peers: Vec<&str> = entry
                .peers
                .iter()
                .map(|peer| peer.trim_end_matches(" *"))
                .collect();
            let version = match entry.cgroup {
                Some(version) => format!("; with cgroup version {version}"),
                None => String::new(),
            };
            let _ = write!(
                page,
                "\n**{}** (unlike {}{version}). {}\n",
                entry.title,
                peers.join(", "),
                entry.text
            );
        }
    }
    let unknown = entries
        .iter()
        .find(|entry| !KINDS.iter().any(|(kind, _)| *kind == entry.kind));
    assert!(unknown.is_none(), "no such kind: {unknown:?}");
    page
}
