//! The connection to systemd: over the message bus, or directly where there is none.
//!
//! Belongs here: connecting, calls and the wait for a job. Does not: what a
//! unit is like (`properties`). One socket, no thread. Calls are sent before
//! their predecessors are answered, so that a unit costs two waits.

use std::io::{Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::wire::{self, Call, Incoming, Value};
use crate::error::{Context, Error, Kind, Result};
use crate::id_maps;

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const BUS: &str = "org.freedesktop.DBus";
const BUS_PATH: &str = "/org/freedesktop/DBus";
/// How long systemd may take for one job.
const PATIENCE: Duration = Duration::from_secs(30);

/// What systemd answers when a unit of that name is there already.
pub(super) const UNIT_EXISTS: &str = "org.freedesktop.systemd1.UnitExists";
/// What it answers when there is none.
pub(super) const NO_SUCH_UNIT: &str = "org.freedesktop.systemd1.NoSuchUnit";
/// What the bus answers to a call that systemd had got, but not answered, when it started itself anew
/// (`systemctl daemon-reexec`, an upgrade).
pub(super) const NO_REPLY: &str = "org.freedesktop.DBus.Error.NoReply";

/// An answer that is an error: its D-Bus name and its text.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) name: String,
    text: String,
}

/// A connection to a service manager.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    deadline: Instant,
    serial: u32,
    /// Whether systemd itself is at the other end, with no bus between.
    direct: bool,
    /// Jobs that ended: object path and result.
    ended: Vec<(String, String)>,
    /// Whether the last job was accepted, however it ended.
    pub(super) accepted: bool,
}

impl Bus {
    /// Connects to the system's service manager or, with `user`, to that of the user.
    ///
    /// # Errors
    /// No socket that answers.
    pub(super) fn connect(user: bool) -> Result<Bus> {
        let mut tried = Vec::new();
        for (address, direct) in addresses(user) {
            match Bus::open(&address, direct) {
                Ok(bus) => return Ok(bus),
                Err(error) => tried.push(error.to_string()),
            }
        }
        Err(Error::new(
            Kind::Unsupported,
            format!(
                "cannot reach systemd ({}): is it running? Without it use cgroups directly, without --systemd-cgroup",
                tried.join("; ")
            ),
        ))
    }

