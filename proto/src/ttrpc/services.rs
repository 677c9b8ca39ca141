//! The services that are called over ttrpc, as traits: one method for each of theirs,
//! and a function that passes a call to the right one. With feature `ttrpc-client`
//! there is a typed client of each as well.
//!
//! Methods do not block: one that has no answer yet notes the stream of its call and
//! returns [`Reply::Later`].

use bytes::Bytes;
use prost::Message;

use super::{Call, Reply, Status};
#[cfg(feature = "ttrpc-client")]
use super::{Client, Error, Options};
use crate::containerd::runtime::sandbox::v1 as sandbox;
use crate::containerd::services::events::ttrpc::v1 as events;
use crate::containerd::task::v2 as task;

/// One service: its names on the wire, trait, dispatcher and client.
macro_rules! service {
    (
        $(#[$about:meta])*
        $trait:ident, $names:ident, $dispatch:ident, $client:ident [$($new:ident = $name:literal),+]
        $($wire:literal $method:ident($request:ty) -> $response:ty;)+
    ) => {
        #[doc = concat!("Names of the service [`", stringify!($trait), "`] on the wire, the newest first.")]
        pub const $names: &[&str] = &[$($name),+];

        $(#[$about])*
        pub trait $trait {
            $(
                #[doc = concat!("Serves `", $wire, "`.")]
                ///
                /// # Errors
                /// Become the answer.
                fn $method(&mut self, call: &Call, request: $request) -> Result<Reply<$response>, Status>;
            )+
        }

        #[doc = concat!("Passes a call of one of [`", stringify!($names), "`] to its method.")]
        ///
        /// # Errors
        /// The method's, `UNIMPLEMENTED` where there is none, `INVALID_ARGUMENT` for what is no request.
        pub fn $dispatch<S: $trait + ?Sized>(service: &mut S, call: &Call) -> Result<Reply<Bytes>, Status> {
            match call.method.as_str() {
                $($wire => Ok(encoded(service.$method(call, call.request()?)?)),)+
                _ => Err(call.unimplemented()),
            }
        }

        #[doc = concat!("Calls the service [`", stringify!($trait), "`] of another process.")]
        #[cfg(feature = "ttrpc-client")]
        #[derive(Clone, Debug)]
        pub struct $client {
            client: Client,
            service: &'static str,
        }

        #[cfg(feature = "ttrpc-client")]
        impl $client {
            $(
                #[doc = concat!("Under the name `", $name, "`.")]
                pub fn $new(client: Client) -> Self {
                    Self { client, service: $name }
                }
            )+

            $(
                #[doc = concat!("Calls `", $wire, "`.")]
                ///
                /// # Errors
                /// As those of [`Client::call`].
                pub async fn $method(&self, request: &$request, options: &Options) -> Result<$response, Error> {
                    self.client.call(self.service, $wire, request, options).await
                }
            )+
        }

        /// Method, request and response by their names in the descriptors.
        #[cfg(test)]
        mod $dispatch {
            use super::*;

            pub(super) fn methods() -> Vec<String> {
                use prost::Name;
                vec![$(format!("{} {} {}", $wire, <$request>::full_name(), <$response>::full_name())),+]
            }
        }
    };
}

service! {
    /// Containers in a shim and the processes in them. Versions 2 and 3 are served alike.
    Task, TASK, dispatch_task, TaskClient [v3 = "containerd.task.v3.Task", v2 = "containerd.task.v2.Task"]
    "State" state(task::StateRequest) -> task::StateResponse;
    "Create" create(task::CreateTaskRequest) -> task::CreateTaskResponse;
    "Start" start(task::StartRequest) -> task::StartResponse;
    "Delete" delete(task::DeleteRequest) -> task::DeleteResponse;
    "Pids" pids(task::PidsRequest) -> task::PidsResponse;
    "Pause" pause(task::PauseRequest) -> ();
    "Resume" resume(task::ResumeRequest) -> ();
    "Checkpoint" checkpoint(task::CheckpointTaskRequest) -> ();
    "Kill" kill(task::KillRequest) -> ();
    "Exec" exec(task::ExecProcessRequest) -> ();
    "ResizePty" resize_pty(task::ResizePtyRequest) -> ();
    "CloseIO" close_io(task::CloseIoRequest) -> ();
    "Update" update(task::UpdateTaskRequest) -> ();
    "Wait" wait(task::WaitRequest) -> task::WaitResponse;
    "Stats" stats(task::StatsRequest) -> task::StatsResponse;
    "Connect" connect(task::ConnectRequest) -> task::ConnectResponse;
    "Shutdown" shutdown(task::ShutdownRequest) -> ();
}

service! {
    /// The sandbox that a shim holds.
    Sandbox, SANDBOX, dispatch_sandbox, SandboxClient [new = "containerd.runtime.sandbox.v1.Sandbox"]
    "CreateSandbox" create_sandbox(sandbox::CreateSandboxRequest) -> sandbox::CreateSandboxResponse;
    "StartSandbox" start_sandbox(sandbox::StartSandboxRequest) -> sandbox::StartSandboxResponse;
    "Platform" platform(sandbox::PlatformRequest) -> sandbox::PlatformResponse;
    "StopSandbox" stop_sandbox(sandbox::StopSandboxRequest) -> sandbox::StopSandboxResponse;
    "WaitSandbox" wait_sandbox(sandbox::WaitSandboxRequest) -> sandbox::WaitSandboxResponse;
    "SandboxStatus" sandbox_status(sandbox::SandboxStatusRequest) -> sandbox::SandboxStatusResponse;
    "PingSandbox" ping_sandbox(sandbox::PingRequest) -> sandbox::PingResponse;
    "ShutdownSandbox" shutdown_sandbox(sandbox::ShutdownSandboxRequest) -> sandbox::ShutdownSandboxResponse;
    "SandboxMetrics" sandbox_metrics(sandbox::SandboxMetricsRequest) -> sandbox::SandboxMetricsResponse;
    "UpdateSandbox" update_sandbox(sandbox::UpdateSandboxRequest) -> sandbox::UpdateSandboxResponse;
}

service! {
    /// What a daemon takes from its shims.
    Events, EVENTS, dispatch_events, EventsClient [new = "containerd.services.events.ttrpc.v1.Events"]
    "Forward" forward(events::ForwardRequest) -> ();
}

fn encoded<M: Message>(reply: Reply<M>) -> Reply<Bytes> {
    match reply {
        Reply::Now(response) => Reply::Now(response.encode_to_vec().into()),
        Reply::Later => Reply::Later,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::FILE_DESCRIPTOR_SET;
    use crate::ttrpc::Code;
    use proptest::prelude::*;
    use prost_types::FileDescriptorSet;

    /// The methods of a service as its description has them, in their order.
    fn described(service: &str) -> Vec<String> {
        let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
        let (package, name) = service.rsplit_once('.').unwrap();
        let mut services = set
            .file
            .iter()
            .filter(|file| file.package() == package)
            .flat_map(|file| &file.service);
        let service = services.find(|service| service.name() == name).unwrap();
        let methods = service.method.iter().map(|method| {
            assert!(!method.client_streaming() && !method.server_streaming());
            let (input, output) = (&method.input_type()[1..], &method.output_type()[1..]);
            // Version 3 has the types of version 2 here.
            format!("{} {input} {output}", method.name()).replace(".task.v3.", ".task.v2.")
        });
        methods.collect()
    }

    #[test]
    fn every_method_is_there() {
        assert_eq!(TASK, ["containerd.task.v3.Task", "containerd.task.v2.Task"]);
        for name in TASK {
            assert_eq!(dispatch_task::methods(), described(name));
        }
        assert_eq!(dispatch_sandbox::methods(), described(SANDBOX[0]));
        assert_eq!(dispatch_events::methods(), described(EVENTS[0]));
    }

    /// Takes every event.
    struct Taken(Vec<events::ForwardRequest>);

    impl Events for Taken {
        fn forward(
            &mut self,
            _: &Call,
            request: events::ForwardRequest,
        ) -> Result<Reply<()>, Status> {
            self.0.push(request);
            Ok(().into())
        }
    }

    fn call(method: &str, payload: Vec<u8>) -> Call {
        Call {
            stream: 1,
            service: EVENTS[0].into(),
            method: method.into(),
            payload: payload.into(),
            timeout: None,
            metadata: Vec::new(),
        }
    }

    #[test]
    fn calls_reach_their_method() {
        let mut taken = Taken(Vec::new());
        let reply = dispatch_events(&mut taken, &call("Forward", b"\x0a\x04\x12\x02ns".to_vec()));
        assert_eq!(reply, Ok(Reply::Now(Bytes::new())));
        assert_eq!(taken.0[0].envelope.as_ref().unwrap().namespace, "ns");

        let status = dispatch_events(&mut taken, &call("Backward", Vec::new())).unwrap_err();
        let text = "there is no containerd.services.events.ttrpc.v1.Events/Backward";
        assert_eq!(status, Status::new(Code::Unimplemented, text));

        let status = dispatch_events(&mut taken, &call("Forward", vec![0xff])).unwrap_err();
        assert_eq!(status.code, Code::InvalidArgument);
        assert!(status.message.contains("Events/Forward"), "{status}");
    }

    proptest! {
        #[test]
        fn no_payload_panics(payload in prop::collection::vec(any::<u8>(), 0..300)) {
            let mut taken = Taken(Vec::new());
            let _ = dispatch_events(&mut taken, &call("Forward", payload));
        }
    }
}
