//! Compiles the wire protocol. The compiler is itself a crate: a fresh machine needs cargo and nothing else.

use std::error::Error;

const PROTO: &str = "proto/peerage/v1/peerage.proto";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={PROTO}");
    let mut descriptors = protox::compile([PROTO], ["proto"])?;
    // The exchange has a codec of its own: its client and server are written by hand (`src/grpc/`).
    for service in descriptors.file.iter_mut().flat_map(|file| &mut file.service) {
        service.method.retain(|method| method.name() != "Exchange");
    }
    tonic_prost_build::configure()
        .bytes(".") // values and keys share the buffer that they arrived in
        .build_transport(false) // the client rides on a channel of our own making
        .codec_path("crate::grpc::UnaryCodec") // bounds what is made of a message's bytes
        .compile_fds(descriptors)?;
    Ok(())
}
