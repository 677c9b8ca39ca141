//! The server on tokio, asked by the client.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::tests_outside_test_module,
    reason = "the whole file is a test"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use knarr_proto::containerd::services::events::ttrpc::v1::ForwardRequest;
use knarr_proto::prost::bytes::Bytes;
use knarr_proto::ttrpc::services::EventsClient;
use knarr_proto::ttrpc::{Client, Code, Error, Options, Status, serve};
use knarr_proto::types::Envelope;
use tokio::net::UnixStream;
use tokio::time::sleep;

fn event(topic: &str) -> ForwardRequest {
    ForwardRequest {
        envelope: Some(Envelope {
            topic: topic.to_owned(),
            ..Envelope::default()
        }),
    }
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().build().unwrap().block_on(test);
}

#[test]
fn calls_are_served_one_after_the_other() {
    run(async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let served: Arc<Mutex<Vec<String>>> = Arc::default();
        let kept = Arc::clone(&served);
        let server = tokio::spawn(serve(theirs, move |call| {
            let served = Arc::clone(&served);
            async move {
                let request: ForwardRequest = call.request()?;
                let topic = request.envelope.unwrap_or_default().topic;
                if topic == "/no" {
                    return Err(Status::new(Code::InvalidArgument, "no"));
                }
                // The first takes the longest.
                let left = 5_u64.saturating_sub(u64::try_from(topic.len()).unwrap());
                sleep(Duration::from_millis(left * 10)).await;
                served.lock().unwrap().push(topic);
                Ok(Bytes::new())
            }
        }));
        let client = Client::new(ours);
        let events = EventsClient::new(client.clone());
        let options = Options::default();
        let asked = ["/", "/a", "/aa", "/aaa"].map(|topic| {
            let (events, options) = (events.clone(), options.clone());
            tokio::spawn(async move { events.forward(&event(topic), &options).await })
        });
        for answer in asked {
            assert_eq!(answer.await.unwrap(), Ok(()));
        }
        assert_eq!(*kept.lock().unwrap(), ["/", "/a", "/aa", "/aaa"]);
        let refused = events.forward(&event("/no"), &options).await;
        let status = Status::new(Code::InvalidArgument, "no");
        assert_eq!(refused, Err(Error::Status(status)));
        // The connection goes on, and ends where the client lets go.
        assert_eq!(events.forward(&event("/"), &options).await, Ok(()));
        drop((events, client));
        server.await.unwrap().unwrap();
    });
}
