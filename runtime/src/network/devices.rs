//! `linux.netDevices`: moving devices of the host into the container's network namespace.
//!
//! The kernel takes the addresses from a device that changes its namespace and
//! sets it down, so both are put back on the other side. Afterwards the device
//! is the container's: nothing here is called again, but for a creation that
//! fails, which gives back what was moved, with its addresses and routes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{CWD, Mode, OFlags, openat};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::netlink::{
    NLM_F_CREATE, NLM_F_EXCL, Netlink, attributes, kind, put, put_text, read_i32, read_u32,
};
use crate::error::{Context, Error, Kind, Result};
use crate::spec::Text;
use crate::spec::linux;

/// The kernel's IFNAMSIZ, with the NUL byte.
const NAME_SIZE: usize = 16;

const IFF_UP: u32 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_NET_NS_FD: u16 = 28;
const LINK_HEADER: usize = 16;

const IFA_LABEL: u16 = 3;
const IFA_FLAGS: u16 = 8;
const IFA_F_PERMANENT: u32 = 0x80;
/// Flags of an address that somebody chose: NODAD, HOMEADDRESS, MANAGETEMPADDR, NOPREFIXROUTE,
/// MCAUTOJOIN. The others tell what the kernel found out.
const IFA_F_CHOSEN: u32 = 0x02 | 0x10 | 0x100 | 0x200 | 0x400;
const RT_SCOPE_UNIVERSE: u8 = 0;
const ADDRESS_HEADER: usize = 8;

const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTPROT_KERNEL: u8 = 2;
const RTM_F_CLONED: u32 = 0x200;
const ROUTE_HEADER: usize = 12;

/// A device to move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    host_name: String,
    /// Name inside; ends in `%d` where the kernel shall choose a number.
    name: String,
}

impl Device {
    fn place(&self) -> String {
        format!("linux.netDevices[{:?}]", self.host_name)
    }

    fn is_template(&self) -> bool {
        self.name.ends_with("%d")
    }
}

/// Reads `linux.netDevices`. `own_namespace`: whether the container has a network namespace that is not the host's.
///
/// # Errors
/// `InvalidConfig` for what is no name of a device, names given twice, and a container in the host's network.
pub fn plan(
    devices: &BTreeMap<Text<'_>, linux::NetDevice<'_>>,
    own_namespace: bool,
) -> Result<Vec<Device>> {
    if !devices.is_empty() && !own_namespace {
        return Err(Error::config(
            "linux.netDevices",
            "needs a network namespace of the container's own in linux.namespaces",
        ));
    }
    let mut plan: Vec<Device> = Vec::with_capacity(devices.len());
    for (host_name, device) in devices {
        let name = if device.name.is_empty() {
            host_name
        } else {
            &device.name
        };
        let device = Device {
            host_name: host_name.to_string(),
            name: name.to_string(),
        };
        if !is_name(host_name) {
            return Err(Error::config(
                device.place(),
                "is no name of a network device",
            ));
        }
        let stem = device.name.strip_suffix("%d").unwrap_or(&device.name);
        if device.name.len() >= NAME_SIZE
            || !(is_name(stem) || (stem.is_empty() && device.is_template()))
        {
            return Err(Error::config(
                format_args!("{}.name", device.place()),
                format_args!(
                    "{name:?} is no name of a network device: at most 15 bytes without spaces, '/', ':' and '%', but for a final \"%d\""
                ),
            ));
        }
        if !device.is_template()
            && let Some(other) = plan.iter().find(|other| other.name == device.name)
        {
            return Err(Error::config(
                format_args!("{}.name", device.place()),
                format_args!("{name:?} is the name of {} too", other.place()),
            ));
        }
        plan.push(device);
    }
    Ok(plan)
}

/// What the kernel takes as a name, and what has no meaning of its own to it.
fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.len() < NAME_SIZE
        && name != "."
        && name != ".."
        && !name
            .chars()
            .any(|c| matches!(c, '/' | ':' | '%') || c.is_whitespace() || c.is_control())
}

/// What was moved, as long as it can be given back. Dropping it leaves the devices where they are.
#[derive(Debug)]
pub struct Moved {
    host: Netlink,
    host_namespace: OwnedFd,
    inside: Netlink,
    devices: Vec<MovedDevice>,
}

