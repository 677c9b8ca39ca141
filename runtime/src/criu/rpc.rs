//! The messages that are exchanged with `criu swrk`: the fields of criu's rpc.proto that are used here.
//!
//! Belongs here: names and numbers of fields, requests and responses as plain data. Does not: how
//! they are encoded (`wire`) and what goes into them.

use super::wire::{Fields, Writer};
use crate::error::{Error, Kind, Result};

/// Kinds of requests and responses: `criu_req_type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Save the processes and, unless told otherwise, end them.
    Dump,
    /// Make the processes.
    Restore,
    /// Save memory only.
    PreDump,
}

impl Request {
    fn number(self) -> i32 {
        match self {
            Request::Dump => 1,
            Request::Restore => 2,
            Request::PreDump => 4,
        }
    }

    /// The word for it in messages.
    pub fn name(self) -> &'static str {
        match self {
            Request::Dump => "dump",
            Request::Restore => "restore",
            Request::PreDump => "pre-dump",
        }
    }
}

const NOTIFY: i32 = 6;

/// `criu_opts`. What is empty, false or absent is not sent, so that criu's own default holds.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opts {
    /// Descriptor of the directory of images, in the process that made the socket.
    pub images_dir_fd: i32,
    /// Descriptor of the directory of work files, likewise.
    pub work_dir_fd: Option<i32>,
    /// Root of the processes to dump.
    pub pid: Option<i32>,
    pub leave_running: bool,
    pub ext_unix_sk: bool,
    pub tcp_established: bool,
    pub tcp_skip_in_flight: bool,
    pub tcp_close: bool,
    pub evasive_devices: bool,
    pub shell_job: bool,
    pub file_locks: bool,
    pub log_file: &'static str,
    /// Address and port.
    pub page_server: Option<(String, u16)>,
    /// Root file system.
    pub root: String,
    /// Earlier images, relative to these.
    pub parent_images: String,
    pub track_memory: bool,
    pub auto_dedup: bool,
    pub link_remap: bool,
    /// Mounts whose content is somewhere else: a mount point and a name in a dump, that name and a
    /// path of the host in a restore.
    pub external_mounts: Vec<(String, String)>,
    /// Controllers and the cgroup that replaces the dumped root.
    pub cgroup_roots: Vec<(String, String)>,
    /// Make the restored process a child of whoever started criu.
    pub sibling: bool,
    /// What a dump left out, and the descriptor that takes its place.
    pub inherit_fds: Vec<(String, i32)>,
    /// `criu_cg_mode`.
    pub cgroup_mode: i32,
    /// Other things whose content is somewhere else, such as namespaces.
    pub external: Vec<String>,
    /// Namespaces that are made but not filled, as clone flags.
    pub empty_namespaces: Option<i32>,
    /// Kinds of namespaces and the files of those to join.
    pub join_namespaces: Vec<(String, String)>,
    /// Cgroup by which the processes are frozen.
    pub freeze_cgroup: String,
    pub lazy_pages: bool,
    /// A configuration file of criu, whose settings win over these.
    pub config_file: String,
    pub lsm_profile: String,
    pub lsm_mount_context: String,
    /// `criu_network_lock_method`.
    pub network_lock: Option<i32>,
}

impl Opts {
    fn write(&self, to: &mut Writer) {
        let text = |to: &mut Writer, field: u32, text: &str| {
            if !text.is_empty() {
                to.text(field, text);
            }
        };
        let pair = |to: &mut Writer, field: u32, (key, value): &(String, String)| {
            to.message(field, |inner| {
                inner.text(1, key);
                inner.text(2, value);
            });
        };
        to.int(1, self.images_dir_fd);
        if let Some(pid) = self.pid {
            to.int(2, pid);
        }
        to.flag(3, self.leave_running);
        to.flag(4, self.ext_unix_sk);
        to.flag(5, self.tcp_established);
        to.flag(6, self.evasive_devices);
        to.flag(7, self.shell_job);
        to.flag(8, self.file_locks);
        // Everything: callers keep the log for when something fails.
        to.int(9, 4);
        text(to, 10, self.log_file);
        if let Some((address, port)) = &self.page_server {
            to.message(11, |inner| {
                inner.text(1, address);
                inner.int(2, i32::from(*port));
            });
        }
        // Without it criu tells nothing of its steps.
        to.flag(12, true);
        text(to, 13, &self.root);
        text(to, 14, &self.parent_images);
        to.flag(15, self.track_memory);
        to.flag(16, self.auto_dedup);
        if let Some(fd) = self.work_dir_fd {
            to.int(17, fd);
        }
        to.flag(18, self.link_remap);
        for mount in &self.external_mounts {
            pair(to, 23, mount);
        }
        for root in &self.cgroup_roots {
            pair(to, 25, root);
        }
        to.flag(26, self.sibling);
        for (key, fd) in &self.inherit_fds {
            to.message(27, |inner| {
                inner.text(1, key);
                inner.int(2, *fd);
            });
        }
        to.int(34, self.cgroup_mode);
        for external in &self.external {
            to.text(37, external);
        }
        if let Some(flags) = self.empty_namespaces {
            to.int(38, flags);
        }
        for namespace in &self.join_namespaces {
            pair(to, 39, namespace);
        }
        text(to, 44, &self.freeze_cgroup);
        to.flag(46, self.tcp_skip_in_flight);
        to.flag(48, self.lazy_pages);
        // The terminal's master is with whoever asked for it, never within the container.
        to.flag(50, true);
        text(to, 51, &self.config_file);
        to.flag(52, self.tcp_close);
        text(to, 53, &self.lsm_profile);
        text(to, 63, &self.lsm_mount_context);
        if let Some(method) = self.network_lock {
            to.int(64, method);
        }
    }
}

