//! Calls of any method, with messages as they are on the wire.

use std::time::Duration;

use knarr_proto::prost::Message as _;
use knarr_proto::prost::bytes::{Buf as _, BufMut as _};
use knarr_proto::prost_types::FileDescriptorSet;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::in_namespace;

/// Messages as they are on the wire.
#[derive(Clone, Copy)]
pub struct Raw;

impl Codec for Raw {
    type Encode = Vec<u8>;
    type Decode = Vec<u8>;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn encode(&mut self, item: Vec<u8>, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put_slice(&item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Vec<u8>;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Vec<u8>>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining()).to_vec()))
    }
}

/// Calls a method with one message; reads its answers for a moment.
pub async fn call(channel: &Channel, path: &str, message: Vec<u8>) -> Code {
    let limit = Duration::from_millis(200);
    let end = call_with(channel, path, vec![message], limit).await;
    end.map_or_else(|status| status.code(), |()| Code::Ok)
}

/// Calls a method with these messages; reads its answers until `limit`, since some go on for ever.
pub async fn call_with(
    channel: &Channel,
    path: &str,
    messages: Vec<Vec<u8>>,
    limit: Duration,
) -> Result<(), Status> {
    let all = async {
        let mut client = tonic::client::Grpc::new(channel.clone());
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(error.to_string()))?;
        let path = path.parse::<PathAndQuery>().unwrap();
        let request = in_namespace(tokio_stream::iter(messages));
        let mut answers = client.streaming(request, path, Raw).await?.into_inner();
        while answers.message().await?.is_some() {}
        Ok(())
    };
    tokio::time::timeout(limit, all).await.unwrap_or(Ok(()))
}

/// The paths of all methods of the API.
pub fn methods() -> Vec<String> {
    let methods = described().into_iter();
    methods.map(|(path, _)| path).collect()
}

/// The same, each with the name of its request.
pub fn described() -> Vec<(String, String)> {
    let files = FileDescriptorSet::decode(knarr_proto::FILE_DESCRIPTOR_SET).unwrap();
    let mut paths = Vec::new();
    for file in &files.file {
        let package = file.package();
        if !package.starts_with("containerd.services.") || package.contains(".ttrpc.") {
            continue;
        }
        for service in &file.service {
            for method in &service.method {
                let path = format!("/{package}.{}/{}", service.name(), method.name());
                let request = method.input_type().trim_start_matches('.');
                paths.push((path, request.to_owned()));
            }
        }
    }
    paths
}