#[derive(Debug)]
struct MovedDevice {
    device: Device,
    /// Its index inside, as soon as it is known.
    index: i32,
    before: Snapshot,
}

/// What a device loses when it changes its namespace.
#[derive(Debug)]
struct Snapshot {
    up: bool,
    addresses: Vec<Vec<u8>>,
    routes: Vec<Vec<u8>>,
}

/// Moves the devices from the caller's network namespace into `namespace`, gives them their names and
/// addresses and sets them up. The calling thread enters `namespace` for one system call.
///
/// # Errors
/// A device that is not there or cannot be moved; a name that is taken; those of rtnetlink(7). What was
/// moved by then is given back.
pub fn move_into(devices: &[Device], namespace: BorrowedFd<'_>) -> Result<Moved> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let host_namespace = openat(CWD, "/proc/thread-self/ns/net", flags, Mode::empty())
        .context(|| "linux.netDevices: openat(\"/proc/thread-self/ns/net\")")?;
    let host = Netlink::open().context(|| "linux.netDevices: socket(AF_NETLINK)")?;
    let network = Some(LinkNameSpaceType::Network);
    move_into_link_name_space(namespace, network)
        .context(|| "linux.netDevices: setns(container, CLONE_NEWNET)")?;
    let inside = Netlink::open();
    move_into_link_name_space(host_namespace.as_fd(), network)
        .context(|| "linux.netDevices: setns(host, CLONE_NEWNET)")?;
    let mut moved = Moved {
        host,
        host_namespace,
        inside: inside.context(|| "linux.netDevices: socket(AF_NETLINK)")?,
        devices: Vec::with_capacity(devices.len()),
    };
    for device in devices {
        if let Err(mut error) = moved.add(device, namespace) {
            for failure in moved.give_back() {
                error = Error::new(error.kind(), format!("{error}; besides, {failure}"));
            }
            return Err(error);
        }
    }
    Ok(moved)
}

impl Moved {
    fn add(&mut self, device: &Device, namespace: BorrowedFd<'_>) -> Result<()> {
        let place = device.place();
        let Some((host_index, host_flags)) =
            find(&mut self.host, &device.host_name).context(|| format!("{place}: RTM_GETLINK"))?
        else {
            return Err(Error::new(
                Kind::NotFound,
                format!("{place}: there is no such network device"),
            ));
        };
        let taken = |netlink: &mut Netlink, name: &str| {
            find(netlink, name)
                .map(|found| found.is_some())
                .context(|| format!("{place}: RTM_GETLINK"))
        };
        // Under this name the device arrives; a template is resolved when it is there and its index is known.
        let arrival = if !device.is_template() {
            if taken(&mut self.inside, &device.name)? {
                return Err(Error::new(
                    Kind::Exists,
                    format!(
                        "{place}: the container has a network device {:?} already; choose another name, or a template such as \"{:.13}%d\"",
                        device.name, device.name
                    ),
                ));
            }
            device.name.clone()
        } else if taken(&mut self.inside, &device.host_name)? {
            format!("knarr-{host_index}")
        } else {
            device.host_name.clone()
        };
        let before = Snapshot::take(&mut self.host, host_index, host_flags)
            .context(|| format!("{place}: RTM_GETADDR"))?;

        let mut request = link_request(host_index, 0, 0);
        put(
            &mut request,
            IFLA_NET_NS_FD,
            &namespace.as_raw_fd().to_ne_bytes(),
        );
        put_text(&mut request, IFLA_IFNAME, &arrival);
        let result = self.host.request(kind::SET_LINK, 0, &request);
        // The kernel may move and then fail to rename, so what counts is where the device is.
        let found = find(&mut self.inside, &arrival);
        let index = match (result, found) {
            (Ok(_), Ok(Some((index, _)))) => index,
            (result, found) => {
                if let Ok(Some((index, _))) = find(&mut self.inside, &device.host_name)
                    && taken(&mut self.host, &device.host_name).is_ok_and(|taken| !taken)
                {
                    self.devices.push(MovedDevice {
                        device: device.clone(),
                        index,
                        before,
                    });
                }
                let errno = result.err().or(found.err()).unwrap_or(Errno::NODEV);
                let hint = match errno {
                    Errno::INVAL => {
                        " (devices that belong to their namespace, like loopback, cannot be moved)"
                    }
                    _ => "",
                };
                return Err(errno).context(|| {
                    format!("{place}: RTM_SETLINK(into the container as {arrival:?}){hint}")
                });
            }
        };
        self.devices.push(MovedDevice {
            device: device.clone(),
            index,
            before,
        });
        let name = if device.is_template() {
            let mut request = link_request(index, 0, 0);
            put_text(&mut request, IFLA_IFNAME, &device.name);
            self.inside
                .request(kind::SET_LINK, 0, &request)
                .context(|| format!("{place}: RTM_SETLINK(name {:?})", device.name))?;
            name_of(&mut self.inside, index).context(|| format!("{place}: RTM_GETLINK"))?
        } else {
            arrival
        };
        let Some(moved) = self.devices.last() else {
            return Ok(());
        };
        for address in moved
            .before
            .addresses
            .iter()
            .filter(|address| is_lasting(address))
        {
            let request = address_request(address, index, &device.host_name, &name);
            self.inside
                .request(kind::NEW_ADDRESS, NLM_F_CREATE | NLM_F_EXCL, &request)
                .context(|| format!("{place}: RTM_NEWADDR"))?;
        }
        self.inside
            .request(kind::SET_LINK, 0, &link_request(index, IFF_UP, IFF_UP))
            .context(|| format!("{place}: RTM_SETLINK(up)"))?;
        Ok(())
    }