/// A request: `criu_req`.
pub(super) fn request(kind: Request, opts: &Opts) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.int(1, kind.number());
    writer.message(2, |inner| opts.write(inner));
    writer.finish()
}

/// The answer to a notification.
pub(super) fn notified(success: bool) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.int(1, NOTIFY);
    // Required to be told apart from one that is not there.
    writer.int(3, i32::from(success));
    writer.finish()
}

/// What criu says: `criu_resp`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Response {
    /// It is at one of its steps and waits.
    Notify {
        /// The step's name.
        step: String,
        /// The first process, where it exists.
        pid: i32,
    },
    /// It is done.
    Done {
        success: bool,
        errno: i32,
        message: String,
    },
}

/// Reads a response, whatever came.
pub(super) fn response(bytes: &[u8]) -> Result<Response> {
    let (mut kind, mut success, mut errno) = (None, None, 0);
    let (mut step, mut pid, mut message) = (String::new(), 0, String::new());
    let mut fields = Fields::of(bytes);
    for field in &mut fields {
        match field.number {
            1 => kind = field.value.int(),
            2 => success = Some(field.value.bool()),
            5 => {
                for inner in Fields::of(field.value.bytes()) {
                    match inner.number {
                        1 => step = inner.value.text(),
                        2 => pid = inner.value.int().unwrap_or(0),
                        _ => {}
                    }
                }
            }
            7 => errno = field.value.int().unwrap_or(0),
            9 => message = field.value.text(),
            _ => {}
        }
    }
    match (kind, success) {
        _ if fields.is_damaged() => {}
        (Some(NOTIFY), Some(_)) => return Ok(Response::Notify { step, pid }),
        (Some(_), Some(success)) => {
            return Ok(Response::Done {
                success,
                errno,
                message,
            });
        }
        _ => {}
    }
    Err(Error::new(
        Kind::System,
        format!(
            "criu sent an answer of {} bytes that makes no sense",
            bytes.len()
        ),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn number(bytes: &[u8], field: u64) -> Option<i32> {
        Fields::of(bytes).find(|f| f.number == field)?.value.int()
    }

    #[test]
    fn a_request_carries_its_options() {
        let opts = Opts {
            images_dir_fd: 7,
            pid: Some(4711),
            leave_running: true,
            log_file: "dump.log",
            page_server: Some(("::1".to_owned(), 9999)),
            external_mounts: vec![("/etc/hosts".to_owned(), "/etc/hosts".to_owned())],
            inherit_fds: vec![("pipe:[12]".to_owned(), 1)],
            cgroup_mode: 3,
            network_lock: Some(3),
            ..Opts::default()
        };
        let bytes = request(Request::Dump, &opts);
        assert_eq!(number(&bytes, 1), Some(1));
        let opts = Fields::of(&bytes).find(|f| f.number == 2).unwrap();
        let opts = opts.value.bytes();
        for (field, value) in [
            (1, 7),
            (2, 4711),
            (3, 1),
            (12, 1),
            (34, 3),
            (50, 1),
            (64, 3),
        ] {
            assert_eq!(number(opts, field), Some(value), "field {field}");
        }
        // What is not asked for is not there.
        for field in [4, 5, 15, 17, 38, 52] {
            assert_eq!(number(opts, field), None, "field {field}");
        }
        let server = Fields::of(opts).find(|f| f.number == 11).unwrap();
        assert_eq!(number(server.value.bytes(), 2), Some(9999));
        let inherited = Fields::of(opts).find(|f| f.number == 27).unwrap();
        let mut inherited = Fields::of(inherited.value.bytes());
        assert_eq!(inherited.next().unwrap().value.text(), "pipe:[12]");
        assert_eq!(inherited.next().unwrap().value.int(), Some(1));
    }

    #[test]
    fn responses_are_read() {
        let mut writer = Writer::default();
        writer.int(1, NOTIFY);
        writer.int(2, 1);
        writer.message(5, |inner| {
            inner.text(1, "post-restore");
            inner.int(2, 42);
        });
        assert_eq!(
            response(&writer.finish()).unwrap(),
            Response::Notify {
                step: "post-restore".to_owned(),
                pid: 42
            }
        );
        let mut writer = Writer::default();
        writer.int(1, 1);
        writer.int(2, 0);
        writer.int(7, 17);
        writer.text(9, "no");
        assert_eq!(
            response(&writer.finish()).unwrap(),
            Response::Done {
                success: false,
                errno: 17,
                message: "no".to_owned()
            }
        );
        let answer = notified(false);
        assert_eq!(number(&answer, 3), Some(0));
    }

    proptest! {
        #[test]
        fn any_response_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Err(error) = response(&bytes) {
                prop_assert!(error.to_string().starts_with("criu sent"));
            }
        }
    }
}
