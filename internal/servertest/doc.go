// Package servertest gives integration tests a real NATS server and a real S3
// server. Where a Docker engine answers they are containers, NATS and MinIO,
// made from the versions that test/servers pins; without one they are the
// embedded servers. [Describe] tells which, and so does a line on standard
// error, once for each process.
//
// A package that uses it needs
//
//	func TestMain(m *testing.M) { servertest.Main(m) }
//
// The first use on a machine compiles the servers, which takes minutes. Run
//
//	go run ./internal/servertest/build
//
// before, so that no test's time limit is spent on that.
//
// Environment: MESHMILL_TEST_NATS_IMAGE and MESHMILL_TEST_MINIO_IMAGE name
// images to use instead of those built here. MESHMILL_TEST_SERVERS is
// "containers" (fail without an engine), "embedded", or empty to choose.
//
// Without an engine the S3 server is the one that internal/embedded allows in
// a process: such a package's tests cannot also start embedded servers.
package servertest
