//! Blobs. A blob is written over one stream: the first message names the ingest, each is answered.
//!
//! ```text
//! STAT      how far it is
//! WRITE     bytes at an offset: where it is, or from the start anew
//! COMMIT    bytes as with WRITE, then it is made a blob, and the stream ends
//! ```

use knarr_proto::prost::bytes::Bytes;
use knarr_proto::services::content::v1::content_server::Content;
use knarr_proto::services::content::v1::{
    AbortRequest, DeleteContentRequest, Info, InfoRequest, InfoResponse, ListContentRequest,
    ListContentResponse, ListStatusesRequest, ListStatusesResponse, ReadContentRequest,
    ReadContentResponse, Status as IngestStatus, StatusRequest, StatusResponse, UpdateRequest,
    UpdateResponse, WriteAction, WriteContentRequest, WriteContentResponse,
};
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use super::{Answers, Api, lease, namespace, pages, paths, required, signed, timestamp};
use crate::error::{Code, Error, Result};
use crate::store::content::{self, Order, Writer};
use crate::store::digest::Digest;
use crate::store::filter::Filters;
use crate::store::mask;

/// How much of a blob goes into one message, in bytes.
const PIECE: u64 = 1 << 20;

fn to_wire(info: content::Info) -> Info {
    Info {
        digest: info.digest.to_string(),
        size: signed(info.blob.size),
        created_at: Some(timestamp(info.blob.created)),
        updated_at: Some(timestamp(info.blob.updated)),
        labels: info.blob.labels,
    }
}

fn status_to_wire(status: content::Status) -> IngestStatus {
    IngestStatus {
        started_at: Some(timestamp(status.started)),
        updated_at: Some(timestamp(status.updated)),
        r#ref: status.reference,
        offset: signed(status.offset),
        total: signed(status.total),
        expected: status.expected,
    }
}

/// A length that a client gives: none is negative.
fn length(number: i64, what: &str) -> Result<u64> {
    u64::try_from(number).map_err(|_| Error::invalid(format!("{what} {number} is negative")))
}

#[async_trait]
impl Content for Api {
    async fn info(&self, request: Request<InfoRequest>) -> Result<Response<InfoResponse>, Status> {
        let namespace = namespace(&request)?;
        let digest = request.into_inner().digest.parse()?;
        let info = Some(to_wire(self.0.content.info(&namespace, &digest)?));
        Ok(Response::new(InfoResponse { info }))
    }

