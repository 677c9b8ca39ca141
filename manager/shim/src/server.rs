//! The loop: clients, signals and descriptors, one at a time.

use std::collections::BTreeMap;
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;

use knarr_proto::ttrpc::{Received, Receiver, Reply, reply, services};
use knarr_runtime::error::{Context, Error, Kind, Result};
use knarr_runtime::sys::process::set_name;
use knarr_runtime::sys::signal::Signals;
use rustix::event::epoll::{Event, EventFlags};
use rustix::fs::{FileType, Mode, OFlags, fstat, open};
use rustix::process::{Pid, Signal, set_child_subreaper, setsid};

use crate::args::Args;
use crate::events::Events;
use crate::poll::{self, Poll, Token};
use crate::service::Shim;

/// How long the last events may take when the shim ends.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// A client's connection.
#[derive(Debug)]
struct Client {
    socket: UnixStream,
    receiver: Receiver,
    /// Answers that are not written yet; while there are any, no calls are read.
    out: Vec<u8>,
    blocked: bool,
}

/// Serves until the shim shall end.
///
/// # Errors
/// Standard input that is no socket; what epoll and signals need.
pub fn serve(args: Args) -> Result<()> {
    set_name(c"containerd-shim");
    let listener = take_listener()?;
    // It has no terminal, nor shall it get one.
    let _ = setsid();
    set_child_subreaper(Some(Pid::INIT)).context(|| "prctl(PR_SET_CHILD_SUBREAPER)")?;
    let signals = Signals::block().context(|| "signalfd()")?;
    let poll = Poll::new()?;
    poll.add(&listener, Token::Listener, EventFlags::IN)?;
    poll.add(&signals, Token::Signals, EventFlags::IN)?;
    let daemon = std::env::var("TTRPC_ADDRESS").unwrap_or_default();
    let events = Events::new(&daemon, &args.namespace);
    let mut server = Server {
        shim: Shim::new(poll, events, &args.namespace)?,
        listener,
        signals,
        clients: BTreeMap::new(),
        next: 0,
    };
    let result = server.run();
    server.shim.events.flush(&server.shim.poll, LAST_WORDS);
    let _ = fs::remove_file(&args.socket);
    result
}

/// Takes the socket from standard input, and leaves /dev/null there.
fn take_listener() -> Result<UnixListener> {
    let stdin = rustix::stdio::stdin();
    let stat = fstat(stdin).context(|| "fstat(0)")?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Socket {
        return Err(Error::new(
            Kind::InvalidArgument,
            "standard input is no socket: a shim is started by `start`",
        ));
    }
    let socket = rustix::io::fcntl_dupfd_cloexec(stdin, 3).context(|| "fcntl(F_DUPFD_CLOEXEC)")?;
    let null = open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .context(|| "open(/dev/null)")?;
    rustix::stdio::dup2_stdin(null).context(|| "dup2(/dev/null, 0)")?;
    let listener = UnixListener::from(socket);
    listener
        .set_nonblocking(true)
        .context(|| "fcntl(O_NONBLOCK)")?;
    Ok(listener)
}

#[derive(Debug)]
struct Server {
    shim: Shim,
    listener: UnixListener,
    signals: Signals,
    clients: BTreeMap<u32, Client>,
    next: u32,
}

impl Server {
    fn run(&mut self) -> Result<()> {
        let mut ready: Vec<Event> = Vec::with_capacity(16);
        loop {
            self.shim.poll.wait(&mut ready, self.shim.timeout())?;
            // Why a process ended before that it did.
            let mut tokens: Vec<Token> = ready.iter().filter_map(poll::token).collect();
            tokens.sort_by_key(|token| match token {
                Token::Oom(_) => 0,
                Token::Signals => 1,
                _ => 2,
            });
            for token in tokens {
                match token {
                    Token::Listener => self.accept(),
                    Token::Signals => {
                        if self.take_signals()? {
                            return Ok(());
                        }
                    }
                    Token::Events => self.shim.events.advance(&self.shim.poll),
                    Token::Client(number) => self.serve_client(number),
                    Token::Pump(number) => self.shim.run_pump(number),
                    Token::Oom(number) => self.shim.tell_oom(number),
                }
                self.send_answers();
            }
            if self.shim.timeout().is_some() {
                self.shim.check_time();
                self.send_answers();
            }
            if self.shim.is_done() && self.clients.values().all(|client| client.out.is_empty()) {
                return Ok(());
            }
        }
    }

