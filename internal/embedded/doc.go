// Package embedded runs the servers of --embedded inside the process: a NATS
// server with JetStream and an S3 server, with their data in one folder.
//
// The folder holds
//
//	lock         held while the servers run
//	env          addresses and credentials, in shell form, mode 0600
//	nats.creds   the credentials of NATS clients, mode 0600
//	nats/        streams, written synchronously
//	s3/<bucket>/ objects, as plain files: s3/meshmill/meshes/<id>/<id>.glb
//	meta/        metadata of the objects, where the file system keeps no
//	             extended attributes
//
// It belongs to one process at a time. A second start on the same folder finds
// all that the first one had acknowledged, and uses the same credentials.
package embedded
