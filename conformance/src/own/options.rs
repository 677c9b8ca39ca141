//! config.md, Linux mount options: every option string of the table, one test each.

use super::mounts::{MountLine, add, line_of, source};
use super::{Case, Ctx, Level};
use anyhow::{Context, Result, bail};
use std::fs;

/// How an option shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shows {
    /// Appears among the mount's options.
    Mount(&'static str),
    /// Does not appear there, although its opposite came before it.
    NotMount(&'static str),
    /// Appears among the superblock's options.
    Super(&'static str),
    /// Does not appear there, although its opposite came before it.
    NotSuper(&'static str),
    /// Appears in the propagation fields.
    Propagation(&'static str),
    /// The propagation fields are empty.
    Private,
    /// Cannot be seen: it must only be understood.
    Understood,
}
use Shows::{Mount, NotMount, NotSuper, Private, Propagation, Super, Understood};

/// What the option is tried on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum On {
    /// A new tmpfs.
    Tmpfs,
    /// A bind mount of a directory.
    Bind,
    /// A recursive bind mount; the mount below it is looked at as well.
    Tree,
}
use On::{Bind, Tmpfs, Tree};

struct Entry {
    name: &'static str,
    level: Level,
    on: On,
    /// Options before it.
    before: &'static [&'static str],
    shows: Shows,
}

const fn must(name: &'static str, on: On, before: &'static [&'static str], shows: Shows) -> Entry {
    Entry {
        name,
        level: Level::Must,
        on,
        before,
        shows,
    }
}

const fn should(name: &'static str, before: &'static [&'static str], shows: Shows) -> Entry {
    Entry {
        name,
        level: Level::Should,
        on: Tree,
        before,
        shows,
    }
}

/// The table of the specification, and `rnodev`, which it forgot but every
/// runtime and the text on features have.
const TABLE: &[Entry] = &[
    must("async", Tmpfs, &["sync"], NotSuper("sync")),
    must("atime", Tmpfs, &["noatime"], NotMount("noatime")),
    must("bind", Bind, &[], Understood),
    must("defaults", Tmpfs, &[], Mount("rw")),
    must("dev", Tmpfs, &["nodev"], NotMount("nodev")),
    must("diratime", Tmpfs, &["nodiratime"], NotMount("nodiratime")),
    must("dirsync", Tmpfs, &[], Super("dirsync")),
    must("exec", Tmpfs, &["noexec"], NotMount("noexec")),
    must("iversion", Tmpfs, &[], Understood),
    must("lazytime", Tmpfs, &[], Super("lazytime")),
    must("loud", Tmpfs, &["silent"], Understood),
    Entry {
        name: "mand",
        level: Level::Should,
        on: Tmpfs,
        before: &[],
        shows: Understood,
    },
    must("noatime", Tmpfs, &[], Mount("noatime")),
    must("nodev", Tmpfs, &[], Mount("nodev")),
    must("nodiratime", Tmpfs, &[], Mount("nodiratime")),
    must("noexec", Tmpfs, &[], Mount("noexec")),
    must("noiversion", Tmpfs, &["iversion"], Understood),
    must("nolazytime", Tmpfs, &["lazytime"], NotSuper("lazytime")),
    Entry {
        name: "nomand",
        level: Level::Should,
        on: Tmpfs,
        before: &["mand"],
        shows: Understood,
    },
    must("norelatime", Tmpfs, &[], Understood),
    must("nostrictatime", Tmpfs, &["strictatime"], Understood),
    must("nosuid", Tmpfs, &[], Mount("nosuid")),
    Entry {
        name: "nosymfollow",
        level: Level::Should,
        on: Tmpfs,
        before: &[],
        shows: Mount("nosymfollow"),
    },
    must("private", Bind, &["bind"], Private),
    should("ratime", &["rnoatime"], NotMount("noatime")),
    must("rbind", Tree, &[], Understood),
    should("rdev", &["rnodev"], NotMount("nodev")),
    should("rdiratime", &["rnodiratime"], NotMount("nodiratime")),
    must("relatime", Tmpfs, &[], Mount("relatime")),
    must("remount", Tmpfs, &[], Mount("ro")),
    should("rexec", &["rnoexec"], NotMount("noexec")),
    should("rnoatime", &[], Mount("noatime")),
    should("rnodev", &[], Mount("nodev")),
    should("rnodiratime", &[], Mount("nodiratime")),
    should("rnoexec", &[], Mount("noexec")),
    should("rnorelatime", &[], Understood),
    should("rnostrictatime", &[], Understood),
    should("rnosuid", &[], Mount("nosuid")),
    should("rnosymfollow", &[], Mount("nosymfollow")),
    must("ro", Tmpfs, &[], Mount("ro")),
    must("rprivate", Tree, &["rbind"], Private),
    should("rrelatime", &[], Mount("relatime")),
    should("rro", &[], Mount("ro")),
    should("rrw", &["rro"], NotMount("ro")),
    must("rshared", Tree, &["rbind"], Propagation("shared:")),
    must("rslave", Tree, &["rbind"], Propagation("master:")),
    should("rstrictatime", &["rrelatime"], NotMount("relatime")),
    should("rsuid", &["rnosuid"], NotMount("nosuid")),
    should("rsymfollow", &["rnosymfollow"], NotMount("nosymfollow")),
    must("runbindable", Tree, &["rbind"], Propagation("unbindable")),
    must("rw", Tmpfs, &["ro"], NotMount("ro")),
    must("shared", Bind, &["bind"], Propagation("shared:")),
    must("silent", Tmpfs, &[], Understood),
    must("slave", Bind, &["bind"], Propagation("master:")),
    must("strictatime", Tmpfs, &["relatime"], NotMount("relatime")),
    must("suid", Tmpfs, &["nosuid"], NotMount("nosuid")),
    Entry {
        name: "symfollow",
        level: Level::Should,
        on: Tmpfs,
        before: &["nosymfollow"],
        shows: NotMount("nosymfollow"),
    },
    must("sync", Tmpfs, &[], Super("sync")),
    Entry {
        name: "tmpcopyup",
        level: Level::Practice,
        on: Tmpfs,
        before: &[],
        shows: Understood,
    },
    must("unbindable", Bind, &["bind"], Propagation("unbindable")),
];

/// All option strings; idmap and ridmap have tests of their own in `mounts.rs`.
pub fn all() -> Vec<&'static str> {
    TABLE
        .iter()
        .map(|e| e.name)
        .chain(["idmap", "ridmap"])
        .collect()
}

/// The cases of this area.
pub fn cases() -> Vec<Case> {
    TABLE
        .iter()
        .map(|e| Case {
            id: format!("mount-option.{}", e.name),
            clause: "config.md#linux-mount-options",
            level: e.level,
            text: format!("the mount option {}", e.name),
            param: e.name.to_owned(),
            realtime: false,
            run: one,
        })
        .collect()
}

fn holds(line: &MountLine, shows: Shows) -> bool {
    let has = |list: &[String], word: &str| list.iter().any(|o| o == word);
    match shows {
        Mount(word) => has(&line.options, word),
        NotMount(word) => !has(&line.options, word),
        Super(word) => has(&line.superblock, word),
        NotSuper(word) => !has(&line.superblock, word),
        Propagation(word) => line.propagation.iter().any(|p| p.starts_with(word)),
        Private => line.propagation.is_empty(),
        Understood => true,
    }
}

fn one(ctx: &Ctx, name: &str) -> Result<()> {
    let Some(e) = TABLE.iter().find(|e| e.name == name) else {
        bail!("no option {name}")
    };
    let mut b = ctx.bundle()?;
    let mut options: Vec<&str> = e.before.to_vec();
    options.push(e.name);
    let dir = source(ctx, "src")?;
    let below = dir.join("below");
    fs::create_dir_all(&below)?;
    if e.on == Tree {
        let none = None::<&str>;
        nix::mount::mount(
            Some("t"),
            &below,
            Some("tmpfs"),
            nix::mount::MsFlags::empty(),
            none,
        )?;
        if !options.contains(&"rbind") {
            options.insert(0, "rbind");
        }
    }
    if name.ends_with("slave") {
        // Only what was shared can become a slave.
        let flags = nix::mount::MsFlags::MS_SHARED | nix::mount::MsFlags::MS_REC;
        let own = nix::mount::MsFlags::MS_BIND | nix::mount::MsFlags::MS_REC;
        nix::mount::mount(Some(&dir), &dir, None::<&str>, own, None::<&str>)?;
        nix::mount::mount(None::<&str>, &dir, None::<&str>, flags, None::<&str>)?;
    }
    let text = dir.display().to_string();
    match (e.on, name) {
        (_, "remount") => {
            add(&mut b, "/mnt", "tmpfs", "t", &[]);
            add(&mut b, "/mnt", "tmpfs", "t", &["remount", "ro"]);
        }
        (_, "tmpcopyup") => {
            fs::write(b.rootfs().join("mnt/below"), "copied")?;
            add(&mut b, "/mnt", "tmpfs", "t", &options);
        }
        (Tmpfs, _) => add(&mut b, "/mnt", "tmpfs", "t", &options),
        (Bind | Tree, _) => add(&mut b, "/mnt", "none", &text, &options),
    }
    b.probe(&[
        "read:/proc/self/mountinfo",
        "read:/mnt/file",
        "read:/mnt/below",
    ]);
    let end = ctx.run(&b);
    for point in [&below, &dir] {
        let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
    }
    let end = end?;
    let mountinfo = end.value(0)?;
    let mountinfo = mountinfo.as_str().unwrap_or("");
    let points: &[&str] = if e.on == Tree {
        &["/mnt", "/mnt/below"]
    } else {
        &["/mnt"]
    };
    for point in points {
        let line =
            line_of(mountinfo, point).with_context(|| format!("nothing is mounted on {point}"))?;
        let seen = format!(
            "{} / {} / {}",
            line.options.join(","),
            line.superblock.join(","),
            line.propagation.join(" ")
        );
        let what = match e.shows {
            Understood => format!("{name} is understood on {point}"),
            _ => format!("{name} holds on {point}"),
        };
        ctx.note(&what, holds(&line, e.shows), &[("mountinfo", &seen)]);
    }
    if e.on != Tmpfs {
        ctx.eq(
            end.value(1)?.as_str(),
            Some("content"),
            "the source is seen",
        );
    }
    if name == "tmpcopyup" {
        ctx.eq(
            end.value(2)?.as_str(),
            Some("copied"),
            "the directory's contents are in the tmpfs",
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn sixty_two_options() {
        let mut all = super::all();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 62);
    }
}