    fn accept(&mut self) {
        self.shim.events.hasten(&self.shim.poll);
        while let Ok((socket, _)) = self.listener.accept() {
            self.next = self.next.wrapping_add(1);
            let token = Token::Client(self.next);
            let added = socket
                .set_nonblocking(true)
                .context(|| "fcntl(O_NONBLOCK)")
                .and_then(|()| self.shim.poll.add(&socket, token, EventFlags::IN));
            match added {
                Ok(()) => {
                    let client = Client {
                        socket,
                        receiver: Receiver::default(),
                        out: Vec::new(),
                        blocked: false,
                    };
                    self.clients.insert(self.next, client);
                }
                Err(error) => complain!("a client is turned away: {error}"),
            }
        }
    }

    /// Whether the shim shall end at once.
    fn take_signals(&mut self) -> Result<bool> {
        let mut end = false;
        while let Some(number) = self.signals.next().context(|| "read(signalfd)")? {
            // Whoever stops the machine; containers go on without their shim.
            end |= number == Signal::TERM.as_raw() || number == Signal::INT.as_raw();
        }
        self.shim.reap();
        Ok(end)
    }

    fn serve_client(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        self.shim.client = number;
        if client.serve(&mut self.shim).is_err() {
            self.drop_client(number);
            return;
        }
        self.write(number);
    }

    fn drop_client(&mut self, number: u32) {
        if let Some(client) = self.clients.remove(&number) {
            self.shim.poll.remove(client.socket.as_fd());
        }
        self.shim.client_left(number);
    }

    fn write(&mut self, number: u32) {
        let Some(client) = self.clients.get_mut(&number) else {
            return;
        };
        if client.write(number, &self.shim.poll).is_err() {
            self.drop_client(number);
        }
    }

    fn send_answers(&mut self) {
        for (waiter, response) in std::mem::take(&mut self.shim.answers) {
            if let Some(client) = self.clients.get_mut(&waiter.client) {
                reply(&mut client.out, waiter.stream, response.map(Reply::Now));
                self.write(waiter.client);
            }
        }
    }
}

impl Client {
    /// Reads calls and serves them.
    fn serve(&mut self, shim: &mut Shim) -> std::io::Result<()> {
        if self.blocked {
            return Ok(());
        }
        let mut bytes = [0; 4096];
        match self.socket.read(&mut bytes) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.receiver.push(bytes.get(..count).unwrap_or_default()),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        while let Some(received) = self.receiver.take() {
            match received {
                Received::Refused(refusal) => self.out.extend(refusal),
                Received::Call(call) if services::TASK.contains(&call.service.as_str()) => {
                    let result = services::dispatch_task(shim, &call);
                    reply(&mut self.out, call.stream, result);
                }
                Received::Call(call) if services::SANDBOX.contains(&call.service.as_str()) => {
                    let result = services::dispatch_sandbox(shim, &call);
                    reply(&mut self.out, call.stream, result);
                }
                Received::Call(call) => {
                    reply(&mut self.out, call.stream, Err(call.unimplemented()));
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, number: u32, poll: &Poll) -> std::io::Result<()> {
        let mut blocked = false;
        while !self.out.is_empty() {
            match self.socket.write(&self.out) {
                Ok(count) => drop(self.out.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    blocked = true;
                    break;
                }
                Err(error) => return Err(error),
            }
        }
        if !blocked {
            self.out = Vec::new();
        }
        if blocked != self.blocked {
            self.blocked = blocked;
            let flags = match blocked {
                true => EventFlags::OUT,
                false => EventFlags::IN,
            };
            poll.modify(&self.socket, Token::Client(number), flags)
                .map_err(std::io::Error::other)?;
        }
        Ok(())
    }
}