    /// Moves everything back where it was, for a creation that failed: devices, names, addresses, routes,
    /// state. Returns what could not be put back.
    #[must_use]
    pub fn give_back(mut self) -> Vec<Error> {
        let mut failures = Vec::new();
        while let Some(moved) = self.devices.pop() {
            if let Err(errno) = self.give_one_back(&moved) {
                failures.push(Error::system(
                    format!(
                        "{}: could not be given back to the host",
                        moved.device.place()
                    ),
                    errno,
                ));
            }
        }
        failures
    }

    fn give_one_back(&mut self, moved: &MovedDevice) -> std::result::Result<(), Errno> {
        let name_inside = name_of(&mut self.inside, moved.index)?;
        let mut request = link_request(moved.index, 0, 0);
        put(
            &mut request,
            IFLA_NET_NS_FD,
            &self.host_namespace.as_raw_fd().to_ne_bytes(),
        );
        put_text(&mut request, IFLA_IFNAME, &moved.device.host_name);
        self.inside.request(kind::SET_LINK, 0, &request)?;
        let (index, _) = find(&mut self.host, &moved.device.host_name)?.ok_or(Errno::NODEV)?;
        for address in &moved.before.addresses {
            let request = address_request(address, index, &name_inside, &moved.device.host_name);
            match self.host.request(kind::NEW_ADDRESS, NLM_F_CREATE, &request) {
                // Addresses that the kernel makes itself.
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        if moved.before.up {
            self.host
                .request(kind::SET_LINK, 0, &link_request(index, IFF_UP, IFF_UP))?;
        }
        // A gateway must be reachable by the other routes first.
        let with_gateway =
            |route: &&Vec<u8>| attributes(route, ROUTE_HEADER).any(|(kind, _)| kind == RTA_GATEWAY);
        let routes = &moved.before.routes;
        let first = routes.iter().filter(|route| !with_gateway(route));
        for route in first.chain(routes.iter().filter(with_gateway)) {
            let mut request = route[..ROUTE_HEADER].to_vec();
            for (kind, value) in attributes(route, ROUTE_HEADER) {
                if kind == RTA_OIF {
                    put(&mut request, kind, &index.to_ne_bytes());
                } else {
                    put(&mut request, kind, value);
                }
            }
            match self.host.request(kind::NEW_ROUTE, NLM_F_CREATE, &request) {
                Ok(_) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}

impl Snapshot {
    fn take(host: &mut Netlink, index: i32, flags: u32) -> std::result::Result<Snapshot, Errno> {
        let mut addresses = host.dump(kind::GET_ADDRESS, &[0; ADDRESS_HEADER])?;
        addresses.retain(|address| read_i32(address, 4) == Some(index));
        let mut routes = host.dump(kind::GET_ROUTE, &[0; ROUTE_HEADER])?;
        routes.retain(|route| {
            route.get(5) != Some(&RTPROT_KERNEL)
                && read_u32(route, 8).is_some_and(|flags| flags & RTM_F_CLONED == 0)
                && attributes(route, ROUTE_HEADER)
                    .any(|(kind, value)| kind == RTA_OIF && read_i32(value, 0) == Some(index))
        });
        Ok(Snapshot {
            up: flags & IFF_UP != 0,
            addresses,
            routes,
        })
    }
}

/// struct ifinfomsg: family, padding, type, index, flags, change.
fn link_request(index: i32, flags: u32, change: u32) -> Vec<u8> {
    let mut body = vec![0; 4];
    body.extend_from_slice(&index.to_ne_bytes());
    body.extend_from_slice(&flags.to_ne_bytes());
    body.extend_from_slice(&change.to_ne_bytes());
    body
}

/// Index and flags of the device `name`.
fn find(netlink: &mut Netlink, name: &str) -> std::result::Result<Option<(i32, u32)>, Errno> {
    let mut body = link_request(0, 0, 0);
    put_text(&mut body, IFLA_IFNAME, name);
    match netlink.request(kind::GET_LINK, 0, &body) {
        Ok(answers) => {
            let link = answers.first().ok_or(Errno::NODEV)?;
            Ok(read_i32(link, 4).zip(read_u32(link, 8)))
        }
        Err(Errno::NODEV) => Ok(None),
        Err(errno) => Err(errno),
    }
}

fn name_of(netlink: &mut Netlink, index: i32) -> std::result::Result<String, Errno> {
    let answers = netlink.request(kind::GET_LINK, 0, &link_request(index, 0, 0))?;
    let name = answers.first().and_then(|link| {
        attributes(link, LINK_HEADER).find_map(|(kind, value)| {
            let name = value.strip_suffix(b"\0").unwrap_or(value);
            (kind == IFLA_IFNAME).then(|| String::from_utf8_lossy(name).into_owned())
        })
    });
    name.ok_or(Errno::NODEV)
}

/// The flags of an address: the attribute has all of them, the header the first eight.
fn address_flags(address: &[u8]) -> u32 {
    attributes(address, ADDRESS_HEADER)
        .find(|(kind, _)| *kind == IFA_FLAGS)
        .and_then(|(_, value)| read_u32(value, 0))
        .or_else(|| address.get(2).copied().map(u32::from))
        .unwrap_or(0)
}

/// Whether an address must follow its device: permanent, and of global scope.
fn is_lasting(address: &[u8]) -> bool {
    address_flags(address) & IFA_F_PERMANENT != 0 && address.get(3) == Some(&RT_SCOPE_UNIVERSE)
}

/// The request that makes `address` again, on another device.
fn address_request(address: &[u8], index: i32, old_name: &str, new_name: &str) -> Vec<u8> {
    let flags = address_flags(address) & IFA_F_CHOSEN;
    let mut body = address[..ADDRESS_HEADER].to_vec();
    body[2] = u8::try_from(flags & 0xff).unwrap_or(0);
    body[4..8].copy_from_slice(&index.to_ne_bytes());
    put(&mut body, IFA_FLAGS, &flags.to_ne_bytes());
    for (kind, value) in attributes(address, ADDRESS_HEADER) {
        match kind {
            IFA_FLAGS => {}
            // A label is the name of the device, or an alias such as `eth0:1` that begins with it.
            IFA_LABEL => {
                let text = String::from_utf8_lossy(value.strip_suffix(b"\0").unwrap_or(value));
                let label = match text.strip_prefix(old_name) {
                    Some(alias) => format!("{new_name}{alias}"),
                    None => text.into_owned(),
                };
                if label.len() < NAME_SIZE {
                    put_text(&mut body, kind, &label);
                }
            }
            _ => put(&mut body, kind, value),
        }
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::testing::{in_child, is_root, unshare_net};
    use std::process::Command;

    fn spec(devices: &[(&str, &str)]) -> BTreeMap<Text<'static>, linux::NetDevice<'static>> {
        devices
            .iter()
            .map(|(host, name)| {
                let name = Text::from(name.to_string());
                (Text::from(host.to_string()), linux::NetDevice { name })
            })
            .collect()
    }

    /// Runs ip(8) in the namespace of the caller.
    fn ip(arguments: &str) -> String {
        let output = Command::new("ip")
            .args(arguments.split(' '))
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "ip {arguments}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn network() -> OwnedFd {
        std::fs::File::open("/proc/thread-self/ns/net")
            .unwrap()
            .into()
    }

    fn enter(namespace: &OwnedFd) {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
    }

    /// Runs `f` in a namespace that stands for the host's, with another one for the container.
    fn between(test: &str, f: impl FnOnce(&OwnedFd) -> Result<String>) -> Option<Result<String>> {
        if !is_root(test) {
            return None;
        }
        if Command::new("ip").arg("-V").output().is_err() {
            crate::sys::testing::note_skip(format_args!("ip(8) is not installed"));
            return None;
        }
        Some(in_child(|| {
            unshare_net();
            let container = network();
            unshare_net();
            // Held: a namespace without processes ends, and with it the peer of a device that was moved.
            let _host = network();
            f(&container)
        }))
    }

    /// The devices of a namespace by name, without the loopback.
    fn names() -> String {
        let text = ip("-o link");
        let mut names: Vec<_> = text
            .lines()
            .filter_map(|line| line.split(": ").nth(1))
            .map(|name| name.split('@').next().unwrap_or(name))
            .filter(|name| *name != "lo")
            .collect();
        names.sort_unstable();
        names.join(" ")
    }

    /// The addresses of a device, one a word.
    fn addresses(device: &str) -> String {
        let mut all: Vec<String> = ip(&format!("-o addr show dev {device}"))
            .lines()
            .map(|line| {
                let words: Vec<_> = line.split_whitespace().collect();
                words[3..]
                    .iter()
                    .take_while(|word| !word.starts_with("valid"))
                    .copied()
                    .collect::<Vec<_>>()
                    .join(" ")
            })
            .filter(|line| !line.starts_with("fe80"))
            .map(|line| line.replace('\\', "").trim().to_owned())
            .collect();
        all.sort();
        all.join("; ")
    }

    #[test]
    fn moves_renames_and_sets_up_with_the_lasting_addresses() {
        let seen = between("moves_renames", |container| {
            ip("link add veth0 type veth peer name peer0");
            ip("link set peer0 up");
            ip("link set veth0 mtu 1400 up");
            ip("addr add 10.1.2.3/24 brd 10.1.2.255 dev veth0 label veth0:1");
            ip("addr add 10.1.2.4/24 dev veth0");
            ip("addr add 10.9.9.9 peer 10.9.9.8/32 dev veth0");
            ip("addr add 169.254.7.7/16 scope link dev veth0");
            ip("addr add 10.5.5.5/24 valid_lft 1000 preferred_lft 1000 dev veth0");
            ip("addr add 2001:db8::5/64 nodad dev veth0");
            let devices = plan(&spec(&[("veth0", "eth0")]), true)?;
            move_into(&devices, container.as_fd())?;
            let host = names();
            enter(container);
            assert!(ip("-o link show eth0").contains("mtu 1400"));
            assert!(ip("-o link show eth0").contains(",UP"));
            Ok(format!("{host} | {} | {}", names(), addresses("eth0")))
        });
        if let Some(seen) = seen {
            assert_eq!(
                seen.unwrap(),
                "peer0 | eth0 | 10.1.2.3/24 brd 10.1.2.255 scope global eth0:1; \
                 10.1.2.4/24 scope global secondary eth0; \
                 10.9.9.9 peer 10.9.9.8/32 scope global eth0; \
                 2001:db8::5/64 scope global nodad"
            );
        }
    }

    #[test]
    fn a_taken_name_is_an_error_and_moves_nothing() {
        let seen = between("a_taken_name", |container| {
            ip("link add veth0 type veth peer name peer0");
            enter(container);
            ip("link add eth0 type veth peer name eth9");
            let container = network();
            unshare_net();
            ip("link add veth0 type veth peer name peer0");
            ip("link add veth1 type veth peer name peer1");
            let devices = plan(&spec(&[("veth0", "free"), ("veth1", "eth0")]), true)?;
            let error = move_into(&devices, container.as_fd()).unwrap_err();
            assert_eq!(error.kind(), Kind::Exists);
            let host = names();
            enter(&container);
            Ok(format!("{host} | {} | {error}", names()))
        });
        if let Some(seen) = seen {
            assert_eq!(
                seen.unwrap(),
                "peer0 peer1 veth0 veth1 | eth0 eth9 | linux.netDevices[\"veth1\"]: the container has a network \
                 device \"eth0\" already; choose another name, or a template such as \"eth0%d\""
            );
        }
    }

    #[test]
    fn a_template_gets_a_free_number() {
        let seen = between("a_template", |container| {
            let host = network();
            ip("link add eth0 type veth peer name peer0");
            ip("link add veth1 type veth peer name peer1");
            enter(container);
            ip("link add eth0 type veth peer name eth1");
            enter(&host);
            let devices = plan(&spec(&[("eth0", "eth%d"), ("veth1", "net%d")]), true)?;
            move_into(&devices, container.as_fd())?;
            let left = names();
            enter(container);
            Ok(format!("{left} | {}", names()))
        });
        if let Some(seen) = seen {
            assert_eq!(seen.unwrap(), "peer0 peer1 | eth0 eth1 eth2 net0");
        }
    }

    #[test]
    fn a_failed_creation_gives_everything_back() {
        let seen = between("a_failed_creation", |container| {
            ip("link add veth0 type veth peer name peer0");
            ip("link set peer0 up");
            ip("link set veth0 up");
            ip("addr add 10.1.2.3/24 dev veth0 label veth0:x");
            ip("addr add 2001:db8::5/64 nodad dev veth0");
            ip("addr add 10.5.5.5/24 valid_lft 1000 preferred_lft 900 dev veth0");
            ip("route add 10.77.0.0/16 dev veth0");
            ip("route add default via 10.1.2.1 dev veth0");
            let shown = || {
                format!(
                    "{} | {} | {}",
                    names(),
                    addresses("veth0"),
                    ip("route").replace('\n', ";")
                )
            };
            let before = shown();
            let host = network();
            let devices = plan(&spec(&[("veth0", "eth0")]), true)?;
            let moved = move_into(&devices, container.as_fd())?;
            assert_eq!(names(), "peer0");
            // The name is taken by then: the device still comes back under its own.
            ip("link add eth0 type veth peer name other");
            let failures = moved.give_back();
            assert!(failures.is_empty(), "{failures:?}");
            ip("link del eth0");
            assert_eq!(shown(), before);
            // One that is not there, after one that is: the first comes back by itself.
            let devices = plan(&spec(&[("veth0", "eth0"), ("zzz", "")]), true)?;
            let error = move_into(&devices, container.as_fd()).unwrap_err();
            assert_eq!(shown(), before);
            enter(container);
            assert_eq!(names(), "");
            enter(&host);
            Ok(error.to_string())
        });
        if let Some(seen) = seen {
            assert_eq!(
                seen.unwrap(),
                "linux.netDevices[\"zzz\"]: there is no such network device"
            );
        }
    }

    #[test]
    fn loopback_cannot_be_moved() {
        let seen = between("loopback", |container| {
            let devices = plan(&spec(&[("lo", "lo1")]), true)?;
            move_into(&devices, container.as_fd())?;
            Ok(String::new())
        });
        if let Some(seen) = seen {
            let text = seen.unwrap_err().to_string();
            assert!(
                text.starts_with("linux.netDevices[\"lo\"]: RTM_SETLINK("),
                "{text}"
            );
            assert!(
                text.ends_with("cannot be moved): invalid argument"),
                "{text}"
            );
        }
    }

    #[test]
    fn names_are_checked_first() {
        for (host, name, place) in [
            ("a/b", "", "linux.netDevices[\"a/b\"]: "),
            ("", "", "linux.netDevices[\"\"]: "),
            (
                "0123456789abcdef",
                "",
                "linux.netDevices[\"0123456789abcdef\"]: ",
            ),
            ("eth0", "a b", "linux.netDevices[\"eth0\"].name: "),
            ("eth0", "a%db", "linux.netDevices[\"eth0\"].name: "),
            ("eth0", "%d%d", "linux.netDevices[\"eth0\"].name: "),
            ("eth0", "..", "linux.netDevices[\"eth0\"].name: "),
            (
                "eth0",
                "0123456789abcd%d",
                "linux.netDevices[\"eth0\"].name: ",
            ),
        ] {
            let text = plan(&spec(&[(host, name)]), true).unwrap_err().to_string();
            assert!(text.starts_with(place), "{text}");
        }
        let twice = spec(&[("a", "x"), ("b", "x")]);
        assert!(plan(&twice, true).is_err());
        assert!(plan(&spec(&[("a", "x%d"), ("b", "x%d")]), true).is_ok());
        assert!(plan(&spec(&[("a", "")]), false).is_err());
        assert!(plan(&spec(&[]), false).is_ok());
    }
}