    async fn update(
        &self,
        request: Request<UpdateRequest>,
    ) -> Result<Response<UpdateResponse>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let Info { digest, labels, .. } = required(request.info, "info")?;
        let digest = digest.parse()?;
        let paths = paths(request.update_mask);
        let what = format!("content info {digest}");
        let change = move |old: &mut _| mask::relabel(&paths, old, &labels, &what);
        let info = self.0.content.relabel(&namespace, &digest, change).await?;
        let info = Some(to_wire(info));
        Ok(Response::new(UpdateResponse { info }))
    }

    type ListStream = Answers<ListContentResponse>;

    async fn list(
        &self,
        request: Request<ListContentRequest>,
    ) -> Result<Response<Self::ListStream>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let mut found = Vec::new();
        block_in_place(|| {
            let add = |info| found.push(to_wire(info));
            self.0.content.list(&namespace, &filters, add)
        })?;
        let answers = pages(found, |info| ListContentResponse { info });
        Ok(Response::new(answers))
    }

    async fn delete(&self, request: Request<DeleteContentRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let digest = request.into_inner().digest.parse()?;
        self.0.content.delete(&namespace, &digest).await?;
        Ok(Response::new(()))
    }

    type ReadStream = Answers<ReadContentResponse>;

    async fn read(
        &self,
        request: Request<ReadContentRequest>,
    ) -> Result<Response<Self::ReadStream>, Status> {
        let namespace = namespace(&request)?;
        let request = request.into_inner();
        let reader = self.0.content.read(&namespace, &request.digest.parse()?)?;
        let start = length(request.offset, "offset")?;
        let Some(rest) = reader.size().checked_sub(start) else {
            let what = format!("read past object length {} bytes", reader.size());
            return Err(Error::new(Code::OutOfRange, what).into());
        };
        let end = match length(request.size, "size")? {
            0 => start + rest,
            size => start + size.min(rest),
        };
        let (sender, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let mut offset = start;
            while offset < end {
                let answer = block_in_place(|| read_piece(&reader, offset, end));
                let ended = answer.is_err();
                offset += PIECE;
                if sender.send(answer.map_err(Status::from)).await.is_err() || ended {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn status(
        &self,
        request: Request<StatusRequest>,
    ) -> Result<Response<StatusResponse>, Status> {
        let namespace = namespace(&request)?;
        let status = self
            .0
            .content
            .status(&namespace, &request.get_ref().r#ref)?;
        let status = Some(status_to_wire(status));
        Ok(Response::new(StatusResponse { status }))
    }

    async fn list_statuses(
        &self,
        request: Request<ListStatusesRequest>,
    ) -> Result<Response<ListStatusesResponse>, Status> {
        let namespace = namespace(&request)?;
        let filters = Filters::parse(&request.into_inner().filters)?;
        let found = block_in_place(|| self.0.content.statuses(&namespace, &filters))?;
        let statuses = found.into_iter().map(status_to_wire).collect();
        Ok(Response::new(ListStatusesResponse { statuses }))
    }

    type WriteStream = Answers<WriteContentResponse>;

    async fn write(
        &self,
        request: Request<Streaming<WriteContentRequest>>,
    ) -> Result<Response<Self::WriteStream>, Status> {
        let (namespace, lease) = (namespace(&request)?, lease(&request));
        let content = self.0.content.clone();
        let (sender, answers) = mpsc::channel(1);
        tokio::spawn(async move {
            let requests = request.into_inner();
            let written = write(&content, &namespace, lease, requests, &sender);
            if let Err(status) = written.await {
                let _ = sender.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(answers))))
    }

    async fn abort(&self, request: Request<AbortRequest>) -> Result<Response<()>, Status> {
        let namespace = namespace(&request)?;
        let reference = request.into_inner().r#ref;
        self.0.content.abort(&namespace, &reference).await?;
        Ok(Response::new(()))
    }
}

fn read_piece(reader: &content::Reader, offset: u64, end: u64) -> Result<ReadContentResponse> {
    let size = usize::try_from(PIECE.min(end - offset)).unwrap_or(0);
    let mut data = vec![0; size];
    if reader.read_at(&mut data, offset)? != size {
        let what = format!("a blob ends before byte {end}");
        return Err(Error::new(Code::DataLoss, what));
    }
    Ok(ReadContentResponse {
        offset: signed(offset),
        data: data.into(),
    })
}

/// What the messages of a stream have said so far of the blob.
#[derive(Debug, Default)]
struct Said {
    total: u64,
    expected: Option<Digest>,
}

impl Said {
    /// Hears another message, which must not say anything else.
    fn hear(&mut self, request: &WriteContentRequest) -> Result<()> {
        let total = length(request.total, "total")?;
        if total != 0 {
            if self.total != 0 && self.total != total {
                return Err(Error::invalid(format!(
                    "commit size {total} does not match the {} said before",
                    self.total
                )));
            }
            self.total = total;
        }
        if !request.expected.is_empty() {
            let expected = request.expected.parse()?;
            if self.expected.as_ref().is_some_and(|old| *old != expected) {
                return Err(Error::invalid(format!(
                    "commit digest {expected} does not match the one said before"
                )));
            }
            self.expected = Some(expected);
        }
        Ok(())
    }
}

type Sender = mpsc::Sender<Result<WriteContentResponse, Status>>;

async fn write(
    content: &content::Content,
    namespace: &str,
    lease: Option<String>,
    mut requests: Streaming<WriteContentRequest>,
    sender: &Sender,
) -> Result<(), Status> {
    let first = requests.message().await?;
    let mut request = first.ok_or_else(|| Error::invalid("the stream has no message"))?;
    let mut said = Said::default();
    said.hear(&request)?;
    let order = Order {
        reference: request.r#ref.clone(),
        total: said.total,
        expected: said.expected.clone(),
        lease,
    };
    let mut writer = content.write(namespace, order).await?;
    loop {
        said.hear(&request)?;
        let action = request.action();
        if action != WriteAction::Stat {
            let data = std::mem::take(&mut request.data);
            block_in_place(|| add(&mut writer, request.offset, &data))?;
        }
        let status = writer.status();
        let mut answer = WriteContentResponse {
            action: request.action,
            started_at: Some(timestamp(status.started)),
            updated_at: Some(timestamp(status.updated)),
            offset: signed(status.offset),
            total: signed(said.total),
            digest: String::new(),
        };
        if action == WriteAction::Commit {
            let labels = std::mem::take(&mut request.labels);
            let committed = writer.commit(said.total, said.expected.as_ref(), labels);
            answer.digest = committed.await?.digest.to_string();
            let _ = sender.send(Ok(answer)).await;
            return Ok(());
        }
        answer.digest = writer.digest().to_string();
        if sender.send(Ok(answer)).await.is_err() {
            return Ok(());
        }
        match requests.message().await? {
            Some(next) => request = next,
            None => return Ok(()),
        }
    }
}

/// Adds bytes at an offset: where the writer is, or at the start, and then what was there is gone.
fn add(writer: &mut Writer, offset: i64, data: &Bytes) -> Result<()> {
    let (asked, current) = (length(offset, "offset")?, writer.status().offset);
    if asked != 0 && asked != current {
        return Err(Error::new(
            Code::OutOfRange,
            format!("write @{asked} must occur at current offset {current}"),
        ));
    }
    if asked == 0 && current > 0 {
        writer.truncate(0)?;
    }
    if data.is_empty() {
        return Ok(());
    }
    writer.write(data)
}
