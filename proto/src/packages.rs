//! The modules into which the generated code goes, one a package: this tree is
//! that of the packages' names, since generated code refers to its neighbours by it.
//!
//! What the generated items are is told in the `.proto` files, where their names
//! do not say it.
#![allow(missing_docs, unused_qualifications, clippy::all)]

/// The code generated for one package.
macro_rules! generated {
    ($package:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $package, ".rs"));
    };
}

/// containerd's packages.
pub mod containerd {
    /// What happened to containers, tasks, content and the rest, told to subscribers.
    pub mod events {
        generated!("containerd.events");
    }

    /// What several services share.
    pub mod types {
        generated!("containerd.types");

        /// Sources, destinations and streams of the transfer service.
        pub mod transfer {
            generated!("containerd.types.transfer");
        }
    }

    /// Types that never moved to `containerd.types`.
    pub mod v1 {
        /// Processes and their states.
        pub mod types {
            generated!("containerd.v1.types");
        }
    }

    /// Options of runtimes that create containers as runc does.
    pub mod runc {
        /// Version 1.
        pub mod v1 {
            generated!("containerd.runc.v1");
        }
    }

    /// The task service of shims.
    pub mod task {
        /// Version 2.
        pub mod v2 {
            generated!("containerd.task.v2");
        }

        /// Version 3: the messages of version 2, under another package's name on the wire.
        pub mod v3 {
            pub use super::v2::*;
        }
    }

    /// Other parts of the protocol of shims.
    pub mod runtime {
        /// What a shim reads and answers when it is started.
        pub mod bootstrap {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.runtime.bootstrap.v1");
            }
        }

        /// The service of shims that hold a whole pod.
        pub mod sandbox {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.runtime.sandbox.v1");
            }
        }
    }

    /// The services of the manager.
    pub mod services {
        /// Records of containers.
        pub mod containers {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.containers.v1");
            }
        }

        /// Blobs by digest.
        pub mod content {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.content.v1");
            }
        }

        /// Layers made from directories, and directories from layers.
        pub mod diff {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.diff.v1");
            }
        }

        /// Events between clients and daemon, and from shims to the daemon.
        pub mod events {
            /// Version 1, over gRPC.
            pub mod v1 {
                generated!("containerd.services.events.v1");
            }

            /// Over ttrpc, from shims.
            pub mod ttrpc {
                /// Version 1.
                pub mod v1 {
                    generated!("containerd.services.events.ttrpc.v1");
                }
            }
        }

        /// Names that stand for content.
        pub mod images {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.images.v1");
            }
        }

        /// What the daemon consists of.
        pub mod introspection {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.introspection.v1");
            }
        }

        /// Protection from garbage collection.
        pub mod leases {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.leases.v1");
            }
        }

        /// Mounts that the daemon makes for clients.
        pub mod mounts {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.mounts.v1");
            }
        }

        /// Worlds of names that do not see each other.
        pub mod namespaces {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.namespaces.v1");
            }
        }

        /// Sandboxes: their records and their life cycle.
        pub mod sandbox {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.sandbox.v1");
            }
        }

        /// Directories stacked upon each other.
        pub mod snapshots {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.snapshots.v1");
            }
        }

        /// Streams that transfers refer to.
        pub mod streaming {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.streaming.v1");
            }
        }

        /// Running containers.
        pub mod tasks {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.tasks.v1");
            }
        }

        /// Pull, push, import, export, tag: one object from a source to a destination.
        pub mod transfer {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.transfer.v1");
            }
        }

        /// The daemon's version.
        pub mod version {
            /// Version 1.
            pub mod v1 {
                generated!("containerd.services.version.v1");
            }
        }
    }
}

/// Types that Google's services share.
pub mod google {
    /// Results of calls.
    pub mod rpc {
        generated!("google.rpc");
    }
}

/// Figures of control groups.
pub mod io {
    /// containerd's packages.
    pub mod containerd {
        /// One package for each version of control groups.
        pub mod cgroups {
            /// Version 1.
            pub mod v1 {
                generated!("io.containerd.cgroups.v1");
            }
            /// Version 2.
            pub mod v2 {
                generated!("io.containerd.cgroups.v2");
            }
        }
    }
}

/// The kubelet's interface to container runtimes, CRI.
pub mod runtime {
    /// Version 1, the only one.
    pub mod v1 {
        generated!("runtime.v1");
    }
}

/// Options of runtimes that have no type of their own for them.
pub mod runtimeoptions {
    /// Version 1.
    pub mod v1 {
        generated!("runtimeoptions.v1");
    }
}

/// What is in a ttrpc frame.
pub mod ttrpc {
    generated!("ttrpc");
}
