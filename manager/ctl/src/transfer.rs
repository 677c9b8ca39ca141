//! Moving images: the daemon does it, this side sends the archive and shows the progress.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use knarr_proto::any;
use knarr_proto::prost_types::Any;
use knarr_proto::services::streaming::v1::StreamInit;
use knarr_proto::services::transfer::v1::{TransferOptions, TransferRequest};
use knarr_proto::types::transfer::{
    Data, ImageImportStream, ImageReference, ImageStore, OciRegistry, Progress, RegistryResolver,
    UnpackConfiguration, WindowUpdate,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::daemon::{Daemon, said, unique};
use crate::image;

/// How much of an archive goes into one message, in bytes.
const PIECE: usize = 128 << 10;

/// One side of a named stream.
struct Stream {
    name: String,
    outgoing: mpsc::Sender<Any>,
    incoming: Streaming<Any>,
}

impl Stream {
    async fn open(daemon: &Daemon, what: &str) -> Result<Self> {
        let (outgoing, messages) = mpsc::channel(4);
        let name = unique(what);
        let id = name.clone();
        outgoing.send(any::pack(&StreamInit { id })).await?;
        let request = daemon.request(ReceiverStream::new(messages));
        let answer = daemon.streaming().stream(request).await;
        let mut incoming = answer.map_err(|status| said(&status))?.into_inner();
        // It is there for other calls when that is acknowledged.
        incoming.message().await.map_err(|status| said(&status))?;
        Ok(Self {
            name,
            outgoing,
            incoming,
        })
    }
}

/// Fetches an image and unpacks it.
///
/// # Errors
/// What the daemon says.
pub async fn pull(daemon: &Daemon, name: &str, plain_http: bool) -> Result<()> {
    let name = image::full_name(name);
    let scheme = if plain_http { "http" } else { "" };
    let source = OciRegistry {
        reference: name.clone(),
        resolver: Some(RegistryResolver {
            default_scheme: scheme.to_owned(),
            ..Default::default()
        }),
    };
    let store = ImageStore {
        name: name.clone(),
        ..store()
    };
    transfer(daemon, any::pack(&source), any::pack(&store)).await?;
    println!("{name}");
    Ok(())
}

/// Takes the images of an archive in.
///
/// # Errors
/// A file that cannot be read; what the daemon says.
pub async fn import(daemon: &Daemon, file: &Path) -> Result<()> {
    let place = || format!("cannot read {}", file.display());
    let archive: Box<dyn Read + Send> = match file == Path::new("-") {
        true => Box::new(std::io::stdin()),
        false => Box::new(File::open(file).with_context(place)?),
    };
    let stream = Stream::open(daemon, "import").await?;
    let source = ImageImportStream {
        stream: stream.name.clone(),
        ..Default::default()
    };
    let store = ImageStore {
        // Those that the archive names.
        extra_references: vec![ImageReference {
            allow_overwrite: true,
            is_prefix: true,
            ..Default::default()
        }],
        ..store()
    };
    let (source, store) = (any::pack(&source), any::pack(&store));
    let (done, sent) = tokio::join!(transfer(daemon, source, store), send(stream, archive));
    // The daemon's word explains why it took no more.
    done?;
    sent.with_context(place)
}

fn store() -> ImageStore {
    ImageStore {
        unpacks: vec![UnpackConfiguration {
            platform: Some(image::platform()),
            snapshotter: image::SNAPSHOTTER.to_owned(),
        }],
        platforms: vec![image::platform()],
        ..Default::default()
    }
}

/// Sends as much as the other side wants at a time, to the end.
async fn send(stream: Stream, mut archive: Box<dyn Read + Send>) -> Result<()> {
    let Stream {
        outgoing,
        mut incoming,
        ..
    } = stream;
    let (pieces, mut read) = mpsc::channel::<std::io::Result<Vec<u8>>>(2);
    std::thread::spawn(move || {
        loop {
            let mut piece = Vec::with_capacity(PIECE);
            let limit = u64::try_from(PIECE).unwrap_or(u64::MAX);
            let got = archive.by_ref().take(limit).read_to_end(&mut piece);
            let is_last = !matches!(got, Ok(1..));
            let piece = got.map(|_| piece);
            if pieces.blocking_send(piece).is_err() || is_last {
                return;
            }
        }
    });
    let mut window = 0_i64;
    while let Some(piece) = read.recv().await {
        let data = piece?;
        if data.is_empty() {
            break;
        }
        while window <= 0 {
            match incoming.message().await {
                Ok(Some(update)) => {
                    window += i64::from(any::unpack::<WindowUpdate>(&update)?.update);
                }
                Ok(None) | Err(_) => return Ok(()),
            }
        }
        window -= i64::try_from(data.len())?;
        let data = data.into();
        if outgoing.send(any::pack(&Data { data })).await.is_err() {
            return Ok(());
        }
    }
    drop(outgoing);
    // Letting go of this side would take back what is still on its way.
    while let Ok(Some(_)) = incoming.message().await {}
    Ok(())
}

/// Lets the daemon move something, and shows how far it is.
async fn transfer(daemon: &Daemon, source: Any, destination: Any) -> Result<()> {
    let Stream {
        name,
        outgoing,
        mut incoming,
    } = Stream::open(daemon, "progress").await?;
    let shown = tokio::spawn(async move {
        let mut bar = Bar::default();
        while let Ok(Some(message)) = incoming.message().await {
            if let Ok(progress) = any::unpack::<Progress>(&message) {
                bar.show(&progress);
            }
        }
        bar.clear();
    });
    let request = daemon.request(TransferRequest {
        source: Some(source),
        destination: Some(destination),
        options: Some(TransferOptions {
            progress_stream: name,
        }),
    });
    let done = daemon.transfer().transfer(request).await;
    drop(outgoing);
    // Its end follows that of the transfer.
    let _ = shown.await;
    match done {
        Ok(_) => Ok(()),
        Err(status) => bail!("{}", said(&status)),
    }
}

/// One line that says what is going on; only people get it.
#[derive(Debug, Default)]
struct Bar {
    shown: bool,
}

impl Bar {
    fn show(&mut self, progress: &Progress) {
        if !std::io::stderr().is_terminal() {
            if progress.event == "saved" {
                eprintln!("{} {}", progress.event, progress.name);
            }
            return;
        }
        let share = match progress.total {
            1.. => format!(
                " {:3}%",
                progress.progress.saturating_mul(100) / progress.total
            ),
            _ => String::new(),
        };
        let mut out = std::io::stderr().lock();
        let _ = write!(out, "\r\x1b[K{} {}{share}", progress.event, progress.name);
        self.shown = true;
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}
