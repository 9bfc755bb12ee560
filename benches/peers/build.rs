//! Generates the yardsticks' gRPC code: the unary service from its proto, the exchange with a codec of its own.

use std::error::Error;

use tonic_build::manual;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=proto/unary.proto");
    let descriptors = protox::compile(["proto/unary.proto"], ["proto"])?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;

    let exchange = manual::Method::builder()
        .name("exchange")
        .route_name("Exchange")
        .input_type("crate::contenders::exchange::Questions")
        .output_type("crate::contenders::exchange::Answers")
        .codec_path("crate::contenders::exchange::FrameCodec")
        .client_streaming()
        .server_streaming()
        .build();
    let service = manual::Service::builder().name("Frames").package("peers.v1").method(exchange).build();
    manual::Builder::new().compile(&[service]);
    Ok(())
}