    fn open(address: &str, direct: bool) -> Result<Bus> {
        let target = match address.strip_prefix('\0') {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(address),
        };
        let stream = target
            .and_then(|target| UnixStream::connect_addr(&target))
            .context(|| format!("connect({address:?})"))?;
        let mut bus = Bus {
            stream,
            deadline: Instant::now() + PATIENCE,
            serial: 0,
            direct,
            ended: Vec::new(),
            accepted: false,
        };
        // The kernel tells the other side who we are; DATA without a name says "look there".
        bus.send(b"\0AUTH EXTERNAL\r\nDATA\r\nBEGIN\r\n")?;
        let first = bus.line()?;
        let answer = if first.starts_with("DATA") {
            bus.line()?
        } else {
            first
        };
        if !answer.starts_with("OK ") {
            return Err(Error::new(
                Kind::System,
                format!("{address}: authentication refused: {answer}"),
            ));
        }
        if !direct {
            let rule = "type='signal',sender='org.freedesktop.systemd1',\
                        interface='org.freedesktop.systemd1.Manager',member='JobRemoved'";
            bus.post(BUS, BUS_PATH, BUS, "Hello", &[])?;
            bus.post(BUS, BUS_PATH, BUS, "AddMatch", &[Value::str(rule)])?;
        }
        bus.post(SYSTEMD, SYSTEMD_PATH, MANAGER, "Subscribe", &[])?;
        Ok(bus)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.stream.write_all(bytes).context(|| "D-Bus: write()")
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Result<()> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(timeout());
        }
        self.stream
            .set_read_timeout(Some(left))
            .context(|| "D-Bus: setsockopt(SO_RCVTIMEO)")?;
        self.stream
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut => timeout(),
                _ => Error::new(Kind::System, format!("D-Bus: read(): {error}")),
            })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = Vec::new();
        let mut byte = [0];
        while line.len() < 1024 {
            self.receive(&mut byte)?;
            match byte {
                [b'\n'] => break,
                [b'\r'] => {}
                [byte] => line.push(byte),
            }
        }
        Ok(String::from_utf8_lossy(&line).into_owned())
    }

    fn post(
        &mut self,
        destination: &str,
        path: &str,
        interface: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<u32> {
        self.serial += 1;
        let call = Call {
            destination: if self.direct { "" } else { destination },
            path,
            interface,
            member,
            arguments,
        };
        self.send(&call.encode(self.serial))?;
        Ok(self.serial)
    }

    fn message(&mut self) -> Result<Incoming> {
        let mut bytes = vec![0; wire::FIXED];
        self.receive(&mut bytes)?;
        let rest = wire::rest_length(&bytes)?;
        bytes.resize(wire::FIXED + rest, 0);
        if let Some(rest) = bytes.get_mut(wire::FIXED..) {
            self.receive(rest)?;
        }
        let message = wire::decode(&bytes)?;
        if message.kind == 4
            && message.member == "JobRemoved"
            && let [job, _unit, result] = message.strings.as_slice()
        {
            self.ended.push((job.clone(), result.clone()));
        }
        Ok(message)
    }

    /// Calls a method of the service manager and waits for the answer.
    ///
    /// # Errors
    /// A broken connection; a refusal is the inner error.
    pub(super) fn call(
        &mut self,
        member: &str,
        arguments: &[Value],
    ) -> Result<std::result::Result<Incoming, Refusal>> {
        self.call_on(SYSTEMD_PATH, MANAGER, member, arguments)
    }

    /// A property of the service manager, or with `unit` of a unit; those that are no text are empty.
    ///
    /// # Errors
    /// As [`Bus::call`].
    pub(super) fn property(
        &mut self,
        unit: Option<&str>,
        name: &str,
    ) -> Result<std::result::Result<String, Refusal>> {
        let (path, interface) = match unit {
            None => (SYSTEMD_PATH.to_owned(), MANAGER),
            Some(unit) => match self.call("GetUnit", &[Value::str(unit)])? {
                Ok(mut reply) => (reply.strings.pop().unwrap_or_default(), UNIT),
                Err(refusal) => return Ok(Err(refusal)),
            },
        };
        let arguments = [Value::str(interface), Value::str(name)];
        let reply = self.call_on(&path, "org.freedesktop.DBus.Properties", "Get", &arguments)?;
        Ok(reply.map(|mut reply| reply.strings.pop().unwrap_or_default()))
    }

    /// The number of systemd's version; 0 where it does not say.
    ///
    /// # Errors
    /// As [`Bus::call`].
    pub(super) fn version(&mut self) -> Result<u32> {
        let text = self.property(None, "Version")?.unwrap_or_default();
        let digits = text.split(|letter: char| !letter.is_ascii_digit()).next();
        Ok(digits.and_then(|digits| digits.parse().ok()).unwrap_or(0))
    }

    fn call_on(
        &mut self,
        path: &str,
        interface: &str,
        member: &str,
        arguments: &[Value],
    ) -> Result<std::result::Result<Incoming, Refusal>> {
        self.deadline = Instant::now() + PATIENCE;
        let serial = self.post(SYSTEMD, path, interface, member, arguments)?;
        loop {
            let mut message = self.message()?;
            if message.reply_to != serial {
                continue;
            }
            match message.kind {
                2 => return Ok(Ok(message)),
                3 => {
                    return Ok(Err(Refusal {
                        name: message.error,
                        text: message.strings.drain(..).next().unwrap_or_default(),
                    }));
                }
                _ => {}
            }
        }
    }

    /// Calls a method that starts a job, and waits for the job's end.
    ///
    /// # Errors
    /// As [`Bus::call`], and a job that does not end well.
    pub(super) fn job(
        &mut self,
        member: &str,
        arguments: &[Value],
    ) -> Result<std::result::Result<(), Refusal>> {
        self.ended.clear();
        self.accepted = false;
        let reply = match self.call(member, arguments)? {
            Ok(reply) => reply,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.accepted = true;
        let job = reply.strings.first().cloned().unwrap_or_default();
        loop {
            if let Some((_, result)) = self.ended.iter().find(|(path, _)| *path == job) {
                return match result.as_str() {
                    "done" => Ok(Ok(())),
                    other => Err(Error::new(
                        Kind::System,
                        format!("systemd: {member} ended with {other:?}"),
                    )),
                };
            }
            self.message()?;
        }
    }
}

fn timeout() -> Error {
    Error::new(
        Kind::System,
        format!("systemd did not answer within {} s", PATIENCE.as_secs()),
    )
}

impl Refusal {
    /// The error for a caller that cannot do anything about it.
    pub(super) fn into_error(self, step: &str) -> Error {
        Error::new(
            Kind::System,
            format!("systemd: {step}: {} ({})", self.text, self.name),
        )
    }
}

/// Sockets to try: the bus, then systemd's own.
fn addresses(user: bool) -> Vec<(String, bool)> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let mut list = Vec::new();
    if user {
        // Root of a user namespace is another user for systemd.
        let runtime_dir = variable("XDG_RUNTIME_DIR").unwrap_or_else(|| {
            let uid = id_maps::outside(rustix::process::getuid().as_raw());
            format!("/run/user/{uid}")
        });
        let session = variable("DBUS_SESSION_BUS_ADDRESS").and_then(|text| parse_address(&text));
        list.push((
            session.unwrap_or_else(|| format!("{runtime_dir}/bus")),
            false,
        ));
        list.push((format!("{runtime_dir}/systemd/private"), true));
    } else {
        let system = variable("DBUS_SYSTEM_BUS_ADDRESS").and_then(|text| parse_address(&text));
        list.push((
            system.unwrap_or_else(|| "/run/dbus/system_bus_socket".into()),
            false,
        ));
        list.push(("/run/systemd/private".into(), true));
    }
    list
}

/// The first Unix socket of a D-Bus address; an abstract one begins with NUL.
fn parse_address(text: &str) -> Option<String> {
    text.split(';').find_map(|address| {
        address
            .strip_prefix("unix:")?
            .split(',')
            .find_map(|pair| match pair.split_once('=')? {
                ("path", path) => Some(unescape(path)),
                ("abstract", name) => Some(format!("\0{}", unescape(name))),
                _ => None,
            })
    })
}

/// Undoes `%20` and the like.
fn unescape(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, after)) = rest.split_first() {
        let code = after
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code {
            Some(code) if *byte == b'%' => {
                out.push(code);
                rest = after.get(2..).unwrap_or_default();
            }
            _ => {
                out.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_addresses() {
        assert_eq!(
            parse_address("unix:path=/run/user/1000/bus,guid=00").unwrap(),
            "/run/user/1000/bus"
        );
        assert_eq!(
            parse_address("tcp:host=x;unix:abstract=/tmp/a%20b").unwrap(),
            "\0/tmp/a b"
        );
        assert_eq!(parse_address("tcp:host=x"), None);
        assert_eq!(unescape("100%"), "100%");
    }
}
