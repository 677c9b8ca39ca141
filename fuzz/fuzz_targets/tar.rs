//! Any bytes as a layer: an error, or entries that an archive of our own says again.
#![no_main]
#![allow(dead_code)]

// The two modules alone: with the whole manager every build of these targets would compile a TLS
// library and a database.
#[path = "../../manager/src/error.rs"]
mod error;
#[path = "../../manager/src/layer/tar/mod.rs"]
mod tar;

use libfuzzer_sys::fuzz_target;
use tar::{Kind, Limits, Reader, Writer};

fuzz_target!(|bytes: &[u8]| {
    let limits = Limits {
        entries: 1000,
        ..Limits::default()
    };
    // In small pieces, as they come from a pipe.
    let input = std::io::BufReader::with_capacity(700, bytes);
    let mut reader = Reader::new(input, limits);
    while let Ok(Some(entry)) = reader.next_entry() {
        assert!(!entry.name.contains(&0) && !entry.link.contains(&0));
        assert!(entry.name.len() <= limits.path && entry.mode <= 0o7777);
        let mut length = 0;
        let whole = reader.data(|bytes| {
            length += bytes.len() as u64;
            Ok(())
        });
        if let Some(regions) = &entry.sparse {
            let mut end = 0;
            for region in regions {
                assert!(region.start >= end);
                end = region.start + region.length;
            }
            assert!(end <= entry.size);
            continue;
        }
        if whole.is_err() {
            return;
        }
        assert!(length == entry.size);
        if entry.kind == Kind::File {
            // Its bytes are not at hand.
            continue;
        }
        let mut writer = Writer::new(Vec::new());
        let mut named = entry.clone();
        if entry.kind == Kind::Directory && entry.name.ends_with(b"/") {
            named.name.pop();
        }
        writer.entry(&named).unwrap();
        let archive = writer.finish().unwrap();
        let again = Reader::new(&*archive, limits).next_entry();
        if named.name.is_empty() || again.is_err() {
            // A slash more may be one too many.
            continue;
        }
        let mut again = again.unwrap().unwrap();
        if again.kind == Kind::Directory {
            again.name.pop();
        }
        // What does not go into an archive of ours.
        again.accessed = named.accessed;
        again.link.truncate(named.link.len());
        assert_eq!(again, named);
    }
    let _ = reader.finish();
});
